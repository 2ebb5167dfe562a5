"""Where along a ray to evaluate the field: an occupancy grid that skips empty space, on CPU and CUDA alike.

Nothing here is a loop over rays or samples: candidates are a dense ``rays x steps`` table of which the grid keeps the
occupied entries as flat samples, each remembering its ray and its place among the ray's samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.utils import comms
from nerfstudio.utils.math import intersect_aabb
from torch import Tensor, nn

from finer_nerfstudio.nerf.radiance import Diverged, box_to_world, world_to_box
from finer_nerfstudio.nerf.sampling import marching
from finer_nerfstudio.nerf.sampling.rules import GridRules
from finer_nerfstudio.nerf.sampling.segments import RaySegments
from finer_nerfstudio.nerf.sampling.table import occupied_table
from finer_nerfstudio.nerf.training import distributed


@dataclass(frozen=True)
class RayLimits:
    """Which part of rays is sampled, and how finely.

    Attributes:
        nears: ``[rays, 1]`` nothing nearer is sampled, world units.
        fars: ``[rays, 1]`` nothing farther is sampled, world units.
        near_plane: nothing nearer than this is sampled, world units.
        steps: along the diagonal of the scene's box, the sampler's own number unless given.
        max_samples: keep only as many leading rays as fit into this number of segments (at least one ray), so that the
            memory of what follows is bounded.
        together: rays of one pixel, which are kept or left out together.
        generator: source of one random offset per ray; without it segments are centred.
        quick: with fewer samples and more noise, for the viewer.
    """

    nears: Float[Tensor, "rays 1"] | None = None
    fars: Float[Tensor, "rays 1"] | None = None
    near_plane: float = 0.0
    steps: int | None = None
    max_samples: int | None = None
    together: int = 1
    generator: torch.Generator | None = None
    quick: bool = False


EVERYWHERE = RayLimits()
"""All of a ray, at the sampler's own steps."""


class Sampler(Protocol):
    """Finds the pieces of rays at which a field is worth evaluating."""

    aabb: Tensor
    """Lowest and highest corner of the scene's box, ``[2, 3]``, world units."""

    @property
    def reach(self) -> float | None:
        """Distance up to which steps are of equal length, world units; None where all are, as in a box."""
        ...

    def march(
        self,
        origins: Float[Tensor, "rays 3"],
        directions: Float[Tensor, "rays 3"],
        limits: RayLimits = EVERYWHERE,
    ) -> RaySegments:
        """Return the segments of rays, or of the leading ones that fit.

        Args:
            origins: world units.
            directions: of unit length.
            limits: which part of the rays, and how finely.
        """
        ...


