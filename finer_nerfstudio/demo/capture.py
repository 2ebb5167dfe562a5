"""The demo scene photographed outdoors with a distorting lens, as a capture."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finer_nerfstudio.demo.cameras import handheld_poses
from finer_nerfstudio.demo.distances import Array
from finer_nerfstudio.demo.folder import LARGEST_SIDE, MOST_VIEWS, RECIPE, draw_all, make_folder, write_json
from finer_nerfstudio.demo.lens import undistort
from finer_nerfstudio.demo.surroundings import see
from finer_nerfstudio.errors import argument

FORMAT_VERSION = 1
"""Raised whenever the same options would give other images."""

FOCAL = 0.78
"""Focal length along either axis, in widths of the image."""

CENTER = (0.506, 0.492)
"""Principal point in widths and heights: a lens is never mounted quite straight."""

DISTORTION = {"k1": -0.16, "k2": 0.035, "p1": 0.0025, "p2": -0.0018}
"""OpenCV's coefficients: a barrel of some nine per cent at the corners."""

_RAYS_AT_ONCE = 100_000


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
        """Return the fault of the values in one sentence, or None."""
        if not 16 <= self.width <= LARGEST_SIDE:
            return f"{argument('width')} must be between 16 and {LARGEST_SIDE:,} pixels, got {self.width}."
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


def make_demo_capture(options: DemoCapture) -> bool:
    """Create the capture's folder and return True, or leave a finished one alone.

    Raises:
        UsageError: for options out of range, and for a folder that holds something else.
        InputError: where the folder cannot be written.
    """
    return make_folder(options, functools.partial(_write_capture, options))
