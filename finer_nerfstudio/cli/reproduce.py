"""Repeat the tables of the FINER++ paper and print our numbers beside the paper's.

    finer reproduce table1 --images images/ --quick
    finer reproduce table2 --shapes armadillo.obj --quick
    finer reproduce table3 --scenes blender/ --quick

Every method on every image, shape or scene is one cell. Finished cells are kept in the output folder, so that an
interrupted table goes on where it stopped. Cells run one after the other, one per GPU where there are several, in
--workers processes, or as tasks of a Ray cluster with --cluster.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.inr.methods import PROTOCOLS
from finer_nerfstudio.reproduction.published import TABLE_1, TABLE_2, TABLE_2_ARMADILLO
from finer_nerfstudio.reproduction.radiance.cells import radiance_cells
from finer_nerfstudio.reproduction.radiance.protocol import protocol_of_table
from finer_nerfstudio.reproduction.radiance.scenes import Scene, require_different_names, scenes_in
from finer_nerfstudio.reproduction.table import Row, write_table
from finer_nerfstudio.reproduction.table1 import image_cells, images_in, learning_rate_cells
from finer_nerfstudio.reproduction.table2 import read_shapes, shape_cells, shapes_in
from finer_nerfstudio.reproduction.table3 import notes_on, radiance_row, write_pictures
from finer_nerfstudio.runs.options import ALL_METHODS, Method
from finer_nerfstudio.runs.processor import prepare_processor
from finer_nerfstudio.runs.sweep import Cell, announce, require_distinct, run_cells
from finer_nerfstudio.tasks.image.fit import ImageOptions
from finer_nerfstudio.tasks.sdf.fit import ShapeOptions
from finer_nerfstudio.tasks.sdf.run import require_resolution


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """How cells are run."""

    methods: tuple[Method, ...] = ALL_METHODS
    """Rows of the table."""
    seed: int = 0
    """Seed of every cell."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, ..."""
    workers: int | None = None
    """Processes; one per GPU, or one, unless given."""
    cluster: str | None = None
    """Run cells as Ray tasks on the cluster at this address, or with Ray on this machine alone (local)."""
    quick: bool = False
    """A protocol for two processor cores instead of the paper's."""


@dataclass(frozen=True, kw_only=True)
class Table1(Sweep):
    """Images: PSNR, SSIM and LPIPS of every method. Quick: 128x128 averages of the images and 300 steps."""

    images: tuple[Path, ...]
    """Image files and folders of them."""
    steps: int | None = None
    """Training steps; 5,000, or 300 with --quick, unless given."""
    size: int | None = None
    """Longer side to which images are averaged down; 128 with --quick, else as they are."""
    bias_range: float | Literal["auto"] | None = None
    """Another k than the published one for the FINER++ methods; auto chooses one for each image."""
    sweep_learning_rate: tuple[Method, ...] = ("wire",)
    """Methods for which multiples of the published learning rate are tried on the first image too; the best one then
    gets a row of its own. wire does not train in a few hundred steps at its published rate."""
    output_dir: Path = Path("outputs/table1")
    """Cells, table.md, table.csv, table.json and table.png are written here."""


def table1(command: Table1) -> None:
    steps = (300 if command.quick else PROTOCOLS["image"].steps) if command.steps is None else command.steps
    size = (128 if command.quick else None) if command.size is None else command.size
    options = ImageOptions(steps=steps, seed=command.seed, device=command.device)
    images = [image for path in command.images for image in images_in(path)]
    require_distinct(images)
    folder = command.output_dir / "cells"

    def run(cells: list[Cell]) -> dict[str, dict]:
        return run_cells(cells, folder, workers=command.workers, cluster=command.cluster, report=announce("psnr", "dB"))

    cells = {
        method: image_cells(images, method, options, size=size, bias_range=command.bias_range)
        for method in command.methods
    }
    swept: list[Method] = [method for method in command.sweep_learning_rate if method in command.methods]
    tried: dict[Method, list[Cell]] = {
        method: learning_rate_cells(images[0], method, options, size=size, bias_range=command.bias_range)
        for method in swept
    }
    # Image by image, so that a table that was interrupted has whole columns.
    by_image = [cell for column in zip(*cells.values(), strict=True) for cell in column]
    results = run(by_image + [cell for trials in tried.values() for cell in trials])
    rows = []
    for method in command.methods:
        rows.append(Row(method, [results[cell.name] for cell in cells[method]], TABLE_1.get(method)))
        trials = [cells[method][0], *tried.get(method, ())]
        best = max(trials, key=lambda cell: results[cell.name]["psnr"])
        if best is not trials[0]:
            rate = results[best.name]["learning_rate"]
            tuned = image_cells(images, method, options, size=size, learning_rate=rate, bias_range=command.bias_range)
            found = run(tuned)
            rows.append(Row(f"{method} (lr {rate:g})", [found[cell.name] for cell in tuned], None))
    resolution = "images as they are" if size is None else f"images averaged to {size} pixels"
    write_table(
        command.output_dir,
        title="Table 1: image fitting",
        protocol=f"{steps:,} steps on all pixels, {resolution}, seed {command.seed}",
        rows=rows,
        items=[image.stem for image in images],
        columns={"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS"},
        higher_is_better=True,
    )


@dataclass(frozen=True, kw_only=True)
class Table2(Sweep):
    """Shapes: Chamfer distance and IoU of every method. Quick: meshes from 64^3 grids and 2,000 steps."""

    shapes: tuple[Path, ...]
    """Meshes, point clouds and folders of them."""
    steps: int | None = None
    """Training steps; 200,000, or 2,000 with --quick, unless given."""
    resolution: int | None = None
    """Grid points per axis of extracted meshes; 512, or 64 with --quick, unless given."""
    output_dir: Path = Path("outputs/table2")
    """Cells, table.md, table.csv, table.json and table.png are written here."""


