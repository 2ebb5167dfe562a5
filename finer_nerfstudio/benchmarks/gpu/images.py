"""Table 1's images: one method on one of them, at full length."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from finer_nerfstudio.benchmarks.gpu.cell import Place
from finer_nerfstudio.runs.progress import training_progress
from finer_nerfstudio.tasks.image.files import SourceImage
from finer_nerfstudio.tasks.image.fit import ImageOptions, fit_image, measure
from finer_nerfstudio.tasks.signal.grid import psnr_of_loss

# Of a training curve; hundreds of stored cells stay small.
_POINTS_OF_CURVE = 12


def fit_and_measure(name: str, image: SourceImage, options: ImageOptions, place: Place) -> dict[str, Any]:
    """Fit an image and measure the fit.

    Args:
        name: on the progress bar.
        image: to be fitted.
        options: how; the device is the place's.
        place: where it runs.

    Raises:
        InputError: when training diverges.
        OutOfTime: at the deadline.
    """
    options = replace(options, device=str(place.device))
    with training_progress(name, lambda loss: f"{psnr_of_loss(loss):.2f} dB") as report:
        fitted = fit_image(image, options, report=place.while_there_is_time(report))
    quality, _ = measure(fitted.network, image)
    curve = fitted.training.curve
    return {
        **quality,
        "train_seconds": fitted.training.seconds,
        "steps": fitted.training.step,
        "parameters": sum(parameter.numel() for parameter in fitted.network.parameters()),
        "learning_rate": fitted.settings["learning_rate"],
        "bias_range": fitted.settings["bias_range"],
        "curve": [
            (step, round(psnr_of_loss(loss), 3)) for step, loss in curve[:: max(1, len(curve) // _POINTS_OF_CURVE)]
        ],
    }
