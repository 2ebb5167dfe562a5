"""Writing pictures as PNG of 8 and 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from finer_nerfstudio.files.atomic import replacing

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write ``[height, width, channels]`` uint8 or uint16 pixels as PNG.

    Raises:
        InputError: where the file cannot be written.
    """
    channels = pixels.shape[2]
    with replacing(path) as unfinished:
        if pixels.dtype == np.uint8:
            Image.fromarray(pixels[..., 0] if channels == 1 else pixels, _MODES[channels]).save(unfinished, "PNG")
        elif channels == 1:
            Image.fromarray(pixels[..., 0]).save(unfinished, "PNG")
        else:
            _write_16_bit(unfinished, pixels)


def _write_16_bit(path: Path, pixels: np.ndarray) -> None:
    import cv2

    if pixels.shape[2] == 2:  # PNG has 16-bit grey with alpha, OpenCV has not
        pixels = pixels[..., [0, 0, 0, 1]]
    order = [2, 1, 0, 3][: pixels.shape[2]]
    written, content = cv2.imencode(".png", np.ascontiguousarray(pixels[..., order]))
    if not written:
        raise OSError("OpenCV could not write the picture")
    path.write_bytes(content.tobytes())
