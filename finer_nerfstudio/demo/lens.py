"""OpenCV's lens distortion and its inverse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Lens:
    """A lens whose focal length is the same along either axis."""

    focal: float
    """In widths of the image."""
    center: tuple[float, float]
    """Principal point in widths and heights: a lens is never mounted quite straight."""
    distortion: dict[str, float]
    """OpenCV's coefficients ``k1``, ``k2``, ``p1`` and ``p2``."""


def distort(points: NDArray[np.float64], k1: float, k2: float, p1: float, p2: float) -> NDArray[np.float64]:
    """OpenCV's lens: where it puts ideal image coordinates ``[*batch, 2]``, both in focal lengths, y down."""
    x, y = points[..., 0], points[..., 1]
    square = x * x + y * y
    radial = 1 + square * (k1 + square * k2)
    return np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x),
            y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y,
        ],
        axis=-1,
    )


def undistort(points: NDArray[np.float64], k1: float, k2: float, p1: float, p2: float) -> NDArray[np.float64]:
    """The inverse of :func:`distort` by Newton's method, to the precision of float64."""
    ideal = points.copy()
    for _ in range(20):
        x, y = ideal[..., 0], ideal[..., 1]
        square = x * x + y * y
        radial = 1 + square * (k1 + square * k2)
        slope = 2 * k1 + 4 * k2 * square  # of radial, over x and divided by it
        xx = radial + slope * x * x + 2 * p1 * y + 6 * p2 * x
        yy = radial + slope * y * y + 6 * p1 * y + 2 * p2 * x
        xy = slope * x * y + 2 * p1 * x + 2 * p2 * y
        miss = distort(ideal, k1, k2, p1, p2) - points
        step = np.stack([yy * miss[..., 0] - xy * miss[..., 1], xx * miss[..., 1] - xy * miss[..., 0]], axis=-1)
        step /= (xx * yy - xy * xy)[..., None]
        ideal = ideal - step
        if np.abs(step).max() < 1e-14:
            break
    return ideal
