"""Patterns: ``[3, n]`` points in the solid's own frame -> ``[3, n]`` linear colours in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from finer_nerfstudio.demo.distances import Array


def linear_colour(hexadecimal: str) -> Array:
    """Linear [3, 1] colour of an sRGB hexadecimal triple, such as ``"d9a441"``."""
    encoded = np.array([int(hexadecimal[i : i + 2], 16) / 255 for i in (0, 2, 4)], dtype=np.float32)
    return (encoded**2.2).astype(np.float32)[:, None]


def mix(a: Array, b: Array, weight: Array | np.float32) -> Array:
    return a + (b - a) * weight


def _square_wave(phase: Array) -> Array:
    """1 on [0, 0.5) and 0 on [0.5, 1) of every period."""
    return ((phase - np.floor(phase)) < 0.5).astype(np.float32)


def noise(p: Array, frequency: float) -> Array:
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


def plain(colour: str) -> Callable[[Array], Array]:
    return lambda p: np.broadcast_to(linear_colour(colour), p.shape)


def stripes(first: str, second: str, period: float, twist: float = 0.0) -> Callable[[Array], Array]:
    """Bands along z, ``period`` apart; a ``twist`` of whole periods over one turn makes them spirals."""

    def pattern(p: Array) -> Array:
        x, y, z = p
        phase = z / np.float32(period)
        if twist:
            phase = phase + np.arctan2(y, x) * np.float32(twist / (2 * math.pi))
        return mix(linear_colour(first), linear_colour(second), _square_wave(phase))

    return pattern


def segments(first: str, second: str, count: int) -> Callable[[Array], Array]:
    """``count`` pairs of sectors about z."""

    def pattern(p: Array) -> Array:
        phase = np.arctan2(p[1], p[0]) * np.float32(count / (2 * math.pi))
        return mix(linear_colour(first), linear_colour(second), _square_wave(phase))

    return pattern


def checkered(first: str, second: str, period: float) -> Callable[[Array], Array]:
    """Three-dimensional checks, two to a ``period`` along each axis."""

    def pattern(p: Array) -> Array:
        parity = np.floor(p * np.float32(2 / period) + np.float32(0.5)).sum(axis=0)
        return mix(linear_colour(first), linear_colour(second), np.mod(parity, 2))

    return pattern


def globe_map(p: Array) -> Array:
    """Continents with shores and mountains over a sea with a graticule."""
    x, y, z = p
    relief = 0.5 * noise(p, 4.0) + 0.3 * noise(p, 9.0) + 0.2 * noise(p, 22.0)
    grain = noise(p, 45.0)
    latitude = np.arcsin(np.clip(z / np.sqrt(x * x + y * y + z * z), -1, 1)) * np.float32(12 / math.pi)
    longitude = np.arctan2(y, x) * np.float32(12 / math.pi)
    # The lines keep their width in world units, so those of longitude widen in angle towards the poles.
    parallel = np.abs(latitude - np.round(latitude)) < 0.045
    meridian = np.abs(longitude - np.round(longitude)) * np.cos(latitude * np.float32(math.pi / 12)) < 0.045
    sea = mix(linear_colour("0d3b66"), linear_colour("2a8fb8"), np.clip((relief - 0.3) / 0.22, 0, 1))
    sea = mix(sea, linear_colour("9fd3e0"), 0.55 * (parallel | meridian).astype(np.float32))
    land = mix(linear_colour("e9c46a"), linear_colour("5f8f3e"), np.clip((relief - 0.53) / 0.06, 0, 1))
    land = mix(land, linear_colour("f3efe4"), np.clip((relief - 0.66) / 0.05, 0, 1)) * (0.65 + 0.5 * grain)
    return mix(sea, land, (relief > 0.53).astype(np.float32))


def mosaic(p: Array) -> Array:
    """The table top: a star of fine checks, a speckled stone ring, and a border of teeth."""
    x, y, z = p
    radius = np.sqrt(x * x + y * y)
    angle = np.arctan2(y, x) * np.float32(1 / (2 * math.pi))
    rings = np.floor(radius / np.float32(0.0758))
    checks = mix(linear_colour("f1e3c6"), linear_colour("1f4e5f"), np.mod(rings + np.floor(angle * 32), 2))
    veins = np.abs(noise(p, 6.0) + 0.5 * noise(p, 13.0) - 0.75) < 0.035
    stone = mix(linear_colour("9c4030"), linear_colour("cf7f57"), noise(p, 35.0))
    stone = mix(stone, linear_colour("f1d9b8"), 0.8 * veins.astype(np.float32))
    teeth = mix(linear_colour("e6b450"), linear_colour("26272e"), _square_wave(angle * 40))
    colour = np.where(radius < 0.455, checks, stone)
    line = (np.abs(radius - 0.475) < 0.02) | (np.abs(radius - 0.835) < 0.015)
    colour = np.where(line, linear_colour("e6b450"), colour)
    colour = np.where(radius > 0.85, teeth, colour)
    return np.where((radius > 0.9) & (z < 0.03) | (z < -0.04), linear_colour("4a2c2a"), colour)
