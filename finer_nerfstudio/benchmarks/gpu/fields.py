"""Table 3's Lego: one method on one scene by the paper's protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finer_nerfstudio.benchmarks.gpu.cell import Place
from finer_nerfstudio.files.atomic import replacing, write_json
from finer_nerfstudio.nerf.captured.run import FieldOptions, fit_views
from finer_nerfstudio.nerf.captured.views import Views
from finer_nerfstudio.runs.progress import training_progress

POSITION_SCALE = 0.8
"""The paper's factor from a synthetic scene's camera positions to the field's box [-1, 1]^3."""


def fit_and_measure(name: str, train: Views, test: Views, options: dict[str, Any], place: Place) -> dict[str, Any]:
    """Train a radiance field and measure it on the test views.

    Args:
        name: on the progress bar.
        train: views to train on.
        test: views to measure on.
        options: of ``FieldOptions``, all but the device, which is the place's.
        place: where it runs.

    Raises:
        OutOfTime: at the deadline.
    """
    with training_progress(name, "{:.2f} dB".format) as report:

        def passed_on(step: int, steps: int, psnr: float) -> None:
            report(step / max(1, steps), step, psnr)

        return fit_views(
            train,
            test,
            FieldOptions(**options, device=str(place.device)),
            report=place.while_there_is_time(passed_on),
        )


def write_scene(folder: Path, train: Views, test: Views) -> None:
    """Write views as a scene in Blender format, for Nerfstudio's own methods.

    Args:
        folder: of the scene.
        train: views of ``transforms_train.json``.
        test: views of ``transforms_test.json``, and of ``transforms_val.json``.
    """
    for split, views in (("train", train), ("val", test), ("test", test)):
        frames = []
        for number, (image, pose) in enumerate(zip(views.images, views.poses, strict=True)):
            path = folder / split / f"r_{number}.png"
            with replacing(path) as unfinished:
                Image.fromarray(image).save(unfinished, format="png")
            matrix = np.vstack([pose.astype(np.float64), [0.0, 0.0, 0.0, 1.0]])
            matrix[:3, 3] /= POSITION_SCALE
            frames.append({"file_path": f"./{split}/r_{number}", "transform_matrix": matrix.tolist()})
        angle = 2.0 * math.atan(0.5 * views.images.shape[2] / views.focal)
        write_json(folder / f"transforms_{split}.json", {"camera_angle_x": angle, "frames": frames})


Trainer = Callable[[Path, float, Place], dict[str, Any]]
"""Trains by Nerfstudio's commands on a scene in Blender format, for so many seconds, in the cell's scratch folder."""


def best_seconds(place: Place, names: Sequence[str]) -> float | None:
    """Return the training seconds of the best radiance field among finished cells, None where none is finished.

    Args:
        place: that knows of them.
        names: of the cells.
    """
    found = [place.finished[name] for name in names if name in place.finished]
    return float(max(found, key=lambda result: result["psnr"])["seconds"]) if found else None


def train_elsewhere(
    trainer: Trainer, train: Views, test: Views, names: Sequence[str], least: float, place: Place
) -> dict[str, Any]:
    """Train another program on the same views, for as long as the best of our fields took.

    Args:
        trainer: the program.
        train: views to train on.
        test: views to measure on.
        names: of the cells of our fields.
        least: seconds in any case, for toys.
        place: where it runs.
    """
    best = best_seconds(place, names)
    assert best is not None, "the cell waits for one of them"
    seconds = max(best, least)
    write_scene(place.scratch / "scene", train, test)
    return {**trainer(place.scratch / "scene", seconds, place), "allowed_seconds": seconds}
