"""One method on one scene: trained, gone on with where it was interrupted, and measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from finer_nerfstudio._version import __version__
from finer_nerfstudio.errors import InputError, UsageError, argument
from finer_nerfstudio.files.atomic import write_json
from finer_nerfstudio.inr.methods import METHODS
from finer_nerfstudio.reproduction.radiance.programs import (
    ProgramFailed,
    evaluate,
    train,
    training_summary,
    view_pictures,
)
from finer_nerfstudio.reproduction.radiance.protocol import RadianceProtocol
from finer_nerfstudio.reproduction.radiance.scenes import Scene
from finer_nerfstudio.runs.progress import PROGRESS_FILE, stages, training_progress
from finer_nerfstudio.runs.sweep import Cell, environment_of_programs
from finer_nerfstudio.runs.training import Report

Device = Literal["auto", "cpu", "cuda"]

NERFACTO = "bounded-nerfacto"
"""Nerfstudio's own default method, set up for synthetic scenes; ns-train learns of it through its environment."""
_NERFACTO_SPECIFICATION = "finer_nerfstudio.nerf.bounded_nerfacto:specification"


@dataclass(frozen=True)
class RadianceRun:
    """The work of a cell.

    Attributes:
        name: of the cell.
        scene: what to train on.
        method: with what.
        protocol: how.
        device: where, as ``ns-train`` calls it; auto leaves that to it.
        folder: of all cells, absolute; a cell has a folder of its name in there.
        settings: what decides the result.
    """

    name: str
    scene: Scene
    method: str
    protocol: RadianceProtocol
    device: Device
    folder: Path
    settings: dict[str, Any]


def radiance_cells(
    scenes: list[Scene], method: str, protocol: RadianceProtocol, *, folder: Path, device: str = "auto"
) -> list[Cell]:
    """One cell per scene for one method.

    Args:
        scenes: what to train on.
        method: with what, as ``ns-train`` lists it, or :data:`NERFACTO`.
        protocol: how.
        folder: of all cells.
        device: auto, cpu or cuda.

    Raises:
        UsageError: for another device.
    """
    if device not in get_args(Device):
        raise UsageError(
            f"{argument('device')} {device} is not known to ns-train: use auto, cpu or cuda, and "
            f"CUDA_VISIBLE_DEVICES to choose among several GPUs."
        )
    cells = []
    for scene in scenes:
        name = f"{scene.name}-{method}"
        settings = {
            "scene": scene.identity(),
            "method": method,
            # Nerfacto has its own.
            "defaults": asdict(METHODS[method].radiance) if method in METHODS else None,
            "training": protocol.training_options(method),
            "parser": protocol.parser_options(scene),
            "device": device,
            "version": __version__,
        }
        # As JSON gives them back.
        settings = json.loads(json.dumps(settings))
        run = RadianceRun(name, scene, method, protocol, device, folder.resolve(), settings)  # pyright: ignore[reportArgumentType]
        cells.append(Cell(name, settings, train_and_evaluate, (run,)))
    return cells


def train_and_evaluate(run: RadianceRun) -> dict[str, Any]:
    """The numbers of a cell, from the work that an earlier, interrupted one left as far as that goes.

    Raises:
        InputError: if one of Nerfstudio's commands fails, naming the file with its output.
    """
    attempt = attempt_folder(run)
    finished = attempt / "result.json"
    if finished.exists():
        return json.loads(finished.read_text())
    config = _trained(run, attempt)
    log = attempt / "evaluation.log"
    expected = run.protocol.num_test_views(run.scene)
    with stages() as stage, _named(run, log):
        test = evaluate(
            config,
            attempt,
            log=log,
            watch=lambda: stage(f"{run.name}: test views", len(view_pictures(attempt)), expected),
            environment=environment_of(run.method),
        )
    result = {
        "psnr": test["psnr"],
        "ssim": test["ssim"],
        "lpips": test.get("lpips"),
        **_cost(config, run.protocol),
        "rendered_rays_per_second": test["num_rays_per_sec"],
        "views": len(view_pictures(attempt)),
        "attempt": str(attempt.relative_to(run.folder)),
        "config": str(config.relative_to(run.folder)),
    }
    write_json(finished, result)
    return result


def attempt_folder(run: RadianceRun) -> Path:
    """The cell's folder for these settings. Those for others are never touched."""
    place = run.folder / run.name
    numbers = [0]
    for found in place.glob("*/settings.json"):
        if found.parent.name.isdecimal():
            numbers.append(int(found.parent.name))
            if _settings_in(found) == run.settings:
                return found.parent
    attempt = place / str(max(numbers) + 1)
    write_json(attempt / "settings.json", run.settings)
    return attempt


