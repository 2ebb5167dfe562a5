"""Training points of a shape that were computed beforehand, for machines without the libraries that measure distances.

Positions are whole numbers of steps of 2^-16 of the unit frame's [-0.5, 0.5], and distances are those at these very
places: nothing is rounded but the distances themselves, to half precision. A step is 1.5e-5, a sixty-fifth of the scale
of the fine noise.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.runs.progress import Stage
from finer_nerfstudio.tasks.sdf.distance import SignedDistance
from finer_nerfstudio.tasks.sdf.loss import WeightedDraws
from finer_nerfstudio.tasks.sdf.sampling import SurfaceSampler, training_points

_STEPS = 1 << 16
# Points whose distances are computed at once.
_AT_ONCE = 100_000


@dataclass(frozen=True)
class PointPool:
    """Points near a surface and their signed distances, coarse ones and fine ones.

    Attributes:
        positions: ``[2, n, 3]`` uint16, the coarse points and the fine ones, in steps from -0.5.
        distances: ``[2, n]`` float16, in the unit frame, negative inside.
    """

    positions: np.ndarray
    distances: np.ndarray

    @property
    def description(self) -> dict[str, Any]:
        """Return the number of points of either kind, and a digest."""
        digest = hashlib.blake2b(np.ascontiguousarray(self.positions).tobytes(), digest_size=16)
        digest.update(np.ascontiguousarray(self.distances).tobytes())
        return {"points": self.positions.shape[1], "blake2": digest.hexdigest()}


def places_of(positions: np.ndarray) -> Float[Tensor, "*batch 3"]:
    """Return where quantised positions are in the unit frame, float32 without rounding.

    Args:
        positions: ``[*batch, 3]`` uint16.
    """
    return torch.from_numpy(positions.astype(np.float32)) / _STEPS - 0.5


def make_pool(
    surface: SurfaceSampler,
    distance: SignedDistance,
    count: int,
    generator: torch.Generator,
    *,
    report: Stage | None = None,
) -> PointPool:
    """Draw points by the paper's noise and compute their distances.

    Args:
        surface: in the unit frame.
        distance: the truth, there.
        count: points of either kind.
        generator: source of randomness.
        report: progress callback.
    """
    positions = np.empty((2, count, 3), np.uint16)
    distances = np.empty((2, count), np.float16)
    for start in range(0, count, _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, count))
        around, _ = surface.points_and_normals(2 * (part.stop - part.start), generator)
        points = training_points(around, generator).double()
        # What is rounded up to 0.5 comes back in at -0.5, as the noise does.
        steps = torch.round((points + 0.5) * _STEPS).long() % _STEPS
        for kind in range(2):
            positions[kind, part] = steps[kind::2].numpy().astype(np.uint16)
            distances[kind, part] = distance(places_of(positions[kind, part])).numpy().astype(np.float16)
        if report is not None:
            report("training points", part.stop, count)
    return PointPool(positions, distances)


class PooledDraws(WeightedDraws):
    """Draws training points from a pool that lies on the network's device, without waiting for it.

    Args:
        pool: coarse and fine points.
        points: of a draw; even rows are coarse, odd rows fine.
        device: of the network.
    """

    def __init__(self, pool: PointPool, points: int, device: torch.device) -> None:
        super().__init__(points, device)
        self._places = places_of(pool.positions).to(device)
        self._distances = torch.from_numpy(pool.distances.astype(np.float32)).to(device)
        self._on_device = torch.Generator(device)
        self._kinds = (torch.arange(points, device=device) % 2).long()

    def draw(self, generator: torch.Generator) -> tuple[Float[Tensor, "points 3"], Float[Tensor, " points"]]:
        """Return points of the unit frame and their signed distances, on the network's device."""
        # The device's generator has no place in a checkpoint: its seed comes from the one that has.
        self._on_device.manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
        size, device = self._places.shape[1], self._places.device
        chosen = torch.randint(size, (len(self._kinds),), generator=self._on_device, device=device)
        return self._places[self._kinds, chosen], self._distances[self._kinds, chosen]
