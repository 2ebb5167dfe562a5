"""Images from and to files: whatever can be read becomes an array of 8-bit or 16-bit pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finer_nerfstudio.errors import InputError, UsageError, argument
from finer_nerfstudio.files.atomic import replacing
from finer_nerfstudio.files.images import StoredImage, read_stored_image

# Larger images are kept in a file when there is a place for it.
_LARGEST_IN_MEMORY = 1 << 24


@dataclass(frozen=True)
class SourceImage:
    """An image as it is fitted.

    Attributes:
        pixels: ``[height, width, channels]`` uint8 or uint16, read-only, possibly memory-mapped; grey, grey and alpha,
            RGB or RGBA.
        notes: sentences on what was done to what the file holds.
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def channels(self) -> int:
        return self.pixels.shape[2]

    @property
    def maximum(self) -> int:
        """The value of full intensity, 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    @property
    def description(self) -> dict[str, Any]:
        """Size and a digest of the pixels: enough to tell whether two runs saw the same image."""
        digest = hashlib.blake2b(digest_size=16)
        for top in range(0, self.height, 1024):
            digest.update(np.ascontiguousarray(self.pixels[top : top + 1024]).tobytes())
        return {
            "height": self.height,
            "width": self.width,
            "channels": self.channels,
            "maximum": self.maximum,
            "blake2": digest.hexdigest(),
        }


def read_image(path: Path, *, size: int | None = None, scratch: Path | None = None) -> SourceImage:
    """Read an image.

    The first frame of an animation, turned as its EXIF tag says, palettes and CMYK as RGB; each is noted. Values of
    other types than 8 and 16 bits are stretched to 16, unless they are floating and in [0, 1] already.

    Args:
        path: anything that :func:`read_stored_image` reads, up to a gigapixel.
        size: average down so that the longer side has this many pixels.
        scratch: folder for the pixels of images above 16 megapixels, which then are read from there as needed.

    Raises:
        InputError: for what is missing, damaged, too large or no image.
        UsageError: for a size that the image does not have.
    """
    stored = read_stored_image(path, upright=True)
    notes = list(stored.notes)
    pixels = _of_8_or_16_bits(stored, path, notes)
    if size is not None:
        pixels = _averaged_down(pixels, size)
    if scratch is not None and pixels.shape[0] * pixels.shape[1] > _LARGEST_IN_MEMORY:
        pixels = _on_disk(pixels, scratch / "pixels.npy")
    pixels.setflags(write=False)
    return SourceImage(pixels, tuple(notes))


def sample_image(size: int = 256) -> SourceImage:
    """A generated picture with what is hard for a network: edges, letters, fine texture and smooth shades.

    Args:
        size: pixels per side.

    Raises:
        UsageError: for fewer than 16 pixels.
    """
    from PIL import ImageDraw, ImageFont

    if size < 16:
        raise UsageError(f"the sample needs a {argument('size')} of at least 16, not {size}.")
    scale = 4  # drawn larger and averaged down, for smooth edges
    side = scale * size
    y, x = np.mgrid[0:side, 0:side] / side
    sky = np.stack([0.25 + 0.6 * y, 0.45 + 0.35 * y, 0.85 - 0.25 * y], axis=-1)
    # Rings whose frequency grows outward, up to half a cycle per pixel, and sand of many waves.
    rings = 0.5 + 0.5 * np.cos(0.25 * np.pi * size * ((x - 0.73) ** 2 + (y - 0.3) ** 2) * 4.0)
    inside = (x - 0.73) ** 2 + (y - 0.3) ** 2 < 0.2**2
    generator = np.random.default_rng(20)
    waves = generator.normal(size=(64, 2)) * size * 0.25
    phases = generator.uniform(0, 2 * np.pi, 64)
    coarse = np.mgrid[0:size, 0:size] / size
    sand = sum(
        np.cos(2 * np.pi * (fy * coarse[0] + fx * coarse[1]) + p) for (fy, fx), p in zip(waves, phases, strict=True)
    )
    sand = np.kron(np.asarray(sand), np.ones((scale, scale))) / 16.0
    color = np.where(inside[..., None], np.stack([rings, rings * 0.8, 0.3 + 0.4 * rings], axis=-1), sky)
    dune = y > 0.66 + 0.06 * np.sin(2 * np.pi * (x * 1.3 + 0.1))
    ground = np.clip(np.array([0.86, 0.68, 0.42]) + 0.12 * sand[..., None] - 0.35 * (y[..., None] - 0.66), 0, 1)
    color = np.where(dune[..., None], ground, color)
    picture = Image.fromarray((255 * np.clip(color, 0, 1)).round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.text((0.05 * side, 0.12 * side), "FINER++", fill=(250, 248, 240), font=ImageFont.load_default(0.12 * side))
    for row in range(4):
        font = ImageFont.load_default(side * (0.035 - 0.007 * row))
        draw.text(
            (0.05 * side, (0.32 + 0.045 * row) * side), "variable-periodic functions", fill=(20, 24, 48), font=font
        )
    draw.polygon([(0.12 * side, 0.8 * side), (0.27 * side, 0.5 * side), (0.4 * side, 0.8 * side)], fill=(150, 60, 50))
    draw.polygon([(0.27 * side, 0.5 * side), (0.4 * side, 0.8 * side), (0.5 * side, 0.74 * side)], fill=(92, 34, 40))
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BOX))
    pixels.setflags(write=False)
    return SourceImage(pixels, ("no image was given: this is the generated sample.",))


def _of_8_or_16_bits(stored: StoredImage, path: Path, notes: list[str]) -> np.ndarray:
    """Stored values as uint8 or uint16, those of other types by the range that they take."""
    values, full = stored.values, stored.full
    kind = values.dtype.kind
    if values.dtype == np.uint8 or (values.dtype == np.uint16 and full == 65535):
        return values
    if not np.isfinite(values).all():
        raise InputError(f"{path} has pixels that are no finite numbers.")
    opaque = values.shape[2] - (values.shape[2] in (2, 4))
    color, alpha = values[..., :opaque].astype(np.float64), values[..., opaque:] / full
    low, high = float(color.min()), float(color.max())
    if full < 65535 and kind == "u":
        notes.append(f"{path.name} has values from 0 to {full:g}, which became 0 to 65535.")
        color /= full
    elif kind != "f" and low >= 0 and high <= 65535:
        color /= 65535.0
    elif not (kind == "f" and low >= 0.0 and high <= 1.0):
        notes.append(f"{path.name} has values from {low:g} to {high:g}, which became 0 to 65535.")
        color = (color - low) / max(high - low, 1e-300)
    scaled = 65535.0 * np.concatenate([color, np.clip(alpha, 0.0, 1.0)], axis=2)
    return scaled.round().astype(np.uint16)


def _averaged_down(pixels: np.ndarray, size: int) -> np.ndarray:
    height, width, channels = pixels.shape
    longer = max(height, width)
    if not 1 <= size <= longer:
        raise UsageError(f"{argument('size')} must be between 1 and the image's longer side, {longer}, not {size}.")
    target = (max(1, round(width * size / longer)), max(1, round(height * size / longer)))
    if target == (width, height):
        return pixels
    maximum = np.iinfo(pixels.dtype).max

    def box(plane: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(plane.astype(np.float32)).resize(target, Image.Resampling.BOX), np.float64)

    planes = [pixels[..., channel] for channel in range(channels)]
    if channels in (2, 4):
        # Colours weigh as much as they are opaque: the colour of what is transparent must not bleed.
        alpha = planes[-1].astype(np.float32)
        mean_alpha = box(alpha)
        averaged = [box(plane * alpha) / np.maximum(mean_alpha, 1e-6) for plane in planes[:-1]] + [mean_alpha]
    else:
        averaged = [box(plane) for plane in planes]
    return np.clip(np.stack(averaged, axis=-1).round(), 0, maximum).astype(pixels.dtype)


def _on_disk(pixels: np.ndarray, path: Path) -> np.ndarray:
    with replacing(path) as unfinished:
        kept = np.lib.format.open_memmap(unfinished, mode="w+", dtype=pixels.dtype, shape=pixels.shape)
        for top in range(0, len(pixels), 1024):
            kept[top : top + 1024] = pixels[top : top + 1024]
        kept.flush()
        del kept
    return np.load(path, mmap_mode="r")
