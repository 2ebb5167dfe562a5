"""Photograph the demo scene outdoors with a distorting lens, for trying what real captures need without a download.

The table of ``make_demo_scene.py`` stands on a square. Columns, houses, hills and a sky surround it, from 6 to 160
world units away, and somebody walks around it with a camera whose lens has radial and tangential distortion. The
folder is as ``ns-process-data`` would leave it: a ``transforms.json`` with an OPENCV camera, and images without alpha.

    python scripts/make_demo_capture.py --output-dir data/capture
"""

from __future__ import annotations

import functools
import math
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from make_demo_scene import (
    RECIPE,
    Array,
    developed,
    draw_all,
    make_folder,
    run_script,
    see_objects,
    sunlight,
    write_json,
)
from numpy.typing import NDArray
from PIL import Image

FORMAT_VERSION = 1
"""Raised whenever the same options would give other images."""

FOCAL = 0.78
"""Focal length along either axis, in widths of the image."""

CENTER = (0.506, 0.492)
"""Principal point in widths and heights: a lens is never mounted quite straight."""

DISTORTION = {"k1": -0.16, "k2": 0.035, "p1": 0.0025, "p2": -0.0018}
"""OpenCV's coefficients: a barrel of some nine per cent at the corners."""

_GROUND = -0.9  # the table's foot
_HILLS = 160.0
_RAYS_AT_ONCE = 100_000
_SUN = np.array([0.307, -0.369, 0.877], dtype=np.float32)  # the lamp of the demo scene

# Column: azimuth in degrees, distance, radius, height. House: the same, half width, half depth, height, turn.
_COLUMNS = ((10, 7.5, 0.5, 5.0), (62, 6.0, 0.4, 3.6), (118, 9.0, 0.6, 6.5), (171, 6.8, 0.45, 4.2),
            (222, 8.4, 0.5, 5.4), (280, 6.2, 0.4, 3.2), (331, 9.5, 0.7, 7.0))  # fmt: skip
_HOUSES = ((35, 18.0, 3.0, 2.5, 4.5, 20), (92, 26.0, 4.5, 3.0, 7.0, 75), (146, 20.0, 2.5, 2.5, 6.0, 40),
           (198, 34.0, 6.0, 4.0, 9.0, 10), (250, 22.0, 3.5, 3.0, 5.0, 60), (305, 42.0, 7.0, 4.0, 12.0, 30),
           (350, 30.0, 4.0, 4.0, 8.0, 5))  # fmt: skip


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


