"""A whole run on one image: fit, measure, and leave model, picture, numbers and report in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.files.atomic import write_json
from finer_nerfstudio.files.checkpoint import load_model, save_model
from finer_nerfstudio.files.png import write_image
from finer_nerfstudio.runs.folder import FOLDER, output_folder
from finer_nerfstudio.runs.options import Method
from finer_nerfstudio.runs.progress import stages, training_progress
from finer_nerfstudio.runs.results import (
    Measured,
    numbers_of_training,
    read_curve,
    request_of,
    require_kind,
    run_in_folder,
    write_curve,
)
from finer_nerfstudio.tasks.image.files import SourceImage
from finer_nerfstudio.tasks.image.fit import (
    ImageOptions,
    decode_image,
    extreme_neurons,
    fit_image,
    measure,
    require_possible,
)
from finer_nerfstudio.tasks.image.report import FittedMethod, comparison_report, image_report
from finer_nerfstudio.tasks.signal.grid import psnr_of_loss

# Pictures in a report are averaged down to this many pixels per side.
_REPORT_SIDE = 1024
_SHOWN = ("psnr", "ssim", "lpips", "steps", "seconds", "parameters", "bits_per_pixel", "seed")


def run_image(
    image: SourceImage,
    options: ImageOptions,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    download_lpips: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit ``image`` and write ``model.safetensors``, ``reconstruction.png``, ``metrics.json``, ``curve.csv`` and
    ``report.html`` to ``folder``.

    Args:
        image: the signal.
        options: method, length and hyper-parameters.
        folder: made if need be.
        resume: go on with the run in ``folder``, or give its results if it is finished.
        overwrite: replace the run in ``folder``.
        download_lpips: fetch the weights that LPIPS needs.
        quiet: no progress bar.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        UsageError: for options that cannot mean anything, and for a folder that holds another run.
        InputError: when training diverges or something cannot be read or written.
    """
    require_possible(options, image)
    return run_in_folder(
        folder,
        request_of(options, image=image.description),
        lambda: _fit_and_measure(image, options, folder, resume=resume, download_lpips=download_lpips, quiet=quiet),
        resume=resume,
        overwrite=overwrite,
    )


def _fit_and_measure(
    image: SourceImage, options: ImageOptions, folder: Path, *, resume: bool, download_lpips: bool, quiet: bool
) -> Measured:
    with training_progress(options.method, lambda loss: f"{psnr_of_loss(loss):.2f} dB", quiet=quiet) as report:
        fitted = fit_image(image, options, checkpoint=folder / "checkpoint.safetensors", resume=resume, report=report)
    network, training = fitted.network, fitted.training
    save_model(
        folder / "model.safetensors",
        network,
        task="image",
        signal={"height": image.height, "width": image.width, "maximum": image.maximum},
        configuration=fitted.settings,
    )
    with stages(quiet=quiet) as stage:
        quality, reconstruction = measure(
            network, image, out=_place_for(image, folder), download_lpips=download_lpips, report=stage
        )
    curve = [(step, psnr_of_loss(loss)) for step, loss in training.curve]
    write_image(folder / "reconstruction.png", reconstruction)
    write_curve(folder / "curve.csv", "psnr", curve)
    trained = numbers_of_training(network, steps=training.step, seconds=training.seconds, seed=options.seed)
    bits_per_pixel = 32.0 * trained["parameters"] / (image.height * image.width)
    numbers = {**quality, **trained, "bits_per_pixel": bits_per_pixel}
    neurons, frequencies = extreme_neurons(network, (image.height, image.width))
    image_report(
        folder / "report.html",
        truth=_for_report(image.pixels),
        reconstruction=_for_report(reconstruction),
        curve=curve,
        neurons=neurons,
        neuron_frequencies=frequencies,
        metrics=numbers,
        configuration=fitted.settings,
        notes=image.notes,
    )
    return Measured(numbers, fitted.settings, image.notes)


def compare_on_image(
    image: SourceImage,
    methods: Sequence[Method],
    options: ImageOptions,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    download_lpips: bool = False,
) -> dict[str, dict[str, Any]]:
    """Fit ``image`` with several methods, each in a folder of its own, and lay them side by side in ``report.html``.

    Arguments and errors are those of :func:`run_image`; ``options.method`` is not looked at.

    Returns:
        The metrics by method, which ``metrics.json`` holds too.
    """
    for method in methods:
        require_possible(replace(options, method=method), image)
    if resume and (folder / "checkpoint.safetensors").exists():
        raise UsageError(f"{folder} holds the run of a single method: choose another {FOLDER} for a comparison.")
    require_kind(folder, None)
    with output_folder(folder, resume=resume, overwrite=overwrite):
        return _compare_on_image(
            image, methods, options, folder, resume=resume, overwrite=overwrite, download_lpips=download_lpips
        )


def _compare_on_image(
    image: SourceImage,
    methods: Sequence[Method],
    options: ImageOptions,
    folder: Path,
    *,
    resume: bool,
    overwrite: bool,
    download_lpips: bool,
) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    rows = []
    for method in dict.fromkeys(methods):
        chosen = replace(options, method=method)
        results[method] = run_image(
            image,
            chosen,
            folder / method,
            resume=resume,
            overwrite=overwrite,
            download_lpips=download_lpips,
        )
        network = load_model(folder / method / "model.safetensors", task="image").network
        reconstruction = decode_image(network, height=image.height, width=image.width, maximum=image.maximum)
        rows.append(
            FittedMethod(
                method,
                _for_report(reconstruction),
                read_curve(folder / method / "curve.csv"),
                {name: results[method][name] for name in _SHOWN},
            )
        )
    comparison_report(folder / "report.html", truth=_for_report(image.pixels), rows=rows, notes=image.notes)
    write_json(folder / "metrics.json", results)
    return results


def scratch_of(folder: Path) -> Path:
    """Where the pixels of images that are too large for memory are kept during a run."""
    return folder / "scratch"


def clear_scratch(folder: Path) -> None:
    """Remove what a run kept in its scratch folder."""
    scratch = scratch_of(folder)
    for name in ("pixels.npy", "reconstruction.npy"):
        (scratch / name).unlink(missing_ok=True)
    with suppress(OSError):  # it is not there, or holds somebody else's files
        scratch.rmdir()


def _place_for(image: SourceImage, folder: Path) -> np.ndarray | None:
    """An array in a file for the reconstruction of an image whose own pixels are in one."""
    if not isinstance(image.pixels, np.memmap):
        return None
    path = scratch_of(folder) / "reconstruction.npy"
    path.parent.mkdir(exist_ok=True)
    return np.lib.format.open_memmap(path, "w+", image.pixels.dtype, image.pixels.shape)


def _for_report(pixels: np.ndarray) -> np.ndarray:
    """Intensities in [0, 1], ``[rows, columns, channels]`` float32, averaged over whole blocks of pixels."""
    height, width, channels = pixels.shape
    factor = -(-max(height, width) // _REPORT_SIDE)
    maximum = float(np.iinfo(pixels.dtype).max)
    if factor == 1:
        return pixels.astype(np.float32) / maximum
    rows, columns = max(1, height // factor), max(1, width // factor)
    reduced = np.empty((rows, columns, channels), np.float32)
    for row in range(rows):  # one row of blocks at a time, so that a memory-mapped image stays on disk
        block = pixels[row * factor : (row + 1) * factor, : columns * factor]
        blocks = block.reshape(len(block), columns, -1, channels)
        reduced[row] = blocks.mean(axis=(0, 2), dtype=np.float64) / maximum
    return reduced
