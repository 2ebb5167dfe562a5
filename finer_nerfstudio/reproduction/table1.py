"""Table 1 of the paper: every method on every image, under one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from finer_nerfstudio.errors import InputError, argument
from finer_nerfstudio.inr.methods import preset
from finer_nerfstudio.runs.options import Method
from finer_nerfstudio.runs.progress import training_progress
from finer_nerfstudio.runs.sweep import Cell
from finer_nerfstudio.tasks.image.files import SourceImage, read_image
from finer_nerfstudio.tasks.image.fit import ImageOptions, fit_image, measure
from finer_nerfstudio.tasks.signal.grid import psnr_of_loss

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

# Learning rates that are tried for a method besides the published one, as multiples of that.
LEARNING_RATE_FACTORS = (4.0, 2.0, 0.4, 0.2, 0.1)


def images_in(path: Path) -> list[Path]:
    """The image itself, or all images of a folder, by name.

    Raises:
        InputError: where there is none.
    """
    if path.is_file():
        return [path]
    found = sorted(entry for entry in path.glob("*") if entry.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputError(
            f"there is no image at {path}: {argument('path', option='--images')} takes image files and folders of them."
        )
    return found


def image_cells(
    images: Sequence[Path],
    method: Method,
    options: ImageOptions,
    *,
    size: int | None,
    learning_rate: float | None = None,
    bias_range: float | Literal["auto"] | None = None,
) -> list[Cell]:
    """One cell per image for one method.

    Args:
        images: what to fit.
        method: with what.
        options: how; its method is not looked at.
        size: longer side in pixels to which images are averaged down first, None to leave them as they are.
        learning_rate: another one than the published.
        bias_range: another one than the published; only FINER++ methods have one, others ignore it.
    """
    if preset(method, "image", options.preset_source).bias_range is None:
        bias_range = None
    chosen = replace(options, method=method, learning_rate=learning_rate, bias_range=bias_range)
    return [image_cell(path, chosen, size=size) for path in images]


def learning_rate_cells(
    image: Path,
    method: Method,
    options: ImageOptions,
    *,
    size: int | None,
    bias_range: float | Literal["auto"] | None = None,
) -> list[Cell]:
    """One cell for each multiple of the published learning rate, for one method on one image."""
    published = preset(method, "image", options.preset_source).learning_rate
    return [
        cell
        for factor in LEARNING_RATE_FACTORS
        for cell in image_cells(
            [image], method, options, size=size, learning_rate=published * factor, bias_range=bias_range
        )
    ]


def image_cell(path: Path, options: ImageOptions, *, size: int | None) -> Cell:
    """One fit and its measurement."""
    image = read_image(path, size=size)
    name = f"{path.stem}-{options.method}"
    if options.learning_rate is not None:
        name += f"-lr{options.learning_rate:g}"
    if options.bias_range is not None:
        name += f"-k{options.bias_range}"
    settings = {"image": image.description, **asdict(options)}
    return Cell(name, settings, fit_and_measure, (name, image, options))


def fit_and_measure(name: str, image: SourceImage, options: ImageOptions) -> dict[str, Any]:
    """The numbers of a cell."""
    with training_progress(name, lambda loss: f"{psnr_of_loss(loss):.2f} dB") as report:
        fitted = fit_image(image, options, report=report)
    quality, _ = measure(fitted.network, image)
    return {
        **quality,
        "seconds": fitted.training.seconds,
        "steps": fitted.training.step,
        "parameters": sum(parameter.numel() for parameter in fitted.network.parameters()),
        "bias_range": fitted.settings["bias_range"],
        "learning_rate": fitted.settings["learning_rate"],
        "curve": [(step, psnr_of_loss(loss)) for step, loss in fitted.training.curve],
    }
