"""Rendering a field: weights of samples along rays, and pictures of rays."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfacc import accumulate_along_rays, render_weight_from_density
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from finer_nerfstudio.nerf.field import FinerField
from finer_nerfstudio.nerf.sampler import OccupancyGrid, RaySegments

# Evaluation looks at this many segments of every ray at a time and drops the rays that have become opaque.
_EVALUATION_SLAB = 12
_OPAQUE_TRANSMITTANCE = 1e-3


def render(
    field: FinerField,
    grid: OccupancyGrid,
    ray_bundle: RayBundle,
    *,
    near_plane: float,
    weight_threshold: float,
    steps: int | None = None,
    neuron_mask: Float[Tensor, " units"] | None = None,
) -> dict[str, Tensor]:
    """Colour over white, front to back, without the segments that opaque matter hides.

    Args:
        field: what to look at.
        grid: where there may be matter.
        ray_bundle: ``rays`` with unit directions.
        near_plane: nothing nearer is sampled, world units.
        weight_threshold: samples of less rendering weight have no colour.
        steps: along the box's diagonal, the grid's own number unless given.
        neuron_mask: factors for the first-layer neurons of the density network.

    Returns:
        ``rgb`` and ``normals`` ``[rays, 3]`` in [0, 1], and ``[rays, 1]``: ``depth`` in world units, ``accumulation``
        in [0, 1], and ``occupancy``, the share of each ray's steps that was evaluated.
    """
    origins, directions = ray_bundle.origins, ray_bundle.directions
    segments = grid.march(
        origins,
        directions,
        nears=ray_bundle.nears,
        fars=ray_bundle.fars,
        near_plane=near_plane,
        steps=steps,
    )
    num_rays = segments.num_rays
    transmittance = origins.new_ones(num_rays)
    rgb = origins.new_zeros(num_rays, 3)
    weighted_distance = origins.new_zeros(num_rays)
    evaluated = origins.new_zeros(num_rays)
    for first_slot in range(0, segments.num_slots, _EVALUATION_SLAB):
        in_slab = (segments.slots >= first_slot) & (segments.slots < first_slot + _EVALUATION_SLAB)
        alive = transmittance > _OPAQUE_TRANSMITTANCE
        chosen = (in_slab & alive[segments.ray_indices]).nonzero().squeeze(-1)
        if chosen.numel() == 0:
            continue
        rays, distances = segments.ray_indices[chosen], segments.distances[chosen]
        slab = RaySegments(
            rays,
            segments.slots[chosen] - first_slot,
            distances,
            segments.lengths[chosen],
            segments.counts,
            segments.candidates,
        )
        hidden = field.hidden_features(origins[rays] + directions[rays] * distances[:, None], neuron_mask)
        thickness = slab.to_table(field.density(hidden) * slab.lengths, _EVALUATION_SLAB)
        weights_table = segment_weights(thickness) * transmittance[:, None]
        transmittance = transmittance * torch.exp(-thickness.sum(dim=1))
        weights = slab.from_table(weights_table)
        colored = (weights > weight_threshold).nonzero().squeeze(-1)
        color = field.color(hidden[colored], directions[rays[colored]])
        rgb += accumulate_along_rays(weights[colored], color, rays[colored], num_rays)
        weighted_distance.index_add_(0, rays, weights * distances)
        evaluated.index_add_(0, rays, torch.ones_like(distances))
    accumulation = 1.0 - transmittance
    box_diagonal = float((grid.aabb[1] - grid.aabb[0]).norm())
    far = origins.norm(dim=-1) + box_diagonal
    depth = torch.where(accumulation > 1e-3, weighted_distance / accumulation.clamp(min=1e-3), far)
    normals = torch.full_like(rgb, 0.5)
    opaque = (accumulation > 0.5).nonzero().squeeze(-1)
    if opaque.numel():
        surface = origins[opaque] + directions[opaque] * depth[opaque, None]
        normals[opaque] = 0.5 * field.normals_at(surface, neuron_mask) + 0.5
    return {
        "rgb": rgb + transmittance[:, None],
        "depth": depth[:, None],
        "accumulation": accumulation[:, None],
        "normals": normals.clamp(0.0, 1.0),
        "occupancy": (evaluated / segments.candidates.clamp(min=1))[:, None],
    }


def segment_weights(thickness: Float[Tensor, "rays slots"]) -> Float[Tensor, "rays slots"]:
    """Rendering weights of segments of the given optical thickness (Max 1995); segments left out have none."""
    weights, _, _ = render_weight_from_density(torch.zeros_like(thickness), torch.ones_like(thickness), thickness)
    return weights
