"""Depth maps of a capture, and how far along its rays they see something."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from finer_nerfstudio.errors import InputError, in_one_line
from finer_nerfstudio.files.images import read_stored_image


@dataclass(frozen=True)
class DepthMaps:
    """What the depth maps of pictures say.

    Attributes:
        maps: ``[height, width]`` of each picture, along the camera's axis, units of the field; 0 where unknown. None
            for pictures without a depth map.
    """

    maps: tuple[Float[Tensor, "height width"] | None, ...]

    def along(self, rays: RayBundle, indices: Int[Tensor, "rays 3"]) -> Float[Tensor, "rays 1"]:
        """Return how far from their origins rays meet something, units of the field; 0 where it is unknown.

        As in Nerfstudio, maps of perspective cameras are along the axis, and those of other lenses along the ray.

        Args:
            rays: of the pictures.
            indices: camera, row and column of each.
        """
        camera, row, column = indices.cpu().unbind(dim=1)
        depths = torch.zeros(len(indices))
        for number in camera.unique().tolist():
            known = self.maps[number]
            if known is not None:
                mine = camera == number
                depths[mine] = known[row[mine], column[mine]]
        norms: Tensor = rays.metadata["directions_norm"]
        return depths[:, None].to(norms) * norms


def depth_maps(outputs: DataparserOutputs, scale_factor: float = 1.0) -> DepthMaps | None:
    """Read the depth maps of a split, or return None if no frame has one.

    Args:
        outputs: of the parser; its cameras have the size of the files' pictures.
        scale_factor: of the pictures that are trained on.

    Raises:
        InputError: for a map that cannot be read, or has another shape than its picture.
    """
    paths: list[Path | None] = outputs.metadata.get("depths", [])
    if not any(path is not None for path in paths):
        return None
    unit = outputs.metadata["depth_unit"]
    heights, widths = outputs.cameras.height.flatten().tolist(), outputs.cameras.width.flatten().tolist()
    maps = [
        None if path is None else torch.from_numpy(_scaled(read_depth(path), path, height, width, scale_factor) * unit)
        for path, height, width in zip(paths, heights, widths, strict=True)
    ]
    return DepthMaps(tuple(None if values is None else values.float() for values in maps))


def read_depth(path: Path) -> npt.NDArray[np.float64]:
    """Read a depth map ``[height, width]`` in its own units, 0 where it is unknown.

    Args:
        path: of a picture of one channel, or of an array that NumPy saved (.npy).

    Raises:
        InputError: where it is missing or cannot be read, or has several channels.
    """
    if not path.is_file():
        raise InputError(f"the depth map {path} is missing: put it there, or take it out of the transforms.json.")
    if path.suffix == ".npy":
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"the depth map {path} cannot be read: {in_one_line(error)}.") from error
        values = values[..., None] if values.ndim == 2 else values
    else:
        values = read_stored_image(path, upright=False).values
    if values.ndim != 3 or values.shape[2] != 1 or values.dtype.kind not in "uif" or values.size == 0:
        shape = "x".join(map(str, values.shape))
        raise InputError(
            f"the depth map {path} has the shape {shape}, and a depth map has one number for each pixel: a coloured "
            f"picture of depths cannot be used."
        )
    depths = values[..., 0].astype(np.float64)
    return np.where(np.isfinite(depths) & (depths > 0), depths, 0.0)


def _scaled(
    depths: npt.NDArray[np.float64], path: Path, height: int, width: int, factor: float
) -> npt.NDArray[np.float64]:
    """The nearest depth of each pixel: means would lie between what is near and what is behind it."""
    rows, columns = depths.shape
    # Both sides were rounded to whole pixels.
    if abs(rows * width - columns * height) > max(height, width, rows, columns):
        raise InputError(
            f"the depth map {path} has {columns}x{rows} pixels, but its picture has {width}x{height}: they differ in "
            f"shape."
        )
    height, width = int(height * factor), int(width * factor)
    row = ((np.arange(height) + 0.5) * rows / height).astype(int)
    column = ((np.arange(width) + 0.5) * columns / width).astype(int)
    return depths[row[:, None], column]
