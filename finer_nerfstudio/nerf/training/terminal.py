"""Terminal output of ``ns-train`` and ``ns-eval``: a dozen lines in place of Nerfstudio's several hundred."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from rich import get_console

from finer_nerfstudio.runs.progress import PROGRESS_FILE, training_progress
from finer_nerfstudio.runs.training import Report

# rich decides when it makes the console of all bars whether they may move, and Nerfstudio has it made in silence.
get_console()
# A look at the loss waits for a GPU.
_SECONDS_BETWEEN_REPORTS = 0.5


# Where standard output goes while a block is silent; None while none is.
_heard: TextIO | None = None


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Drop what Nerfstudio and viser print in this block; errors pass, and so do :func:`note` and standard error."""
    global _heard
    if _heard is not None:
        yield
        return
    before = CONSOLE.quiet
    # Of several processes one speaks.
    _heard, CONSOLE.quiet = io.StringIO() if before else sys.stdout, True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        CONSOLE.quiet, _heard = before, None


def note(sentence: str) -> None:
    """Print a sentence on what is done with what the user gave, also from within :func:`silence`."""
    if _heard is None:
        CONSOLE.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)
        return
    with contextlib.redirect_stdout(_heard):
        CONSOLE.quiet = False
        try:
            CONSOLE.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)
        finally:
            CONSOLE.quiet = True


def shown(path: Path) -> str:
    """Return ``path`` from where the user is, if it lies below, else the whole path."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def quoted(path: Path) -> str:
    """Return :func:`shown` for a command line."""
    import shlex

    return shlex.quote(shown(path))


def device_name(device: str) -> str:
    """Return a device in words, such as "NVIDIA H100" or "CPU, 2 threads"."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.upper()}, {threads} thread{'s' if threads > 1 else ''}"


def say(*lines: str) -> None:
    """Print lines as they are, without line breaks of their own."""
    for line in lines:
        CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)


def say_table(rows: Sequence[tuple[str, str]]) -> None:
    """Print pairs of a name and a value, indented and aligned."""
    width = max(len(name) for name, _ in rows)
    say(*(f"  {name:<{width}}  {value}" for name, value in rows))


class TrainingProgress:
    """A bar on a terminal, and lines elsewhere: share done, step, speed and PSNR of the rays trained.

    Programs read the same from :data:`PROGRESS_FILE`.

    Args:
        title: what is trained.
        folder: of the run, for the file.
        viewer: address of the live viewer, if there is one; the file holds it too.
    """

    def __init__(self, title: str, folder: Path, *, viewer: str | None = None) -> None:
        self._title = title
        self._viewer = {} if viewer is None else {"viewer": viewer}
        self._file = folder / PROGRESS_FILE
        self._stack = ExitStack()
        self._report: Report | None = None
        self._next = 0.0

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the bar."""
        self._stack.close()

    def is_due(self) -> bool:
        """Return whether it is time for :meth:`report`."""
        return not CONSOLE.quiet and time.perf_counter() >= self._next

    def report(self, done: float, step: int, psnr: float, rays_per_second: float) -> None:
        """Show how far training is.

        Args:
            done: share of the training, in [0, 1].
            step: that was trained last.
            psnr: of the last rays, in dB.
            rays_per_second: trained until now, on the mean.
        """
        self._next = time.perf_counter() + _SECONDS_BETWEEN_REPORTS

        def quantity(psnr: float) -> str:
            return f"{rays_per_second:,.0f} rays/s  train {psnr:.1f} dB"

        self._quantity = quantity
        if self._report is None:
            self._report = self._stack.enter_context(training_progress(self._title, lambda psnr: self._quantity(psnr)))
        self._report(done, step, psnr)
        progress = {"done": done, "step": step, "psnr": psnr, "rays_per_second": rays_per_second, **self._viewer}
        partial = self._file.with_name(f"{PROGRESS_FILE}.partial")
        with contextlib.suppress(OSError):  # the next checkpoint says that the disk is full
            partial.write_text(json.dumps(progress))
            partial.replace(self._file)
