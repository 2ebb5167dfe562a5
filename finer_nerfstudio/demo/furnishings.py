"""What stands in the demo room, in metres: x east, y north, z up, the floor's middle at the origin."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from finer_nerfstudio.demo.distances import Array
from finer_nerfstudio.demo.patterns import checkered, linear_colour, mix, noise, plain, segments, stripes
from finer_nerfstudio.demo.solids import Ball, Box, Cylinder, Pattern, Solid

LENGTH, WIDTH, HEIGHT = 4.8, 4.0, 2.6
"""Of the room along x, y and z."""

WINDOW_LEFT, WINDOW_RIGHT, WINDOW_SILL, WINDOW_TOP = -0.25, 1.15, 0.95, 2.15
"""Edges of the opening in the north wall: x, x, z and z."""
RECESS = 0.18
"""Depth of the opening, to the panes."""


_ALONG_Z = np.array([[1.0], [1.0], [0.15]], dtype=np.float32)  # stretches noise to the grain of upright wood


def _hash(*cells: Array) -> Array:
    """Numbers [n] in [0, 1) that look random, one for each combination of whole numbers."""
    value = np.zeros(cells[0].shape, dtype=np.uint32)
    for cell, stride in zip(cells, (374761393, 668265263, 2246822519), strict=False):
        value ^= cell.astype(np.int32).view(np.uint32) * np.uint32(stride)
    value = (value ^ (value >> np.uint32(15))) * np.uint32(2654435761)
    value = (value ^ (value >> np.uint32(13))) * np.uint32(3266489917)
    return (value >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _near(values: Array, period: float, width: float) -> NDArray[np.bool_]:
    """Whether values [n] lie within half a ``width`` of a multiple of ``period``."""
    return np.abs(values - period * np.round(values / np.float32(period))) < 0.5 * width


def _palette(colours: str, choice: Array) -> Array:
    """Linear colours [3, n] by numbers [n] in [0, 1) from hexadecimal ones, separated by spaces."""
    table = np.concatenate([linear_colour(colour) for colour in colours.split()], axis=1)
    return table[:, (choice * table.shape[1]).astype(np.int64)]


def planks(p: Array) -> Array:
    """The floor: boards along x with grain and dark joints."""
    row = np.floor(p[1] / 0.16)
    shifted = p[0] + 0.9 * _hash(row)
    board = np.floor(shifted / 0.9)
    grain = noise(p * np.array([[2.0], [28.0], [1.0]], dtype=np.float32) + 7 * row, 1.0)
    wood = mix(linear_colour("8a5a33"), linear_colour("b98652"), 0.6 * _hash(row, board) + 0.4 * grain)
    joint = _near(p[1], 0.16, 0.012) | _near(shifted, 0.9, 0.012)
    return np.where(joint, linear_colour("3c2515"), wood)


def bricks(p: Array) -> Array:
    """The west wall: bricks along y with light mortar."""
    course = np.floor(p[2] / 0.09)
    along = p[1] + 0.13 * np.mod(course, 2)
    tone = _hash(course, np.floor(along / 0.26))
    stone = mix(linear_colour("7c3526"), linear_colour("b8684a"), 0.7 * tone + 0.3 * noise(p, 30.0))
    mortar = (np.mod(p[2], 0.09) < 0.014) | (np.mod(along, 0.26) < 0.016)
    return np.where(mortar, linear_colour("c9bfae"), stone)


def wallpaper(p: Array) -> Array:
    """The north wall: broad stripes with a column of rosettes in every other one."""
    stripe = np.mod(np.floor(p[0] / 0.2), 2)
    paper = mix(linear_colour("5f7f86"), linear_colour("d8d2bd"), stripe)
    across, up = np.mod(p[0], 0.4) - 0.1, np.mod(p[2], 0.3) - 0.15
    radius, angle = np.sqrt(across * across + up * up), np.arctan2(up, across)
    petals = radius < 0.055 + 0.02 * np.cos(6 * angle)
    paper = np.where(petals, linear_colour("e3b94f"), paper)
    return np.where(radius < 0.02, linear_colour("7d2f2f"), paper)


def lozenges(p: Array) -> Array:
    """The east wall: a lattice of lozenges with spots, over a dark dado."""
    first, second = p[1] / 0.34 + p[2] / 0.46, p[1] / 0.34 - p[2] / 0.46
    paper = mix(linear_colour("c7b48a"), linear_colour("b39a66"), np.mod(np.floor(first) + np.floor(second), 2))
    spot = (np.mod(first, 1) - 0.5) ** 2 + (np.mod(second, 1) - 0.5) ** 2 < 0.02
    paper = np.where(_near(first, 1.0, 0.07) | _near(second, 1.0, 0.07), linear_colour("f0e6cc"), paper)
    paper = np.where(spot, linear_colour("8c3b2e"), paper)
    panel = np.where(_near(p[1], 0.25, 0.02), linear_colour("2f3f39"), linear_colour("4d665b"))
    return np.where(p[2] < 0.85, np.where(p[2] > 0.81, linear_colour("e9e2d0"), panel), paper)


def plaster(p: Array) -> Array:
    """The south wall: warm plaster with cloudy tones."""
    return mix(linear_colour("b07f58"), linear_colour("d0a57c"), 0.6 * noise(p, 2.2) + 0.4 * noise(p, 11.0))


def boards(p: Array) -> Array:
    """The ceiling: white boards along y, with beams painted across."""
    white = np.where(_near(p[0], 0.2, 0.014), linear_colour("a9a498"), linear_colour("e8e4da"))
    return np.where(_near(p[1] - 0.45, 1.1, 0.14), linear_colour("6e4a2e"), white)


def _rug(p: Array) -> Array:
    x, y = np.abs(p[0]), np.abs(p[1])
    edge = np.minimum(1.2 - x, 0.85 - y)
    field = np.where(_near(x + y, 0.22, 0.05), linear_colour("d9c79a"), linear_colour("7a1f2b"))
    spots = np.mod(np.floor(p[0] / 0.11) + np.floor(p[1] / 0.11), 2)
    field = mix(field, linear_colour("1d2b4f"), 0.35 * spots)
    star = np.sqrt(x * x + y * y) < 0.34 + 0.08 * np.cos(8 * np.arctan2(p[1], p[0]))
    field = np.where(star, mix(linear_colour("1d2b4f"), linear_colour("e0b95a"), spots), field)
    teeth = _palette("1d2b4f e0b95a", np.mod(np.floor((p[0] + p[1]) / 0.06), 2) / 2)
    field = np.where(edge < 0.2, teeth, field)
    return np.where((edge < 0.05) | (np.abs(edge - 0.2) < 0.015), linear_colour("efe6cf"), field)


def _books(p: Array) -> Array:
    """The front of a shelf of half a metre's half width: five rows of books, along y."""
    shelf = np.floor(p[2] / 0.38)
    above = p[2] - 0.38 * shelf
    # Books of two widths, in an order of their own in every row.
    block = np.floor((p[1] + 0.21 * shelf) / 0.1)
    within = p[1] + 0.21 * shelf - 0.1 * block
    parting = 0.03 + 0.04 * _hash(block, shelf)
    book = 2 * block + (within > parting)
    tall = 0.2 + 0.11 * _hash(book, shelf + 40)
    cover = _palette("7a2430 23506b d9c9a0 2f5a3c c98a2b 3b3442 a5512f e6e0d2 536f8a", _hash(book, shelf))
    title = (np.abs(above - 0.6 * tall) < 0.035) & (_hash(book, shelf + 80) < 0.6)
    cover = np.where(title, mix(cover, linear_colour("f2d98d"), np.float32(0.7)), cover)
    gap = (np.abs(within - parting) < 0.004) | (within < 0.004)
    inside = np.where(above < 0.025 + tall, np.where(gap, 0.15, 1.0) * cover, linear_colour("1f140c"))
    frame = (above < 0.025) | (np.abs(p[1]) > 0.67) | (p[2] > 0.93)
    return np.where(frame, linear_colour("5a3a22"), inside)


