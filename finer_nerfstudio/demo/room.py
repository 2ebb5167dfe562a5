"""A furnished room seen from inside, lit by one window, photographed with a telephone held upright."""

from __future__ import annotations

import functools
import threading

import numpy as np
from numpy.typing import NDArray

from finer_nerfstudio.demo.distances import Array
from finer_nerfstudio.demo.furnishings import (
    HEIGHT,
    LENGTH,
    RECESS,
    WIDTH,
    WINDOW_LEFT,
    WINDOW_RIGHT,
    WINDOW_SILL,
    WINDOW_TOP,
    boards,
    bricks,
    furnishings,
    lozenges,
    planks,
    plaster,
    wallpaper,
)
from finer_nerfstudio.demo.lens import Lens
from finer_nerfstudio.demo.lightmaps import LightMaps, Window, leaving
from finer_nerfstudio.demo.patterns import linear_colour, mix, noise, plain
from finer_nerfstudio.demo.solids import Box, nearest, place, to_own, to_world
from finer_nerfstudio.demo.tracing import developed

SHELL = Box((0.0, 0.0, 0.5 * HEIGHT), (0.5 * LENGTH, 0.5 * WIDTH, 0.5 * HEIGHT), plain("ffffff"))
"""The room's inner faces."""

LENS = Lens(focal=0.87, center=(0.497, 0.509), distortion={"k1": -0.24, "k2": 0.05, "p1": -0.0021, "p2": 0.0016})
"""63 degrees across, 86 up and down, with a barrel that moves the corners inwards by a quarter of their distance."""

EXPOSURE_SPREAD = 0.7
"""Training views are up to so many stops brighter or darker than is neutral, before they are centred."""

_DAYLIGHT = 8.0 * np.array([[0.93], [1.0], [1.08]], dtype=np.float32)  # radiance of the panes where they light the room
_BOUNCE = 1.1 * np.array([[0.85], [0.74], [0.60]], dtype=np.float32)  # what warm surfaces add, beyond the first time
_FURTHER = np.float32(0.012)  # light that has been reflected so often that it is everywhere
_SUN = np.array([[0.10], [0.76], [0.64]], dtype=np.float32)  # towards the sun
_SUNSHINE = np.array([[1.9], [1.65], [1.25]], dtype=np.float32)


_computing = threading.Lock()


def _light() -> LightMaps:
    with _computing:  # one thread computes it, and the others wait
        return _light_maps()


@functools.cache
def _light_maps() -> LightMaps:
    y = 0.5 * WIDTH + RECESS
    return LightMaps(furnishings(), SHELL, Window((WINDOW_LEFT, y, WINDOW_SILL), (WINDOW_RIGHT, y, WINDOW_TOP)))


def _in_opening(x: Array, z: Array) -> NDArray[np.bool_]:
    return (x > WINDOW_LEFT) & (x < WINDOW_RIGHT) & (z > WINDOW_SILL) & (z < WINDOW_TOP)


def _sunlit(points: Array) -> NDArray[np.bool_]:
    """Which of the points [3, n] the sun reaches through the panes."""
    through = np.ones(points.shape[1], dtype=bool)
    for depth in (0.0, RECESS):
        t = (0.5 * WIDTH + depth - points[1]) / _SUN[1]
        through &= _in_opening(points[0] + t * _SUN[0], points[2] + t * _SUN[2]) & (t > 0)
    rays = np.flatnonzero(through)
    free = np.isinf(nearest(furnishings(), points[:, rays], np.broadcast_to(_SUN, (3, rays.size)))[0])
    through[rays[~free]] = False
    return through


def _paint(points: Array) -> Array:
    """Linear colours of places [3, n] on the room's inner faces."""
    face = SHELL.chart(points - place(SHELL)).face
    colour = np.zeros_like(points)
    for number, pattern in enumerate((bricks, lozenges, plaster, wallpaper, planks, boards)):
        own = np.flatnonzero(face == number)
        colour[:, own] = pattern(points[:, own])
    skirting = (face < 4) & ((points[2] < 0.1) | (points[2] > HEIGHT - 0.07))
    return np.where(skirting, linear_colour("d9d4c6"), colour)


