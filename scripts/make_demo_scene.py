"""Render a small Blender-format scene, so that the first training needs no download.

The scene is an armillary sphere (a patterned globe inside thin metal rings) on a mosaic table, with six small
solids around its foot. It is drawn by sphere tracing signed distances with NumPy alone, and holds what
separates one representation from another: patterns of several spatial frequencies, rods and rings thinner
than a pixel, highlights that move with the camera, soft shadows and a transparent background.

World units are those of the NeRF synthetic scenes: z is up, the objects lie within |x|, |y|, |z| <= 1.1, and
the cameras look at the origin from a distance of about 4.03. Inside this file an array of points is kept as
[3, n], coordinates first, because elementwise arithmetic is faster on contiguous coordinates; the public
functions take the usual [*batch, 3].
"""

from __future__ import annotations

import functools
import json
import math
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol, TypeVar

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Array = NDArray[np.float32]
Options = TypeVar("Options")

FORMAT_VERSION = 1
"""Raised whenever the same options would give other images."""

RECIPE = "scene.json"
"""Name of the file that says how a folder was made."""

CAMERA_ANGLE_X = 0.6911112070083618
"""Horizontal field of view in radians, that of the NeRF synthetic scenes."""

CAMERA_DISTANCE = 4.03
"""Distance from every camera to the origin, in world units."""

_HIT_DISTANCE = 4e-4  # a surface is reached at this distance: about 1/70 of a pixel of the default images
_RAYS_AT_ONCE = 100_000  # many, so that NumPy's cost per call is small beside the arithmetic


# --------------------------------------------------------------------------------------------------
# Signed distances: [3, n] points in the solid's own frame -> [n] distances, never larger than the true one.
# --------------------------------------------------------------------------------------------------


def _sphere(p: Array, radius: float) -> Array:
    x, y, z = p
    return np.sqrt(x * x + y * y + z * z) - np.float32(radius)


def _rounded_box(p: Array, half: float, rounding: float) -> Array:
    x, y, z = np.abs(p) - np.float32(half - rounding)
    inside = np.minimum(np.maximum(np.maximum(x, y), z), 0)
    x, y, z = np.maximum(x, 0), np.maximum(y, 0), np.maximum(z, 0)
    return np.sqrt(x * x + y * y + z * z) + inside - np.float32(rounding)


def _wire_cube(p: Array, half: float, thickness: float) -> Array:
    """The twelve edges of a cube as round rods: the nearest of three, once folded to the positive octant."""
    x, y, z = np.abs(p)
    side = np.float32(half)
    dx, dy, dz = x - side, y - side, z - side
    beyond_x, beyond_y, beyond_z = np.maximum(dx, 0), np.maximum(dy, 0), np.maximum(dz, 0)
    along_x = beyond_x * beyond_x + dy * dy + dz * dz
    along_y = dx * dx + beyond_y * beyond_y + dz * dz
    along_z = dx * dx + dy * dy + beyond_z * beyond_z
    return np.sqrt(np.minimum(np.minimum(along_x, along_y), along_z)) - np.float32(thickness)


def _octahedron(p: Array, size: float, rounding: float) -> Array:
    """A rounded octahedron; beyond its edges this is a lower bound, which is all that tracing needs."""
    x, y, z = np.abs(p)
    return (x + y + z - np.float32(size)) * np.float32(1 / math.sqrt(3)) - np.float32(rounding)


def _torus(p: Array, major: float, minor: float) -> Array:
    x, y, z = p
    across = np.sqrt(x * x + y * y) - np.float32(major)
    return np.sqrt(across * across + z * z) - np.float32(minor)


def _disc(p: Array, radius: float, half_height: float, rounding: float) -> Array:
    """A cylinder along z with rounded rims."""
    x, y, z = p
    across = np.sqrt(x * x + y * y) - np.float32(radius - rounding)
    along = np.abs(z) - np.float32(half_height - rounding)
    inside = np.minimum(np.maximum(across, along), 0)
    across, along = np.maximum(across, 0), np.maximum(along, 0)
    return np.sqrt(across * across + along * along) + inside - np.float32(rounding)


def _band(p: Array, radius: float, half_width: float, half_height: float, rounding: float) -> Array:
    """A flat hoop: a rectangle with rounded corners, turned about z at the given radius."""
    x, y, z = p
    across = np.abs(np.sqrt(x * x + y * y) - np.float32(radius)) - np.float32(half_width - rounding)
    along = np.abs(z) - np.float32(half_height - rounding)
    inside = np.minimum(np.maximum(across, along), 0)
    across, along = np.maximum(across, 0), np.maximum(along, 0)
    return np.sqrt(across * across + along * along) + inside - np.float32(rounding)


