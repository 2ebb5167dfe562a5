"""Nerfstudio's commands as programs of their own, started as a user would, and ended with whoever started them."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from finer_nerfstudio.errors import InputError

# How often whoever watches a program looks at it.
_SECONDS_BETWEEN_LOOKS = 0.5
# What an interrupted ns-train has to write its checkpoint.
_SECONDS_TO_END = 60.0
# Nerfstudio asks torch for what has another name by now, before any plugin of it could say that nobody needs to know.
_QUIET = {"PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning"}
# Exit code of programs that Ctrl-C ended.
_INTERRUPTED = 130
# Linux: the number of "send me this signal when my parent dies".
_PR_SET_PDEATHSIG = 1


class ProgramFailed(InputError):
    """A program ended with an error."""


def run_program(
    program: str,
    *arguments: str,
    log: Path | None = None,
    watch: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a program that was installed beside this interpreter, to its end.

    Whatever interrupts the wait, Ctrl-C first of all, interrupts the program too: ``ns-train`` then saves a checkpoint.
    A program does not outlive a killed parent (on Linux).

    Args:
        program: its name.
        arguments: what it is told.
        log: its output is appended there; without it, it goes where this process's goes.
        watch: called about twice a second while the program runs, and once after it.
        environment: of the program, instead of this process's.

    Raises:
        ProgramFailed: if it is not installed, or ends with an error.
    """
    beside = Path(sys.executable).parent / program
    with ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("ab"))
        try:
            child = subprocess.Popen(
                [str(beside) if beside.exists() else program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                env={**_QUIET, **(os.environ if environment is None else environment), "PYTHONUNBUFFERED": "1"},
                # Ctrl-C in the terminal then reaches this process alone, which passes it on once.
                start_new_session=True,
                preexec_fn=_prepare_child,
            )
        except FileNotFoundError as error:
            raise ProgramFailed(f"{program} is not installed beside {sys.executable}") from error
        try:
            while child.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=_SECONDS_BETWEEN_LOOKS)
                if watch is not None:
                    watch()
        except BaseException:
            _end(child)
            raise
    if child.returncode < 0:
        raise ProgramFailed(f"{program} was ended by {signal.Signals(-child.returncode).name}")
    if child.returncode == _INTERRUPTED:
        raise ProgramFailed(f"{program} was interrupted")
    if child.returncode > 0:
        raise ProgramFailed(f"{program} failed with exit code {child.returncode}")


def _prepare_child() -> None:
    # A shell's background jobs, and workers of a sweep, ignore Ctrl-C, and so would their children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGINT)


# Looked up here, since little is safe between fork and exec.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def _end(child: subprocess.Popen[bytes]) -> None:
    """Interrupt a program and wait for it; one that takes too long, or a second Ctrl-C, kills it."""
    child.send_signal(signal.SIGINT)
    try:
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=_SECONDS_TO_END)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def train(
    method: str,
    scene: Path,
    output_dir: Path,
    *,
    options: Sequence[str],
    parser_options: Sequence[str] = (),
    log: Path | None = None,
    watch: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Train a method on a Blender-format scene with ``ns-train``.

    Args:
        method: as ``ns-train`` lists it.
        scene: folder.
        output_dir: the run gets a folder of its own in there; others stay as they are.
        options: of the trainer and the method.
        parser_options: of the parser of scenes, ``blender-views``.
        log: see :func:`run_program`, like what follows.
        watch: called while training goes on.
        environment: of the program.

    Returns:
        The run's ``config.yml``.

    Raises:
        ProgramFailed: if it fails.
    """
    before = set(output_dir.rglob("config.yml"))
    run_program(
        "ns-train",
        method,
        "--data",
        str(scene),
        "--output-dir",
        str(output_dir),
        "--experiment-name",
        scene.resolve().name,
        *options,
        "blender-views",
        *parser_options,
        log=log,
        watch=watch,
        environment=environment,
    )
    written = set(output_dir.rglob("config.yml")) - before
    if len(written) != 1:
        raise ProgramFailed("ns-train ended before it began to train")
    return written.pop()


def training_summary(config: Path) -> dict[str, Any] | None:
    """Return a run's own summary of its training: steps, seconds, rays. None for one that did not end."""
    path = config.parent / "training.json"
    return json.loads(path.read_text()) if path.exists() else None


def evaluate(
    config: Path,
    folder: Path,
    *,
    log: Path | None = None,
    watch: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Measure a run on its test views with ``ns-eval``.

    Args:
        config: the run's ``config.yml``.
        folder: ``evaluation.json`` and ``test_views`` are written there, in place of those of an earlier evaluation.
        log: see :func:`run_program`, like what follows.
        watch: called while evaluation goes on.
        environment: of the program.

    Returns:
        Means over the test views: ``psnr``, ``ssim``, ``lpips`` where its weights are at hand, and rays per second.

    Raises:
        ProgramFailed: if it fails.
    """
    report, views = folder / "evaluation.json", folder / "test_views"
    if views.exists():
        shutil.rmtree(views)
    run_program(
        "ns-eval",
        "--load-config",
        str(config),
        "--output-path",
        str(report),
        "--render-output-path",
        str(views),
        log=log,
        watch=watch,
        environment=environment,
    )
    return json.loads(report.read_text())["results"]


def view_pictures(folder: Path) -> list[Path]:
    """Pictures that :func:`evaluate` left in ``folder``: the truth at the left, the rendering at the right."""
    return sorted((folder / "test_views").glob("*_img_*.png"))