def _settings_in(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a file of this command: move it away, or name another folder.") from error


def checkpoints(attempt: Path) -> list[tuple[int, Path]]:
    """All checkpoints in a cell's folder, with the steps that were trained until each, fewest first."""
    found = attempt.glob("run/*/*/*/nerfstudio_models/step-*.ckpt")
    return sorted((int(path.stem.removeprefix("step-")) + 1, path) for path in found)


def finished_training(attempt: Path, protocol: RadianceProtocol) -> Path | None:
    """The ``config.yml`` of a run that was trained to its end, None where there is none."""
    for steps, checkpoint in checkpoints(attempt):
        config = checkpoint.parents[1] / "config.yml"
        if protocol.steps is not None:
            if steps >= protocol.steps:
                return config
        else:
            # By the clock: the summary is written at the end, and the last checkpoint right after it.
            summary = training_summary(config)
            if summary is not None and summary["steps"] == steps:
                return config
    return None


def _trained(run: RadianceRun, attempt: Path) -> Path:
    """The ``config.yml`` of a run that was trained to its end, after training what is missing."""
    done = finished_training(attempt, run.protocol)
    if done is not None:
        return done
    saved = checkpoints(attempt)
    options, trained_steps = [], 0
    if saved and run.protocol.steps is not None:
        trained_steps, checkpoint = saved[-1]
        options = ["--load-dir", str(checkpoint.parent)]
        _say(f"{run.name}: goes on after step {trained_steps:,} of {run.protocol.steps:,}")
    elif any(attempt.glob("run/*/*/*/config.yml")):
        reason = "training by the clock cannot go on exactly" if saved else "an interrupted run left no checkpoint"
        _say(f"{run.name}: starts again, since {reason}; what there is of it stays in {attempt / 'run'}")
    if run.device != "auto":
        options += ["--machine.device-type", run.device]
    log = attempt / "training.log"
    with training_progress(run.name, "{:.2f} dB".format) as report, _named(run, log):
        train(
            run.method,
            run.scene.folder,
            attempt / "run",
            options=[*options, *run.protocol.training_options(run.method, trained_steps=trained_steps)],
            parser_options=run.protocol.parser_options(run.scene),
            log=log,
            watch=RunProgress(attempt / "run", run.protocol.steps, report).look,
            environment=environment_of(run.method),
        )
        done = finished_training(attempt, run.protocol)
        if done is None:
            raise ProgramFailed("ns-train left no summary of its training")
    return done


def environment_of(method: str) -> dict[str, str]:
    """Return the environment in which Nerfstudio's commands know a method."""
    if method != NERFACTO:
        return environment_of_programs()
    return {**environment_of_programs(), "NERFSTUDIO_METHOD_CONFIGS": f"{NERFACTO}={_NERFACTO_SPECIFICATION}"}


class RunProgress:
    """Reads ns-train's progress from the file that it keeps in a run's folder.

    Args:
        folder: of runs; those that are there already count no more.
        steps: of the whole training, None where minutes count.
        report: is told the share done, the step and the PSNR of the rays that were trained last.
    """

    def __init__(self, folder: Path, steps: int | None, report: Report) -> None:
        self._folder = folder
        self._earlier = set(self._files())
        self._steps = steps
        self._report = report
        self._last = -1

    def _files(self) -> Iterator[Path]:
        return self._folder.glob(f"*/*/*/{PROGRESS_FILE}")

    def look(self) -> None:
        """Report what is new."""
        for path in set(self._files()) - self._earlier:
            progress = json.loads(path.read_text())
            step = int(progress["step"])
            if step == self._last:
                continue
            if self._last < 0 and "viewer" in progress:
                _say(f"viewer: {progress['viewer']}")
            self._last = step
            share = progress["done"] if self._steps is None else step / self._steps
            self._report(min(1.0, share), step, progress["psnr"])


@contextmanager
def _named(run: RadianceRun, log: Path) -> Iterator[None]:
    """Give the failure of a program the cell's name and log, and its own last words."""
    try:
        yield
    except ProgramFailed as error:
        words = last_words(log)
        raise InputError(f"{run.name}: {error}{f' ({words})' if words else ''}; see {log}") from error


def last_words(log: Path) -> str:
    """Return the complaint of a program: its last line with an error, or its last one."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    complaints = [line for line in lines if re.match(r"\w*[Ee]rror:", line)]
    return (complaints or lines or [""])[-1].removeprefix("error: ").rstrip(".")[:300]


def _cost(config: Path, protocol: RadianceProtocol) -> dict[str, Any]:
    """Of the training. Where it was interrupted, its last part speaks for all of it."""
    summary = training_summary(config)
    if summary is None or not summary["steps"]:
        return {"rays_per_second": None, "minutes": None, "steps": protocol.steps, "resumed_after": None}
    steps = summary["steps"] if protocol.steps is None else protocol.steps
    return {
        "rays_per_second": summary["rays_per_second"],
        "samples_per_second": summary["samples_per_second"],
        "minutes": summary["seconds"] / 60 * steps / summary["steps"],
        "steps": steps,
        "resumed_after": steps - summary["steps"] or None,
        "parameters": summary["parameters"],
        "device": summary["device"],
    }


def _say(sentence: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(sentence, markup=False)
