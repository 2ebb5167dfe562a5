"""Nerfstudio's proposal networks in place of the occupancy grid: small density fields that learn where to sample."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.field_components.spatial_distortions import SpatialDistortion
from nerfstudio.fields.density_fields import HashMLPDensityField
from nerfstudio.model_components.losses import distortion_loss, interlevel_loss
from nerfstudio.model_components.ray_samplers import ProposalNetworkSampler, SpacedSampler, UniformSampler
from torch import Tensor, nn

from finer_nerfstudio.nerf.field import encoding_implementation
from finer_nerfstudio.nerf.radiance import world_to_box
from finer_nerfstudio.nerf.sampling.contraction import contract, distance_at, far_away, progress_at, shrinkage
from finer_nerfstudio.nerf.sampling.sampler import EVERYWHERE, RayLimits, span_in_box
from finer_nerfstudio.nerf.sampling.segments import RaySegments

# Nerfacto's, whose networks these are.
_FINEST = (128, 256)
_UPDATE_EVERY, _UPDATE_WARMUP = 5, 5000
_ANNEAL_SLOPE, _ANNEAL_STEPS = 10.0, 1000
_DISTORTION_WEIGHT = 0.002


class BoxContraction(SpatialDistortion):
    """:func:`contract` of world positions as Nerfstudio's fields expect it, in [-2, 2]^3.

    Args:
        aabb: lowest and highest corner of the scene's box, world units, ``[2, 3]``.
    """

    aabb: Tensor

    def __init__(self, aabb: Float[Tensor, "2 3"]) -> None:
        super().__init__()
        self.register_buffer("aabb", aabb.detach().clone(), persistent=False)

    def forward(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        return 2.0 * contract(world_to_box(positions, self.aabb))


@dataclass
class ProposedSegments(RaySegments):
    """Segments that proposal networks chose, equally many on every ray.

    Attributes:
        samples: of the proposal networks, and those of the segments themselves at last.
        proposals: weights ``[rays, samples, 1]`` that the proposal networks gave to theirs.
    """

    samples: list[RaySamples]
    proposals: list[Tensor]

    def losses(self, weights: Float[Tensor, " samples"]) -> dict[str, Tensor]:
        """How far the proposals are from covering what rendering found, and how spread out that is; to be added up.

        Args:
            weights: rendering weights of the segments.
        """
        everything = [*self.proposals, weights.view(self.num_rays, -1, 1)]
        return {
            "interlevel_loss": interlevel_loss(everything, self.samples),
            "distortion_loss": _DISTORTION_WEIGHT * distortion_loss(everything, self.samples),
        }


class ProposalSampler(nn.Module):
    """Two proposal networks, of which the second looks where the first has found something.

    Of ``steps`` steps the field sees a quarter, in the places that matter; the first network looks at four thirds of
    them and the second at half, which are nerfacto's 256, 96 and 48 for 192.

    Args:
        aabb: lowest and highest corner of the scene's box, world units, ``[2, 3]``.
        unbounded: whether the scene goes on outside of it.
        steps: what an occupancy grid would have along the box's diagonal, at least 1.
    """

    aabb: Tensor

    def __init__(self, aabb: Float[Tensor, "2 3"], *, unbounded: bool, steps: int) -> None:
        super().__init__()
        self.register_buffer("aabb", aabb.detach().clone(), persistent=False)
        self.reach: float | None = 0.5 * float((aabb[1] - aabb[0]).norm()) if unbounded else None
        self.steps = steps
        # The two programs have weights of different shapes: a checkpoint belongs to the one that wrote it.
        self.networks = nn.ModuleList(
            HashMLPDensityField(
                aabb.detach().clone(),
                spatial_distortion=BoxContraction(aabb) if unbounded else None,
                implementation=encoding_implementation(),
                hidden_dim=16,
                num_levels=5,
                log2_hashmap_size=17,
                average_init_density=0.01,
                max_res=finest,
            )
            for finest in _FINEST
        )
        if self.reach is None:
            first = UniformSampler(single_jitter=True)
        else:
            reach = self.reach
            first = SpacedSampler(
                spacing_fn=lambda distances: progress_at(distances, reach),
                spacing_fn_inv=lambda progress: distance_at(progress, reach),
                single_jitter=True,
            )
        self.sampler = ProposalNetworkSampler(
            num_proposal_samples_per_ray=(max(1, 4 * steps // 3), max(1, steps // 2)),
            num_nerf_samples_per_ray=_segments_of(steps),
            num_proposal_network_iterations=2,
            single_jitter=True,
            update_sched=_steps_between_updates,
            initial_sampler=first,
        )

    def before_step(self, step: int) -> None:
        """Follow the proposals more and more closely (mip-NeRF 360, eq. 18)."""
        progress = min(1.0, step / _ANNEAL_STEPS)
        self.sampler.set_anneal(_ANNEAL_SLOPE * progress / ((_ANNEAL_SLOPE - 1.0) * progress + 1.0))

    def after_step(self, step: int) -> None:
        """Count the step: the proposal networks learn in some of them only."""
        self.sampler.step_cb(step)

    def march(
        self,
        origins: Float[Tensor, "rays 3"],
        directions: Float[Tensor, "rays 3"],
        limits: RayLimits = EVERYWHERE,
    ) -> ProposedSegments:
        """Return the segments that the networks propose; see :meth:`Sampler.march`.

        The proposals stay as many, whatever number of steps the limits have. Nerfstudio's samplers draw from the global
        generator, and only in training.
        """
        sampler = self.sampler
        if not self.training:  # a picture must not count as a step in which the networks have learnt
            sampler = copy.copy(sampler)
            sampler.num_nerf_samples_per_ray = _segments_of(self.steps if limits.steps is None else limits.steps)
        slots = sampler.num_nerf_samples_per_ray
        num_rays = origins.shape[0]
        if limits.max_samples is not None and num_rays:
            fitting = min(num_rays, limits.max_samples // slots)
            num_rays = max(1, fitting // limits.together) * limits.together
        origins, directions = origins[:num_rays], directions[:num_rays]
        nears, fars = (None if limit is None else limit[:num_rays] for limit in (limits.nears, limits.fars))
        if self.reach is None:
            near, length = span_in_box(origins, directions, self.aabb, replace(limits, nears=nears, fars=fars))
            far = near + length
        else:
            near = torch.full_like(origins[:, 0], limits.near_plane)
            far = torch.full_like(near, far_away(self.reach))
            if nears is not None:
                near = torch.maximum(near, nears.squeeze(-1))
            if fars is not None:
                far = torch.minimum(far, fars.squeeze(-1))
            near = torch.minimum(near, far)
        rays = RayBundle(
            origins=origins,
            directions=directions,
            pixel_area=torch.ones_like(near)[:, None],
            nears=near[:, None],
            fars=far[:, None],
        )
        chosen, proposals, samples = sampler(rays, density_fns=[network.density_fn for network in self.networks])
        starts, ends = chosen.frustums.starts.squeeze(-1), chosen.frustums.ends.squeeze(-1)
        distances, lengths = 0.5 * (starts + ends), ends - starts
        if self.reach is not None:
            middles = origins[:, None] + distances[..., None] * directions[:, None]
            lengths = lengths * shrinkage(world_to_box(middles, self.aabb))
        count = torch.full_like(near, slots, dtype=torch.long)
        return ProposedSegments(
            ray_indices=torch.arange(num_rays, device=near.device).repeat_interleave(slots),
            slots=torch.arange(slots, device=near.device).repeat(num_rays),
            distances=distances.flatten(),
            lengths=lengths.flatten(),
            counts=count,
            candidates=count,
            samples=[*samples, chosen],
            proposals=proposals,
        )


def _segments_of(steps: int) -> int:
    return max(1, steps // 4)


def _steps_between_updates(step: int) -> float:
    """The networks learn ever less often, down to every fifth step."""
    return float(np.clip(np.interp(step, [0, _UPDATE_WARMUP], [0, _UPDATE_EVERY]), 1, _UPDATE_EVERY))