def _on_face(axis: int, front: Pattern, rest: str, half: float) -> Pattern:
    """``front`` on both faces at ``half`` along an axis, and one colour elsewhere."""

    def pattern(p: Array) -> Array:
        return np.where(np.abs(p[axis]) > half - 1e-3, front(p), linear_colour(rest))

    return pattern


def _weave(first: str, second: str, period: float) -> Pattern:
    """Stripes of cloth along x with a fine weave."""

    def pattern(p: Array) -> Array:
        phase = np.mod(p[0] / np.float32(period), 1)
        cloth = mix(linear_colour(first), linear_colour(second), ((phase < 0.3) | (np.abs(phase - 0.65) < 0.06)) * 1.0)
        return cloth * (0.85 + 0.3 * noise(p, 60.0))

    return pattern


def _dots(ground: str, dot: str, period: float) -> Pattern:
    def pattern(p: Array) -> Array:
        u, v = p[0] / np.float32(period), p[2] / np.float32(period)
        u = u + 0.5 * np.mod(np.floor(v), 2)
        spot = (np.mod(u, 1) - 0.5) ** 2 + (np.mod(v, 1) - 0.5) ** 2 < 0.07
        return np.where(spot, linear_colour(dot), linear_colour(ground))

    return pattern


def _drawers(p: Array) -> Array:
    """The front of the sideboard, along y: three doors with knobs."""
    along = np.mod(p[1] + 0.6, 0.4) - 0.2
    groove = np.abs(np.maximum(np.abs(along) - 0.14, np.abs(p[2]) - 0.24)) < 0.012
    knob = (along - 0.1) ** 2 + p[2] ** 2 < 0.02**2
    wood = mix(linear_colour("5b3a26"), linear_colour("7d5435"), noise(p * _ALONG_Z, 20.0))
    wood = np.where(groove | (np.abs(along) > 0.19), linear_colour("2c1a10"), wood)
    return np.where(knob, linear_colour("d8b45c"), wood)


