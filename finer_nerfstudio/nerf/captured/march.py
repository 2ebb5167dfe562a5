"""The occupied pieces of rays, padded to a fixed number, without asking the GPU how many there are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from finer_nerfstudio.nerf import kernels_at_work
from finer_nerfstudio.nerf.sampling.table import occupied_table


@dataclass(frozen=True)
class Steps:
    """How rays step through the grid of a box.

    Attributes:
        columns: steps along the box's diagonal.
        resolution: cells per axis.
        length: of a step, world units.
        near_plane: nothing nearer to a ray's origin is sampled, world units.
    """

    columns: int
    resolution: int
    length: float
    near_plane: float


@dataclass(frozen=True)
class PaddedSegments:
    """A fixed number of segments: those of the leading rays that fit, and padding of length 0 behind them.

    Attributes:
        ray_indices: ``[samples]``, ascending; padding counts to the last ray.
        distances: ``[samples]`` from the ray's origin, world units; of padding, some number.
        lengths: ``[samples]``, 0 for padding.
        counts: ``[rays]`` segments of each ray, 0 where a ray does not fit.
        found: ``[rays]`` segments that each ray would have, whether it fits or not.
    """

    ray_indices: Int[Tensor, " samples"]
    distances: Float[Tensor, " samples"]
    lengths: Float[Tensor, " samples"]
    counts: Int[Tensor, " rays"]
    found: Int[Tensor, " rays"]

    @property
    def num_rays(self) -> int:
        """Return the number of rays."""
        return self.counts.shape[0]


@dataclass(frozen=True)
class Walk:
    """Rays as they cross the grid, straight lines in cells.

    Attributes:
        nearest: ``[rays]`` distance at which each enters the box.
        length: ``[rays]`` how far it goes from there, 0 for rays that miss.
        start: ``[rays, 3]`` where it enters, in cells.
        per_step: ``[rays, 3]`` cells that a step passes.
        offsets: ``[rays]`` place of the sample within a step, in [0, 1).
    """

    nearest: Float[Tensor, " rays"]
    length: Float[Tensor, " rays"]
    start: Float[Tensor, "rays 3"]
    per_step: Float[Tensor, "rays 3"]
    offsets: Float[Tensor, " rays"]


def walk_of(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    offsets: Float[Tensor, " rays"],
    aabb: Float[Tensor, "2 3"],
    steps: Steps,
) -> Walk:
    """Return how rays cross a box (slabs; Kay and Kajiya 1986).

    Args:
        origins: world units.
        directions: of unit length.
        offsets: place of the sample within a step, in [0, 1).
        aabb: lowest and highest corner of the box, world units.
        steps: how finely.
    """
    inverse = 1.0 / torch.where(directions == 0.0, 1e-12, directions)
    first, second = (aabb[0] - origins) * inverse, (aabb[1] - origins) * inverse
    nearest = torch.minimum(first, second).amax(dim=1).clamp(min=steps.near_plane)
    length = (torch.maximum(first, second).amin(dim=1) - nearest).clamp(min=0.0)
    nearest = torch.where(length > 0.0, nearest, 0.0)
    cells = steps.resolution / (aabb[1] - aabb[0])
    start = (origins + directions * nearest[:, None] - aabb[0]) * cells
    return Walk(nearest, length, start, directions * cells * steps.length, offsets)


def march(walk: Walk, occupied: Bool[Tensor, " cells"], steps: Steps, samples: int) -> PaddedSegments:
    """Return the occupied segments of the leading rays that fit into so many samples.

    Args:
        walk: of the rays.
        occupied: which cells hold matter, ``resolution^3`` of them, the last axis first.
        steps: how finely.
        samples: size of the result.
    """
    if kernels_at_work.usable(walk.start):
        from finer_nerfstudio.nerf.captured import triton_march

        found = triton_march.counts(walk, occupied, steps)
        counts = fitting(found, samples)
        rays, columns = triton_march.places(walk, occupied, steps, counts, samples)
    else:
        hit, _ = occupied_table(
            walk.start,
            walk.per_step,
            walk.offsets,
            walk.length,
            occupied,
            step=steps.length,
            columns=steps.columns,
            resolution=steps.resolution,
        )
        found = hit.sum(dim=1)
        counts = fitting(found, samples)
        rays, columns = _places(hit, counts, samples)
    inside = torch.arange(samples, device=rays.device) < counts.sum()
    distances = walk.nearest[rays] + (columns + walk.offsets[rays]) * steps.length
    return PaddedSegments(rays, distances, inside * steps.length, counts, found)


def fitting(found: Int[Tensor, " rays"], samples: int) -> Int[Tensor, " rays"]:
    """Return the counts of the leading rays that fit into so many samples together, and 0 for the others."""
    return torch.where(found.cumsum(0) <= samples, found, 0)


def _places(
    hit: Bool[Tensor, "rays columns"], counts: Int[Tensor, " rays"], samples: int
) -> tuple[Int[Tensor, " samples"], Int[Tensor, " samples"]]:
    """Ray and step of each segment; padding is step 0 of the last ray."""
    hit = hit & (counts > 0)[:, None]
    number = hit.view(-1).cumsum(0) - 1
    # One place more than there are, for all that are none.
    target = torch.where(hit.view(-1), number, samples)
    place = torch.arange(hit.numel(), device=hit.device)
    empty = torch.full((samples + 1,), hit.numel() - hit.shape[1], device=hit.device)
    flat = empty.scatter_(0, target, place)[:samples]
    return flat // hit.shape[1], flat % hit.shape[1]
