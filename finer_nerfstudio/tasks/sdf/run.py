"""A whole run on one shape: fit, extract, measure, and leave model, mesh, numbers and report in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from finer_nerfstudio.atomic_files import replacing
from finer_nerfstudio.checkpoint import save_model
from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.tasks.progress import progress_bar, stages
from finer_nerfstudio.tasks.results import finish_run, finished_run, request_of, write_curve
from finer_nerfstudio.tasks.sdf.fit import (
    ShapeOptions,
    distance_to,
    fit_shape,
    in_unit_frame,
    measure_shape,
    require_possible,
    surface_of,
)
from finer_nerfstudio.tasks.sdf.report import shape_report
from finer_nerfstudio.tasks.sdf.shape import Shape
from finer_nerfstudio.tasks.training import prepare_output

LARGEST_RESOLUTION = 1024


def run_shape(
    shape: Shape,
    options: ShapeOptions,
    folder: Path,
    *,
    resolution: int = 256,
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
        resolution: grid points per axis of the extracted mesh.
        resume: go on with the run in ``folder``, or give its results if it is finished.
        overwrite: replace the run in ``folder``.
        quiet: no progress bars.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        UsageError: for options that cannot mean anything, and for a folder that holds another run.
        InputError: when training diverges or something cannot be read or written.
    """
    require_resolution(resolution)
    require_possible(options)
    prepare_output(folder, resume=resume, overwrite=overwrite)
    request = request_of(options, shape=shape.description, resolution=resolution)
    if resume and (finished := finished_run(folder, request)) is not None:
        return finished
    with progress_bar(options.method, lambda loss: f"loss {loss:.3e}", quiet=quiet) as report:
        fitted = fit_shape(shape, options, checkpoint=folder / "checkpoint.safetensors", resume=resume, report=report)
    network, training = fitted.network, fitted.training
    save_model(
        folder / "model.safetensors",
        network,
        task="sdf",
        signal={"center": list(fitted.normalization.center), "scale": fitted.normalization.scale},
        configuration=fitted.settings,
    )
    with stages(quiet=quiet) as stage:
        vertices, faces = surface_of(network, resolution, report=stage)
        write_mesh(folder / "mesh.ply", fitted.normalization.to_source(vertices), faces)
        stage("measuring", 0, 1)
        quality = measure_shape(network, shape, vertices, faces, seed=options.seed)
    numbers = {
        **quality,
        "resolution": resolution,
        "steps": training.step,
        "seconds": training.seconds,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "seed": options.seed,
    }
    write_curve(folder / "curve.csv", "loss", training.curve)
    unit, _ = in_unit_frame(shape)
    shape_report(
        folder / "report.html",
        truth=unit,
        vertices=vertices,
        faces=faces,
        error=surface_error(unit, vertices),
        curve=training.curve,
        metrics=numbers,
        configuration=fitted.settings,
        notes=shape.notes,
    )
    return finish_run(folder, numbers, settings=fitted.settings, notes=shape.notes, request=request)


def require_resolution(resolution: int) -> None:
    """Refuse grids on which nothing could be seen, or that memory could not hold.

    Raises:
        UsageError: for a resolution out of range.
    """
    if not 8 <= resolution <= LARGEST_RESOLUTION:
        raise UsageError(f"--resolution must be between 8 and {LARGEST_RESOLUTION}, not {resolution}.")


def surface_error(truth: Shape, vertices: np.ndarray) -> np.ndarray:
    """Distances ``[n_vertices]`` of points to the true surface, positive outside."""
    import torch

    return distance_to(truth)(torch.from_numpy(vertices.astype(np.float32))).numpy()


def write_mesh(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Write a mesh as binary PLY.

    In double precision, which trimesh's writer has not: shapes far from the origin would lose their surface.

    Raises:
        InputError: where the file cannot be written.
    """
    corners = np.empty(len(faces), [("count", "u1"), ("corners", "<i4", (3,))])
    corners["count"] = 3
    corners["corners"] = faces
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(vertices)}",
        *(f"property double {axis}" for axis in "xyz"),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    with replacing(path) as unfinished:
        content = "\n".join(header).encode() + b"\n" + vertices.astype("<f8").tobytes() + corners.tobytes()
        unfinished.write_bytes(content)