def table2(command: Table2) -> None:
    steps = (2_000 if command.quick else PROTOCOLS["sdf"].steps) if command.steps is None else command.steps
    resolution = (64 if command.quick else 512) if command.resolution is None else command.resolution
    require_resolution(resolution)
    options = ShapeOptions(steps=steps, seed=command.seed, device=command.device)
    files = [shape for path in command.shapes for shape in shapes_in(path)]
    require_distinct(files)
    shapes = read_shapes(files)
    cells = {method: shape_cells(shapes, method, options, resolution=resolution) for method in command.methods}
    results = run_cells(
        [cell for column in zip(*cells.values(), strict=True) for cell in column],
        command.output_dir / "cells",
        workers=command.workers,
        cluster=command.cluster,
        report=announce("iou_paper", "IoU"),
    )
    names = [name for name, _ in shapes]
    paper = TABLE_2_ARMADILLO if names == ["armadillo"] else TABLE_2
    rows = [
        Row(
            method,
            [results[cell.name] for cell in cells[method]],
            {f"{quantity}_paper": value for quantity, value in paper.get(method, {}).items()} or None,
        )
        for method in command.methods
    ]
    write_table(
        command.output_dir,
        title="Table 2: signed distance fields",
        protocol=f"{steps:,} steps of {PROTOCOLS['sdf'].batch_size:,} points, meshes from {resolution}^3 grids, "
        f"seed {command.seed}",
        rows=rows,
        items=names,
        columns={"iou_paper": "IoU", "chamfer_paper": "Chamfer", "normal_consistency": "normal consistency"},
        higher_is_better=True,
    )


@dataclass(frozen=True, kw_only=True)
class Table3(Sweep):
    """Scenes: PSNR, SSIM and LPIPS of every method on the test views, and a flight through each scene. Quick: the
    package's own network for three minutes, and every 8th test view. With --cluster, scenes and output folder have to
    be on disks that all machines share."""

    scenes: tuple[Path, ...]
    """Scenes in Blender format and folders of them; those called chair, drums, ficus, ... are the paper's."""
    steps: int | None = None
    """Training steps; 37,500 unless given. A cell that was interrupted goes on from its newest checkpoint."""
    minutes: float | None = None
    """Train every cell for this long instead of a number of steps; 3 with --quick unless given. A cell that was
    interrupted starts again."""
    video: bool = True
    """Make flight.mp4 of each scene with its best method."""
    output_dir: Path = Path("outputs/table3")
    """Cells with their runs and logs, table.md, table.csv, table.json, table.png, and pictures of each scene."""


def table3(command: Table3) -> None:
    protocol = protocol_of_table(quick=command.quick, steps=command.steps, minutes=command.minutes, seed=command.seed)
    scenes = [scene for path in command.scenes for scene in scenes_in(path)]
    require_different_names(scenes)
    folder = command.output_dir / "cells"
    cells = {
        method: radiance_cells(scenes, method, protocol, folder=folder, device=command.device)
        for method in command.methods
    }
    failures: list[str] = []

    def failed(cell: Cell, error: InputError) -> None:
        failures.append(error.message)
        print(f"failed: {error.on_command_line()}; going on with the others", file=sys.stderr)

    results = run_cells(
        # Scene by scene, so that a table that was interrupted has whole lines.
        [cell for line in zip(*cells.values(), strict=True) for cell in line],
        folder,
        workers=command.workers,
        cluster=command.cluster,
        report=announce("psnr", "dB"),
        on_failure=failed,
    )
    if results:
        rows = [
            radiance_row(method, scenes, [results.get(cell.name, {}) for cell in cells[method]])
            for method in command.methods
        ]
        write_table(
            command.output_dir,
            title="Table 3: radiance fields",
            protocol=protocol.sentence(scenes),
            rows=rows,
            items=[scene.name for scene in scenes],
            columns={"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS"},
            own_columns={"rays_per_second": "training rays/s", "minutes": "minutes"},
            by_item=True,
            notes=notes_on(scenes, rows),
            higher_is_better=True,
        )

        def of_scene(scene: Scene) -> dict[Method, dict]:
            names: dict[Method, str] = {method: f"{scene.name}-{method}" for method in command.methods}
            return {method: results[name] for method, name in names.items() if name in results}

        failures += write_pictures(command.output_dir, scenes, folder, of_scene, video=command.video)
    if failures:
        raise InputError("; ".join(failures) + ". Everything else is kept, and the same command tries these again.")


def run(command: Table1 | Table2 | Table3) -> None:
    prepare_processor()
    for name in ("methods", "images", "shapes", "scenes"):
        if getattr(command, name, None) == ():
            raise UsageError(f"--{name} needs at least one.")
    if len(set(command.methods)) < len(command.methods):
        raise UsageError("--methods names a method twice.")
    try:
        if isinstance(command, Table1):
            table1(command)
        elif isinstance(command, Table2):
            table2(command)
        else:
            table3(command)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"what was finished is kept in {command.output_dir}, and the same command goes on from there"
        ) from None


OPTIONS = (
    Annotated[Table1, tyro.conf.subcommand("table1", prefix_name=False)]
    | Annotated[Table2, tyro.conf.subcommand("table2", prefix_name=False)]
    | Annotated[Table3, tyro.conf.subcommand("table3", prefix_name=False)]
)