def _landscape(p: Array) -> Array:
    """A painting along y, half a metre wide: hills, a lake and a sun."""
    y, z = p[1], p[2]
    hills = 0.05 * np.sin(14 * y) + 0.03 * np.sin(31 * y + 1)
    colour = np.where(z > hills, linear_colour("e9b36f"), linear_colour("35543f"))
    colour = np.where((y - 0.14) ** 2 + (z - 0.13) ** 2 < 0.055**2, linear_colour("f6efc9"), colour)
    colour = np.where(
        z < -0.1, np.where(_near(z, 0.05, 0.015), linear_colour("9cc4cf"), linear_colour("2c6c86")), colour
    )
    edge = np.maximum(np.abs(y) - 0.36, np.abs(z) - 0.23) > 0
    return np.where(edge, linear_colour("241a12"), colour)


def _blocks(p: Array) -> Array:
    """A painting along x: fields of plain colours between black lines."""
    u, v = np.floor((p[0] + 0.13) / 0.17), np.floor((p[2] + 0.05) / 0.13)
    colour = _palette("f4efe2 c4262b f4efe2 1f4aa0 f0c22e f4efe2", _hash(u, v))
    line = _near(p[0] + 0.13, 0.17, 0.022) | _near(p[2] + 0.05, 0.13, 0.022)
    return np.where(line, linear_colour("14120f"), colour)


def _rings(p: Array) -> Array:
    """A print along x: rings about its middle."""
    radius = np.sqrt(p[0] ** 2 + p[2] ** 2)
    colour = _palette("e8dfc8 16323f d98e32", np.mod(np.floor(radius / 0.045), 3) / 3)
    return np.where(radius > 0.225, linear_colour("e8dfc8"), colour)


def _door(p: Array) -> Array:
    """A door along y: two panels and a handle."""
    panels = np.abs(np.maximum(np.abs(p[1]) - 0.27, np.abs(np.abs(p[2]) - 0.48) - 0.34))
    colour = np.where(panels < 0.02, linear_colour("6b6a5e"), linear_colour("b9b7a3"))
    return np.where((p[1] + 0.34) ** 2 + p[2] ** 2 < 0.035**2, linear_colour("c79a3d"), colour)


