"""Decode a fitted image at any resolution, whole or in part.

    finer render-image --model outputs/image/photo-finer-sine/model.safetensors --scale 4
    finer render-image --model model.safetensors --crop 0 0 100 80 --width 1600 --output detail.png

The picture is decoded piece by piece, so that memory is bounded whatever its size.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from finer_nerfstudio.errors import InputError, UsageError

# Larger pictures are put together in a file.
_LARGEST_IN_MEMORY = 1 << 26
_LARGEST = 1 << 30


@dataclass(frozen=True)
class RenderImage:
    """Model and size of a picture, and where it goes."""

    model: Annotated[Path, tyro.conf.arg(aliases=["-m"])]
    """A model.safetensors that finer fit-image wrote, or the folder that it is in."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("rendered.png")
    """PNG file to write; an older one is replaced."""
    scale: float | None = None
    """Pixels per pixel of the original along each axis; 1 unless given."""
    width: int | None = None
    """Width of the picture in pixels, instead of --scale; the height follows from the proportions unless given."""
    height: int | None = None
    """Height of the picture in pixels."""
    crop: tuple[float, float, float, float] | None = None
    """Only this part: left, top, right and bottom in pixels of the original, which may be fractions."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, ..."""


def resolution_of(command: RenderImage, across: float, down: float) -> tuple[int, int]:
    """Rows and columns of the wanted picture of a region of this many original pixels.

    Raises:
        UsageError: for sizes that contradict each other or are out of range.
    """
    if command.scale is not None and (command.width is not None or command.height is not None):
        raise UsageError("--scale and --width or --height exclude each other.")
    if command.scale is not None and not 0 < command.scale <= _LARGEST:
        raise UsageError(f"--scale must be a positive number and no more than {_LARGEST:,}, not {command.scale}.")
    for name, value in (("width", command.width), ("height", command.height)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, not {value}.")
    if command.width is not None or command.height is not None:
        columns = command.width or max(1, round((command.height or 1) * across / down))
        rows = command.height or max(1, round(columns * down / across))
    else:
        scale = command.scale or 1.0
        rows, columns = max(1, round(down * scale)), max(1, round(across * scale))
    if rows * columns > _LARGEST:
        raise UsageError(f"{columns}x{rows} pixels are more than a gigapixel: render it in parts with --crop.")
    return rows, columns


def run(command: RenderImage) -> None:
    import numpy as np
    from rich.console import Console
    from rich.progress import Progress

    from finer_nerfstudio.files.atomic import require_writable
    from finer_nerfstudio.files.checkpoint import load_model
    from finer_nerfstudio.files.png import write_image
    from finer_nerfstudio.runs.options import device_named
    from finer_nerfstudio.runs.processor import prepare_processor
    from finer_nerfstudio.tasks.image.fit import decode_image

    prepare_processor()
    saved = load_model(command.model, task="image")
    try:
        height, width, maximum = (int(saved.signal[name]) for name in ("height", "width", "maximum"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{command.model} does not say how large its image was ({error}).") from error
    if not (1 <= height <= _LARGEST and 1 <= width <= _LARGEST and maximum in (255, 65535)):
        raise InputError(f"{command.model} is of no image: {width}x{height} pixels of values up to {maximum}.")
    inputs, outputs = saved.network.in_dim, saved.network.out_dim
    if inputs != 2 or not 1 <= outputs <= 4:
        raise InputError(
            f"{command.model} is of no image: it maps {inputs} coordinates to {outputs} values. Name one that "
            f"finer fit-image wrote."
        )
    left, top, right, bottom = command.crop or (0.0, 0.0, float(width), float(height))
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UsageError(
            f"--crop is LEFT TOP RIGHT BOTTOM in pixels, with LEFT below RIGHT and TOP below BOTTOM, inside the image, "
            f"which is {width} wide and {height} high."
        )
    rows, columns = resolution_of(command, right - left, bottom - top)
    if command.output.is_dir():
        raise UsageError(f"--output {command.output} is a folder: name a file.")
    if command.output.suffix.lower() not in (".png", ""):
        raise UsageError(f"--output {command.output}: PNG is what is written; give the name the ending .png.")
    require_writable(command.output, "--output")
    network = saved.network.to(device_named(command.device))
    with tempfile.TemporaryDirectory() as scratch, Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("decoding", total=rows * columns)
        shape, dtype = (rows, columns, network.out_dim), np.uint8 if maximum == 255 else np.uint16
        large = rows * columns * network.out_dim > _LARGEST_IN_MEMORY
        out = np.lib.format.open_memmap(Path(scratch) / "pixels.npy", "w+", dtype, shape) if large else None
        pixels = decode_image(
            network,
            height=height,
            width=width,
            maximum=maximum,
            resolution=(rows, columns),
            region=((top, bottom), (left, right)),
            out=out,
            report=lambda done, _: progress.update(bar, completed=done),
        )
        write_image(command.output, pixels)
    print(f"{command.output}: {columns}x{rows} pixels")
    print("next: look at it; --crop LEFT TOP RIGHT BOTTOM enlarges a part")


OPTIONS = RenderImage
