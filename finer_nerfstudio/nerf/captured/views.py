"""Views of a scene as tensors, and rays through their pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Views:
    """Pictures of one pinhole camera that moves around a scene.

    Attributes:
        images: ``[views, height, width, 4]`` uint8, straight alpha.
        poses: ``[views, 3, 4]`` float32, camera to world: it looks along -z, y is up.
        focal: in pixels; the axis meets the middle of the picture.
    """

    images: UInt8[np.ndarray, "views height width 4"]
    poses: Float[np.ndarray, "views 3 4"]
    focal: float

    @property
    def description(self) -> dict[str, int | str]:
        """Return the number of views, their size and a digest: enough to tell whether two runs saw the same."""
        digest = hashlib.blake2b(np.ascontiguousarray(self.images).tobytes(), digest_size=16)
        digest.update(np.ascontiguousarray(self.poses).tobytes())
        count, height, width, _ = self.images.shape
        return {"views": count, "height": height, "width": width, "blake2": digest.hexdigest()}

    def __post_init__(self) -> None:
        views, height, width, channels = self.images.shape
        if self.images.dtype != np.uint8 or channels != 4 or min(views, height, width) < 1:
            raise ValueError(f"images must be uint8 [views, height, width, 4], not {self.images.shape}")
        if self.poses.shape != (views, 3, 4):
            raise ValueError(f"poses must be [{views}, 3, 4], not {self.poses.shape}")


class PixelRays:
    """Colours and rays of the pixels of pinhole cameras whose pictures have one size.

    Pixels are numbered view by view and row by row.

    Args:
        colors: ``[views, height, width, channels]``, RGB or RGBA with straight alpha; uint8, or float in [0, 1].
        poses: ``[views, 3, 4]`` camera to world: cameras look along -z, y is up.
        focal: ``[views, 2]`` in pixels, of columns and of rows.
        center: ``[views, 2]`` column and row where the axis meets the picture, in pixels from its corner.
    """

    def __init__(
        self,
        colors: Tensor,
        poses: Float[Tensor, "views 3 4"],
        focal: Float[Tensor, "views 2"],
        center: Float[Tensor, "views 2"],
    ) -> None:
        self.count, self.height, self.width = colors.shape[:3]
        self._colors = colors.reshape(-1, colors.shape[3])
        self._rotations, self._centers = poses[:, :, :3].contiguous(), poses[:, :, 3].contiguous()
        # The middle of pixel (row, column) is half a pixel further; rows count downwards.
        sign = torch.tensor([1.0, -1.0], device=poses.device)
        self._scale = sign / focal
        self._shift = sign * (0.5 - center) / focal

    @classmethod
    def of_views(cls, views: Views, device: torch.device) -> PixelRays:
        """Return the rays of views, on a device."""
        count, height, width, _ = views.images.shape
        poses = torch.from_numpy(np.ascontiguousarray(views.poses, np.float32)).to(device)
        focal = torch.full((count, 2), views.focal, device=device)
        center = torch.tensor([0.5 * width, 0.5 * height], device=device).expand(count, 2)
        return cls(torch.from_numpy(views.images).to(device), poses, focal, center)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._colors.device

    @property
    def pixels(self) -> int:
        """Return the number of pixels of all views."""
        return self.count * self.height * self.width

    def colors(self, pixels: Int[Tensor, " rays"]) -> Float[Tensor, "rays channels"]:
        """Return colours in [0, 1], with straight alpha if there is any."""
        chosen = self._colors.index_select(0, pixels)
        return chosen.float() / 255.0 if chosen.dtype == torch.uint8 else chosen

    def rays(self, pixels: Int[Tensor, " rays"]) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 3"]]:
        """Return origins in world units and unit directions through the middles of pixels."""
        view = pixels // (self.width * self.height)
        place = torch.stack([pixels % self.width, pixels // self.width % self.height], dim=1).float()
        across = torch.addcmul(self._shift.index_select(0, view), self._scale.index_select(0, view), place)
        rotation = self._rotations.index_select(0, view)
        along = torch.baddbmm(rotation[:, :, 2:], rotation[:, :, :2], across[:, :, None], beta=-1.0).squeeze(-1)
        return self._centers.index_select(0, view), torch.nn.functional.normalize(along, dim=-1)
