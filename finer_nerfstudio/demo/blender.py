"""The demo scene in the format of the NeRF synthetic scenes."""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finer_nerfstudio.demo.cameras import orbit_poses, scattered_poses
from finer_nerfstudio.demo.folder import LARGEST_SIDE, MOST_VIEWS, RECIPE, draw_all, make_folder, write_json
from finer_nerfstudio.demo.tracing import render_view
from finer_nerfstudio.errors import argument

FORMAT_VERSION = 1
"""Raised whenever the same options would give other images."""

CAMERA_ANGLE_X = 0.6911112070083618
"""Horizontal field of view in radians, that of the NeRF synthetic scenes."""


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
        """Return the fault of the values in one sentence, or None."""
        if not 8 <= self.size <= LARGEST_SIDE:
            return f"{argument('size')} must be between 8 and {LARGEST_SIDE:,} pixels, got {self.size}."
        for split, views in self.views.items():
            if not 1 <= views <= MOST_VIEWS:
                return f"{argument(f'{split}_views')} must be between 1 and {MOST_VIEWS:,}, got {views}."
        if not 1 <= self.supersampling <= 16:
            return f"{argument('supersampling')} must be between 1 and 16, got {self.supersampling}."
        if self.seed < 0:
            return f"{argument('seed')} must not be negative, got {self.seed}."
        return None

    @property
    def views(self) -> dict[str, int]:
        """Number of images of each split."""
        return {"train": self.train_views, "val": self.val_views, "test": self.test_views}

    def files(self) -> list[str]:
        """All files but the recipe, relative to the folder."""
        names = [f"transforms_{split}.json" for split in self.views]
        return names + [f"{split}/r_{i}.png" for split, views in self.views.items() for i in range(views)]

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


def make_demo_scene(options: DemoScene) -> bool:
    """Create the scene's folder and return True, or leave a finished one alone.

    Raises:
        UsageError: for options out of range, and for a folder that holds something else.
        InputError: where the folder cannot be written.
    """
    return make_folder(options, functools.partial(_write_scene, options))
