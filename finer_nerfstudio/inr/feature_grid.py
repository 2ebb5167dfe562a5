"""A grid of features in front of a network: local details are looked up, and the network has to explain the rest."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from finer_nerfstudio.inr.initialization import uniform_
from finer_nerfstudio.inr.kernels.feature_grid import FEATURES, Level, look_up

# Entries start next to zero, so that a fresh network sees coordinates alone.
_INITIAL = 1e-4


class FeatureGrid(nn.Module):
    """Features of points in a cube from grids of several resolutions (Mueller et al. 2022, instant-ngp, §3).

    Args:
        levels: number of grids, of two features each.
        coarsest: cells per axis of the first grid.
        finest: cells per axis of the last one; those between are a geometric series.
        entries: most entries of a grid, a power of two; where it has more corners, they share them by a hash.
        generator: source of the initial entries.

    Raises:
        ValueError: for numbers below one, a finest grid coarser than the first, and entries that are no power of two.
    """

    def __init__(
        self,
        *,
        levels: int,
        coarsest: int,
        finest: int,
        entries: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if levels < 1 or coarsest < 1 or finest < coarsest:
            raise ValueError(
                f"FeatureGrid: levels and cells must be at least 1, and the last level not coarser than the first, not "
                f"{levels} levels of {coarsest} to {finest} cells"
            )
        if entries < 1 or entries & (entries - 1):
            raise ValueError(f"FeatureGrid: entries must be a power of two, not {entries}")
        growth = (finest / coarsest) ** (1.0 / max(1, levels - 1))
        self.levels: list[Level] = []
        first = 0
        for number in range(levels):
            resolution = round(coarsest * growth**number)
            own = min(entries, (resolution + 1) ** 3)
            self.levels.append(Level(resolution, own, first))
            first += own
        self.table = nn.Parameter(torch.empty(first, FEATURES))
        uniform_(self.table, _INITIAL, generator)

    @property
    def features(self) -> int:
        """Numbers of a point."""
        return FEATURES * len(self.levels)

    def forward(
        self, points: Float[Tensor, "*batch 3"], *, with_points: bool = False
    ) -> Float[Tensor, "*batch features"]:
        """Return the features of points.

        Args:
            points: in [-1, 1]^3; those outside count to the nearest face.
            with_points: whether the three coordinates of a point come before its features.
        """
        flat = look_up(points.reshape(-1, 3), self.table, self.levels, with_points=with_points)
        return flat.unflatten(0, points.shape[:-1])
