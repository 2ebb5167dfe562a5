"""The objects of the demo scene: an armillary sphere on a mosaic table, with six small solids around its foot."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from finer_nerfstudio.demo.distances import (
    Array,
    axis_rod,
    band,
    disc,
    foot,
    octahedron,
    rod,
    rounded_box,
    sphere,
    torus,
    wire_cube,
)
from finer_nerfstudio.demo.patterns import checkered, globe_map, mosaic, plain, segments, stripes


@dataclass(frozen=True)
class _Solid:
    """One object: where it stands, its shape and its surface.

    ``metal`` in [0, 1] goes from painted (white highlight over the diffuse colour) to metallic (coloured
    highlight and a coloured reflection of the surroundings, hardly any diffuse light).
    """

    centre: tuple[float, float, float]
    bound: float
    """Radius of a sphere about ``centre`` that holds the object."""
    distance: Callable[[Array], Array]
    pattern: Callable[[Array], Array]
    rotation: Array | None = None
    """[3, 3], object to world."""
    gloss: float = 0.4
    shininess: float = 40.0
    metal: float = 0.0

    def to_local(self, points: Array) -> Array:
        """World [3, n] points to this object's frame."""
        return self.turn(points - np.array(self.centre, dtype=np.float32)[:, None])

    def turn(self, vectors: Array) -> Array:
        """World [3, n] directions to this object's frame."""
        if self.rotation is None:
            return vectors
        # Written out, because a matrix product would start BLAS threads that compete with ours.
        return np.stack([sum(self.rotation[j, i] * vectors[j] for j in range(3)) for i in range(3)])


def _rotation(axis: str, degrees: float) -> Array:
    """Right-handed rotation about a coordinate axis, [3, 3]."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3, dtype=np.float32)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def _around(degrees: float, height: float, radius: float = 0.67) -> tuple[float, float, float]:
    """A place on the table, at an angle about the pillar and a height above the table top."""
    angle = math.radians(degrees)
    return radius * math.cos(angle), radius * math.sin(angle), _TABLE_TOP + height


_TABLE_TOP = -0.78


_HEART: tuple[float, float, float] = (0.0, 0.0, 0.28)  # common centre of the globe and its rings
_TILT = _rotation("z", 35.0) @ _rotation("y", 23.5)  # the tilt of the earth's axis


@functools.cache
def solids() -> tuple[_Solid, ...]:
    brass, steel = plain("dba23a"), plain("aeb6bf")
    ring = {"gloss": 1.0, "shininess": 60.0, "metal": 1.0}
    return (
        _Solid(
            (0.0, 0.0, _TABLE_TOP - 0.06),
            0.98,
            lambda p: disc(p, 0.95, 0.06, 0.025),
            mosaic,
            gloss=0.25,
            shininess=30.0,
        ),
        _Solid((0.0, 0.0, _TABLE_TOP + 0.16), 0.25, foot, brass, gloss=0.9, shininess=50.0, metal=0.8),
        _Solid(_HEART, 0.37, lambda p: sphere(p, 0.36), globe_map, _TILT, gloss=0.7, shininess=70.0),
        _Solid(_HEART, 0.83, lambda p: axis_rod(p, 0.70, 0.014, 0.035), steel, _TILT, 0.9, 60.0, 0.9),
        _Solid(_HEART, 0.80, lambda p: torus(p, 0.76, 0.022), brass, _rotation("x", 90.0), **ring),
        _Solid(
            _HEART,
            0.73,
            lambda p: torus(p, 0.70, 0.013),
            steel,
            _rotation("y", 90.0) @ _rotation("x", 20.0),
            **ring,
        ),
        _Solid(
            _HEART,
            0.66,
            lambda p: band(p, 0.62, 0.011, 0.05, 0.008),
            segments("26272e", "f1e3c6", 36),
            _TILT,
            gloss=0.5,
            shininess=50.0,
        ),
        _Solid(_HEART, 0.53, lambda p: torus(p, 0.50, 0.012), brass, _TILT @ _rotation("x", 66.5), **ring),
        _Solid(
            _around(20, 0.15),
            0.16,
            lambda p: sphere(p, 0.15),
            stripes("c8323c", "f6efe2", 0.1),
            _rotation("x", 40.0),
            gloss=0.8,
            shininess=90.0,
        ),
        _Solid(
            _around(80, 0.12),
            0.21,
            lambda p: rounded_box(p, 0.12, 0.015),
            checkered("17806d", "f2e8cf", 0.12),
            _rotation("z", 25.0),
            gloss=0.4,
        ),
        _Solid(
            _around(140, 0.17),
            0.2,
            lambda p: octahedron(p, 0.16, 0.012),
            plain("6a3fa0"),
            _rotation("z", 10.0),
            gloss=1.0,
            shininess=30.0,
        ),
        _Solid(
            _around(200, 0.055),
            0.18,
            lambda p: torus(p, 0.115, 0.055),
            segments("2e6fc9", "ffe8a3", 9),
            gloss=0.7,
            shininess=60.0,
        ),
        _Solid(
            _around(260, 0.17),
            0.19,
            lambda p: rod(p, 0.1, 0.075),
            stripes("f2a31b", "2b2b33", 0.09, twist=1.0),
            gloss=0.7,
            shininess=60.0,
        ),
        _Solid(
            _around(320, 0.13),
            0.23,
            lambda p: wire_cube(p, 0.115, 0.014),
            steel,
            _rotation("z", 15.0),
            **ring,
        ),
    )


def distance_to_scene(points: Array) -> Array:
    """Return signed distances to the nearest surface of the scene.

    Outside they never exceed the true distance, and are the true one for most shapes; inside, only their sign is to be
    relied on.

    Args:
        points: ``[3, n]`` float32 positions in world units, z up, anywhere.

    Returns:
        ``[n]`` in world units: negative inside an object, positive outside, zero on a surface.
    """
    nearest = np.full(points.shape[1], np.inf, dtype=np.float32)
    for solid in solids():
        nearest = np.minimum(nearest, solid.distance(solid.to_local(points)))
    return nearest
