"""Train radiance fields with several methods for the same time and lay their test results side by side.

Every method goes through Nerfstudio's own ``ns-train`` and ``ns-eval``; this script only starts them and collects what
they print. A method whose results are there already is not trained again, so that an interrupted comparison goes on
where it stopped.

    python scripts/compare_methods.py --data ../shared/data/blender/lego --minutes 15 --train-view-stride 4
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

import finer_nerfstudio
from finer_nerfstudio.errors import in_one_line
from finer_nerfstudio.inr.presets import RADIANCE_TUNING
from finer_nerfstudio.tasks.radiance.pictures import write_comparison
from finer_nerfstudio.tasks.radiance.programs import (
    ProgramFailed,
    evaluate,
    train,
    training_summary,
    view_pictures,
)

METHODS = ("pemlp", "siren", "finer-sine", "gauss", "finer-gauss", "wire", "finer-wavelet")
# Nerfstudio's own default method, set up for synthetic scenes; ns-train learns of it through its environment.
NERFACTO = "bounded-nerfacto"
_NERFACTO_SPECIFICATION = "finer_nerfstudio.nerf.bounded_nerfacto:specification"


@dataclass
class Comparison:
    """What to train, for how long, and where results go."""

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


def main(config: Comparison) -> int:
    try:
        return _compare(config)
    except KeyboardInterrupt:
        return _fail(
            f"interrupted: methods that were finished are kept in {config.output_dir}, and the same command goes on "
            f"with the others.",
            code=130,
        )
    except OSError as error:
        return _fail(f"the comparison in {config.output_dir} cannot go on: {error}.", code=1)


def _compare(config: Comparison) -> int:
    console = Console()
    unknown = [method for method in config.methods if method not in (*METHODS, NERFACTO)]
    if unknown or not config.methods:
        return _fail(f"unknown method {', '.join(unknown) or '(none)'}: known are {', '.join((*METHODS, NERFACTO))}.")
    if config.minutes <= 0:
        return _fail(f"--minutes must be positive, not {config.minutes}.")
    if not config.data.is_dir():
        return _fail(f"--data {config.data} is not a folder; make a scene with scripts/make_demo_scene.py.")
    if config.compare_view < 0:
        return _fail(f"--compare-view must be at least 0, not {config.compare_view}.")
    try:
        config.output_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=config.output_dir).close()
    except OSError as error:
        return _fail(
            f"cannot write to --output-dir {config.output_dir} ({in_one_line(error)}): choose another one.", code=1
        )
    shared = {
        "data": str(config.data.resolve()),
        "minutes": config.minutes,
        "train_view_stride": config.train_view_stride,
        "eval_view_stride": config.eval_view_stride,
        "seed": config.seed,
        "version": finer_nerfstudio.__version__,
    }
    results = {}
    for method in config.methods:
        cell = config.output_dir / method / "result.json"
        # Not of nerfacto, whose defaults are Nerfstudio's.
        settings = {**shared, "defaults": asdict(RADIANCE_TUNING[method])} if method in RADIANCE_TUNING else shared
        try:
            result = _kept(method, cell, settings)
        except (ValueError, TypeError, KeyError):
            return _fail(
                f"{cell} is not a result of this script: move it away, or choose another --output-dir.", code=1
            )
        if result is not None and not _views(config, method):
            return _fail(
                f"the test views of {method} are missing beside {cell}: move that file away to have the method "
                f"trained again.",
                code=1,
            )
        if result is not None:
            console.print(f"{method}: results of an earlier run are in {cell}")
        else:
            try:
                measured = _train_and_evaluate(method, config, console)
            except ProgramFailed as error:
                return _fail(f"{method}: {error}.", code=1)
            result = {"settings": settings, **measured}
            _write(cell, json.dumps(result, indent=2))
        results[method] = result
    _write(config.output_dir / "results.json", json.dumps(results, indent=2))
    table = _markdown(results)
    _write(config.output_dir / "results.md", table)
    picture = config.output_dir / "comparison.png"
    views = {method: _views(config, method) for method in results}
    write_comparison(
        picture,
        {
            f"{method}\n{results[method]['test']['psnr']:.2f} dB on all test views": paths[
                min(config.compare_view, len(paths) - 1)
            ]
            for method, paths in views.items()
        },
    )

    shown = Table("method", "PSNR", "SSIM", "LPIPS", "training rays/s", "rendered rays/s")
    for method, result in results.items():
        shown.add_row(*_row(method, result))
    console.print(shown)
    best = max(results, key=lambda method: results[method]["test"]["psnr"])
    console.print("truth, " + ", ".join(config.methods) + f" side by side: {picture}", soft_wrap=True)
    console.print(f"look at the best: ns-viewer --load-config {results[best]['config']}", soft_wrap=True)
    return 0


def _kept(method: str, cell: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The result of an earlier run with the same settings; one that lacks what a table needs raises an error."""
    if not cell.exists():
        return None
    result = json.loads(cell.read_text())
    if result["settings"] != settings:
        return None
    _row(method, result)
    if not isinstance(result["config"], str):
        raise TypeError("config")
    return result


def _train_and_evaluate(method: str, config: Comparison, console: Console) -> dict[str, Any]:
    run = config.output_dir / method / "run"
    if run.exists():
        console.print(f"{method}: an unfinished run in {run} is kept; this one starts anew beside it")
    console.rule(f"{method}: training for {config.minutes:g} minutes")
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
    console.rule(f"{method}: rendering the test views")
    return {
        "config": str(written),
        "test": evaluate(written, run.parent, environment=environment),
        "training": summary,
        "views": len(_views(config, method)),
    }


def _row(method: str, result: dict[str, Any]) -> tuple[str, ...]:
    test, training = result["test"], result["training"]
    return (
        method,
        f"{test['psnr']:.2f}",
        f"{test['ssim']:.3f}",
        f"{test['lpips']:.3f}" if "lpips" in test else "n/a",
        f"{training['rays_per_second']:,.0f}",
        f"{test['num_rays_per_sec']:,.0f}",
    )


def _views(config: Comparison, method: str) -> list[Path]:
    return view_pictures(config.output_dir / method)


def _markdown(results: dict[str, Any]) -> str:
    lines = ["| method | PSNR | SSIM | LPIPS | training rays/s | rendered rays/s |", "|---|---|---|---|---|---|"]
    lines += ["| " + " | ".join(_row(method, result)) + " |" for method, result in results.items()]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_text(text + ("" if text.endswith("\n") else "\n"))
    os.replace(unfinished, path)


def _fail(sentence: str, code: int = 2) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Comparison, description=__doc__)))
