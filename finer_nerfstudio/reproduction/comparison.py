"""Radiance fields trained with several methods for the same time, their test results side by side.

Each method is a cell of :mod:`finer_nerfstudio.reproduction.radiance.cells`, as in Table 3: one with a result is not
trained again, so that an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from finer_nerfstudio.errors import InputError, UsageError, argument, in_one_line
from finer_nerfstudio.files.atomic import write_json, write_text
from finer_nerfstudio.inr.methods import METHODS
from finer_nerfstudio.reproduction.radiance.cells import NERFACTO, radiance_cells
from finer_nerfstudio.reproduction.radiance.pictures import write_comparison
from finer_nerfstudio.reproduction.radiance.programs import view_pictures
from finer_nerfstudio.reproduction.radiance.protocol import RadianceProtocol
from finer_nerfstudio.reproduction.radiance.scenes import read_scene
from finer_nerfstudio.runs.sweep import Cell, run_cells


@dataclass
class Comparison:
    """Methods to train, for how long, and where results go."""

    data: Annotated[Path, tyro.conf.arg(help="Scene folder in Blender format.")]
    methods: list[str] = field(default_factory=lambda: list(METHODS))
    """Methods to train, in this order. There is bounded-nerfacto besides: Nerfstudio's nerfacto in torch, set up for
    scenes with bounds over white."""
    minutes: float = 5.0
    """Training time of each method."""
    train_view_stride: int = 1
    """Train on every n-th training view; the paper's protocol is 4."""
    eval_view_stride: int = 1
    """Evaluate on every n-th test view."""
    seed: int = 42
    """Seed of every run."""
    viewer: bool = False
    """Serve the live viewer while training."""
    compare_view: int = 0
    """Test view shown in the picture of the comparison."""
    output_dir: Path = Path("outputs/comparison")
    """Runs with their logs, results.json, results.md and comparison.png are written here."""


@dataclass(frozen=True)
class Compared:
    """Result of :func:`compare_methods`.

    Attributes:
        results: by method, as in ``results.json``; ``config`` is relative to ``runs``.
        runs: the folder of all runs.
        picture: the methods' renderings of one test view beside the truth.
    """

    results: dict[str, Any]
    runs: Path
    picture: Path


def compare_methods(config: Comparison, tell: Callable[[str], None]) -> Compared:
    """Train and evaluate every method that has no result yet, and write the table and the picture.

    Args:
        config: what to train.
        tell: is given a sentence for each method that is finished, and for each that failed.

    Raises:
        UsageError: for options that cannot mean anything.
        InputError: where a program fails, after the other methods, and where earlier results are damaged.
    """
    _require_possible(config)
    protocol = RadianceProtocol(
        config.seed,
        minutes=config.minutes,
        train_view_stride=config.train_view_stride,
        eval_view_stride=config.eval_view_stride,
        viewer=config.viewer,
    )
    scene, runs = read_scene(config.data), config.output_dir / "cells"
    cells = {method: radiance_cells([scene], method, protocol, folder=runs)[0] for method in config.methods}
    failures = []

    def finished(cell: Cell, result: dict[str, Any], was_there: bool) -> None:
        tell(f"{cell.name}: {result['psnr']:.2f} dB" + (" (from an earlier run)" if was_there else ""))

    def failed(cell: Cell, error: InputError) -> None:
        failures.append(error.message)
        tell(f"{cell.name} failed; going on with the others")

    tell(f"training each method for {config.minutes:g} minutes; what ns-train and ns-eval print goes to logs in {runs}")
    found = run_cells(list(cells.values()), runs, report=finished, on_failure=failed)
    results = {
        method: {"settings": cell.settings, **found[cell.name]} for method, cell in cells.items() if cell.name in found
    }
    picture = config.output_dir / "comparison.png"
    if results:
        write_json(config.output_dir / "results.json", results)
        write_text(config.output_dir / "results.md", _markdown(results))
        _write_picture(picture, results, runs, config.compare_view)
    if failures:
        raise InputError("; ".join(failures) + ". Everything else is kept, and the same command tries these again.")
    return Compared(results, runs, picture)


def _require_possible(config: Comparison) -> None:
    unknown = [method for method in config.methods if method not in (*METHODS, NERFACTO)]
    if unknown or not config.methods:
        known = ", ".join((*METHODS, NERFACTO))
        raise UsageError(f"unknown method {', '.join(unknown) or '(none)'}: known are {known}.")
    if len(set(config.methods)) < len(config.methods):
        raise UsageError(f"{argument('methods')} names a method twice.")
    if not config.data.is_dir():
        raise UsageError(f"{argument('data')} {config.data} is not a folder; make a scene with finer demo-scene.")
    if config.compare_view < 0:
        raise UsageError(f"{argument('compare_view')} must be at least 0, not {config.compare_view}.")
    try:
        config.output_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=config.output_dir).close()
    except OSError as error:
        reason = in_one_line(error)
        raise InputError(
            f"cannot write to {argument('output_dir')} {config.output_dir} ({reason}): choose another one."
        ) from error


def _write_picture(picture: Path, results: dict[str, Any], runs: Path, view: int) -> None:
    views = {method: view_pictures(runs / result["attempt"]) for method, result in results.items()}
    for method, paths in views.items():
        if not paths:
            attempt = runs / results[method]["attempt"]
            raise InputError(
                f"the test views of {method} are missing from {attempt}: remove {attempt} and "
                f"{attempt.parent}.json to have it trained again."
            )
    write_comparison(
        picture,
        {
            f"{method}\n{results[method]['psnr']:.2f} dB on all test views": paths[min(view, len(paths) - 1)]
            for method, paths in views.items()
        },
    )


TABLE_HEADINGS = ("method", "PSNR", "SSIM", "LPIPS", "training rays/s", "rendered rays/s")


def table_row(method: str, result: dict[str, Any]) -> tuple[str, ...]:
    """Return what :data:`TABLE_HEADINGS` names, as text."""
    return (
        method,
        f"{result['psnr']:.2f}",
        f"{result['ssim']:.3f}",
        "n/a" if result["lpips"] is None else f"{result['lpips']:.3f}",
        f"{result['rays_per_second']:,.0f}",
        f"{result['rendered_rays_per_second']:,.0f}",
    )


def _markdown(results: dict[str, Any]) -> str:
    lines = ["| " + " | ".join(TABLE_HEADINGS) + " |", "|" + "---|" * len(TABLE_HEADINGS)]
    lines += ["| " + " | ".join(table_row(method, result)) + " |" for method, result in results.items()]
    return "\n".join(lines) + "\n"