class OccupancyGrid(nn.Module):
    """Remembers which cells of the scene's box hold matter (Mueller et al. 2022, §E.2; here without any CUDA kernel).

    Every cell carries the optical thickness of one step through it, as a maximum that decays exponentially: it is
    raised at once where the field grows dense and forgotten slowly where it empties.

    Args:
        aabb: lowest and highest corner of the box, world units, ``[2, 3]``.
        resolution: cells per axis.
        steps: number of steps along the box's diagonal; sets the step length.
        decay: factor of the remembered thickness at each update, in [0, 1).
        early_decay: the same for updates that look everywhere: the fog that a field starts as clears within a few
            hundred steps, and every step that still samples it is lost.
        threshold: a cell is occupied above this optical thickness, or above the grid's mean where that is lower.
    """

    aabb: Tensor
    thickness: Tensor
    occupied: Tensor

    def __init__(
        self,
        aabb: Float[Tensor, "2 3"],
        *,
        resolution: int,
        steps: int,
        decay: float = GridRules.decay,
        early_decay: float = GridRules.early_decay,
        threshold: float = GridRules.threshold,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.steps = steps
        self.decay = decay
        self.early_decay = early_decay
        self.threshold = threshold
        self.register_buffer("aabb", aabb.detach().clone(), persistent=False)
        self.register_buffer("thickness", torch.zeros(resolution**3))
        self.register_buffer("occupied", torch.ones(resolution**3, dtype=torch.bool))
        # Counted at each update: counting in every step is slow.
        self.occupied_share = torch.ones(())
        self.register_load_state_dict_post_hook(_count_again)
        # World units; the diagonal has so many of them.
        self.step_length = float((self.aabb[1] - self.aabb[0]).norm()) / steps

    @property
    def reach(self) -> float | None:
        """Distance up to which steps are of equal length, world units; None where all are, as in this box."""
        return None

    def to_grid(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """World positions to [-1, 1]^3, which the cells divide equally."""
        return world_to_box(positions, self.aabb)

    def to_world(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """The inverse of :meth:`to_grid`."""
        return box_to_world(positions, self.aabb)

    def lengths_at(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """Length of a step at world ``positions``, world units."""
        return torch.full_like(positions[..., 0], self.step_length)

    def cell_of(self, positions: Float[Tensor, "*batch 3"]) -> Int[Tensor, "*batch"]:
        """Flat cell index of world positions; positions outside the box count to the nearest cell."""
        cell = ((self.to_grid(positions) + 1.0) * (0.5 * self.resolution)).long()
        cell = cell.clamp_(0, self.resolution - 1)
        return (cell[..., 0] * self.resolution + cell[..., 1]) * self.resolution + cell[..., 2]

    @torch.no_grad()
    def update(
        self,
        density_at: Callable[[Float[Tensor, "points 3"]], Float[Tensor, " points"]],
        *,
        everywhere: bool,
        generator: torch.Generator | None = None,
    ) -> None:
        """Look at the field again.

        The processes of a distributed run share the cells between them and tell each other what they saw, so that all
        of them have the same grid afterwards, and one that is as good as a single process would have.

        Args:
            density_at: density at world positions.
            everywhere: look into all cells; otherwise into the occupied ones and a random sixteenth of all.
            generator: source of the random cells and of the random place within a cell.
        """
        fresh = self._look(self._cells_to_look_into(everywhere, generator), density_at, generator)
        self.thickness *= self.early_decay if everywhere else self.decay
        self._raise(*fresh)

    def _cells_to_look_into(self, everywhere: bool, generator: torch.Generator | None) -> Int[Tensor, " looked"]:
        """Return the cells that this process looks into, in ascending order."""
        rank, processes = comms.get_rank(), comms.get_world_size()
        total, device = self.thickness.numel(), self.thickness.device
        if everywhere:
            return torch.arange(rank, total, processes, device=device)
        anywhere = torch.randint(total, (total // 16 // processes,), device=device, generator=generator)
        seen = torch.zeros_like(self.occupied)
        seen[self.occupied.nonzero().squeeze(-1)[rank::processes]] = True
        seen[anywhere] = True
        return seen.nonzero().squeeze(-1)

    def _look(
        self,
        cells: Int[Tensor, " looked"],
        density_at: Callable[[Float[Tensor, "points 3"]], Float[Tensor, " points"]],
        generator: torch.Generator | None,
    ) -> tuple[Int[Tensor, " looked"], Float[Tensor, " looked"]]:
        """Return cells and the thickness of a step in a random place of each.

        Raises:
            Diverged: where a density is no number.
        """
        device, r = cells.device, self.resolution
        corners = torch.stack([cells // (r * r), cells // r % r, cells % r], dim=-1)
        within = torch.rand(corners.shape, device=device, generator=generator)
        positions = self.to_world((corners + within) * (2.0 / r) - 1.0)
        # Chunks bound the memory of a look into all cells. On processors larger ones are no faster.
        chunks = positions.split(1 << (16 if device.type == "cuda" else 13))
        fresh = torch.cat([density_at(chunk) for chunk in chunks]) * self.lengths_at(positions)
        # A process that stopped alone would leave the others waiting for it.
        if distributed.total(float(not bool(torch.isfinite(fresh).all())), device) > 0:
            raise Diverged("densities are NaN or infinite")
        return cells, fresh.to(self.thickness.dtype)

    def _raise(self, cells: Int[Tensor, " looked"], fresh: Float[Tensor, " looked"]) -> None:
        """Raise cells to what was seen in them, and say anew which are occupied."""
        self.thickness[cells] = torch.maximum(self.thickness[cells], fresh)
        distributed.keep_largest(self.thickness)
        self._mark_occupied()

    def _mark_occupied(self) -> None:
        """Say which cells are occupied, by the thickness that all processes remember."""
        threshold = min(self.threshold, float(self.thickness.mean()))
        torch.gt(self.thickness, threshold, out=self.occupied)
        self._count_occupied()

    def _count_occupied(self) -> None:
        self.occupied_share = self.occupied.count_nonzero() / self.occupied.numel()

    @torch.no_grad()
    def march(
        self,
        origins: Float[Tensor, "rays 3"],
        directions: Float[Tensor, "rays 3"],
        limits: RayLimits = EVERYWHERE,
    ) -> RaySegments:
        """Return the occupied segments of rays through the box; see :meth:`Sampler.march`."""
        # No ray is in the box for longer than its diagonal. To ask how long the longest is, one would wait for the GPU.
        columns = self.steps if limits.steps is None else limits.steps
        step = self.step_length * (self.steps / columns)
        nearest, length = span_in_box(origins, directions, self.aabb, limits)

        if limits.generator is None:
            offsets = torch.full_like(nearest, 0.5)
        else:
            offsets = torch.rand(nearest.shape, device=nearest.device, generator=limits.generator)
        scale = 0.5 * self.resolution
        start = (world_to_box(origins + directions * nearest[:, None], self.aabb) + 1.0) * scale
        per_step = directions * (2.0 / (self.aabb[1] - self.aabb[0])) * (scale * step)
        if marching.available(origins):
            bits, counts, candidates = marching.occupied_steps(
                start,
                per_step,
                offsets,
                length,
                self.occupied,
                step=step,
                columns=columns,
                resolution=self.resolution,
            )
            counts = leading(counts, limits)
            ray_indices, slots, distances = marching.segments_of(bits, counts, nearest, offsets, step=step)
            lengths = torch.full_like(distances, step)
            return RaySegments(ray_indices, slots, distances, lengths, counts, candidates[: counts.shape[0]])
        hit, inside = occupied_table(
            start,
            per_step,
            offsets,
            length,
            self.occupied,
            step=step,
            columns=columns,
            resolution=self.resolution,
        )
        ray_indices, column, slots, counts = self.kept(hit, limits)
        distances = nearest[ray_indices] + (column + offsets[ray_indices]) * step
        lengths = torch.full_like(distances, step)
        return RaySegments(ray_indices, slots, distances, lengths, counts, inside[: counts.shape[0]].sum(dim=1))

    @staticmethod
    def kept(hit: Bool[Tensor, "rays steps"], limits: RayLimits) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The places of a table that hold, as ray, step and number among those of the ray, and counts of rays.

        Args:
            hit: which steps are samples.
            limits: of the samples that leading rays may have together.
        """
        counts = leading(hit.sum(dim=1), limits)
        hit = hit[: counts.shape[0]]
        ray_indices, column = hit.nonzero(as_tuple=True)
        first = counts.cumsum(0) - counts
        slots = torch.arange(ray_indices.shape[0], device=ray_indices.device) - first[ray_indices]
        return ray_indices, column, slots, counts


def _count_again(grid: OccupancyGrid, _: object) -> None:
    """Count the cells that a checkpoint brought; no lambda, which could not be pickled along with the grid."""
    grid._count_occupied()


def leading(counts: Int[Tensor, " rays"], limits: RayLimits) -> Int[Tensor, " kept"]:
    """Counts of the leading rays that fit into so many samples together, of at least one pixel."""
    if limits.max_samples is None:
        return counts
    fitting = int((counts.cumsum(0) <= limits.max_samples).sum())
    return counts[: max(1, fitting // limits.together) * limits.together]


def span_in_box(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    aabb: Float[Tensor, "2 3"],
    limits: RayLimits,
) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Where rays enter a box, not nearer than the limits, and how long they stay; both zero for those that miss."""
    nearest, farthest = intersect_aabb(origins, directions, aabb.flatten())
    nearest = nearest.clamp(min=limits.near_plane)
    if limits.nears is not None:
        nearest = torch.maximum(nearest, limits.nears.squeeze(-1))
    if limits.fars is not None:
        farthest = torch.minimum(farthest, limits.fars.squeeze(-1))
    # A ray that misses the box has length zero, even if the library's invalid value says otherwise.
    length = (farthest - nearest).clamp(min=0.0).nan_to_num(0.0)
    length = torch.where(nearest >= 1e9, torch.zeros_like(length), length)
    return torch.where(length > 0, nearest, torch.zeros_like(nearest)), length