def _rod(p: Array, half_length: float, radius: float) -> Array:
    """A capsule along z."""
    x, y, z = p
    along = np.maximum(np.abs(z) - np.float32(half_length), 0)
    return np.sqrt(x * x + y * y + along * along) - np.float32(radius)


def _axis(p: Array, half_length: float, radius: float, finial: float) -> Array:
    """A thin rod along z with a ball on either end."""
    x, y, z = p
    across = x * x + y * y
    beyond = np.abs(z) - np.float32(half_length)
    ball = np.sqrt(across + beyond * beyond) - np.float32(finial)
    beyond = np.maximum(beyond, 0)
    return np.minimum(np.sqrt(across + beyond * beyond) - np.float32(radius), ball)


def _foot(p: Array) -> Array:
    """The turned pillar that carries the rings: z runs from -0.17 (table) to 0.15 (lowest ring)."""
    x, y, z = p
    across = np.sqrt(x * x + y * y)
    over = np.maximum(np.abs(z) - np.float32(0.15), 0)
    shaft = np.sqrt(across * across + over * over) - np.float32(0.035)
    knob = np.sqrt(across * across + z * z) - np.float32(0.075)
    out = np.maximum(across - np.float32(0.1), 0)
    plinth = np.sqrt(out * out + (z + np.float32(0.15)) ** 2) - np.float32(0.035)
    # A polynomial smooth minimum gives the fillets of a lathe; it only ever shortens the distance.
    return _smooth_min(_smooth_min(shaft, knob, 0.05), plinth, 0.07)


def _smooth_min(a: Array, b: Array, width: float) -> Array:
    blend = np.maximum(np.float32(width) - np.abs(a - b), 0)
    return np.minimum(a, b) - blend * blend * np.float32(0.25 / width)


# --------------------------------------------------------------------------------------------------
# Patterns: [3, n] points in the solid's own frame -> [3, n] linear colours in [0, 1].
# --------------------------------------------------------------------------------------------------


def _colour(hexadecimal: str) -> Array:
    """Linear [3, 1] colour of an sRGB hexadecimal triple, such as ``"d9a441"``."""
    encoded = np.array([int(hexadecimal[i : i + 2], 16) / 255 for i in (0, 2, 4)], dtype=np.float32)
    return (encoded**2.2).astype(np.float32)[:, None]


def _mix(a: Array, b: Array, weight: Array) -> Array:
    return a + (b - a) * weight


def _square_wave(phase: Array) -> Array:
    """1 on [0, 0.5) and 0 on [0.5, 1) of every period."""
    return ((phase - np.floor(phase)) < 0.5).astype(np.float32)


def _noise(p: Array, frequency: float) -> Array:
    """Smooth lattice noise in [0, 1] with ``frequency`` lattice cells per world unit."""
    scaled = p * np.float32(frequency)
    floor = np.floor(scaled)
    fraction = scaled - floor
    smooth = fraction * fraction * (3 - 2 * fraction)
    cell = floor.astype(np.int32).view(np.uint32)
    strides = np.array([[374761393], [668265263], [2246822519]], dtype=np.uint32)
    low = cell * strides  # wraps on purpose: this is a hash
    high = low + strides
    value = np.zeros(p.shape[1], dtype=np.float32)
    for corner in range(8):
        hashed = np.zeros(p.shape[1], dtype=np.uint32)
        weight = np.ones(p.shape[1], dtype=np.float32)
        for axis in range(3):
            upper = corner >> axis & 1
            hashed ^= high[axis] if upper else low[axis]
            weight = weight * (smooth[axis] if upper else 1 - smooth[axis])
        hashed = (hashed ^ (hashed >> np.uint32(15))) * np.uint32(2654435761)
        hashed = (hashed ^ (hashed >> np.uint32(13))) * np.uint32(3266489917)
        value += weight * ((hashed >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24))
    return value


def _plain(colour: str) -> Callable[[Array], Array]:
    return lambda p: np.broadcast_to(_colour(colour), p.shape)


def _stripes(first: str, second: str, period: float, twist: float = 0.0) -> Callable[[Array], Array]:
    """Bands along z, ``period`` apart; a ``twist`` of whole periods over one turn makes them spirals."""

    def pattern(p: Array) -> Array:
        x, y, z = p
        phase = z / np.float32(period)
        if twist:
            phase = phase + np.arctan2(y, x) * np.float32(twist / (2 * math.pi))
        return _mix(_colour(first), _colour(second), _square_wave(phase))

    return pattern


