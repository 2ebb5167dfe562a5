"""What occupancy grids go by, whoever trains with them."""

from __future__ import annotations

from dataclasses import dataclass

# Of the samples of a ray, those that are taken of the fog in the beginning.
_OF_FOG = 1 / 3


@dataclass(frozen=True)
class GridRules:
    """How a grid remembers; see :class:`finer_nerfstudio.nerf.sampling.sampler.OccupancyGrid`.

    Attributes:
        decay: factor of the remembered thickness at each update, in [0, 1).
        early_decay: the same for updates that look everywhere.
        threshold: a cell is occupied above this optical thickness, or above the grid's mean where that is lower.
    """

    decay: float = 0.8
    early_decay: float = 0.6
    threshold: float = 0.01


def columns_in_fog(samples_per_ray: int) -> int:
    """Return how many samples of a ray are taken of the fog in the beginning.

    Args:
        samples_per_ray: that are taken later.
    """
    return max(1, round(_OF_FOG * samples_per_ray))
