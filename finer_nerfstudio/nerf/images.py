"""Reading a scene's pictures, whatever their pixel format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import numpy.typing as npt
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

from finer_nerfstudio.errors import InputError

Pixels = npt.NDArray[np.uint8]


class SceneImages(InputDataset):
    """Nerfstudio's dataset with area averaging, 8 and 16 bits, grey, palette and alpha.

    Within a split, either all images come with alpha or none does: if any has it, the others are opaque.

    What a model learns of the scene beside its box is in the metadata: ``unbounded`` says whether the images show
    surroundings that have no end. A parser may know; otherwise they do unless alpha cuts something out of them.
    """

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        super().__init__(dataparser_outputs, scale_factor)
        if "unbounded" not in self.metadata:
            self.metadata["unbounded"] = not self._any_alpha

    def get_numpy_image(self, image_idx: int) -> Pixels:
        """Image ``[height, width, 3 or 4]`` with values in 0..255, alpha straight.

        Args:
            image_idx: index of the image in the split.

        Raises:
            InputError: if the image data is damaged.
        """
        with self._open(image_idx) as picture:
            if self.scale_factor != 1.0:
                width, height = (int(length * self.scale_factor) for length in picture.size)
                picture = picture.resize((width, height), resample=Image.Resampling.BILINEAR)
            pixels = to_rgb_or_rgba(picture)
        if self._any_alpha and pixels.shape[2] == 3:
            pixels = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2)
        return area_average(pixels, self.metadata.get("downscale_factor", 1))

    @cached_property
    def _any_alpha(self) -> bool:
        for image_idx in range(len(self._dataparser_outputs.image_filenames)):
            with self._open(image_idx) as header:
                if "A" in header.getbands() or "transparency" in header.info:
                    return True
        return False

    @contextmanager
    def _open(self, image_idx: int) -> Iterator[Image.Image]:
        path = self._dataparser_outputs.image_filenames[image_idx]
        try:
            with Image.open(path) as picture:
                yield picture
        except (OSError, SyntaxError) as error:
            raise InputError(f"the image {path} (number {image_idx} of its split) is damaged: {error}.") from error


def to_rgb_or_rgba(picture: Image.Image) -> Pixels:
    """Pixels ``[height, width, 3 or 4]`` in 0..255 of a picture in any of Pillow's modes; alpha is kept."""
    if picture.mode.startswith("I") or picture.mode == "F":
        # Pillow reads 16-bit grey as integers; its own conversion to 8 bits clips instead of scaling.
        values = np.asarray(picture, dtype=np.float64)
        grey = np.clip(np.rint(values / 257.0), 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    has_alpha = "A" in picture.getbands() or "transparency" in picture.info
    return np.array(picture.convert("RGBA" if has_alpha else "RGB"))


def area_average(pixels: Pixels, factor: int) -> Pixels:
    """Means of blocks of ``factor`` by ``factor`` pixels; a remainder at the right and the bottom is cut off.

    Colour is averaged in proportion to its alpha, so that compositing the result over a background gives the mean of
    the composites.

    Args:
        pixels: ``[height, width, 3 or 4]`` in 0..255, alpha straight.
        factor: block length, at least 1.

    Returns:
        ``[height // factor, width // factor, 3 or 4]`` in 0..255, alpha straight.
    """
    if factor == 1:
        return pixels
    height, width, channels = pixels.shape
    rows, columns = height // factor, width // factor
    blocks = pixels[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, channels)
    blocks = blocks.astype(np.float64)
    if channels == 3:
        return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
    alpha = blocks[..., 3:]
    mean_alpha = alpha.mean(axis=(1, 3))
    color = (blocks[..., :3] * alpha).mean(axis=(1, 3)) / np.maximum(mean_alpha, 1e-12)
    # Where nothing is visible the plain mean is as good as any colour.
    color = np.where(mean_alpha > 0, color, blocks[..., :3].mean(axis=(1, 3)))
    return np.rint(np.concatenate([color, mean_alpha], axis=2)).astype(np.uint8)