def _segments(first: str, second: str, count: int) -> Callable[[Array], Array]:
    """``count`` pairs of sectors about z."""

    def pattern(p: Array) -> Array:
        phase = np.arctan2(p[1], p[0]) * np.float32(count / (2 * math.pi))
        return _mix(_colour(first), _colour(second), _square_wave(phase))

    return pattern


def _checks(first: str, second: str, period: float) -> Callable[[Array], Array]:
    """Three-dimensional checks, two to a ``period`` along each axis."""

    def pattern(p: Array) -> Array:
        parity = np.floor(p * np.float32(2 / period) + np.float32(0.5)).sum(axis=0)
        return _mix(_colour(first), _colour(second), np.mod(parity, 2))

    return pattern


def _globe_map(p: Array) -> Array:
    """Continents with shores and mountains over a sea with a graticule."""
    x, y, z = p
    relief = 0.5 * _noise(p, 4.0) + 0.3 * _noise(p, 9.0) + 0.2 * _noise(p, 22.0)
    grain = _noise(p, 45.0)
    latitude = np.arcsin(np.clip(z / np.sqrt(x * x + y * y + z * z), -1, 1)) * np.float32(12 / math.pi)
    longitude = np.arctan2(y, x) * np.float32(12 / math.pi)
    # The lines keep their width in world units, so those of longitude widen in angle towards the poles.
    parallel = np.abs(latitude - np.round(latitude)) < 0.045
    meridian = np.abs(longitude - np.round(longitude)) * np.cos(latitude * np.float32(math.pi / 12)) < 0.045
    sea = _mix(_colour("0d3b66"), _colour("2a8fb8"), np.clip((relief - 0.3) / 0.22, 0, 1))
    sea = _mix(sea, _colour("9fd3e0"), 0.55 * (parallel | meridian).astype(np.float32))
    land = _mix(_colour("e9c46a"), _colour("5f8f3e"), np.clip((relief - 0.53) / 0.06, 0, 1))
    land = _mix(land, _colour("f3efe4"), np.clip((relief - 0.66) / 0.05, 0, 1)) * (0.65 + 0.5 * grain)
    return _mix(sea, land, (relief > 0.53).astype(np.float32))


def _mosaic(p: Array) -> Array:
    """The table top: a star of fine checks, a speckled stone ring, and a border of teeth."""
    x, y, z = p
    radius = np.sqrt(x * x + y * y)
    angle = np.arctan2(y, x) * np.float32(1 / (2 * math.pi))
    rings = np.floor(radius / np.float32(0.0758))
    checks = _mix(_colour("f1e3c6"), _colour("1f4e5f"), np.mod(rings + np.floor(angle * 32), 2))
    veins = np.abs(_noise(p, 6.0) + 0.5 * _noise(p, 13.0) - 0.75) < 0.035
    stone = _mix(_colour("9c4030"), _colour("cf7f57"), _noise(p, 35.0))
    stone = _mix(stone, _colour("f1d9b8"), 0.8 * veins.astype(np.float32))
    teeth = _mix(_colour("e6b450"), _colour("26272e"), _square_wave(angle * 40))
    colour = np.where(radius < 0.455, checks, stone)
    line = (np.abs(radius - 0.475) < 0.02) | (np.abs(radius - 0.835) < 0.015)
    colour = np.where(line, _colour("e6b450"), colour)
    colour = np.where(radius > 0.85, teeth, colour)
    return np.where((radius > 0.9) & (z < 0.03) | (z < -0.04), _colour("4a2c2a"), colour)