def handheld_poses(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Camera-to-world ``[count, 4, 4]`` (x right, y up, looking along -z) of two unsteady rounds about the table."""
    turn = 4 * math.pi * np.arange(count) / count
    sway = generator.normal(size=(count, 6))
    # Hands drift: neighbouring pictures have similar errors.
    for _ in range(3):
        sway = 0.5 * sway + 0.25 * (np.roll(sway, 1, axis=0) + np.roll(sway, -1, axis=0))
    radius = 2.75 + 0.3 * np.sin(1.5 * turn + 1.0) + 0.12 * sway[:, 0]
    height = np.where(turn < 2 * math.pi, 0.1, 0.75) + 0.15 * np.sin(2.5 * turn) + 0.1 * sway[:, 1]
    positions = np.stack([radius * np.cos(turn), radius * np.sin(turn), height], axis=-1)
    targets = np.array([0.0, 0.0, 0.12]) + 0.35 * sway[:, 2:5] * np.array([1.0, 1.0, 0.5])
    back = positions - targets
    back /= np.linalg.norm(back, axis=-1, keepdims=True)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    up = np.cross(back, right)
    roll = 0.05 * sway[:, 5:]
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, 0] = np.cos(roll) * right + np.sin(roll) * up
    poses[:, :3, 1] = np.cos(roll) * up - np.sin(roll) * right
    poses[:, :3, 2] = back
    poses[:, :3, 3] = positions
    return poses


# --------------------------------------------------------------------------------------------------
# The surroundings: unit rays [3, n] from one origin [3, 1] -> distances [n] and linear colours [3, n].
# --------------------------------------------------------------------------------------------------


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
    """What rays meet first.

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


# --------------------------------------------------------------------------------------------------
# The command.
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DemoCapture:
    """Photograph the demo scene outdoors with a distorting lens, as a capture in Nerfstudio's format.

    The same options always give the same files. A folder that already holds the capture is left as it is.
    """

    output_dir: Path = Path("data/capture")
    """Folder to create. It must not exist yet, be empty, or hold this very capture."""
    width: int = 160
    """Width of the images in pixels, at least 16; their height is three quarters of it."""
    views: int = 72
    """Number of images along the way; every eighth is a test view."""
    supersampling: int = 2
    """Rays along each side of a pixel, 1 to 16."""
    seed: int = 0
    """Seed of the unsteadiness; the scene is always the same."""

    @property
    def height(self) -> int:
        """Of the images, in pixels."""
        return self.width * 3 // 4

    def problem(self) -> str | None:
        """What is wrong with the values, in one sentence, or None."""
        if self.width < 16:
            return f"--width must be at least 16 pixels, got {self.width}."
        if self.views < 9:
            return f"--views must be at least 9, so that there are test views to train without, got {self.views}."
        if not 1 <= self.supersampling <= 16:
            return f"--supersampling must be between 1 and 16, got {self.supersampling}."
        if self.seed < 0:
            return f"--seed must not be negative, got {self.seed}."
        return None

    def recipe(self) -> dict[str, int]:
        """All that decides the files' content."""
        options = {name: value for name, value in asdict(self).items() if name != "output_dir"}
        return {"format_version": FORMAT_VERSION, **options}


def pixel_directions(options: DemoCapture) -> Array:
    """Directions ``[height, width, supersampling**2, 3]`` of the rays of every pixel in the camera's frame."""
    n = options.supersampling
    within = (np.arange(n) + 0.5) / n
    x = (np.arange(options.width)[:, None] + within).ravel() - CENTER[0] * options.width
    y = (np.arange(options.height)[:, None] + within).ravel() - CENTER[1] * options.height
    seen = np.stack(np.meshgrid(x, y), axis=-1) / (FOCAL * options.width)
    ideal = undistort(seen, **DISTORTION)
    rays = np.stack([ideal[..., 0], -ideal[..., 1], -np.ones_like(ideal[..., 0])], axis=-1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    blocks = rays.reshape(options.height, n, options.width, n, 3).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(options.height, options.width, n * n, 3).astype(np.float32)


def photograph(pose: NDArray[np.float64], pixels: Array) -> Array:
    """An image ``[height, width, 3]`` in [0, 1], encoded.

    Args:
        pose: camera-to-world ``[4, 4]``.
        pixels: what :func:`pixel_directions` gave.
    """
    origin = pose[:3, 3:].astype(np.float32)
    turned = np.ascontiguousarray((pixels.reshape(-1, 3) @ pose[:3, :3].T.astype(np.float32)).T)
    parts = [see(origin, part)[1] for part in np.array_split(turned, -(-turned.shape[1] // _RAYS_AT_ONCE), axis=1)]
    # As in the demo scene, encoded colours are averaged.
    return np.concatenate(parts, axis=1).T.reshape(pixels.shape).mean(axis=2)


def _write_capture(options: DemoCapture, folder: Path) -> None:
    poses = handheld_poses(options.views, np.random.default_rng(options.seed))
    names = _names(options)
    test = [name for index, name in enumerate(names) if index % 8 == 4]
    camera = {
        "camera_model": "OPENCV",
        "w": options.width,
        "h": options.height,
        "fl_x": FOCAL * options.width,
        "fl_y": FOCAL * options.width,
        "cx": CENTER[0] * options.width,
        "cy": CENTER[1] * options.height,
        **DISTORTION,
    }
    frames = [{"file_path": name, "transform_matrix": pose.tolist()} for name, pose in zip(names, poses, strict=True)]
    splits = {
        "train_filenames": [name for name in names if name not in test],
        "val_filenames": test,
        "test_filenames": test,
    }
    write_json(folder / "transforms.json", {**camera, **splits, "frames": frames})
    (folder / "images").mkdir()
    pixels = pixel_directions(options)

    def draw(name: str, index: int) -> None:
        image = np.round(255 * photograph(poses[index], pixels)).astype(np.uint8)
        Image.fromarray(image).save(folder / name)

    draw_all(draw, [(name, index) for index, name in enumerate(names)])
    write_json(folder / RECIPE, options.recipe())


def _names(options: DemoCapture) -> list[str]:
    return [f"images/frame_{index + 1:05d}.png" for index in range(options.views)]


def main(options: DemoCapture) -> None:
    """Create the folder or leave a finished one alone; exit with 1 or 2 and a sentence on failure."""
    names = ["transforms.json", *_names(options)]
    if make_folder(options, names, functools.partial(_write_capture, options)):
        print(f"Wrote {options.output_dir}: {options.views} images of {options.width}x{options.height} pixels.")
        print(f"next: ns-train finer-sine --data {shlex.quote(str(options.output_dir))} nerfstudio-data")


if __name__ == "__main__":
    run_script(main, DemoCapture)
