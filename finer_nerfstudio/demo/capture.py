"""Captures of generated scenes, photographed with a distorting lens: a square outdoors, and a room."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finer_nerfstudio.demo import room, surroundings
from finer_nerfstudio.demo.cameras import handheld_poses, indoor_poses
from finer_nerfstudio.demo.distances import Array
from finer_nerfstudio.demo.folder import LARGEST_SIDE, MOST_VIEWS, RECIPE, draw_all, make_folder, write_json
from finer_nerfstudio.demo.lens import Lens, undistort
from finer_nerfstudio.errors import argument

FORMAT_VERSION = 1
"""Raised whenever the same options would give other images."""

_RAYS_AT_ONCE = 100_000


@dataclass(frozen=True)
class Shoot:
    """How a scene is photographed."""

    lens: Lens
    width: int
    """Usual width of the images in pixels."""
    sides: tuple[int, int]
    """Proportion of the images' width and height."""
    poses: Callable[[int, np.random.Generator], NDArray[np.float64]]
    """Camera-to-world ``[count, 4, 4]`` of a number of views."""
    exposures: Callable[[NDArray[np.bool_], np.random.Generator], NDArray[np.float64]]
    """Stops ``[count]`` over the neutral exposure, by which views are trained on."""
    colours: Callable[[Array, Array, float], Array]
    """Encoded colours ``[3, n]`` of rays from ``[3, 1]`` along ``[3, n]``, at a number of stops."""


SHOOTS = {
    "square": Shoot(
        # A barrel of some nine per cent at the corners.
        lens=Lens(
            focal=0.78, center=(0.506, 0.492), distortion={"k1": -0.16, "k2": 0.035, "p1": 0.0025, "p2": -0.0018}
        ),
        width=160,
        sides=(4, 3),
        poses=handheld_poses,
        exposures=lambda trained, _: np.zeros(trained.size),
        colours=lambda origin, directions, _: surroundings.see(origin, directions)[1],
    ),
    "room": Shoot(
        lens=room.LENS,
        width=120,
        sides=(3, 4),
        poses=indoor_poses,
        exposures=room.exposures,
        colours=room.photograph,
    ),
}
"""The scenes by name."""


@dataclass(frozen=True)
class DemoCapture:
    """Photograph a generated scene with a distorting lens, as a capture in Nerfstudio's format.

    The same options always give the same files. A folder that already holds the capture is left as it is.
    """

    output_dir: Path = Path("data/capture")
    """Folder to create. It must not exist yet, be empty, or hold this very capture."""
    scene: Literal["square", "room"] = "square"
    """square: the demo scene's table outdoors, under a sky. room: a furnished room with one bright window, from inside,
    by a telephone held upright; the exposure changes from one training view to the next."""
    width: int | None = None
    """Width of the images in pixels, at least 16; 160 for the square and 120 for the room unless given. Their height is
    three quarters of it for the square, and four thirds for the room."""
    views: int = 72
    """Number of images along the way; every eighth is a test view."""
    supersampling: int = 2
    """Rays along each side of a pixel, 1 to 16."""
    seed: int = 0
    """Seed of the unsteadiness and the exposures; the scene is always the same."""

    @property
    def shoot(self) -> Shoot:
        """How the scene is photographed."""
        return SHOOTS[self.scene]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the images, in pixels."""
        width = self.shoot.width if self.width is None else self.width
        across, down = self.shoot.sides
        return width, width * down // across

    @property
    def trained(self) -> NDArray[np.bool_]:
        """Which of the views are training views."""
        return np.arange(self.views) % 8 != 4

    def problem(self) -> str | None:
        """Return the fault of the values in one sentence, or None."""
        if not (self.size[0] >= 16 and max(self.size) <= LARGEST_SIDE):
            most = LARGEST_SIDE * self.shoot.sides[0] // max(self.shoot.sides)
            return f"{argument('width')} must be between 16 and {most:,} pixels, got {self.width}."
        if not 9 <= self.views <= MOST_VIEWS:
            range_of_views = f"between 9, so that there are test views to train without, and {MOST_VIEWS:,}"
            return f"{argument('views')} must be {range_of_views}, got {self.views}."
        if not 1 <= self.supersampling <= 16:
            return f"{argument('supersampling')} must be between 1 and 16, got {self.supersampling}."
        if self.seed < 0:
            return f"{argument('seed')} must not be negative, got {self.seed}."
        return None

    def files(self) -> list[str]:
        """All files but the recipe, relative to the folder."""
        return ["transforms.json", *_names(self)]

    def recipe(self) -> dict[str, int | str]:
        """All that decides the files' content."""
        options = {name: value for name, value in asdict(self).items() if name not in ("output_dir", "scene")}
        # Folders of the square say nothing about the scene: they are older than the room.
        scene = {} if self.scene == "square" else {"scene": self.scene}
        return {"format_version": FORMAT_VERSION, **scene, **options, "width": self.size[0]}


