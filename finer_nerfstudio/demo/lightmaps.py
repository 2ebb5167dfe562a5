"""Daylight on the surfaces of a room, computed once on grids over them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finer_nerfstudio.demo.distances import Array
from finer_nerfstudio.demo.solids import Box, Solid, nearest, place, to_own, to_world

_SPACING = 0.1  # of the grids, metres
_LIFT = 2e-3  # keeps rays from meeting the surface that they start on, metres
_PANES = (8, 7)  # points of the window that light comes from, across and up
_GATHERED = 32  # rays that look for what other surfaces reflect
_RAYS_AT_ONCE = 100_000


@dataclass(frozen=True)
class Window:
    """An upright rectangle that shines along -y."""

    lower: tuple[float, float, float]
    upper: tuple[float, float, float]

    def points(self) -> Array:
        """Points ``[3, n]``, evenly spread."""
        (x0, y, z0), (x1, _, z1) = self.lower, self.upper
        across, up = ((np.arange(count) + 0.5) / count for count in _PANES)
        x, z = np.meshgrid(x0 + (x1 - x0) * across, z0 + (z1 - z0) * up)
        return np.stack([x.ravel(), np.full(x.size, y), z.ravel()]).astype(np.float32)

    @property
    def area(self) -> float:
        """In square metres."""
        return (self.upper[0] - self.lower[0]) * (self.upper[2] - self.lower[2])


class LightMaps:
    """Irradiance over pi, for a window of radiance 1, on the surfaces of solids and of the room about them."""

    def __init__(self, solids: tuple[Solid, ...], shell: Box, window: Window) -> None:
        """Compute the light.

        Args:
            solids: what stands in the room.
            shell: the room, seen from inside.
            window: the only light. Solids between it and the room shade the room.
        """
        surfaces = (*solids, shell)
        faces = [(index, face) for index, solid in enumerate(surfaces) for face in range(len(solid.faces))]
        counts = [[max(2, math.ceil(side / _SPACING) + 1) for side in surfaces[i].faces[f]] for i, f in faces]
        self._shape = np.array(counts)
        self._start = np.concatenate([[0], np.cumsum(self._shape.prod(axis=1))])
        self._first_face = np.cumsum([0, *(len(solid.faces) for solid in surfaces)])

        places, normals = [], []
        for (index, face), (columns, rows) in zip(faces, self._shape, strict=True):
            solid = surfaces[index]
            u, v = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
            # Points on an edge belong to either face: slightly inside of it they belong to one.
            across = 0.5 + 0.9999 * (np.stack([u.ravel(), v.ravel()]) - 0.5)
            own = solid.points(face, across)
            outward = solid.chart(own).normals * (-1 if solid is shell else 1)
            places.append(to_world(solid, own) + place(solid))
            normals.append(to_world(solid, outward))
        points, normal = np.concatenate(places, axis=1), np.concatenate(normals, axis=1)
        lifted = points + np.float32(_LIFT) * normal
        parts = np.array_split(np.arange(points.shape[1]), -(-points.shape[1] // _RAYS_AT_ONCE))

        lamps = window.points()
        self.direct = np.zeros(points.shape[1], dtype=np.float32)
        for lamp in lamps.T[:, :, None]:
            for part in parts:
                self.direct[part] += _received(lifted[:, part], normal[:, part], lamp, solids)
        self.direct *= np.float32(window.area / (math.pi * lamps.shape[1]))

        self.bounced = np.zeros_like(self.direct)
        for part in parts:
            self.bounced[part] = self._gathered(lifted[:, part], normal[:, part], solids, shell)

    def on(self, surface: int, solid: Solid, own: Array) -> tuple[Array, Array]:
        """Return direct and bounced light ``[n]`` at ``[3, n]`` points of a surface in its own frame."""
        chart = solid.chart(own)
        face = self._first_face[surface] + chart.face
        columns, rows = self._shape[face].T
        u, v = chart.across[0] * (columns - 1), chart.across[1] * (rows - 1)
        left, low = np.minimum(u.astype(np.int64), columns - 2), np.minimum(v.astype(np.int64), rows - 2)
        right, up = (u - left).astype(np.float32), (v - low).astype(np.float32)
        corner = self._start[face] + low * columns + left

        def between(values: Array) -> Array:
            lower = values[corner] * (1 - right) + values[corner + 1] * right
            upper = values[corner + columns] * (1 - right) + values[corner + columns + 1] * right
            return lower * (1 - up) + upper * up

        return between(self.direct), between(self.bounced)

    def _gathered(self, points: Array, normals: Array, solids: tuple[Solid, ...], shell: Box) -> Array:
        """Mean of the direct light ``[n]`` on what the points see, by the cosine of the angle."""
        side = np.where(np.abs(normals[2]) > 0.9, np.array([[1.0], [0], [0]]), np.array([[0], [0], [1.0]]))
        first = np.cross(normals.T, side.T).T.astype(np.float32)
        first /= np.sqrt((first * first).sum(axis=0))
        second = np.cross(normals.T, first.T).T.astype(np.float32)
        total = np.zeros(points.shape[1], dtype=np.float32)
        for number in range(_GATHERED):
            # A spiral over the disc below the hemisphere is even, and gives the cosine's weight.
            radius = np.float32(math.sqrt((number + 0.5) / _GATHERED))
            angle = number * math.pi * (3 - math.sqrt(5))
            along, beside = radius * np.float32(math.cos(angle)), radius * np.float32(math.sin(angle))
            up = np.float32(math.sqrt(max(0.0, 1 - float(radius) ** 2)))
            directions = along * first + beside * second + up * normals
            total += self._direct_seen(points, directions, solids, shell)
        return total / np.float32(_GATHERED)

    def _direct_seen(self, points: Array, directions: Array, solids: tuple[Solid, ...], shell: Box) -> Array:
        t, which = nearest(solids, points, directions)
        away = leaving(shell, points, directions)
        which = np.where(t < away, which, len(solids))
        ends = points + np.minimum(t, away) * directions
        seen = np.zeros_like(t)
        for index in np.unique(which):
            solid = shell if index == len(solids) else solids[index]
            own = np.flatnonzero(which == index)
            seen[own] = self.on(int(index), solid, to_own(solid, ends[:, own] - place(solid)))[0]
        return seen


def leaving(shell: Box, origins: Array, directions: Array) -> Array:
    """Return the distances ``[n]`` at which rays from inside an unturned box leave it."""
    slow = np.where(np.abs(directions) < 1e-9, np.float32(1e-9), directions)
    edge = np.sign(slow) * np.array(shell.half, dtype=np.float32)[:, None] + place(shell)
    return ((edge - origins) / slow).min(axis=0)


def _received(points: Array, normals: Array, lamp: Array, solids: tuple[Solid, ...]) -> Array:
    """Share of a lamp's light ``[n]`` on points, for a window that shines along -y."""
    towards = lamp - points
    square = (towards * towards).sum(axis=0)
    distance = np.sqrt(square)
    towards = towards / distance
    amount = np.maximum((normals * towards).sum(axis=0), 0) * np.maximum(towards[1], 0) / np.maximum(square, 0.04)
    lit: NDArray[np.int64] = np.flatnonzero(amount > 0)
    blocked = nearest(solids, points[:, lit], towards[:, lit])[0] < distance[lit] - _LIFT
    amount[lit[blocked]] = 0
    return amount