# --------------------------------------------------------------------------------------------------
# The scene.
# --------------------------------------------------------------------------------------------------


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
def _scene() -> tuple[_Solid, ...]:
    brass, steel = _plain("dba23a"), _plain("aeb6bf")
    ring = {"gloss": 1.0, "shininess": 60.0, "metal": 1.0}
    return (
        _Solid(
            (0.0, 0.0, _TABLE_TOP - 0.06),
            0.98,
            lambda p: _disc(p, 0.95, 0.06, 0.025),
            _mosaic,
            gloss=0.25,
            shininess=30.0,
        ),
        _Solid((0.0, 0.0, _TABLE_TOP + 0.16), 0.25, _foot, brass, gloss=0.9, shininess=50.0, metal=0.8),
        _Solid(_HEART, 0.37, lambda p: _sphere(p, 0.36), _globe_map, _TILT, gloss=0.7, shininess=70.0),
        _Solid(_HEART, 0.83, lambda p: _axis(p, 0.70, 0.014, 0.035), steel, _TILT, 0.9, 60.0, 0.9),
        _Solid(_HEART, 0.80, lambda p: _torus(p, 0.76, 0.022), brass, _rotation("x", 90.0), **ring),
        _Solid(
            _HEART,
            0.73,
            lambda p: _torus(p, 0.70, 0.013),
            steel,
            _rotation("y", 90.0) @ _rotation("x", 20.0),
            **ring,
        ),
        _Solid(
            _HEART,
            0.66,
            lambda p: _band(p, 0.62, 0.011, 0.05, 0.008),
            _segments("26272e", "f1e3c6", 36),
            _TILT,
            gloss=0.5,
            shininess=50.0,
        ),
        _Solid(_HEART, 0.53, lambda p: _torus(p, 0.50, 0.012), brass, _TILT @ _rotation("x", 66.5), **ring),
        _Solid(
            _around(20, 0.15),
            0.16,
            lambda p: _sphere(p, 0.15),
            _stripes("c8323c", "f6efe2", 0.1),
            _rotation("x", 40.0),
            gloss=0.8,
            shininess=90.0,
        ),
        _Solid(
            _around(80, 0.12),
            0.21,
            lambda p: _rounded_box(p, 0.12, 0.015),
            _checks("17806d", "f2e8cf", 0.12),
            _rotation("z", 25.0),
            gloss=0.4,
        ),
        _Solid(
            _around(140, 0.17),
            0.2,
            lambda p: _octahedron(p, 0.16, 0.012),
            _plain("6a3fa0"),
            _rotation("z", 10.0),
            gloss=1.0,
            shininess=30.0,
        ),
        _Solid(
            _around(200, 0.055),
            0.18,
            lambda p: _torus(p, 0.115, 0.055),
            _segments("2e6fc9", "ffe8a3", 9),
            gloss=0.7,
            shininess=60.0,
        ),
        _Solid(
            _around(260, 0.17),
            0.19,
            lambda p: _rod(p, 0.1, 0.075),
            _stripes("f2a31b", "2b2b33", 0.09, twist=1.0),
            gloss=0.7,
            shininess=60.0,
        ),
        _Solid(
            _around(320, 0.13),
            0.23,
            lambda p: _wire_cube(p, 0.115, 0.014),
            steel,
            _rotation("z", 15.0),
            **ring,
        ),
    )


def scene_distance(points: NDArray[np.floating]) -> Array:
    """Signed distance from points to the nearest surface of the scene.

    Args:
        points: ``[*batch, 3]`` positions in world units, z up, anywhere.

    Returns:
        ``[*batch]`` distances in world units: negative inside an object, positive outside, zero on a surface.
        Outside, the value never exceeds the true distance, and is the true one for most shapes; inside, only
        its sign is to be relied on.
    """
    points = np.asarray(points, dtype=np.float32)
    return _distance(np.ascontiguousarray(points.reshape(-1, 3).T)).reshape(points.shape[:-1])


def _distance(points: Array) -> Array:
    nearest = np.full(points.shape[1], np.inf, dtype=np.float32)
    for solid in _scene():
        nearest = np.minimum(nearest, solid.distance(solid.to_local(points)))
    return nearest


# --------------------------------------------------------------------------------------------------
# Tracing: which object a ray meets and where, and what light arrives there.
# --------------------------------------------------------------------------------------------------


def _dot(a: Array, b: Array) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(vectors: Array) -> Array:
    return vectors / np.sqrt(_dot(vectors, vectors))


def _chord(origins: Array, directions: Array, radius: float) -> tuple[Array, Array]:
    """Where rays enter and leave a sphere about the origin, [n] each; enter > leave for those that miss."""
    half = _dot(origins, directions)
    square = half * half - _dot(origins, origins) + np.float32(radius * radius)
    root = np.where(square > 0, np.sqrt(np.maximum(square, 0)), -np.float32(np.inf))
    return -half - root, -half + root


