"""Boxes, cylinders and balls: where rays meet them, and grids of points over their surfaces."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finer_nerfstudio.demo.distances import Array

Pattern = Callable[[Array], Array]
"""``[3, n]`` points in the solid's own frame -> ``[3, n]`` linear colours in [0, 1]."""


class Chart(NamedTuple):
    """Where points lie on a surface that is cut into faces."""

    face: NDArray[np.int64]
    """``[n]``."""
    across: Array
    """``[2, n]`` position on the face, each in [0, 1]."""
    normals: Array
    """``[3, n]`` unit normals in the solid's own frame."""


@dataclass(frozen=True)
class Box:
    """A box, turned about the z axis."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    """Half its sides."""
    pattern: Pattern
    turn: float = 0.0
    """Degrees, counter-clockwise seen from above."""

    @property
    def bound(self) -> float:
        """Radius of a sphere about the centre that holds it."""
        return math.hypot(*self.half)

    @property
    def faces(self) -> list[tuple[float, float]]:
        """Sides of each face: -x, +x, -y, +y, -z, +z."""
        x, y, z = (2 * side for side in self.half)
        return [(y, z), (y, z), (x, z), (x, z), (x, y), (x, y)]

    def reach(self, start: Array, heading: Array) -> Array:
        """Distances ``[n]`` along rays in the own frame: infinite for those that miss, 0 from inside."""
        half = np.array(self.half, dtype=np.float32)[:, None]
        slow = np.where(np.abs(heading) < 1e-9, np.float32(1e-9), heading)
        first, second = (-half - start) / slow, (half - start) / slow
        enters = np.minimum(first, second).max(axis=0)
        leaves = np.maximum(first, second).min(axis=0)
        return np.where((enters < leaves) & (leaves > 0), np.maximum(enters, 0), np.float32(np.inf))

    def chart(self, points: Array) -> Chart:
        """Of ``[3, n]`` points on the surface, in the own frame."""
        half = np.array(self.half, dtype=np.float32)[:, None]
        relative = points / half
        axis = np.abs(relative).argmax(axis=0)
        upper = np.take_along_axis(relative, axis[None], axis=0)[0] > 0
        normals = (np.arange(3)[:, None] == axis) * np.where(upper, np.float32(1), np.float32(-1))
        others = np.array([[1, 0, 0], [2, 2, 1]])[:, axis]
        across = np.clip(0.5 + 0.5 * np.take_along_axis(relative, others, axis=0), 0, 1)
        return Chart(2 * axis + upper, across, normals.astype(np.float32))

    def points(self, face: int, across: Array) -> Array:
        """Points ``[3, n]`` in the own frame at a face's ``[2, n]`` positions: the inverse of :meth:`chart`."""
        axis, upper = divmod(face, 2)
        relative = np.insert(2 * across - 1, axis, 2 * upper - 1, axis=0)
        return (relative * np.array(self.half)[:, None]).astype(np.float32)


@dataclass(frozen=True)
class Cylinder:
    """An upright cylinder."""

    centre: tuple[float, float, float]
    radius: float
    half_height: float
    pattern: Pattern
    turn: float = 0.0
    """Degrees, of its pattern."""

    @property
    def bound(self) -> float:
        """Radius of a sphere about the centre that holds it."""
        return math.hypot(self.radius, self.half_height)

    @property
    def faces(self) -> list[tuple[float, float]]:
        """Sides of each face: the mantle, the lower and the upper end."""
        end = 2 * self.radius
        return [(2 * math.pi * self.radius, 2 * self.half_height), (end, end), (end, end)]

    def reach(self, start: Array, heading: Array) -> Array:
        """Distances ``[n]`` along rays in the own frame: infinite for those that miss, 0 from inside."""
        a = heading[0] ** 2 + heading[1] ** 2
        b = start[0] * heading[0] + start[1] * heading[1]
        square = b * b - a * (start[0] ** 2 + start[1] ** 2 - np.float32(self.radius**2))
        root = np.sqrt(np.maximum(square, 0))
        a = np.maximum(a, np.float32(1e-12))
        up = np.where(np.abs(heading[2]) < 1e-9, np.float32(1e-9), heading[2])
        first, second = (-self.half_height - start[2]) / up, (self.half_height - start[2]) / up
        enters = np.maximum((-b - root) / a, np.minimum(first, second))
        leaves = np.minimum((-b + root) / a, np.maximum(first, second))
        met = (square > 0) & (enters < leaves) & (leaves > 0)
        return np.where(met, np.maximum(enters, 0), np.float32(np.inf)).astype(np.float32)

    def chart(self, points: Array) -> Chart:
        """Of ``[3, n]`` points on the surface, in the own frame."""
        x, y, z = points[0] / self.radius, points[1] / self.radius, points[2] / self.half_height
        end = np.abs(z) - 1 > np.sqrt(x * x + y * y) - 1
        angle = np.arctan2(y, x) * np.float32(0.5 / math.pi) + 0.5
        zero = np.zeros_like(x)
        normals = np.where(end, np.stack([zero, zero, np.sign(z)]), np.stack([x, y, zero]))
        across = np.where(end, np.stack([0.5 + 0.5 * x, 0.5 + 0.5 * y]), np.stack([angle, 0.5 + 0.5 * z]))
        face = np.where(end, np.where(z > 0, 2, 1), 0)
        return Chart(face, np.clip(across, 0, 1).astype(np.float32), _unit(normals.astype(np.float32)))

    def points(self, face: int, across: Array) -> Array:
        """Points ``[3, n]`` in the own frame at a face's ``[2, n]`` positions: the inverse of :meth:`chart`."""
        first, second = 2 * across - 1
        if face == 0:
            angle = math.pi * first
            parts = self.radius * np.cos(angle), self.radius * np.sin(angle), self.half_height * second
        else:
            # The corners of the square about an end are drawn in to its rim.
            inward = self.radius / np.maximum(1, np.hypot(first, second))
            parts = first * inward, second * inward, np.full_like(first, (2 * face - 3) * self.half_height)
        return np.stack(parts).astype(np.float32)


