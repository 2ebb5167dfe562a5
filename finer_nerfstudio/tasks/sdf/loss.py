"""The paper's loss for signed distances: squared errors, of fine points a hundred times as much as of coarse ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.tasks.sdf.distance import SignedDistance
from finer_nerfstudio.tasks.sdf.sampling import SurfaceSampler, training_points

# What a coarse point counts in the loss, where a fine one counts 1.
_COARSE_WEIGHT = 0.01


class WeightedDraws(ABC):
    """Draws training points, wherever they come from, and weighs their errors.

    Args:
        points: of a draw; even rows are coarse, odd rows fine.
        device: of the network.
    """

    def __init__(self, points: int, device: torch.device) -> None:
        self._weights = torch.ones(points, device=device)
        self._weights[0::2] = _COARSE_WEIGHT

    @abstractmethod
    def draw(self, generator: torch.Generator) -> tuple[Float[Tensor, "points 3"], Float[Tensor, " points"]]:
        """Return points of the unit frame and their signed distances, on the network's device."""

    def weighted(
        self,
        field: Callable[[Float[Tensor, "points 3"]], Float[Tensor, " points"]],
        points: Float[Tensor, "points 3"],
        truth: Float[Tensor, " points"],
    ) -> Float[Tensor, " points"]:
        """Return each point's share of the loss, which is their sum."""
        return self._weights * (field(points) - truth).square()


class DistanceLoss(WeightedDraws):
    """Draws points around a surface, and measures their distances to it.

    Args:
        surface: where points are drawn around.
        distance: the truth.
        points: of a draw; even rows are coarse, odd rows fine.
        device: of the network.
    """

    def __init__(self, surface: SurfaceSampler, distance: SignedDistance, points: int, device: torch.device) -> None:
        super().__init__(points, device)
        self._surface, self._distance = surface, distance

    def draw(self, generator: torch.Generator) -> tuple[Float[Tensor, "points 3"], Float[Tensor, " points"]]:
        """Return points of the unit frame and their signed distances, on the network's device."""
        points = training_points(self._surface.points_and_normals(len(self._weights), generator)[0], generator)
        truth = self._distance(points)
        return points.to(self._weights.device), truth.to(self._weights.device)