def _leaves(p: Array) -> Array:
    tone = noise(p, 22.0)
    return mix(linear_colour("17331b"), linear_colour("6fa04a"), np.clip(2.2 * tone - 0.6, 0, 1))


def _folds(p: Array) -> Array:
    """Curtains along x: folds, with a printed band every 0.3 m."""
    cloth = mix(
        linear_colour("9c3d2c"), linear_colour("d8794f"), 0.5 + 0.5 * np.sin(p[0] * np.float32(2 * math.pi / 0.09))
    )
    return np.where(_near(p[2], 0.3, 0.05), mix(cloth, linear_colour("f1ddb0"), np.float32(0.8)), cloth)


def _bars() -> tuple[Solid, ...]:
    """The window's frame, its upright and two cross bars, a hand's breadth in front of the panes."""
    y, middle = 0.5 * WIDTH + 0.10, 0.5 * (WINDOW_LEFT + WINDOW_RIGHT)
    white, half_height = plain("dcd6c8"), 0.5 * (WINDOW_TOP - WINDOW_SILL)
    upright = [(WINDOW_LEFT + 0.03, 0.03), (middle, 0.035), (WINDOW_RIGHT - 0.03, 0.03)]
    level = [(WINDOW_SILL + 0.03, 0.03), (1.42, 0.02), (1.80, 0.02), (WINDOW_TOP - 0.03, 0.03)]
    return (
        *(Box((x, y, WINDOW_SILL + half_height), (half, 0.025, half_height), white) for x, half in upright),
        *(Box((middle, y, z), (0.5 * (WINDOW_RIGHT - WINDOW_LEFT), 0.025, half), white) for z, half in level),
        Box((middle, 0.5 * WIDTH - 0.04, WINDOW_SILL - 0.02), (0.8, 0.08, 0.02), white),
    )


def _table() -> tuple[Solid, ...]:
    """The low table on the rug, and what lies on it."""
    wood = plain("4a2d1a")
    c, s = math.cos(math.radians(20)), math.sin(math.radians(20))
    legs = [(c * x - s * y, s * x + c * y) for x in (-0.42, 0.42) for y in (-0.25, 0.25)]
    return (
        Box((0.0, 0.0, 0.43), (0.5, 0.33, 0.02), checkered("caa26a", "7b4b26", 0.22), 20),
        *(Cylinder((x, y, 0.205), 0.025, 0.205, wood) for x, y in legs),
        Cylinder((-0.22, 0.02, 0.59), 0.075, 0.14, stripes("f4eddc", "1f4f8b", 0.07, twist=1.0)),
        Ball((-0.22, 0.02, 0.83), 0.13, _leaves),
        Ball((0.25, 0.17, 0.55), 0.1, segments("d6402f", "f4e9cf", 5)),
        Box((0.16, -0.11, 0.472), (0.15, 0.11, 0.022), _on_face(2, _rings, "ece4cf", 0.022), 48),
        Box((0.15, -0.1, 0.51), (0.12, 0.09, 0.016), _on_face(2, plain("2f6f5e"), "ece4cf", 0.016), 15),
        Cylinder((0.36, -0.02, 0.5), 0.04, 0.05, checkered("e7d9b4", "c2542d", 0.05)),
    )


def _sofa() -> tuple[Solid, ...]:
    """Along the south wall."""
    cloth, y = _weave("34536b", "c9b98d", 0.18), -0.5 * WIDTH
    return (
        Box((0.35, y + 0.45, 0.22), (0.95, 0.42, 0.2), cloth),
        Box((0.35, y + 0.13, 0.6), (0.95, 0.11, 0.26), cloth),
        Box((-0.7, y + 0.45, 0.32), (0.11, 0.42, 0.3), cloth),
        Box((1.4, y + 0.45, 0.32), (0.11, 0.42, 0.3), cloth),
        Box((-0.32, y + 0.36, 0.58), (0.2, 0.08, 0.18), _dots("d9a13a", "5c2030", 0.1), -14),
        Box((1.0, y + 0.36, 0.57), (0.19, 0.08, 0.17), checkered("e8e0cc", "6a2c56", 0.14), 18),
    )


