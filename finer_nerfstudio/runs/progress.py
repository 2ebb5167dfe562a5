"""Progress of training on the terminal."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from finer_nerfstudio.runs.training import Report

if TYPE_CHECKING:
    from rich.console import Console

Stage = Callable[[str, int, int], None]
"""Progress callback: (description, completed, total)."""

PROGRESS_FILE = "progress.json"
"""In the folder of a radiance field's run: ``done`` in [0, 1], ``step``, ``psnr`` of the rays trained last, in dB,
``rays_per_second``, and the address of the ``viewer`` where one is on."""

# Elsewhere than on a terminal.
_SECONDS_OF_SILENCE = 10.0


@contextmanager
def training_progress(title: str, quantity: Callable[[float], str], *, quiet: bool = False) -> Iterator[Report]:
    """Show how far training is: a bar on a terminal; lines in a file or a pipe, for each tenth and every ten seconds.

    Args:
        title: what is going on.
        quantity: the loss as text, such as "31.2 dB".
        quiet: show nothing.
    """
    from rich.console import Console

    if quiet:
        yield lambda done, step, loss: None
    elif _is_watched():
        with _bar(Console(stderr=True), title, quantity) as report:
            yield report
    else:
        yield _lines(title, quantity)


def _is_watched() -> bool:
    """Whether standard error is a terminal of this process, on which a bar can move."""
    from rich.console import Console

    console = Console(stderr=True)
    return multiprocessing.parent_process() is None and console.is_terminal and not console.is_dumb_terminal


@contextmanager
def _bar(console: Console, title: str, quantity: Callable[[float], str]) -> Iterator[Report]:
    """The share done, the time left and the current loss in words."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("step {task.fields[step]:,}"),
        TextColumn("{task.fields[quantity]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task(title, total=1.0, step=0, quantity="")

        def report(done: float, step: int, loss: float) -> None:
            bars.update(bar, completed=done, step=step, quantity=quantity(loss))

        yield report


def _lines(title: str, quantity: Callable[[float], str]) -> Report:
    tenths, said = -1, time.monotonic()

    def report(done: float, step: int, loss: float) -> None:
        nonlocal tenths, said
        if int(10 * done) > tenths or time.monotonic() - said > _SECONDS_OF_SILENCE:
            tenths, said = int(10 * done), time.monotonic()
            _print(f"{title}: {done:.0%}, step {step:,} {quantity(loss)}".rstrip())

    return report


def _print(line: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)


@contextmanager
def stages(*, quiet: bool = False) -> Iterator[Stage]:
    """Show what comes before and after training, and how much of how much of it is done.

    A bar on a terminal is gone when all is done. Elsewhere there is a line after every ten seconds.
    """
    from rich.console import Console
    from rich.progress import Progress

    if quiet:
        yield lambda name, done, total: None
    elif _is_watched():
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("", total=1.0)
            yield lambda name, done, total: progress.update(bar, description=name, completed=done, total=total)
    else:
        yield _stage_lines()


def _stage_lines() -> Stage:
    said = time.monotonic()

    def stage(name: str, done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > _SECONDS_OF_SILENCE:
            said = time.monotonic()
            _print(f"{name}: {done:,} of {total:,}")

    return stage
