"""Views of a scene as tensors, and rays through their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Views:
    """Pictures of one pinhole camera that moves around the box [-1, 1]^3.

    Attributes:
        images: ``[views, height, width, 4]`` uint8, straight alpha.
        poses: ``[views, 3, 4]`` float32, camera to box: it looks along -z, y is up.
        focal: in pixels; the axis meets the middle of the picture.
    """

    images: UInt8[np.ndarray, "views height width 4"]
    poses: Float[np.ndarray, "views 3 4"]
    focal: float

    def __post_init__(self) -> None:
        views, height, width, channels = self.images.shape
        if self.images.dtype != np.uint8 or channels != 4 or min(views, height, width) < 1:
            raise ValueError(f"images must be uint8 [views, height, width, 4], not {self.images.shape}")
        if self.poses.shape != (views, 3, 4):
            raise ValueError(f"poses must be [{views}, 3, 4], not {self.poses.shape}")


class PixelRays:
    """Colours and rays of pixels, on a device.

    Args:
        views: of a scene.
        device: where they are kept.
    """

    def __init__(self, views: Views, device: torch.device) -> None:
        self.count, self.height, self.width = views.images.shape[:3]
        self._colors = torch.from_numpy(views.images.reshape(-1, 4)).to(device)
        poses = torch.from_numpy(np.ascontiguousarray(views.poses, np.float32)).to(device)
        self._rotations, self._centers = poses[:, :, :3], poses[:, :, 3]
        self._focal = views.focal

    @property
    def pixels(self) -> int:
        """Return the number of pixels of all views."""
        return self.count * self.height * self.width

    def colors(self, pixels: Int[Tensor, " rays"]) -> Float[Tensor, "rays 4"]:
        """Return colours with straight alpha in [0, 1]; pixels are numbered view by view and row by row."""
        return self._colors.index_select(0, pixels).float() / 255.0

    def rays(self, pixels: Int[Tensor, " rays"]) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 3"]]:
        """Return origins in the box's units and unit directions through the middles of pixels."""
        column, row = pixels % self.width, pixels // self.width % self.height
        view = pixels // (self.width * self.height)
        right = (column + 0.5 - 0.5 * self.width) / self._focal
        up = (0.5 * self.height - 0.5 - row) / self._focal
        local = torch.stack([right, up, torch.full_like(right, -1.0)], dim=-1)
        rotation = self._rotations.index_select(0, view)
        directions = torch.nn.functional.normalize((rotation @ local[:, :, None]).squeeze(-1), dim=-1)
        return self._centers.index_select(0, view), directions
