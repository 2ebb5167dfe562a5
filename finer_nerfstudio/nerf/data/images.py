"""Reading a scene's pictures and masks, whatever their pixel format."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image
from torch import Tensor

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files.images import StoredImage, read_header, read_stored_image
from finer_nerfstudio.nerf.data.notes import Notes

Pixels = npt.NDArray[np.float32]


class SceneImages(InputDataset):
    """Nerfstudio's dataset with area averaging, 8 to 32 bits, grey, palette and alpha, and masks of any kind.

    Within a split, either all images come with alpha or none does: if any has transparent pixels, those without are
    opaque. Likewise all have a mask if any frame has one, or a lens that shows a circle only.

    What a model learns of the scene beside its box is in the metadata: ``unbounded`` says whether the images show
    surroundings that have no end. A parser may know; otherwise they do unless alpha cuts something out of them.
    """

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        super().__init__(dataparser_outputs, scale_factor)
        self._notes = Notes()
        if "unbounded" not in self.metadata:
            self.metadata["unbounded"] = not self.any_alpha

    @cached_property
    def any_alpha(self) -> bool:
        """Whether anything is transparent; a channel that is opaque throughout cuts out nothing."""
        for path in self.image_filenames:
            if read_header(path).transparent:
                stored = read_stored_image(path, upright=False)
                if stored.values.shape[2] in (2, 4) and bool((stored.values[..., -1] < stored.full).any()):
                    return True
        return False

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """Image ``[height, width, 3 or 4]`` with values in 0..255, alpha straight.

        Args:
            image_idx: index of the image in the split.

        Raises:
            InputError: if the image data is damaged, or no picture of a scene.
        """
        return np.rint(255.0 * self._pixels(image_idx)).astype(np.uint8)

    def get_image_float32(self, image_idx: int) -> Float[Tensor, "height width channels"]:
        """Image with values in [0, 1], as exact as its file is, alpha straight."""
        return torch.from_numpy(self._pixels(image_idx))

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """Index and image, and the mask of the pixels that count."""
        image = self.get_image_float32(image_idx) if image_type == "float32" else self.get_image_uint8(image_idx)
        data: dict[str, Any] = {"image_idx": image_idx, "image": image}
        mask = self._mask(image_idx, *image.shape[:2])
        if mask is not None:
            data["mask"] = torch.from_numpy(mask)[..., None]
            if self.mask_color:
                full = 1.0 if image_type == "float32" else 255.0
                color = torch.tensor([*self.mask_color, 1.0][: image.shape[2]]) * full
                data["image"] = torch.where(data["mask"], image, color.to(image.dtype))
        return data

    def counts(self, image_idx: int) -> bool:
        """Whether masks leave a pixel of an image."""
        mask = self._mask(image_idx, *(int(side[image_idx]) for side in (self.cameras.height, self.cameras.width)))
        return mask is None or bool(mask.any())

    def _pixels(self, image_idx: int) -> Pixels:
        path = self.image_filenames[image_idx]
        stored = read_stored_image(path, upright=False)
        for note in stored.notes:
            self._notes.tell(f"A picture of the scene: {note}" if image_idx == 0 else None)
        pixels = to_rgb_or_rgba(stored, path, self._notes)
        if self.any_alpha and pixels.shape[2] == 3:
            pixels = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=2)
        elif not self.any_alpha:
            pixels = pixels[..., :3]
        pixels = area_average(pixels, self.metadata.get("downscale_factor", 1))
        if self.scale_factor != 1.0:
            pixels = _resized(pixels, self.scale_factor)
        return np.ascontiguousarray(pixels)

    def _mask(self, image_idx: int, height: int, width: int) -> Bool[np.ndarray, "height width"] | None:
        paths, radii = self.metadata.get("masks", []), self.metadata.get("crop_radii", [])
        if not any(path is not None for path in paths) and not any(radius is not None for radius in radii):
            return None
        path, radius = paths[image_idx], radii[image_idx]
        factor = self.metadata.get("downscale_factor", 1)
        mask = np.ones((height, width), dtype=bool)
        if path is not None:
            picture = read_header(self.image_filenames[image_idx])
            whole = read_mask(path, picture.height, picture.width)
            rows, columns = picture.height // factor, picture.width // factor
            blocks = whole[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
            # What is averaged with something that does not count does not count either.
            mask = _nearest(blocks.all(axis=(1, 3)), height, width)
        if radius is not None:
            radius = radius * self.scale_factor / factor
            row, column = np.ogrid[:height, :width]
            mask &= np.hypot(row + 0.5 - height / 2, column + 0.5 - width / 2) <= radius
        return mask


def counted_pixels(
    data: dict[str, Any], rendered: Float[Tensor, "height width 3"]
) -> Bool[Tensor, "height width 1"] | None:
    """Return which pixels of a view count, where its rendering is, or None if all of them do.

    Args:
        data: of a picture, as :meth:`SceneImages.get_data` gives it.
        rendered: the view as it was rendered.
    """
    mask: Tensor | None = data.get("mask")
    return None if mask is None else mask.to(rendered.device)


def read_mask(path: Path, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """Read which pixels of a picture count: those that are brighter than half, or 1 where a mask knows 0 and 1 only.

    Compression as in JPEG leaves traces of grey. A mask of another size is stretched; the brightest channel decides,
    and what is transparent does not count.

    Args:
        path: of the mask.
        height: of its picture, pixels.
        width: likewise.

    Raises:
        InputError: where it cannot be read, or has another shape than its picture.
    """
    stored = read_stored_image(path, upright=False)
    rows, columns, channels = stored.values.shape
    # Both sides of it were rounded to whole pixels.
    if abs(rows * width - columns * height) > max(height, width):
        raise InputError(
            f"the mask {path} has {columns}x{rows} pixels, but its picture has {width}x{height}: they differ in shape."
        )
    opaque = channels - (channels in (2, 4))
    brightness = stored.values[..., :opaque].max(axis=2)
    threshold = 0.5 if brightness.max() <= 1 or np.isnan(stored.full) else 0.5 * stored.full
    mask = brightness > threshold
    if opaque < channels:
        mask &= stored.values[..., -1] > 0.5 * stored.full
    return _nearest(mask, height, width)


def _nearest(mask: Bool[np.ndarray, "rows columns"], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    rows, columns = mask.shape
    if (rows, columns) == (height, width):
        return mask
    row = ((np.arange(height) + 0.5) * rows / height).astype(int)
    column = ((np.arange(width) + 0.5) * columns / width).astype(int)
    return mask[row[:, None], column]


def to_rgb_or_rgba(stored: StoredImage, path: Path, notes: Notes) -> Pixels:
    """Pixels ``[height, width, 3 or 4]`` in [0, 1] of stored ones; alpha is kept, and grey becomes RGB.

    Args:
        stored: pixels of any kind.
        path: of the picture, for sentences.
        notes: where it is said that some of a floating picture was cut off.

    Raises:
        InputError: for numbers that say nothing of which is white.
    """
    if np.isnan(stored.full):
        raise InputError(f"{path} holds signed numbers, of which none is white: convert it to 8 or 16 bits.")
    pixels = stored.values.astype(np.float32 if stored.values.dtype.itemsize <= 2 else np.float64) / stored.full
    pixels = pixels.astype(np.float32, copy=False)
    if stored.values.dtype.kind == "f":
        pixels = _between_0_and_1(pixels, path, notes)
    if pixels.shape[2] < 3:
        pixels = np.concatenate([np.repeat(pixels[..., :1], 3, axis=2), pixels[..., 1:]], axis=2)
    return pixels


def _between_0_and_1(pixels: Pixels, path: Path, notes: Notes) -> Pixels:
    if not np.isfinite(pixels).all():
        raise InputError(f"{path} has pixels that are no finite numbers.")
    beyond = float(np.mean((pixels < 0) | (pixels > 1)))
    if beyond > 0.5:
        raise InputError(
            f"{path} holds values from {pixels.min():g} to {pixels.max():g}, and those of a floating picture have to "
            f"be 0 to 1: convert it to 8 or 16 bits."
        )
    if beyond > 0:
        notes.tell("Some values of floating pictures are below 0 or above 1, and are cut off there.")
    return np.clip(pixels, 0.0, 1.0)


def area_average(pixels: Pixels, factor: int) -> Pixels:
    """Means of blocks of ``factor`` by ``factor`` pixels; a remainder at the right and the bottom is cut off.

    Colour is averaged in proportion to its alpha, so that compositing the result over a background gives the mean of
    the composites.

    Args:
        pixels: ``[height, width, 3 or 4]``, alpha straight.
        factor: block length, at least 1.

    Returns:
        ``[height // factor, width // factor, 3 or 4]``, alpha straight.
    """
    if factor == 1:
        return pixels
    height, width, channels = pixels.shape
    rows, columns = height // factor, width // factor
    blocks = pixels[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, channels)
    blocks = blocks.astype(np.float64)
    if channels == 3:
        return blocks.mean(axis=(1, 3)).astype(np.float32)
    alpha = blocks[..., 3:]
    mean_alpha = alpha.mean(axis=(1, 3))
    color = (blocks[..., :3] * alpha).mean(axis=(1, 3)) / np.maximum(mean_alpha, 1e-12)
    # Where nothing is visible the plain mean is as good as any colour.
    color = np.where(mean_alpha > 0, color, blocks[..., :3].mean(axis=(1, 3)))
    return np.concatenate([color, mean_alpha], axis=2).astype(np.float32)


def _resized(pixels: Pixels, factor: float) -> Pixels:
    """Bilinear, colours in proportion to their alpha."""
    size = (int(pixels.shape[1] * factor), int(pixels.shape[0] * factor))

    def resized(plane: Pixels) -> Pixels:
        return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR))

    if pixels.shape[2] == 3:
        return np.stack([resized(pixels[..., channel]) for channel in range(3)], axis=2)
    alpha = resized(pixels[..., 3])
    weighted = [resized(pixels[..., channel] * pixels[..., 3]) for channel in range(3)]
    return np.stack([plane / np.maximum(alpha, 1e-6) for plane in weighted] + [alpha], axis=2)