def _beyond_the_opening(origins: Array, directions: Array) -> tuple[Array, Array]:
    """Distances [n] and light [3, n] of rays that enter the window's opening: its sides and its panes."""
    middle = (0.5 * (WINDOW_LEFT + WINDOW_RIGHT), 0.5 * (WIDTH + RECESS), 0.5 * (WINDOW_SILL + WINDOW_TOP))
    half = (0.5 * (WINDOW_RIGHT - WINDOW_LEFT), 0.5 * RECESS, 0.5 * (WINDOW_TOP - WINDOW_SILL))
    hole = Box(middle, half, plain("ffffff"))
    t = leaving(hole, origins, directions)
    ends = origins + t * directions
    pane = hole.chart(ends - place(hole)).face == 3
    up = (ends[2] - WINDOW_SILL) / np.float32(WINDOW_TOP - WINDOW_SILL)
    # A hedge and a hazy sky on frosted glass, so that the panes look alike from everywhere.
    hedge = 0.34 + 0.05 * np.sin(9 * ends[0]) + 0.03 * np.sin(23 * ends[0] + 1)
    green = mix(linear_colour("3f6b2f"), linear_colour("a9c77c"), noise(ends, 14.0)) * np.float32(1.6)
    view = np.where(up < hedge, green, np.array([[2.6], [3.0], [3.5]], dtype=np.float32) * (0.6 + 0.4 * up))
    deep = np.clip((ends[1] - 0.5 * WIDTH) / np.float32(RECESS), 0, 1)
    return t, np.where(pane, view, linear_colour("e2ddd0") * (0.45 + 0.9 * deep))


def see(origin: Array, directions: Array) -> tuple[Array, Array]:
    """Return what rays meet first. Every ray meets something.

    Args:
        origin: ``[3, 1]`` common start of the rays, inside the room and outside every piece of furniture.
        directions: ``[3, n]`` unit directions.

    Returns:
        Distances ``[n]`` in metres and linear light ``[3, n]`` in [0, inf), before exposure.
    """
    solids = furnishings()
    t, which = nearest(solids, origin, directions)
    walls = leaving(SHELL, origin, directions)
    ends = origin + walls * directions
    at_window = (ends[1] > 0.5 * WIDTH - 1e-4) & _in_opening(ends[0], ends[2])
    light = np.zeros_like(directions)
    opening = np.flatnonzero(at_window)
    if opening.size:
        walls[opening], light[:, opening] = _beyond_the_opening(origin, directions[:, opening])
    furniture = t < walls
    t = np.where(furniture, t, walls)
    points = origin + t * directions

    rays = np.flatnonzero(furniture | ~at_window)
    which = np.where(furniture, which, len(solids))[rays]
    albedo, normals = np.zeros((3, rays.size), dtype=np.float32), np.zeros((3, rays.size), dtype=np.float32)
    direct, bounced = np.zeros((2, rays.size), dtype=np.float32)
    for index in np.unique(which):
        solid = SHELL if index == len(solids) else solids[index]
        own = np.flatnonzero(which == index)
        local = to_own(solid, points[:, rays[own]] - place(solid))
        direct[own], bounced[own] = _light().on(int(index), solid, local)
        albedo[:, own] = _paint(points[:, rays[own]]) if solid is SHELL else solid.pattern(local)
        normals[:, own] = to_world(solid, solid.chart(local).normals) * (-1 if solid is SHELL else 1)
    slope = np.maximum((normals * _SUN).sum(axis=0), 0)
    sun = slope * _sunlit(points[:, rays] + np.float32(2e-3) * normals)
    arriving = _DAYLIGHT * (direct + _BOUNCE * (bounced + _FURTHER)) + _SUNSHINE * sun
    light[:, rays] = albedo * arriving
    return t, light


def photograph(origin: Array, directions: Array, stops: float) -> Array:
    """Return encoded colours ``[3, n]`` in [0, 1] of rays, exposed by a number of stops over the neutral exposure."""
    return developed(see(origin, directions)[1] * np.float32(2.0**stops))


def exposures(trained: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return stops ``[count]`` over the neutral exposure, for views of which ``trained [count]`` are trained on.

    Those of training views are uniform and have mean 0. Test views have 0 stops: their brightness is what a field
    learns on average, so that PSNR means something without appearance codes as well.
    """
    stops = generator.uniform(-EXPOSURE_SPREAD, EXPOSURE_SPREAD, trained.size)
    return np.where(trained, stops - stops[trained].mean(), 0.0)
