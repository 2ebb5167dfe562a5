"""Rendering a field: pictures of rays, front to back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from nerfacc import accumulate_along_rays
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components import renderers
from torch import Tensor

from finer_nerfstudio.nerf import compiled_compositing
from finer_nerfstudio.nerf.compositing import composite
from finer_nerfstudio.nerf.sampling.contraction import distance_at, far_away, progress_at
from finer_nerfstudio.nerf.sampling.sampler import RayLimits
from finer_nerfstudio.nerf.sampling.segments import RaySegments
from finer_nerfstudio.nerf.scene import Scene

# Evaluation looks at this many segments of every ray at a time and drops the rays that have become opaque.
_EVALUATION_SLAB = 12
_OPAQUE_TRANSMITTANCE = 1e-3


def render(
    scene: Scene,
    ray_bundle: RayBundle,
    *,
    steps: int | None = None,
    neuron_mask: Float[Tensor, " units"] | None = None,
    quick: bool = False,
) -> dict[str, Tensor]:
    """Colour over white or the sky, front to back, without the segments that opaque matter hides.

    Where something is cut out, as by a camera path or in the viewer, the colour that was chosen there stands for white.
    In a scene without end, a ray that is not cut short ends in the sky, which counts as met.

    Args:
        scene: what to look at.
        ray_bundle: ``rays`` with unit directions.
        steps: along the box's diagonal, the sampler's own number unless given.
        neuron_mask: factors for the first-layer neurons of the density network.
        quick: see :class:`finer_nerfstudio.nerf.sampling.sampler.RayLimits`.

    Returns:
        ``rgb`` and ``normals`` ``[rays, 3]`` in [0, 1], and ``[rays, 1]``: ``depth`` in world units, always finite,
        ``accumulation`` in [0, 1], and ``occupancy``, the share of each ray's steps that was evaluated.
    """
    field, sampler, reach = scene.field, scene.sampler, scene.sampler.reach
    origins, directions = ray_bundle.origins, ray_bundle.directions
    limits = RayLimits(ray_bundle.nears, ray_bundle.fars, scene.near_plane, steps, quick=quick)
    segments = sampler.march(origins, directions, limits)
    seen = _front_to_back(scene, origins, directions, segments, neuron_mask)
    rgb, transmittance = seen.rgb, seen.transmittance
    accumulation = 1.0 - transmittance
    if reach is None:
        far = origins.norm(dim=-1) + float((sampler.aabb[1] - sampler.aabb[0]).norm())
        depth = torch.where(accumulation > 1e-3, seen.weighted_distance / accumulation.clamp(min=1e-3), far)
    else:
        depth = distance_at(seen.weighted_distance + transmittance * progress_at(far_away(reach), reach), reach)
    normals = torch.full_like(rgb, 0.5)
    opaque = (accumulation > 0.5).nonzero().squeeze(-1)
    if opaque.numel():
        surface = origins[opaque] + directions[opaque] * depth[opaque, None]
        normals[opaque] = 0.5 * field.normals_at(surface, neuron_mask) + 0.5
    if reach is not None and ray_bundle.fars is None:
        hidden_at = partial(field.hidden_features, neuron_mask=neuron_mask)
        rgb = rgb + sky(
            hidden_at, field.color, origins, directions, transmittance, reach=reach, threshold=scene.weight_threshold
        )
        transmittance = torch.zeros_like(transmittance)
        accumulation = torch.ones_like(accumulation)
    return {
        "rgb": rgb + transmittance[:, None] * _background(rgb),
        "depth": depth[:, None],
        "accumulation": accumulation[:, None],
        "normals": normals.clamp(0.0, 1.0),
        "occupancy": (seen.evaluated / segments.candidates.clamp(min=1))[:, None],
    }


@dataclass
class _Seen:
    """What rays have met so far: colours and distances times weights, what goes on, and how many segments it took."""

    rgb: Float[Tensor, "rays 3"]
    transmittance: Float[Tensor, " rays"]
    weighted_distance: Float[Tensor, " rays"]
    evaluated: Float[Tensor, " rays"]


def _front_to_back(
    scene: Scene, origins: Tensor, directions: Tensor, segments: RaySegments, neuron_mask: Tensor | None
) -> _Seen:
    """Composite segments, some of every ray at a time, until all rays are opaque or at their end."""
    num_rays, reach = segments.num_rays, scene.sampler.reach
    seen = _Seen(origins.new_zeros(num_rays, 3), origins.new_ones(num_rays), *origins.new_zeros(2, num_rays))
    for first_slot in range(0, segments.num_slots, _EVALUATION_SLAB):
        slots = slice(first_slot, first_slot + _EVALUATION_SLAB)
        slab = compiled_compositing.slab(segments, slots, seen.transmittance, _OPAQUE_TRANSMITTANCE)
        if slab is None:
            in_slab = (segments.slots >= slots.start) & (segments.slots < slots.stop)
            alive = seen.transmittance > _OPAQUE_TRANSMITTANCE
            slab = segments.only((in_slab & alive[segments.ray_indices]).nonzero().squeeze(-1))
        if not len(slab.distances):
            continue
        rays, distances = slab.ray_indices, slab.distances
        part = composite(
            scene.field,
            origins,
            directions,
            slab,
            weight_threshold=scene.weight_threshold,
            transmittance=seen.transmittance,
            neuron_mask=neuron_mask,
        )
        seen.transmittance = seen.transmittance * part.passed
        seen.rgb += part.rgb
        # Without end, the mean is of contracted distances: a trace of something far away must not outweigh the rest.
        along = distances if reach is None else progress_at(distances, reach)
        seen.weighted_distance.index_add_(0, rays, part.weights * along)
        seen.evaluated += slab.counts
    return seen


def _background(like: Tensor) -> Tensor:
    chosen = renderers.BACKGROUND_COLOR_OVERRIDE
    return like.new_ones(3) if chosen is None else chosen.to(like)


def sky(
    hidden_at: Callable[[Float[Tensor, "points 3"]], Float[Tensor, "points hidden"]],
    color: Callable[[Float[Tensor, "points hidden"], Float[Tensor, "points 3"]], Float[Tensor, "points 3"]],
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    transmittance: Float[Tensor, " rays"],
    *,
    reach: float,
    threshold: float,
) -> Float[Tensor, "rays 3"]:
    """Return the colour that rays through a scene without end add where nothing stopped them: the field's far away.

    Args:
        hidden_at: of the field, hidden features at world positions.
        color: of the field, colours of hidden features along directions.
        origins: world units.
        directions: of unit length.
        transmittance: what is left of each ray, the weight of its sky.
        reach: distance up to which steps are of equal length, world units.
        threshold: rays with less left have no sky.
    """
    seen = (transmittance.detach() > threshold).nonzero().squeeze(-1)
    hidden = hidden_at(origins[seen] + directions[seen] * far_away(reach))
    return accumulate_along_rays(transmittance[seen], color(hidden, directions[seen]), seen, origins.shape[0])
