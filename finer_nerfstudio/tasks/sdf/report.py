"""Report of a fitted shape beside the true one, and where it is off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finer_nerfstudio.runs.axes import whole_decades
from finer_nerfstudio.runs.progress import Stage
from finer_nerfstudio.runs.report import Figure, Section, drawing_png, flat_table, measured_table, write_report
from finer_nerfstudio.runs.summary import as_text
from finer_nerfstudio.tasks.sdf.shading import VIEWS, Scalars, radius_in_view, render
from finer_nerfstudio.tasks.sdf.shape import Shape


def shape_report(
    path: Path,
    *,
    truth: Shape,
    vertices: np.ndarray,
    faces: np.ndarray,
    error: np.ndarray,
    curve: Sequence[tuple[int, float]],
    metrics: dict[str, Any],
    configuration: dict[str, Any],
    notes: Sequence[str] = (),
    progress: Stage | None = None,
) -> None:
    """Write the report of one fit.

    Args:
        path: the HTML file.
        truth: the shape in the unit frame.
        vertices: ``[n_vertices, 3]`` of the extracted surface in the unit frame.
        faces: ``[n_faces, 3]`` of it.
        error: ``[n_vertices]`` signed distance of each vertex to the true surface.
        curve: pairs of a step and the loss before it.
        metrics: numbers to show.
        configuration: the run's options.
        notes: sentences about the input.
        progress: progress callback.

    Raises:
        InputError: where the file cannot be written.
    """
    sections = [
        Section("Result", notes, [shaded_views(truth, vertices, faces, error, progress)], [measured_table(metrics)]),
        Section("Training", (), [_curve(curve)]),
        Section("Configuration", (), (), [flat_table(configuration)]),
    ]
    write_report(path, f"{configuration['method']}: IoU {as_text(metrics['iou'])}", sections)


def shaded_views(
    truth: Shape, vertices: np.ndarray, faces: np.ndarray, error: np.ndarray, progress: Stage | None = None
) -> Figure:
    """Truth, result and the result coloured by its error, from four sides. Of a cloud, which has no faces, no truth."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure as Drawing
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    low, high = truth.vertices.min(axis=0), truth.vertices.max(axis=0)
    center = 0.5 * (low + high)
    frame = {"center": center, "radius": 1.05 * radius_in_view(truth.vertices, center)}
    limit = max(float(np.percentile(np.abs(error), 99)), 1e-6)
    scalars = Scalars(error, -limit, limit, "coolwarm")
    rows = [("result", vertices, faces, None), ("error", vertices, faces, scalars)]
    if not truth.is_cloud:
        rows.insert(0, ("truth", truth.vertices, truth.faces, None))
    drawing = Drawing(
        figsize=(3.0 * len(VIEWS), 3.0 * len(rows)),
        layout=ConstrainedLayoutEngine(w_pad=0.0, h_pad=0.0, wspace=0.0, hspace=0.0),
    )
    axes = drawing.subplots(len(rows), len(VIEWS), squeeze=False)
    for i, (line, (name, corners, triangles, values)) in enumerate(zip(axes, rows, strict=True)):
        for j, (axis, view) in enumerate(zip(line, VIEWS, strict=True)):
            if progress is not None:
                progress("drawing", i * len(VIEWS) + j, len(rows) * len(VIEWS))
            axis.imshow(render(corners, triangles, view, scalars=values, **frame))
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
        line[0].set_ylabel(name, fontsize=12)
    colors = ScalarMappable(Normalize(-limit, limit), "coolwarm")
    drawing.colorbar(colors, ax=axes, shrink=0.5, aspect=40, label="distance to the true surface (the shape spans 0.9)")
    return Figure(drawing_png(drawing), "The surface from four sides; blue is inside the true surface, red outside.")


def _curve(curve: Sequence[tuple[int, float]]) -> Figure:
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(8, 3.6), layout="constrained")
    axis = drawing.subplots()
    axis.plot(*zip(*curve, strict=True))
    axis.set(xlabel="step", ylabel="loss")
    axis.grid(alpha=0.3)
    whole_decades(axis, "y")
    return Figure(drawing_png(drawing), "Loss of each step's batch before the step.")
