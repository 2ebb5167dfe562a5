"""The surroundings of the demo scene outdoors: a square with columns, houses, hills and a sky."""

from __future__ import annotations

import math

import numpy as np

from finer_nerfstudio.demo.distances import Array
from finer_nerfstudio.demo.tracing import developed, see_objects, sunlight

_GROUND = -0.9  # the table's foot
_HILLS = 160.0
_SUN = np.array([0.307, -0.369, 0.877], dtype=np.float32)  # the lamp of the demo scene


# Column: azimuth in degrees, distance, radius, height. House: the same, half width, half depth, height, turn.
_COLUMNS = ((10, 7.5, 0.5, 5.0), (62, 6.0, 0.4, 3.6), (118, 9.0, 0.6, 6.5), (171, 6.8, 0.45, 4.2),
            (222, 8.4, 0.5, 5.4), (280, 6.2, 0.4, 3.2), (331, 9.5, 0.7, 7.0))  # fmt: skip


_HOUSES = ((35, 18.0, 3.0, 2.5, 4.5, 20), (92, 26.0, 4.5, 3.0, 7.0, 75), (146, 20.0, 2.5, 2.5, 6.0, 40),
           (198, 34.0, 6.0, 4.0, 9.0, 10), (250, 22.0, 3.5, 3.0, 5.0, 60), (305, 42.0, 7.0, 4.0, 12.0, 30),
           (350, 30.0, 4.0, 4.0, 8.0, 5))  # fmt: skip


def _rgb(red: float, green: float, blue: float) -> Array:
    return np.array([[red], [green], [blue]], dtype=np.float32)


def _ripples(x: Array, y: Array, length: float) -> Array:
    """A smooth irregular pattern in [0, 1] with features of about ``length`` units."""
    k = np.float32(2 * math.pi / length)
    waves = np.sin(k * x + 1.3 * np.sin(0.6 * k * y)) + np.sin(0.8 * k * y + 1.7 * np.sin(0.5 * k * x) + 2.0)
    return 0.5 + 0.25 * waves


def _sky(directions: Array) -> Array:
    up = np.clip(directions[2], 0, 1)
    colour = _rgb(0.62, 0.74, 0.86) * (1 - up) ** 3 + _rgb(0.10, 0.27, 0.62) * (1 - (1 - up) ** 3)
    # Clouds lie on a plane overhead, and drown in haze towards the horizon.
    flat = 1 / np.maximum(up, np.float32(0.06))
    cloud = np.clip(2.5 * _ripples(directions[0] * flat, directions[1] * flat, 2.6) - 1.35, 0, 1) * np.clip(
        6 * up, 0, 1
    )
    colour = colour + (np.float32(0.95) - colour) * 0.8 * cloud
    glow = np.maximum((directions * _SUN[:, None]).sum(axis=0), 0)
    return colour + _rgb(1.0, 0.9, 0.7) * (0.25 * glow**16)


def _ground(origin: Array, directions: Array) -> tuple[Array, Array]:
    down = directions[2] < -1e-6
    t = np.where(down, (np.float32(_GROUND) - origin[2]) / np.where(down, directions[2], -1), np.inf)
    reached = np.where(down, t, 0)
    x, y = origin[0] + reached * directions[0], origin[1] + reached * directions[1]
    far = np.sqrt(x * x + y * y)
    tile = np.mod(np.floor(x / 0.75) + np.floor(y / 0.75), 2)
    paving = _rgb(0.42, 0.36, 0.30) + tile * _rgb(0.16, 0.17, 0.17) + 0.12 * (_ripples(x, y, 0.5) - 0.5)
    grass = _rgb(0.10, 0.22, 0.06) + _ripples(x, y, 7.0) * _rgb(0.16, 0.14, 0.05)
    field = _rgb(0.34, 0.30, 0.12) + _ripples(y, x, 45.0) * _rgb(-0.16, 0.02, 0.0)
    colour = np.where(far < 4.5, paving, np.where(np.abs(far - 4.7) < 0.2, _rgb(0.55, 0.53, 0.5), grass))
    colour = colour + (field - colour) * np.clip((far - 25) / 30, 0, 1)
    near = np.flatnonzero(down & (far < 4.5))
    light = np.ones_like(far)
    if near.size:
        here = np.stack([x[near], y[near], np.full_like(x[near], _GROUND + 4e-3)])
        light[near] = 0.35 + 0.65 * sunlight(here)
    return t, colour * light


def _columns(origin: Array, directions: Array) -> tuple[Array, Array]:
    nearest, colour = np.full(directions.shape[1], np.inf, dtype=np.float32), np.zeros_like(directions)
    for number, (azimuth, distance, radius, height) in enumerate(_COLUMNS):
        cx, cy = _place(azimuth, distance)
        ox, oy = origin[0] - cx, origin[1] - cy
        a = directions[0] ** 2 + directions[1] ** 2
        b = ox * directions[0] + oy * directions[1]
        square = b * b - a * (ox * ox + oy * oy - np.float32(radius * radius))
        t = np.where(square > 0, (-b - np.sqrt(np.maximum(square, 0))) / np.maximum(a, 1e-9), np.inf)
        z = origin[2] + np.where(np.isfinite(t), t, 0) * directions[2]
        hit = (t > 0) & (t < nearest) & (z < _GROUND + height)
        nx = (ox + t[hit] * directions[0, hit]) / radius
        ny = (oy + t[hit] * directions[1, hit]) / radius
        bands = np.mod(np.floor((z[hit] - _GROUND) / 0.55) + number, 2)
        first = (_rgb(0.62, 0.16, 0.10), _rgb(0.12, 0.30, 0.50), _rgb(0.70, 0.45, 0.10))[number % 3]
        paint = first + bands * (_rgb(0.75, 0.71, 0.62) - first)
        nearest[hit] = t[hit]
        colour[:, hit] = paint * (0.35 + 0.75 * np.maximum(nx * _SUN[0] + ny * _SUN[1] + 0.3, 0))
    return nearest, colour