def pixel_directions(options: DemoCapture) -> Array:
    """Directions ``[height, width, supersampling**2, 3]`` of the rays of every pixel in the camera's frame."""
    n = options.supersampling
    (width, height), lens = options.size, options.shoot.lens
    within = (np.arange(n) + 0.5) / n
    x = (np.arange(width)[:, None] + within).ravel() - lens.center[0] * width
    y = (np.arange(height)[:, None] + within).ravel() - lens.center[1] * height
    seen = np.stack(np.meshgrid(x, y), axis=-1) / (lens.focal * width)
    ideal = undistort(seen, **lens.distortion)
    rays = np.stack([ideal[..., 0], -ideal[..., 1], -np.ones_like(ideal[..., 0])], axis=-1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    blocks = rays.reshape(height, n, width, n, 3).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(height, width, n * n, 3).astype(np.float32)


def photograph(shoot: Shoot, pose: NDArray[np.float64], pixels: Array, stops: float = 0.0) -> Array:
    """An image ``[height, width, 3]`` in [0, 1], encoded.

    Args:
        shoot: of which scene.
        pose: camera-to-world ``[4, 4]``.
        pixels: what :func:`pixel_directions` gave.
        stops: over the neutral exposure.
    """
    origin = pose[:3, 3:].astype(np.float32)
    turned = np.ascontiguousarray((pixels.reshape(-1, 3) @ pose[:3, :3].T.astype(np.float32)).T)
    rays = np.array_split(turned, -(-turned.shape[1] // _RAYS_AT_ONCE), axis=1)
    parts = [shoot.colours(origin, part, stops) for part in rays]
    # As in the demo scene, encoded colours are averaged.
    return np.concatenate(parts, axis=1).T.reshape(pixels.shape).mean(axis=2)


def poses_and_exposures(options: DemoCapture) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Camera-to-world ``[views, 4, 4]``, and stops ``[views]`` over the neutral exposure."""
    generator = np.random.default_rng(options.seed)
    poses = options.shoot.poses(options.views, generator)
    return poses, options.shoot.exposures(options.trained, generator)


def _write_capture(options: DemoCapture, folder: Path) -> None:
    poses, stops = poses_and_exposures(options)
    names = _names(options)
    test = [name for name, trained in zip(names, options.trained, strict=True) if not trained]
    (width, height), lens = options.size, options.shoot.lens
    camera = {
        "camera_model": "OPENCV",
        "w": width,
        "h": height,
        "fl_x": lens.focal * width,
        "fl_y": lens.focal * width,
        "cx": lens.center[0] * width,
        "cy": lens.center[1] * height,
        **lens.distortion,
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
        colours = photograph(options.shoot, poses[index], pixels, stops[index])
        Image.fromarray(np.round(255 * colours).astype(np.uint8)).save(folder / name)

    draw_all(draw, [(name, index) for index, name in enumerate(names)])
    write_json(folder / RECIPE, options.recipe())


def _names(options: DemoCapture) -> list[str]:
    return [f"images/frame_{index + 1:05d}.png" for index in range(options.views)]


def make_demo_capture(options: DemoCapture) -> bool:
    """Create the capture's folder and return True, or leave a finished one alone.

    Raises:
        UsageError: for options out of range, and for a folder that holds something else.
        InputError: where the folder cannot be written.
    """
    return make_folder(options, functools.partial(_write_capture, options))
