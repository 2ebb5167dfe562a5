"""Rate and distortion of JPEG and WebP, to hold streams against."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from finer_nerfstudio.runs.metrics import decibels
from finer_nerfstudio.tasks.image.files import SourceImage

CODECS = ("JPEG", "WebP")
_QUALITIES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 22, 26, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 93, 96)
# Larger images take minutes at all qualities.
_LARGEST = 1 << 24


@dataclass(frozen=True)
class RatePoint:
    """One setting of a codec.

    Attributes:
        bytes: length of the file.
        psnr: dB.
    """

    bytes: int
    psnr: float


def codec_curve(image: SourceImage, codec: str) -> list[RatePoint]:
    """A codec at many qualities, files from small to large; empty where it cannot hold the image.

    Args:
        image: 8 bit, grey or RGB, of at most 16 megapixels.
        codec: one of :data:`CODECS`.
    """
    from PIL import Image, features

    if image.channels not in (1, 3) or image.maximum != 255 or image.height * image.width > _LARGEST:
        return []
    if codec == "WebP" and (not features.check("webp") or max(image.height, image.width) > 16383):
        return []
    picture = Image.fromarray(image.pixels[..., 0] if image.channels == 1 else np.ascontiguousarray(image.pixels))
    mode = picture.mode
    points = []
    for quality in _QUALITIES:
        file = io.BytesIO()
        options = {"optimize": True} if codec == "JPEG" else {"method": 4}
        picture.save(file, codec, quality=quality, **options)
        with Image.open(io.BytesIO(file.getvalue())) as decoded:
            found = np.asarray(decoded.convert(mode)).reshape(image.pixels.shape)
        points.append(RatePoint(len(file.getvalue()), psnr_of_pixels(found, image.pixels)))
    return sorted(points, key=lambda point: point.bytes)


def psnr_of_pixels(found: np.ndarray, truth: np.ndarray) -> float:
    """dB between pictures of 8 or 16 bit."""
    error = np.square(found.astype(np.float64) - truth.astype(np.float64)).mean()
    return decibels(error, peak=float(np.iinfo(truth.dtype).max))


def psnr_at(curve: list[RatePoint], size: int) -> float | None:
    """The best quality that a codec reaches within so many bytes; None where its smallest file is larger."""
    return max((point.psnr for point in curve if point.bytes <= size), default=None)


def bytes_at(curve: list[RatePoint], psnr: float) -> int | None:
    """The smallest file of a codec that is at least so good; None where it never is."""
    return min((point.bytes for point in curve if point.psnr >= psnr), default=None)
