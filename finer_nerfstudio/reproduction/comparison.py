"""Radiance fields trained with several methods for the same time, their test results side by side.

Every method goes through Nerfstudio's own ``ns-train`` and ``ns-eval``; only what they print and write is collected. A
method whose results are there already is not trained again, so that an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from finer_nerfstudio._version import __version__
from finer_nerfstudio.errors import InputError, UsageError, argument, in_one_line
from finer_nerfstudio.files.atomic import write_json, write_text
from finer_nerfstudio.inr.methods import METHODS
from finer_nerfstudio.reproduction.radiance.pictures import write_comparison
from finer_nerfstudio.reproduction.radiance.programs import (
    ProgramFailed,
    evaluate,
    train,
    training_summary,
    view_pictures,
)

NERFACTO = "bounded-nerfacto"
"""Nerfstudio's own default method, set up for synthetic scenes; ns-train learns of it through its environment."""
_NERFACTO_SPECIFICATION = "finer_nerfstudio.nerf.bounded_nerfacto:specification"


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
    """Runs, results.json, results.md and comparison.png are written here."""


@dataclass(frozen=True)
class Compared:
    """Result of :func:`compare_methods`.

    Attributes:
        results: by method, as in ``results.json``.
        picture: the methods' renderings of one test view beside the truth.
    """

    results: dict[str, Any]
    picture: Path


def compare_methods(config: Comparison, tell: Callable[[str], None]) -> Compared:
    """Train and evaluate every method that has no result yet, and write the table and the picture.

    Args:
        config: what to train.
        tell: is given a sentence before each step.

    Raises:
        UsageError: for options that cannot mean anything.
        InputError: where a program fails, and where earlier results are damaged.
    """
    _require_possible(config)
    shared = {
        "data": str(config.data.resolve()),
        "minutes": config.minutes,
        "train_view_stride": config.train_view_stride,
        "eval_view_stride": config.eval_view_stride,
        "seed": config.seed,
        "version": __version__,
    }
    results = {}
    for method in config.methods:
        cell = config.output_dir / method / "result.json"
        # Not of nerfacto, whose defaults are Nerfstudio's.
        settings = {**shared, "defaults": asdict(METHODS[method].radiance)} if method in METHODS else shared
        result = _kept(method, cell, settings)
        if result is not None and not view_pictures(config.output_dir / method):
            raise InputError(
                f"the test views of {method} are missing beside {cell}: move that file away to have the method "
                f"trained again."
            )
        if result is not None:
            tell(f"{method}: results of an earlier run are in {cell}")
        else:
            try:
                measured = _train_and_evaluate(method, config, tell)
            except ProgramFailed as error:
                raise InputError(f"{method}: {error}.") from error
            result = {"settings": settings, **measured}
            write_json(cell, result)
        results[method] = result
    write_json(config.output_dir / "results.json", results)
    write_text(config.output_dir / "results.md", _markdown(results))
    picture = config.output_dir / "comparison.png"
    _write_picture(picture, results, config)
    return Compared(results, picture)


def _require_possible(config: Comparison) -> None:
    unknown = [method for method in config.methods if method not in (*METHODS, NERFACTO)]
    if unknown or not config.methods:
        known = ", ".join((*METHODS, NERFACTO))
        raise UsageError(f"unknown method {', '.join(unknown) or '(none)'}: known are {known}.")
    if not config.minutes > 0:
        raise UsageError(f"{argument('minutes')} must be positive, not {config.minutes}.")
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


def _kept(method: str, cell: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of an earlier run with the same settings, if there is one."""
    if not cell.exists():
        return None
    try:
        result = json.loads(cell.read_text())
        if result["settings"] != settings:
            return None
        table_row(method, result)
        if not isinstance(result["config"], str):
            raise TypeError("config")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{cell} is not a result of a comparison: move it away, or choose another {argument('output_dir')}."
        ) from error
    return result


def _write_picture(picture: Path, results: dict[str, Any], config: Comparison) -> None:
    views = {method: view_pictures(config.output_dir / method) for method in results}
    write_comparison(
        picture,
        {
            f"{method}\n{results[method]['test']['psnr']:.2f} dB on all test views": paths[
                min(config.compare_view, len(paths) - 1)
            ]
            for method, paths in views.items()
        },
    )


def _train_and_evaluate(method: str, config: Comparison, tell: Callable[[str], None]) -> dict[str, Any]:
    run = config.output_dir / method / "run"
    if run.exists():
        tell(f"{method}: an unfinished run in {run} is kept; this one starts anew beside it")
    tell(f"{method}: training for {config.minutes:g} minutes")
    environment = {**os.environ, "NERFSTUDIO_METHOD_CONFIGS": f"{NERFACTO}={_NERFACTO_SPECIFICATION}"}
    written = train(
        method,
        config.data,
        run,
        options=[
            *("--max-minutes", str(config.minutes)),
            *("--max-num-iterations", "10000000"),
            *("--machine.seed", str(config.seed)),
            *("--vis", "viewer" if config.viewer else "tensorboard"),
            *("--viewer.quit-on-train-completion", "True"),
            *("--steps-per-eval-image", "0"),
            *("--steps-per-eval-batch", "0"),
        ],
        parser_options=[
            *("--train-view-stride", str(config.train_view_stride)),
            *("--eval-view-stride", str(config.eval_view_stride)),
        ],
        environment=environment,
    )
    summary = training_summary(written)
    if summary is None:
        raise ProgramFailed("ns-train left no summary of its training")
    tell(f"{method}: rendering the test views")
    return {
        "config": str(written),
        "test": evaluate(written, run.parent, environment=environment),
        "training": summary,
        "views": len(view_pictures(config.output_dir / method)),
    }


TABLE_HEADINGS = ("method", "PSNR", "SSIM", "LPIPS", "training rays/s", "rendered rays/s")


def table_row(method: str, result: dict[str, Any]) -> tuple[str, ...]:
    """Return what :data:`TABLE_HEADINGS` names, as text."""
    test, training = result["test"], result["training"]
    return (
        method,
        f"{test['psnr']:.2f}",
        f"{test['ssim']:.3f}",
        f"{test['lpips']:.3f}" if "lpips" in test else "n/a",
        f"{training['rays_per_second']:,.0f}",
        f"{test['num_rays_per_sec']:,.0f}",
    )


def _markdown(results: dict[str, Any]) -> str:
    lines = ["| " + " | ".join(TABLE_HEADINGS) + " |", "|" + "---|" * len(TABLE_HEADINGS)]
    lines += ["| " + " | ".join(table_row(method, result)) + " |" for method, result in results.items()]
    return "\n".join(lines) + "\n"
