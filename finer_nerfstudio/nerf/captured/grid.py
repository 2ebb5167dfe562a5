"""An occupancy grid that is looked at in updates of one shape."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.nerf.captured.march import Steps
from finer_nerfstudio.nerf.compositing import leading_places
from finer_nerfstudio.nerf.radiance import box_to_world
from finer_nerfstudio.nerf.sampling.rules import GridRules

# A look into all cells takes so many at a time, which bounds its memory.
_CHUNK = 1 << 18
# Cells that an update looks at once the empty ones are known, as a share of all: a random sixteenth, and occupied ones.
_LOOKED_AT = 1 / 4
_AT_RANDOM = 1 / 16


FINEST = 256
"""Cells per axis for which there is memory: two gigabytes are needed for an update."""


class FixedGrid:
    """Cells of a box and what they hold.

    It takes seven times as much memory as the occupancy grid of training: :data:`FINEST`.

    Where more cells are occupied than an update has room for, the others keep what is remembered of them.

    Args:
        thickness: ``[resolution^3]`` optical thickness of a step through each cell, the last axis first.
        occupied: ``[resolution^3]`` bool; both are changed in place.
        aabb: lowest and highest corner of the box, world units, ``[2, 3]``.
        steps: whose length counts.
        rules: how it remembers.
    """

    def __init__(
        self, thickness: Tensor, occupied: Tensor, aabb: Tensor, steps: Steps, rules: GridRules | None = None
    ) -> None:
        self.thickness, self.occupied, self.aabb = thickness, occupied, aabb
        self.steps = steps
        self.rules = GridRules() if rules is None else rules
        cells = steps.resolution**3
        self.is_finite = torch.ones((), dtype=torch.bool, device=thickness.device)
        self.looked_at = max(1, round(_LOOKED_AT * cells))
        # Random numbers in [0, 1): where in each cell the next update looks; which cells it draws, and where it begins.
        self._within = torch.zeros(cells, 3, device=thickness.device)
        # Single precision would leave out most cells of a fine grid.
        at_random = 1 + max(1, round(_AT_RANDOM * cells))
        self._drawn = torch.zeros(at_random, dtype=torch.float64, device=thickness.device)

    @classmethod
    def empty(cls, aabb: Tensor, steps: Steps, rules: GridRules | None = None) -> FixedGrid:
        """Return a grid of which nothing is known, where ``aabb`` is."""
        cells = steps.resolution**3
        occupied = torch.ones(cells, dtype=torch.bool, device=aabb.device)
        return cls(torch.zeros(cells, device=aabb.device), occupied, aabb, steps, rules)

    def draw(self, generator: torch.Generator) -> None:
        """Draw the random numbers of the next update."""
        self._within.uniform_(generator=generator)
        self._drawn.uniform_(generator=generator)

    @torch.no_grad()
    def look_everywhere(self, density_at: Callable[[Float[Tensor, "points 3"]], Float[Tensor, " points"]]) -> None:
        """Look into all cells, while there is fog.

        Args:
            density_at: density at world positions.
        """
        cells = torch.arange(self.thickness.numel(), device=self.thickness.device)
        fresh = torch.cat([self._look(density_at, chunk) for chunk in cells.split(_CHUNK)])
        self.thickness.mul_(self.rules.early_decay)
        torch.maximum(self.thickness, fresh, out=self.thickness)
        self._decide(fresh)

    @torch.no_grad()
    def look(self, density_at: Callable[[Float[Tensor, "points 3"]], Float[Tensor, " points"]]) -> None:
        """Look into a random sixteenth of all cells and into occupied ones.

        Args:
            density_at: density at world positions.
        """
        total, device = self.thickness.numel(), self.thickness.device
        drawn = (self._drawn * total).long().clamp_(max=total - 1)
        wanted = self.occupied.index_fill(0, drawn[1:], True)
        # Another stretch of the cells comes first each time, so that none is left out for long.
        order = (torch.arange(total, device=device) + drawn[0]) % total
        places = order.index_select(0, leading_places(wanted.index_select(0, order), self.looked_at))
        fresh = self._look(density_at, places)
        seen = torch.zeros_like(self.thickness).index_fill_(0, places, 1.0)
        forgets = (seen > 0) | ~self.occupied
        self.thickness.mul_(torch.where(forgets, self.rules.decay, 1.0))
        # Cells that padding names a second time are given the same number twice.
        largest = torch.maximum(self.thickness.index_select(0, places), fresh)
        self.thickness.index_copy_(0, places, largest)
        self._decide(fresh)

    def _look(self, density_at: Callable[[Tensor], Tensor], cells: Tensor) -> Tensor:
        r = self.steps.resolution
        corners = torch.stack([cells // (r * r), cells // r % r, cells % r], dim=-1)
        positions = box_to_world((corners + self._within.index_select(0, cells)) * (2.0 / r) - 1.0, self.aabb)
        return density_at(positions).float() * self.steps.length

    def _decide(self, fresh: Tensor) -> None:
        self.is_finite.logical_and_(torch.isfinite(fresh).all())
        torch.gt(self.thickness, self.thickness.mean().clamp(max=self.rules.threshold), out=self.occupied)
