"""Pinhole cameras as plain numbers: what files and pictures are made with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras


@dataclass(frozen=True)
class View:
    """A pinhole camera.

    Attributes:
        height: pixels.
        width: pixels.
        focal: lengths in pixels along x and y.
        center: principal point in pixels, x and y.
        pose: the 12 numbers of the camera-to-world matrix ``[3, 4]``, row by row; it looks along -z, y is up.
    """

    height: int
    width: int
    focal: tuple[float, float]
    center: tuple[float, float]
    pose: tuple[float, ...]

    def resized(self, longer_side: int) -> View:
        """The same view in another number of pixels."""
        scale = longer_side / max(self.height, self.width)
        height, width = max(1, round(scale * self.height)), max(1, round(scale * self.width))
        sx, sy = width / self.width, height / self.height
        return View(
            height,
            width,
            (sx * self.focal[0], sy * self.focal[1]),
            (sx * self.center[0], sy * self.center[1]),
            self.pose,
        )

    def turned(self, angle: float, around: Sequence[float]) -> View:
        """The camera carried around the vertical axis (z) through a point, ``angle`` in radians."""
        cosine, sine = math.cos(angle), math.sin(angle)
        turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        pose = np.array(self.pose).reshape(3, 4)
        center = np.asarray(around, dtype=np.float64)
        turned = np.concatenate([turn @ pose[:, :3], (turn @ (pose[:, 3] - center) + center)[:, None]], axis=1)
        return replace(self, pose=tuple(float(value) for value in turned.flatten()))

    def camera(self) -> Cameras:
        """The camera as Nerfstudio has it."""
        return Cameras(
            camera_to_worlds=torch.tensor(self.pose, dtype=torch.float32).reshape(3, 4),
            fx=self.focal[0],
            fy=self.focal[1],
            cx=self.center[0],
            cy=self.center[1],
            width=self.width,
            height=self.height,
        )


def view_of(cameras: Cameras, index: int) -> View:
    """A camera without its lens distortion."""
    camera = cameras[index]
    return View(
        int(camera.height),
        int(camera.width),
        (float(camera.fx), float(camera.fy)),
        (float(camera.cx), float(camera.cy)),
        tuple(float(value) for value in camera.camera_to_worlds.flatten()),
    )


def evenly(count: int, wanted: int) -> list[int]:
    """Indices of so many of ``count`` things, evenly spread; of all where ``wanted`` is 0."""
    kept = count if wanted == 0 else min(count, wanted)
    return [i * count // kept for i in range(kept)]
