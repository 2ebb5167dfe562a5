"""A whole run on one shape: fit, extract, measure, and leave model, mesh, numbers and report in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from finer_nerfstudio.errors import UsageError, argument
from finer_nerfstudio.files.checkpoint import save_model
from finer_nerfstudio.files.meshes.mesh import Mesh
from finer_nerfstudio.files.meshes.writing import write_ply
from finer_nerfstudio.runs.progress import stages, training_progress
from finer_nerfstudio.runs.results import Measured, numbers_of_training, request_of, run_in_folder, write_curve
from finer_nerfstudio.tasks.sdf.effort import Effort, effort_after
from finer_nerfstudio.tasks.sdf.fit import (
    ShapeOptions,
    distance_to,
    fit_shape,
    in_unit_frame,
    measure_shape,
    require_possible,
    surface_within,
)
from finer_nerfstudio.tasks.sdf.report import shape_report
from finer_nerfstudio.tasks.sdf.shape import Shape

LARGEST_RESOLUTION = 1024


def run_shape(
    shape: Shape,
    options: ShapeOptions,
    folder: Path,
    *,
    resolution: int | None = None,
    double: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit ``shape`` and write ``model.safetensors``, ``mesh.ply``, ``metrics.json``, ``curve.csv`` and ``report.html``
    to ``folder``.

    Args:
        shape: in its own units; the mesh comes back in the same ones.
        options: method, length and hyper-parameters.
        folder: made if need be.
        resolution: grid points per axis of the extracted mesh; 256 unless given, and after a short training as many as
            it is worth (:func:`~finer_nerfstudio.tasks.sdf.effort.effort_after`).
        double: write the mesh in double precision.
        resume: go on with the run in ``folder``, or give its results if it is finished.
        overwrite: replace the run in ``folder``.
        quiet: no progress bars.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        UsageError: for options that cannot mean anything, and for a folder that holds another run.
        InputError: when training diverges or something cannot be read or written.
    """
    if resolution is not None:
        require_resolution(resolution)
    require_possible(options)
    return run_in_folder(
        folder,
        request_of(options, shape=shape.description, resolution=resolution, double=double),
        lambda: _fit_and_measure(
            shape, options, folder, resolution=resolution, double=double, resume=resume, quiet=quiet
        ),
        resume=resume,
        overwrite=overwrite,
    )


def _fit_and_measure(
    shape: Shape,
    options: ShapeOptions,
    folder: Path,
    *,
    resolution: int | None,
    double: bool,
    resume: bool,
    quiet: bool,
) -> Measured:
    with training_progress(options.method, lambda loss: f"loss {loss:.3e}", quiet=quiet) as report:
        fitted = fit_shape(shape, options, checkpoint=folder / "checkpoint.safetensors", resume=resume, report=report)
    network, training = fitted.network, fitted.training
    save_model(
        folder / "model.safetensors",
        network,
        task="sdf",
        signal={"center": list(fitted.normalization.center), "scale": fitted.normalization.scale},
        configuration=fitted.settings,
    )
    effort = effort_after(training.step * fitted.settings["batch_size"], resolution)
    with stages(quiet=quiet) as stage:
        vertices, faces, effort = surface_within(network, effort, report=stage)
        mesh = Mesh(fitted.normalization.to_source(vertices), faces)
        origin = write_ply(folder / "mesh.ply", mesh, double=double)
        quality = measure_shape(network, shape, vertices, faces, seed=options.seed, effort=effort, report=stage)
        stage("distances to the true surface", 0, 1)
        unit, _ = in_unit_frame(shape)
        error = surface_error(unit, vertices)
        notes = [*shape.notes, *_notes_on(effort, origin)]
        numbers = {
            **quality,
            "resolution": effort.resolution,
            "iou_resolution": effort.iou_resolution,
            "chamfer_samples": effort.samples,
            "mesh_origin": origin.tolist(),
            **numbers_of_training(network, steps=training.step, seconds=training.seconds, seed=options.seed),
        }
        write_curve(folder / "curve.csv", "loss", training.curve)
        shape_report(
            folder / "report.html",
            truth=unit,
            vertices=vertices,
            faces=faces,
            error=error,
            curve=training.curve,
            metrics=numbers,
            configuration=fitted.settings,
            notes=notes,
            progress=stage,
        )
    return Measured(numbers, fitted.settings, notes)


def _notes_on(effort: Effort, origin: np.ndarray) -> list[str]:
    """Sentences on how the surface was measured and where the mesh is."""
    notes, full = [], Effort()
    chosen = effort.resolution, effort.iou_resolution, effort.samples
    if effort.most_points is not None and chosen != (full.resolution, full.iou_resolution, full.samples):
        notes.append(
            f"After so short a training the surface is one of a {effort.resolution}^3 grid, measured with "
            f"{effort.samples:,} points and an IoU of {effort.iou_resolution}^3; --resolution {full.resolution} "
            "measures in full."
        )
    if origin.any():
        place = ", ".join(f"{value:.15g}" for value in origin)
        notes.append(
            f"mesh.ply is around ({place}), which its header states: add it to every vertex, or write it with --double."
        )
    return notes


def require_resolution(resolution: int) -> None:
    """Refuse grids on which nothing could be seen, or that memory could not hold.

    Raises:
        UsageError: for a resolution out of range.
    """
    if not 8 <= resolution <= LARGEST_RESOLUTION:
        raise UsageError(f"{argument('resolution')} must be between 8 and {LARGEST_RESOLUTION}, not {resolution}.")


def surface_error(truth: Shape, vertices: np.ndarray) -> np.ndarray:
    """Distances ``[n_vertices]`` of points to the true surface, positive outside."""
    import torch

    return distance_to(truth)(torch.from_numpy(vertices.astype(np.float32))).numpy()
