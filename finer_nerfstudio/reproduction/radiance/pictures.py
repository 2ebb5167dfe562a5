"""Test views side by side, and a flight through a trained scene."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from finer_nerfstudio.files.atomic import replacing, write_json
from finer_nerfstudio.files.images import read_stored_image
from finer_nerfstudio.reproduction.radiance.programs import run_program
from finer_nerfstudio.runs.report import drawing_png

# Of a flight, if the views are few; it goes from view to view, and through more of them faster.
_FRAMES = 120
FLIGHT = "flight.mp4"


def truth_and_rendering(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The two halves of one of ns-eval's pictures, ``[height, width, channels]`` each.

    Raises:
        InputError: for what is missing or damaged.
    """
    pair = read_stored_image(path, upright=False).values
    width = pair.shape[1] // 2
    return pair[:, :width], pair[:, width : 2 * width]


def write_comparison(path: Path, pictures: Mapping[str, Path]) -> None:
    """The truth and every method's rendering of a test view, with their names above.

    Args:
        path: of the PNG.
        pictures: for each title, a picture of ns-eval; all of the same view.

    Raises:
        InputError: for a picture that is missing or damaged.
    """
    from matplotlib.figure import Figure as Drawing

    tiles: list[tuple[str, np.ndarray]] = []
    for title, picture in pictures.items():
        truth, rendering = truth_and_rendering(picture)
        tiles += [*([] if tiles else [("truth", truth)]), (title, rendering)]
    height = 4.0 * tiles[0][1].shape[0] / tiles[0][1].shape[1]
    drawing = Drawing(figsize=(4.0 * len(tiles), height + 0.5), layout="constrained")
    for axis, (title, tile) in zip(drawing.subplots(1, len(tiles)), tiles, strict=True):
        axis.imshow(tile, interpolation="nearest")
        axis.set_title(title, fontsize=12)
        axis.set_axis_off()
    with replacing(path) as unfinished:
        unfinished.write_bytes(drawing_png(drawing, dots_per_inch=150))


def frames_between_views(views: int) -> int:
    """Frames from one test view to the next one, so that a flight takes at least five seconds."""
    return max(1, -(-_FRAMES // max(1, views - 1)))


def write_flight(folder: Path, config: Path, *, method: str, views: int) -> bool:
    """A video along the test views, in their order: in the synthetic scenes a turn around the object.

    One that is there already for the same run is kept.

    Args:
        folder: ``flight.mp4`` and ``flight.json`` are written there, the output of ns-render to ``flight.log``.
        config: the run's ``config.yml``.
        method: of the run.
        views: number of test views.

    Returns:
        Whether there was anything to do.

    Raises:
        ProgramFailed: if ns-render fails.
    """
    description = {
        # A folder of results that was moved as a whole is still the same.
        "config": os.path.relpath(config, folder),
        "method": method,
        "views": views,
        "frames_between": frames_between_views(views),
    }
    video, about = folder / FLIGHT, folder / "flight.json"
    with suppress(OSError, ValueError):
        if video.exists() and json.loads(about.read_text()) == description:
            return False
    folder.mkdir(parents=True, exist_ok=True)
    # ffmpeg knows by its name what a file is to hold.
    unfinished = folder / "flight.partial.mp4"
    run_program(
        "ns-render",
        "interpolate",
        "--load-config",
        str(config),
        "--pose-source",
        "eval",
        "--interpolation-steps",
        str(description["frames_between"]),
        "--output-path",
        str(unfinished),
        log=folder / "flight.log",
    )
    os.replace(unfinished, video)
    write_json(about, description)
    return True


def can_film() -> bool:
    """Whether ns-render finds ffmpeg."""
    return shutil.which("ffmpeg") is not None
