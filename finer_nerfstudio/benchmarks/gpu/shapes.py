"""Table 2's Armadillo: one method on a shape, from points that were computed beforehand.

Training keeps a checkpoint in the cell's scratch folder. A cell that the time was too short for, or that was killed,
goes on from there as long as the folder is on the same disk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finer_nerfstudio.benchmarks.gpu.cell import Place
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files.checkpoint import load_training
from finer_nerfstudio.runs.progress import stages, training_progress
from finer_nerfstudio.tasks.sdf.effort import Effort
from finer_nerfstudio.tasks.sdf.fit import ShapeOptions, TrueInside, fit_shape, measure_shape, surface_of
from finer_nerfstudio.tasks.sdf.pool import PointPool
from finer_nerfstudio.tasks.sdf.shape import Shape

CHECKPOINT = "checkpoint.safetensors"
"""In a cell's scratch folder."""


@dataclass(frozen=True)
class PreparedShape:
    """A shape with all that takes libraries for meshes to compute.

    Attributes:
        shape: in the unit frame.
        pool: training points.
        inside: what is inside the shape on the grids of both IoUs.
        inside_resolution: points per axis of these.
    """

    shape: Shape
    pool: PointPool
    inside: TrueInside
    inside_resolution: int


def fit_and_measure(
    name: str, prepared: PreparedShape, options: ShapeOptions, effort: Effort, place: Place
) -> dict[str, Any]:
    """Fit a shape, extract its surface and measure both.

    Args:
        name: on the progress bar.
        prepared: what is fitted.
        options: how; the device is the place's.
        effort: of the extraction and the comparison.
        place: where it runs.

    Raises:
        InputError: when training diverges.
        OutOfTime: at the deadline.
    """
    options = replace(options, device=str(place.device))
    checkpoint = place.scratch / CHECKPOINT
    earlier = seconds_and_steps(checkpoint)
    if earlier is None:  # damaged, or of no step
        checkpoint.unlink(missing_ok=True)
    with training_progress(name, lambda loss: f"loss {loss:.3e}") as report:
        fitted = fit_shape(
            prepared.shape,
            options,
            pool=prepared.pool,
            checkpoint=checkpoint,
            resume=True,
            report=place.while_there_is_time(report),
        )
    network, training = fitted.network, fitted.training
    with stages() as stage:
        try:
            vertices, faces = surface_of(network, effort.resolution, report=stage)
        except InputError:  # Of a network that has no surface, the worst numbers that there are.
            quality: dict[str, Any] = {"chamfer_paper": None, "iou": 0.0, "iou_paper": 0.0, "normal_consistency": None}
        else:
            quality = dict(
                measure_shape(
                    network,
                    prepared.shape,
                    vertices,
                    faces,
                    seed=options.seed,
                    effort=effort,
                    inside=prepared.inside,
                    report=stage,
                )
            )
    return {
        **quality,
        "train_seconds": training.seconds,
        "steps": training.step,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "learning_rate": fitted.settings["learning_rate"],
        "bias_range": fitted.settings["bias_range"],
        "earlier_seconds": earlier[0] if earlier else 0.0,
    }


def remaining(place: Place, steps: int, evaluation: float) -> float | None:
    """Return the seconds that an interrupted cell takes yet, None where there is no checkpoint.

    Args:
        place: of the cell.
        steps: of the whole training.
        evaluation: seconds of what follows it.
    """
    found = seconds_and_steps(place.scratch / CHECKPOINT)
    if found is None:
        return None
    seconds, step = found
    return seconds / step * max(0, steps - step) + evaluation


def seconds_and_steps(checkpoint: Path) -> tuple[float, int] | None:
    """Return the seconds and the steps of the training in a checkpoint, None where there is none of use."""
    if not checkpoint.exists():
        return None
    try:
        _, progress = load_training(checkpoint)
        seconds, step = float(progress["seconds"]), int(progress["step"])
    except (InputError, KeyError, TypeError, ValueError):
        return None
    return (seconds, step) if step > 0 else None