def _nearest_hits(origin: Array, directions: Array) -> tuple[Array, NDArray[np.int8]]:
    """The first surface along each ray.

    Args:
        origin: ``[3, 1]`` common start of the rays, outside every object.
        directions: ``[3, n]`` unit directions.

    Returns:
        Distances ``[n]`` along the rays (infinite if nothing is met) and indices ``[n]`` of the objects met
        (-1 for none).
    """
    nearest = np.full(directions.shape[1], np.inf, dtype=np.float32)
    which = np.full(directions.shape[1], -1, dtype=np.int8)
    # One object at a time: most rays miss the sphere about most objects, and a march evaluates one shape.
    for index, solid in enumerate(_scene()):
        start, heading = solid.to_local(origin), solid.turn(directions)
        enter, leave = _chord(start, heading, solid.bound)
        leave = np.minimum(leave, nearest)
        rays = np.flatnonzero(enter < leave)
        t, end, heading = enter[rays], leave[rays], heading[:, rays]
        for _ in range(24):
            if not rays.size:
                break
            # Rays that have arrived or left march on harmlessly, so it is enough to drop them now and then.
            for _ in range(3):
                distance = solid.distance(start + t * heading)
                t = t + distance
            hit = (distance < _HIT_DISTANCE) & (t < end)
            nearest[rays[hit]] = t[hit]
            which[rays[hit]] = index
            going = ~hit & (t < end)
            rays, t, end, heading = rays[going], t[going], end[going], heading[:, going]
    return nearest, which


def _visibility(points: Array, towards: Array) -> Array:
    """Share [n] in [0, 1] of a soft light in direction ``towards`` [3, 1] that ``points`` [3, n] see.

    The penumbra is estimated from the narrowest gap the shadow ray passes (Quilez, "Soft shadows in
    raymarched SDFs", 2010): one march instead of a bundle of rays over the light's disc.
    """
    sharpness = np.float32(14.0)
    reach = 0.12  # how far from an object its penumbra still shows
    visible = np.ones(points.shape[1], dtype=np.float32)
    for solid in _scene():
        start, heading = solid.to_local(points), solid.turn(towards)
        enter, leave = _chord(start, heading, solid.bound + reach)
        enter = np.maximum(enter, np.float32(0.02))
        rays = np.flatnonzero((enter < leave) & (visible > 0.02))
        t, end, start = enter[rays], leave[rays], start[:, rays]
        light = visible[rays]
        for _ in range(10):
            if not rays.size:
                break
            for _ in range(3):
                gap = solid.distance(start + t * heading)
                light = np.minimum(light, np.maximum(sharpness * gap / t, 0))
                t = t + np.maximum(gap, np.float32(0.012))
            visible[rays] = light
            going = (light > 0.02) & (t < end)
            rays, t, end, start, light = rays[going], t[going], end[going], start[:, going], light[going]
    return visible * visible * (3 - 2 * visible)


def _openness(points: Array, normals: Array) -> Array:
    """Share [n] in [0, 1] of the surroundings that light comes from, judged by what lies just above."""
    blocked = np.zeros(points.shape[1], dtype=np.float32)
    for height, weight in ((0.05, 3.2), (0.13, 1.5), (0.28, 0.7)):
        above = points + np.float32(height) * normals
        blocked += np.float32(weight) * (np.float32(height) - _distance(above))
    return np.clip(1 - blocked, 0.12, 1)


def _normals(points: Array, which: NDArray[np.int8]) -> Array:
    """Outward unit normals [3, n] of the given objects, by differences over the corners of a tetrahedron."""
    normals = np.zeros_like(points)
    corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], dtype=np.float32)
    for index, solid in enumerate(_scene()):
        own = np.flatnonzero(which == index)
        if own.size:
            here = points[:, own]
            gradient = np.zeros_like(here)
            for corner in corners[:, :, None]:
                gradient += corner * solid.distance(solid.to_local(here + corner * np.float32(1e-3)))
            normals[:, own] = _unit(gradient)
    return normals


def _direction(x: float, y: float, z: float) -> Array:
    return _unit(np.array([[x], [y], [z]], dtype=np.float32))


_KEY_LIGHT, _KEY_COLOUR = _direction(0.35, -0.42, 1.0), np.array([[1.7], [1.55], [1.32]], dtype=np.float32)
_FILL_LIGHT, _FILL_COLOUR = _direction(-0.8, 0.5, 0.35), np.array([[0.24], [0.3], [0.4]], dtype=np.float32)


def _surroundings(directions: Array) -> Array:
    """Light [3, n] that metals reflect: a bright sky with a broad lamp, over a dim warm floor."""
    up = np.clip(directions[2] * 1.6 + 0.35, 0, 1)
    lamp = np.maximum(_dot(directions, _KEY_LIGHT), 0) ** 6
    return _mix(_colour("5b4636"), _colour("e4eef8"), up) + np.float32(0.8) * lamp


