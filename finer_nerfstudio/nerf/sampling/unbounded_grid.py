"""The grid of scenes without end: its cells divide contracted space, and rays are sampled by what it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from nerfstudio.utils import comms
from torch import Tensor

from finer_nerfstudio.nerf.radiance import box_to_world, world_to_box
from finer_nerfstudio.nerf.sampling.contraction import contract, expand
from finer_nerfstudio.nerf.sampling.importance import Amount, CellMeans, Chances, draw, drawn_flat
from finer_nerfstudio.nerf.sampling.sampler import EVERYWHERE, OccupancyGrid, RayLimits, leading
from finer_nerfstudio.nerf.sampling.segments import RaySegments
from finer_nerfstudio.nerf.training import distributed

# How far a cell follows what one step of training, or one look of an update, has found in it.
_FOLLOWED_IN_TRAINING, _FOLLOWED_IN_UPDATES = 0.2, 0.5
# Cells that an update looks into.
_LOOKED_INTO = 1 << 14
# Of the samples of a picture, the share of all occupied steps alike: many samples have no need to guess where. What
# lies behind an edge is otherwise seen by few, and grey.
_SHARED_IN_PICTURES = 0.9


@dataclass
class DrawnSegments(RaySegments):
    """Segments that were drawn, as :class:`finer_nerfstudio.nerf.sampling.importance.Drawn`, flat.

    Attributes:
        cells: ``[samples]`` of the grid in which they lie.
    """

    cells: Int[Tensor, " samples"]


class UnboundedGrid(OccupancyGrid):
    """An :class:`OccupancyGrid` over all of space, which says where on a ray samples are worth their time.

    Half of the steps of a ray are of equal length, as in a bounded scene, and reach as far as half the diagonal of
    the scene's box. The other half goes on from there to the far plane, equal in the reciprocal of distance: to
    ``steps / 4`` diagonals. What is beyond is sky. Of these steps, a few samples are drawn.

    Lengths of segments are contracted as space is where they lie: a haze that is the same everywhere in the field's
    coordinates then leaves the sky visible, which can be learnt as a picture on which matter is put where it has to be.
    In true lengths everything starts as fog a few boxes away, in front of which training would have to find the scene.

    Args:
        amount: of samples of a ray in training. Quick pictures have twice as many. Others have three times as many for
            each step that their chances are spread over, and most of them are for all occupied steps alike, which
            spreads them wider.
        **options: of the grid.
    """

    def __init__(self, aabb: Float[Tensor, "2 3"], *, amount: Amount, **options: float) -> None:
        super().__init__(aabb, **options)  # pyright: ignore[reportArgumentType]
        self.amount = amount
        self._means = CellMeans(_FOLLOWED_IN_TRAINING)

    @property
    def reach(self) -> float:
        """Distance up to which steps are of equal length, world units."""
        return 0.5 * self.steps * self.step_length

    def to_grid(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        return contract(world_to_box(positions, self.aabb))

    def to_world(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        return box_to_world(expand(positions), self.aabb)

    @torch.no_grad()
    def update(
        self,
        density_at: Callable[[Float[Tensor, "points 3"]], Float[Tensor, " points"]],
        *,
        everywhere: bool,
        generator: torch.Generator | None = None,
    ) -> None:
        """Look into some random cells, and into all of them the first time.

        Training looks into those that matter, step by step (:meth:`see`).

        Args:
            density_at: density at world positions.
            everywhere: of no account here.
            generator: source of the random cells and of the random place within a cell.
        """
        del everywhere
        # One answer for all processes, which send each other different messages by it.
        followed = distributed.total(float(self.thickness.amax()), self.thickness.device) > 0
        if followed:
            total, number = self.thickness.numel(), _LOOKED_INTO // comms.get_world_size()
            cells = torch.randint(total, (number,), device=self.thickness.device, generator=generator).unique()
        else:
            cells = self._cells_to_look_into(True, generator)
        cells, fresh = self._look(cells, density_at, generator)
        self.thickness[cells] += _FOLLOWED_IN_UPDATES * (fresh - self.thickness[cells])
        # The first time, each cell was looked into by one process.
        (distributed.keep_mean if followed else distributed.keep_largest)(self.thickness)
        self._mark_occupied()

    @torch.no_grad()
    def see(self, segments: DrawnSegments, density: Float[Tensor, " samples"]) -> None:
        """Follow what training has just found out about cells, which costs nothing more.

        Args:
            segments: that were trained.
            density: there.
        """
        self._means.follow(self.thickness, segments.cells, density, self.step_length)

    def _amount_for(self, limits: RayLimits) -> Amount:
        if limits.generator is not None:
            return self.amount
        if limits.quick:
            return _multiplied(self.amount, 2, self.amount.shared)
        return _multiplied(self.amount, 3, _SHARED_IN_PICTURES)

    @torch.no_grad()
    def march(
        self,
        origins: Float[Tensor, "rays 3"],
        directions: Float[Tensor, "rays 3"],
        limits: RayLimits = EVERYWHERE,
    ) -> DrawnSegments:
        """Return segments of rays up to the far plane, as many on each that meets anything; see :meth:`Sampler.march`.

        Where the limits have a generator, they are drawn; else they lie in the middles of their shares.
        """
        steps = max(2, self.steps if limits.steps is None else limits.steps)
        amount = self._amount_for(limits)
        rays = origins.shape[0]
        nears, fars = origins.new_full((rays,), limits.near_plane), origins.new_full((rays,), torch.inf)
        if limits.nears is not None:
            nears = torch.maximum(nears, limits.nears.squeeze(-1))
        if limits.fars is not None:
            fars = torch.minimum(fars, limits.fars.squeeze(-1))
        if limits.generator is None:
            looked_at, placed = origins.new_full((rays,), 0.5), None
        else:
            shape = (2, rays)
            numbers = torch.rand(shape, device=origins.device, dtype=origins.dtype, generator=limits.generator)
            looked_at, placed = numbers.unbind()
        # The last step would end at infinity.
        chances = Chances(
            reach=self.reach,
            per_step=2.0 / steps,
            columns=steps - 1,
            thickness=self.thickness,
            unit=self.step_length,
            occupied=self.occupied,
            resolution=self.resolution,
        )
        slope = directions * (2.0 / (self.aabb[1] - self.aabb[0]))
        start = world_to_box(origins, self.aabb)
        places = {"looked_at": looked_at, "placed": placed, "together": limits.together}
        drawn = draw(start, slope, nears, fars, chances, amount, **places)
        counts = leading(drawn.counts, limits)
        ray_indices, slots, distances, lengths, cells = drawn_flat(drawn, counts)
        return DrawnSegments(
            ray_indices=ray_indices,
            slots=slots,
            distances=distances,
            lengths=lengths,
            counts=counts,
            candidates=drawn.candidates[: len(counts)],
            cells=cells,
        )


def _multiplied(amount: Amount, factor: int, shared: float) -> Amount:
    return Amount(factor * amount.per_spread, factor * amount.fewest, factor * amount.most, shared)
