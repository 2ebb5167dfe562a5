"""Signed distances of solids: ``[3, n]`` points in the solid's own frame -> ``[n]``, never larger than the true one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def sphere(p: Array, radius: float) -> Array:
    x, y, z = p
    return np.sqrt(x * x + y * y + z * z) - np.float32(radius)


def rounded_box(p: Array, half: float, rounding: float) -> Array:
    x, y, z = np.abs(p) - np.float32(half - rounding)
    inside = np.minimum(np.maximum(np.maximum(x, y), z), 0)
    x, y, z = np.maximum(x, 0), np.maximum(y, 0), np.maximum(z, 0)
    return np.sqrt(x * x + y * y + z * z) + inside - np.float32(rounding)


def wire_cube(p: Array, half: float, thickness: float) -> Array:
    """The twelve edges of a cube as round rods: the nearest of three, once folded to the positive octant."""
    x, y, z = np.abs(p)
    side = np.float32(half)
    dx, dy, dz = x - side, y - side, z - side
    beyond_x, beyond_y, beyond_z = np.maximum(dx, 0), np.maximum(dy, 0), np.maximum(dz, 0)
    along_x = beyond_x * beyond_x + dy * dy + dz * dz
    along_y = dx * dx + beyond_y * beyond_y + dz * dz
    along_z = dx * dx + dy * dy + beyond_z * beyond_z
    return np.sqrt(np.minimum(np.minimum(along_x, along_y), along_z)) - np.float32(thickness)


def octahedron(p: Array, size: float, rounding: float) -> Array:
    """A rounded octahedron; beyond its edges this is a lower bound, which is all that tracing needs."""
    x, y, z = np.abs(p)
    return (x + y + z - np.float32(size)) * np.float32(1 / math.sqrt(3)) - np.float32(rounding)


def torus(p: Array, major: float, minor: float) -> Array:
    x, y, z = p
    across = np.sqrt(x * x + y * y) - np.float32(major)
    return np.sqrt(across * across + z * z) - np.float32(minor)


def disc(p: Array, radius: float, half_height: float, rounding: float) -> Array:
    """A cylinder along z with rounded rims."""
    x, y, z = p
    across = np.sqrt(x * x + y * y) - np.float32(radius - rounding)
    along = np.abs(z) - np.float32(half_height - rounding)
    inside = np.minimum(np.maximum(across, along), 0)
    across, along = np.maximum(across, 0), np.maximum(along, 0)
    return np.sqrt(across * across + along * along) + inside - np.float32(rounding)


def band(p: Array, radius: float, half_width: float, half_height: float, rounding: float) -> Array:
    """A flat hoop: a rectangle with rounded corners, turned about z at the given radius."""
    x, y, z = p
    across = np.abs(np.sqrt(x * x + y * y) - np.float32(radius)) - np.float32(half_width - rounding)
    along = np.abs(z) - np.float32(half_height - rounding)
    inside = np.minimum(np.maximum(across, along), 0)
    across, along = np.maximum(across, 0), np.maximum(along, 0)
    return np.sqrt(across * across + along * along) + inside - np.float32(rounding)


def rod(p: Array, half_length: float, radius: float) -> Array:
    """A capsule along z."""
    x, y, z = p
    along = np.maximum(np.abs(z) - np.float32(half_length), 0)
    return np.sqrt(x * x + y * y + along * along) - np.float32(radius)


def axis_rod(p: Array, half_length: float, radius: float, finial: float) -> Array:
    """A thin rod along z with a ball on either end."""
    x, y, z = p
    across = x * x + y * y
    beyond = np.abs(z) - np.float32(half_length)
    ball = np.sqrt(across + beyond * beyond) - np.float32(finial)
    beyond = np.maximum(beyond, 0)
    return np.minimum(np.sqrt(across + beyond * beyond) - np.float32(radius), ball)


def foot(p: Array) -> Array:
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