def _shade(points: Array, directions: Array, which: NDArray[np.int8]) -> Array:
    """Encoded (sRGB-like) colours [3, n] in [0, 1] of points seen along unit ``directions`` [3, n]."""
    scene = _scene()
    albedo = np.zeros_like(points)
    for index, solid in enumerate(scene):
        own = np.flatnonzero(which == index)
        if own.size:
            albedo[:, own] = solid.pattern(solid.to_local(points[:, own]))
    gloss, shininess, metal = (
        np.array([getattr(solid, name) for solid in scene], dtype=np.float32)[which]
        for name in ("gloss", "shininess", "metal")
    )
    normals = _normals(points, which)
    openness = _openness(points, normals)
    lifted = points + np.float32(4e-3) * normals  # keeps a shadow ray from meeting the surface it starts on

    facing = _dot(normals, _KEY_LIGHT)
    lit = np.flatnonzero(facing > 0)
    key = np.zeros_like(facing)
    key[lit] = facing[lit] * _visibility(lifted[:, lit], _KEY_LIGHT)
    fill = np.maximum(_dot(normals, _FILL_LIGHT), 0) * openness
    ambient = _mix(_colour("5e544d"), _colour("8fa2bd"), 0.5 + 0.5 * normals[2]) * openness
    colour = albedo * (1 - np.float32(0.75) * metal) * (_KEY_COLOUR * key + _FILL_COLOUR * fill + ambient)

    tint = 1 + (albedo - 1) * metal
    for towards, light, amount in ((_KEY_LIGHT, _KEY_COLOUR, key), (_FILL_LIGHT, _FILL_COLOUR, fill)):
        halfway = _unit(towards - directions)
        highlight = np.maximum(_dot(normals, halfway), 0) ** shininess
        # Fading with the received light hides the edge where a surface turns away from the lamp.
        colour += tint * light * (gloss * highlight * np.minimum(4 * amount, 1))
    mirrored = directions - 2 * _dot(directions, normals) * normals
    grazing = (1 - np.clip(-_dot(directions, normals), 0, 1)) ** 5
    reflectance = metal + (1 - metal) * np.float32(0.35) * gloss * grazing
    colour += tint * _surroundings(mirrored) * (reflectance * openness * np.float32(0.75))
    return developed(colour)


def developed(light: Array) -> Array:
    """Encoded (sRGB-like) colours in [0, 1] of linear ones in [0, inf), of any shape."""
    # A soft shoulder keeps highlights from clipping to flat white discs.
    toned = light * (1 + light / 6) / (1 + 0.75 * light) * np.float32(1.15)
    return np.clip(toned, 0, 1) ** np.float32(1 / 2.2)


def see_objects(origin: Array, directions: Array) -> tuple[Array, Array]:
    """What rays meet first.

    Args:
        origin: ``[3, 1]`` common start of the rays, outside every object.
        directions: ``[3, n]`` unit directions.

    Returns:
        Distances ``[n]``, infinite where nothing is met, and encoded colours ``[3, n]``, 0 there.
    """
    t, which = _nearest_hits(origin, directions)
    met = np.flatnonzero(which >= 0)
    colours = np.zeros_like(directions)
    if met.size:
        colours[:, met] = _shade(origin + t[met] * directions[:, met], directions[:, met], which[met])
    return t, colours


def sunlight(points: Array) -> Array:
    """Share [n] in [0, 1] of the main lamp that the objects leave to points [3, n] outside of them."""
    return _visibility(points, _KEY_LIGHT)


