"""Table 2 of the paper: every method on every shape, under one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from finer_nerfstudio.errors import InputError, argument
from finer_nerfstudio.runs.options import Method
from finer_nerfstudio.runs.progress import stages, training_progress
from finer_nerfstudio.runs.sweep import Cell
from finer_nerfstudio.tasks.sdf.fit import ShapeOptions, fit_shape, measure_shape, surface_of
from finer_nerfstudio.tasks.sdf.shape import Shape, read_shape

SHAPE_SUFFIXES = (".obj", ".ply", ".stl", ".off", ".glb", ".gltf", ".xyz")


def shapes_in(path: Path) -> list[Path]:
    """The shape itself, or all shapes of a folder, by name.

    Raises:
        InputError: where there is none.
    """
    if path.is_file():
        return [path]
    found = sorted(entry for entry in path.glob("*") if entry.suffix.lower() in SHAPE_SUFFIXES)
    if not found:
        raise InputError(
            f"there is no shape at {path}: {argument('path', option='--shapes')} takes meshes, point clouds and "
            "folders of them."
        )
    return found


def shape_cells(
    shapes: Sequence[tuple[str, Shape]], method: Method, options: ShapeOptions, *, resolution: int
) -> list[Cell]:
    """One cell per shape for one method.

    Args:
        shapes: names and what to fit.
        method: with what.
        options: how; its method is not looked at.
        resolution: grid points per axis of the extracted mesh.
    """
    chosen = replace(options, method=method)
    cells = []
    for name, shape in shapes:
        settings = {"shape": shape.description, "resolution": resolution, **asdict(chosen)}
        name = f"{name}-{method}"
        cells.append(Cell(name, settings, fit_and_measure, (name, shape, chosen, resolution)))
    return cells


def read_shapes(paths: Sequence[Path]) -> list[tuple[str, Shape]]:
    """Names and contents of shapes."""
    return [(path.stem, read_shape(path)) for path in paths]


def fit_and_measure(name: str, shape: Shape, options: ShapeOptions, resolution: int) -> dict[str, Any]:
    """The numbers of a cell. Of a network that has no surface, the worst ones that there are."""
    with training_progress(name, lambda loss: f"loss {loss:.3e}") as report:
        fitted = fit_shape(shape, options, report=report)
    network, training = fitted.network, fitted.training
    try:
        with stages() as stage:
            vertices, faces = surface_of(network, resolution, report=stage)
            quality: dict[str, float | None] = dict(
                measure_shape(network, shape, vertices, faces, seed=options.seed, report=stage)
            )
    except InputError:
        quality = {"chamfer_paper": None, "iou": 0.0, "iou_paper": 0.0, "normal_consistency": None}
    return {
        **quality,
        "seconds": training.seconds,
        "steps": training.step,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "bias_range": fitted.settings["bias_range"],
        "learning_rate": fitted.settings["learning_rate"],
        "curve": training.curve,
    }