@functools.cache
def furnishings() -> tuple[Solid, ...]:
    """Everything that stands, lies or hangs in the room."""
    east, west, north, south = 0.5 * LENGTH, -0.5 * LENGTH, 0.5 * WIDTH, -0.5 * WIDTH
    return (
        *_bars(),
        Box((-0.52, north - 0.05, 1.36), (0.22, 0.04, 1.0), _folds),
        Box((1.42, north - 0.05, 1.36), (0.22, 0.04, 1.0), _folds),
        Cylinder((0.45, north - 0.09, 0.45), 0.05, 0.27, plain("d8d4c8")),
        Box((0.45, north - 0.09, 0.45), (0.55, 0.05, 0.27), stripes_across("e4e0d4", "9a968a", 0.08)),
        Box((0.0, -0.05, 0.006), (1.2, 0.85, 0.006), _rug, 4),
        *_table(),
        *_sofa(),
        Box((west + 0.15, 0.5, 0.97), (0.15, 0.7, 0.97), _on_face(0, _books, "5a3a22", 0.15)),
        Ball((west + 0.16, 0.2, 2.06), 0.12, segments("27506e", "e2c98f", 8)),
        Cylinder((west + 0.16, 0.85, 2.05), 0.08, 0.11, stripes("7c2f23", "e8d7ac", 0.06)),
        Box((west + 0.02, -1.2, 1.0), (0.02, 0.45, 1.0), _on_face(0, _door, "6b6a5e", 0.02)),
        Box((east - 0.21, 0.3, 0.36), (0.21, 0.6, 0.36), _on_face(0, _drawers, "4f3220", 0.21)),
        Cylinder((east - 0.2, 0.62, 0.83), 0.1, 0.11, checkered("f0e2c0", "b5532f", 0.09)),
        Ball((east - 0.2, 0.62, 1.1), 0.2, _leaves),
        Box((east - 0.2, 0.05, 0.86), (0.03, 0.16, 0.14), _on_face(0, _dots_along_y, "31211a", 0.03), 0),
        Box((east - 0.015, 0.3, 1.62), (0.015, 0.42, 0.29), _on_face(0, _landscape, "241a12", 0.015)),
        Box((-0.2, south + 0.015, 1.55), (0.33, 0.015, 0.27), _on_face(1, _blocks, "14120f", 0.015)),
        Box((0.85, south + 0.015, 1.6), (0.27, 0.015, 0.27), _on_face(1, _rings, "14120f", 0.015)),
        Cylinder((east - 0.4, -1.35, 0.02), 0.15, 0.02, plain("2b2926")),
        Cylinder((east - 0.4, -1.35, 0.75), 0.018, 0.75, plain("2b2926")),
        Cylinder((east - 0.4, -1.35, 1.6), 0.2, 0.15, segments("e8cf9a", "b4643c", 12)),
        Cylinder((-1.5, -1.25, 0.23), 0.2, 0.23, checkered("d6c08c", "3d6b63", 0.13)),
        Cylinder((-1.75, 1.6, 0.2), 0.17, 0.2, stripes("b4643c", "e6d3a7", 0.13)),
        Ball((-1.75, 1.6, 0.66), 0.3, _leaves),
        Ball((-1.62, 1.5, 1.0), 0.19, _leaves),
        Cylinder((0.0, 0.0, 2.45), 0.01, 0.16, plain("2b2926")),
        Ball((0.0, 0.0, 2.22), 0.17, segments("f0dfb0", "c25b35", 10)),
    )


def stripes_across(first: str, second: str, period: float) -> Pattern:
    """Bands along x, as of a radiator."""
    bands = stripes(first, second, period)
    return lambda p: bands(p[[1, 2, 0]])


def _dots_along_y(p: Array) -> Array:
    return _dots("e9dfc4", "28546b", 0.07)(p[[1, 0, 2]])