def render_view(
    camera_to_world: NDArray[np.floating],
    size: int,
    focal: float,
    supersampling: int = 3,
) -> Array:
    """Render one square image of the scene.

    Args:
        camera_to_world: ``[4, 4]`` (or ``[3, 4]``) pose in the OpenGL convention: x right, y up, looking down
            -z. The camera must be outside every object.
        size: Width and height in pixels. Pixel (0, 0) is the upper left one; its centre lies at (0.5, 0.5).
        focal: Focal length in pixels.
        supersampling: Rays along each side of a pixel, so its square is the number of rays per pixel.

    Returns:
        ``[size, size, 4]`` encoded (sRGB-like) colour and straight alpha in [0, 1], all 0 where no object is.
    """
    pose = np.asarray(camera_to_world, dtype=np.float32)
    origin = pose[:3, 3:4]
    image = np.zeros((size, size, 4), dtype=np.float32)
    rows_at_once = max(1, _RAYS_AT_ONCE // (size * supersampling**2))
    across = ((np.arange(size * supersampling, dtype=np.float32) + 0.5) / supersampling - size / 2) / focal
    for first in range(0, size, rows_at_once):
        rows = min(rows_at_once, size - first)
        down = across[first * supersampling : (first + rows) * supersampling]
        y, x = (a.ravel() for a in np.meshgrid(-down, across, indexing="ij"))
        turned = [pose[i, 0] * x + pose[i, 1] * y - pose[i, 2] for i in range(3)]
        directions = _unit(np.stack(turned).astype(np.float32))
        t, colours = see_objects(origin, directions)
        samples = np.concatenate([colours, np.isfinite(t)[None].astype(np.float32)])
        # Encoded colours are averaged, because trainers and viewers composite encoded colours as well. With 0
        # for the rays that meet nothing, the mean is premultiplied by alpha; that is undone below.
        block = samples.reshape(4, rows, supersampling, size, supersampling).mean(axis=(2, 4))
        image[first : first + rows] = np.moveaxis(block, 0, -1)
    image[..., :3] /= np.maximum(image[..., 3:], np.float32(0.5 / supersampling**2))
    return image


# --------------------------------------------------------------------------------------------------
# Cameras.
# --------------------------------------------------------------------------------------------------


def look_at_origin(position: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pose [4, 4] of an upright camera at ``position`` [3], off the z axis, that looks at the origin."""
    back = np.asarray(position, dtype=np.float64) / np.linalg.norm(position)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
    pose[:3, 3] = position
    return pose


def scattered_poses(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Poses [count, 4, 4] spread evenly, by area, from just below the horizon to nearly overhead.

    They follow a low-discrepancy sequence from a random start, so that the first few views, or every second
    to sixth view, cover all sides too: a reconstruction from some of the views stays meaningful. (Roberts'
    R2, more even as a whole, puts every fourth of 60 views on one side.)
    """
    steps = np.arange(count)[:, None] * np.array([(math.sqrt(5) - 1) / 2, math.sqrt(2)])
    turn, height = ((generator.random(2) + steps) % 1.0).T
    height = -0.1 + 1.06 * height
    return _poses_at(2 * math.pi * turn, height)


def orbit_poses(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Poses [count, 4, 4] of one turn about the scene that rises and falls once, from a random start."""
    turn = generator.random() + np.arange(count) / count
    return _poses_at(2 * math.pi * turn, np.sin(np.radians(32 - 18 * np.cos(2 * math.pi * turn))))


def _poses_at(azimuth: NDArray[np.float64], sine_of_elevation: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = np.sqrt(1 - sine_of_elevation**2)
    positions = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), sine_of_elevation], axis=-1)
    return np.stack([look_at_origin(position) for position in CAMERA_DISTANCE * positions])


# --------------------------------------------------------------------------------------------------
# The command.
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DemoScene:
    """Render a small scene in the format of the NeRF synthetic scenes, to try a training without a download.

    The same options always give the same files. A folder that already holds the scene is left as it is.
    """

    output_dir: Path = Path("data/demo")
    """Folder to create. It must not exist yet, be empty, or hold this very scene."""
    size: int = 100
    """Width and height of the images in pixels, at least 8."""
    train_views: int = 60
    """Number of training images, scattered over the upper hemisphere."""
    val_views: int = 10
    """Number of validation images, scattered likewise."""
    test_views: int = 25
    """Number of test images, along an orbit."""
    supersampling: int = 3
    """Rays along each side of a pixel, 1 to 16: 3 means nine rays per pixel."""
    seed: int = 0
    """Seed of the camera positions; the objects are always the same."""

    def problem(self) -> str | None:
        """What is wrong with the values, in one sentence, or None."""
        if self.size < 8:
            return f"--size must be at least 8 pixels, got {self.size}."
        for split, views in self.views.items():
            if views < 1:
                return f"--{split}-views must be at least 1, got {views}."
        if not 1 <= self.supersampling <= 16:
            return f"--supersampling must be between 1 and 16, got {self.supersampling}."
        if self.seed < 0:
            return f"--seed must not be negative, got {self.seed}."
        return None

    @property
    def views(self) -> dict[str, int]:
        """Number of images of each split."""
        return {"train": self.train_views, "val": self.val_views, "test": self.test_views}

    def recipe(self) -> dict[str, int]:
        """All that decides the files' content, as written to ``scene.json``."""
        options = {name: value for name, value in asdict(self).items() if name != "output_dir"}
        return {"format_version": FORMAT_VERSION, **options}


def _poses(options: DemoScene) -> dict[str, NDArray[np.float64]]:
    # One stream per split: changing the number of views of one leaves the cameras of the others in place.
    streams = np.random.default_rng(options.seed).spawn(3)
    makers = {"train": scattered_poses, "val": scattered_poses, "test": orbit_poses}
    return {
        split: makers[split](views, stream)
        for (split, views), stream in zip(options.views.items(), streams, strict=True)
    }


def _write_scene(options: DemoScene, folder: Path) -> None:
    """Render every split into ``folder``, which exists and is empty."""
    focal = 0.5 * options.size / math.tan(0.5 * CAMERA_ANGLE_X)
    poses = _poses(options)
    for split, split_poses in poses.items():
        (folder / split).mkdir()
        frames = [
            {
                "file_path": f"./{split}/r_{i}",
                "rotation": 2 * math.pi / len(split_poses),
                "transform_matrix": pose.tolist(),
            }
            for i, pose in enumerate(split_poses)
        ]
        write_json(folder / f"transforms_{split}.json", {"camera_angle_x": CAMERA_ANGLE_X, "frames": frames})

    def render(split: str, index: int) -> None:
        image = render_view(poses[split][index], options.size, focal, options.supersampling)
        Image.fromarray(np.round(255 * image).astype(np.uint8)).save(folder / split / f"r_{index}.png")

    jobs = [(split, index) for split, views in options.views.items() for index in range(views)]
    draw_all(render, jobs)
    write_json(folder / RECIPE, options.recipe())


def draw_all(render: Callable[[str, int], None], jobs: list[tuple[str, int]]) -> None:
    """Call ``render`` with each of the ``jobs`` on all cores."""
    # Threads suffice, as NumPy releases the interpreter lock, and unlike processes they cannot outlive us.
    pool = ThreadPoolExecutor(max_workers=_usable_cores())
    try:
        futures = [pool.submit(render, *job) for job in jobs]
        for future in _with_progress(as_completed(futures), len(jobs)):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _with_progress(items: Iterator[Future[None]], total: int) -> Iterator[Future[None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(items, total=total, description="Rendering")


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_json(path: Path, content: object) -> None:
    """Write ``content`` readably."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class Recipe(Protocol):
    """Options that decide what a folder holds."""

    @property
    def output_dir(self) -> Path:
        """The folder to create."""
        ...

    def problem(self) -> str | None:
        """What is wrong with the values, in one sentence, or None."""
        ...

    def recipe(self) -> dict[str, int]:
        """All that decides the files' content."""
        ...


def _is_complete(folder: Path, options: Recipe, names: list[str]) -> bool:
    """Whether ``folder`` holds all files, made with these options."""
    try:
        recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return recipe == options.recipe() and all((folder / name).is_file() for name in names)


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def make_folder(options: Recipe, names: list[str], write: Callable[[Path], None]) -> bool:
    """Create a folder in one step or leave a finished one alone; exit with 1 or 2 and a sentence on failure.

    Args:
        options: whose ``output_dir`` is the folder.
        names: files that a finished folder has, relative to it.
        write: puts them into an empty folder, with the recipe in a file of the name ``RECIPE``.

    Returns:
        Whether there was something to do.
    """
    if problem := options.problem():
        _fail(problem, 2)
    target = options.output_dir.expanduser().resolve()
    shown = options.output_dir
    try:
        if _is_complete(target, options, names):
            print(f"{shown} already holds this scene: nothing to do.")
            return False
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            _fail(f"{shown} holds something other than this scene: choose another --output-dir.", 2)
        target.parent.mkdir(parents=True, exist_ok=True)
        # The finished scene moves into place in one step, so nobody ever sees half of it under its name.
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-unfinished-", dir=target.parent) as staging:
            folder = Path(staging) / target.name
            folder.mkdir()
            write(folder)
            folder.rename(target)
    except OSError as error:
        _fail(f"Cannot write {shown}: {error.strerror or error}.", 1)
    return True


def main(options: DemoScene) -> None:
    """Create the scene folder or leave a finished one alone; exit with 1 or 2 and a sentence on failure."""
    names = [f"transforms_{split}.json" for split in options.views]
    names += [f"{split}/r_{i}.png" for split, views in options.views.items() for i in range(views)]
    if make_folder(options, names, functools.partial(_write_scene, options)):
        counts = ", ".join(f"{views} {split}" for split, views in options.views.items())
        print(f"Wrote {options.output_dir}: {counts} images of {options.size}x{options.size} pixels.")
        print(f"next: ns-train finer-sine --data {shlex.quote(str(options.output_dir))}")


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)


def run_script(main: Callable[[Options], None], options: type[Options]) -> None:
    """Read options from the command line and go."""
    # A polite termination unwinds like Ctrl-C does, which removes the unfinished folder.
    signal.signal(signal.SIGTERM, _stop)
    try:
        main(tyro.cli(options))
    except KeyboardInterrupt:
        _fail("Interrupted: nothing was written.", 130)


if __name__ == "__main__":
    run_script(main, DemoScene)
