"""Progress of training on the terminal."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from finer_nerfstudio.runs.training import Report

if TYPE_CHECKING:
    from rich.console import Console

Stage = Callable[[str, int, int], None]
"""Told what is going on, and how much of how much of it is done."""


@contextmanager
def training_progress(title: str, quantity: Callable[[float], str], *, quiet: bool = False) -> Iterator[Report]:
    """Show how far training is: a bar on a terminal, a line for each tenth in a file or a pipe.

    Args:
        title: what is going on.
        quantity: the loss as text, such as "31.2 dB".
        quiet: show nothing.
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if quiet:
        yield lambda done, step, loss: None
    elif multiprocessing.parent_process() is not None or not console.is_terminal or console.is_dumb_terminal:
        yield _lines(console, title, quantity)
    else:
        with _bar(console, title, quantity) as report:
            yield report


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


def _lines(console: Console, title: str, quantity: Callable[[float], str]) -> Report:
    tenths = -1

    def report(done: float, step: int, loss: float) -> None:
        nonlocal tenths
        if int(10 * done) > tenths:
            tenths = int(10 * done)
            console.print(f"{title}: {done:.0%}, step {step:,} {quantity(loss)}".rstrip(), markup=False)

    return report


@contextmanager
def stages(*, quiet: bool = False) -> Iterator[Stage]:
    """A bar for what comes before and after training: told what is going on, and how much of how much of it is done.

    It is gone when all is done, and leaves no line in a file.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=1.0)

        def stage(name: str, done: int, total: int) -> None:
            progress.update(bar, description=name, completed=done, total=total)

        yield stage