def _houses(origin: Array, directions: Array) -> tuple[Array, Array]:
    nearest, colour = np.full(directions.shape[1], np.inf, dtype=np.float32), np.zeros_like(directions)
    for number, (azimuth, distance, half_width, half_depth, height, turn) in enumerate(_HOUSES):
        cx, cy = _place(azimuth, distance)
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        half = _rgb(half_width, half_depth, 0.5 * height)
        ox, oy, oz = origin[0] - cx, origin[1] - cy, origin[2] - np.float32(_GROUND + 0.5 * height)
        start = np.stack([c * ox + s * oy, c * oy - s * ox, oz])
        heading = np.stack(
            [c * directions[0] + s * directions[1], c * directions[1] - s * directions[0], directions[2]]
        )
        heading = np.where(np.abs(heading) < 1e-9, np.float32(1e-9), heading)
        planes = np.stack([(-half - start) / heading, (half - start) / heading])
        enters = planes.min(axis=0)
        t, leave = enters.max(axis=0), planes.max(axis=0).min(axis=0)
        hit = (t < leave) & (t > 0) & (t < nearest)
        side = enters[:, hit].argmax(axis=0)
        place = start + t[hit] * heading[:, hit]
        along = np.where(side == 0, place[1], place[0])
        window = (np.mod(along, 1.8) > 1.0) & (np.mod(place[2] + 0.5 * height, 2.2) > 1.1)
        wall = (_rgb(0.66, 0.52, 0.34), _rgb(0.60, 0.30, 0.22), _rgb(0.62, 0.62, 0.56))[number % 3]
        paint = np.where(side == 2, _rgb(0.35, 0.12, 0.08), np.where(window, _rgb(0.10, 0.13, 0.17), wall))
        normal = np.where(side == 0, c * _SUN[0] + s * _SUN[1], c * _SUN[1] - s * _SUN[0])
        facing = -np.sign(np.take_along_axis(heading[:, hit], side[None], axis=0)[0])
        lit = np.where(side == 2, _SUN[2], normal * facing)
        nearest[hit] = t[hit]
        colour[:, hit] = paint * (0.45 + 0.6 * np.maximum(lit, 0))
    return nearest, colour


def _hills(origin: Array, directions: Array) -> tuple[Array, Array]:
    """A ridge all around, as a wall of varying height."""
    a = directions[0] ** 2 + directions[1] ** 2
    b = origin[0] * directions[0] + origin[1] * directions[1]
    inside = origin[0] ** 2 + origin[1] ** 2 - np.float32(_HILLS * _HILLS)
    t = (-b + np.sqrt(b * b - a * inside)) / np.maximum(a, 1e-9)
    place = origin + t * directions
    angle = np.arctan2(place[1], place[0])
    ridge = 13 + 6 * np.sin(3 * angle + 0.5) + 4 * np.sin(7 * angle) + 1.5 * np.sin(19 * angle + 1)
    wood = _ripples(24 * angle, place[2] / 8, 3.0)
    colour = _rgb(0.13, 0.24, 0.17) + wood * _rgb(0.10, 0.10, 0.04)
    return np.where(place[2] < ridge, t, np.inf).astype(np.float32), colour


def _place(azimuth: float, distance: float) -> tuple[np.float32, np.float32]:
    angle = math.radians(azimuth)
    return np.float32(distance * math.cos(angle)), np.float32(distance * math.sin(angle))


def see(origin: Array, directions: Array) -> tuple[Array, Array]:
    """Return what rays meet first.

    Args:
        origin: ``[3, 1]`` common start of the rays, above the ground and outside every object.
        directions: ``[3, n]`` unit directions.

    Returns:
        Distances ``[n]``, infinite for the sky, and encoded colours ``[3, n]`` in [0, 1].
    """
    nearest, colour = np.full(directions.shape[1], np.inf, dtype=np.float32), _sky(directions)
    for part in (_hills, _ground, _houses, _columns):
        t, own = part(origin, directions)
        # Haze: what is far away takes the colour of the horizon.
        haze = 1 - np.exp(-np.where(np.isfinite(t), t, 0) / np.float32(170))
        own = own + (_rgb(0.62, 0.74, 0.86) - own) * haze
        closer = t < nearest
        nearest, colour = np.where(closer, t, nearest), np.where(closer, own, colour)
    encoded = developed(colour)
    t, own = see_objects(origin, directions)
    closer = t < nearest
    return np.where(closer, t, nearest), np.where(closer, own, encoded)