@dataclass(frozen=True)
class Ball:
    """A sphere."""

    centre: tuple[float, float, float]
    radius: float
    pattern: Pattern
    turn: float = 0.0
    """Degrees about the z axis, of its pattern."""

    @property
    def bound(self) -> float:
        """Radius of a sphere about the centre that holds it."""
        return self.radius

    @property
    def faces(self) -> list[tuple[float, float]]:
        """Sides of its one face."""
        return [(2 * math.pi * self.radius, math.pi * self.radius)]

    def reach(self, start: Array, heading: Array) -> Array:
        """Distances ``[n]`` along rays in the own frame: infinite for those that miss, 0 from inside."""
        b = _dot(start, heading)
        square = b * b - _dot(start, start) + np.float32(self.radius**2)
        root = np.sqrt(np.maximum(square, 0))
        return np.where((square > 0) & (root > b), np.maximum(-b - root, 0), np.float32(np.inf))

    def chart(self, points: Array) -> Chart:
        """Of ``[3, n]`` points on the surface, in the own frame."""
        normals = _unit(points)
        azimuth = np.arctan2(normals[1], normals[0]) * np.float32(0.5 / math.pi) + 0.5
        elevation = np.arcsin(np.clip(normals[2], -1, 1)) * np.float32(1 / math.pi) + 0.5
        return Chart(np.zeros(points.shape[1], dtype=np.int64), np.stack([azimuth, elevation]), normals)

    def points(self, face: int, across: Array) -> Array:
        """Points ``[3, n]`` in the own frame at the face's ``[2, n]`` positions: the inverse of :meth:`chart`."""
        del face  # there is only one
        azimuth, elevation = math.pi * (2 * across[0] - 1), math.pi * (across[1] - 0.5)
        flat = np.cos(elevation)
        parts = flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)
        return (self.radius * np.stack(parts)).astype(np.float32)


Solid = Box | Cylinder | Ball


def _dot(a: Array, b: Array) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(vectors: Array) -> Array:
    return vectors / np.sqrt(_dot(vectors, vectors))


@functools.cache
def _turned(degrees: float) -> tuple[np.float32, np.float32]:
    return np.float32(math.cos(math.radians(degrees))), np.float32(math.sin(math.radians(degrees)))


def to_own(solid: Solid, vectors: Array) -> Array:
    """Turn ``[3, n]`` directions of the world into a solid's frame."""
    c, s = _turned(solid.turn)
    return np.stack([c * vectors[0] + s * vectors[1], c * vectors[1] - s * vectors[0], vectors[2]])


def to_world(solid: Solid, vectors: Array) -> Array:
    """Turn ``[3, n]`` directions of a solid's frame into the world."""
    c, s = _turned(solid.turn)
    return np.stack([c * vectors[0] - s * vectors[1], s * vectors[0] + c * vectors[1], vectors[2]])


def place(solid: Solid) -> Array:
    """``[3, 1]`` centre of a solid in the world."""
    return np.array(solid.centre, dtype=np.float32)[:, None]


def nearest(solids: tuple[Solid, ...], origins: Array, directions: Array) -> tuple[Array, NDArray[np.int64]]:
    """Return the first solid along each ray.

    Args:
        solids: which there are.
        origins: ``[3, n]`` or ``[3, 1]`` starts.
        directions: ``[3, n]`` unit directions.

    Returns:
        Distances ``[n]`` (infinite if nothing is met, 0 from inside) and indices ``[n]`` of the solids (-1 for none).
    """
    distances = np.full(directions.shape[1], np.inf, dtype=np.float32)
    which = np.full(directions.shape[1], -1, dtype=np.int64)
    for index, solid in enumerate(solids):
        # Most rays miss the sphere about most solids.
        start = origins - place(solid)
        along = _dot(start, directions)
        bound = np.float32(solid.bound**2)
        outside = _dot(start, start) - bound
        rays = np.flatnonzero((along * along > outside) & ((along < 0) | (outside < 0)))
        if not rays.size:
            continue
        own = to_own(solid, start if start.shape[1] == 1 else start[:, rays])
        t = solid.reach(own, to_own(solid, directions[:, rays]))
        closer = t < distances[rays]
        rays = rays[closer]
        distances[rays], which[rays] = t[closer], index
    return distances, which
