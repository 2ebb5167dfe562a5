"""The queue: cells in order of value, each in a file of its own, until the time is over."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from finer_nerfstudio.benchmarks.gpu.cell import OutOfTime, Place, QueueCell
from finer_nerfstudio.benchmarks.gpu.records import (
    Record,
    card_of,
    expected_seconds,
    has_failed,
    is_measured,
    read_records,
    write_record,
)
from finer_nerfstudio.nerf.captured.repeated import NotCaptured
from finer_nerfstudio.runs.command_line import came_from_interruption, printable

# What drivers and compilers say of an error after which nothing runs on the card in this process any more.
_OF_THE_CONTEXT = ("CUDA error", "Triton Error [CUDA]", "CUBLAS_STATUS", "CUDNN_STATUS")


@dataclass(frozen=True)
class Queue:
    """Where and how long cells are run.

    Attributes:
        folder: of the records.
        scratch: each cell has a folder of its own in there while it is unfinished.
        device: of all cells.
        minutes: from the moment of :func:`run_queue`.
        say: is given the lines that tell how it goes.
        unwind_asked: raises where somebody has asked for the end; called between cells.
    """

    folder: Path
    scratch: Path
    device: torch.device
    minutes: float
    say: Callable[[str], None] = print
    unwind_asked: Callable[[], None] = lambda: None


@dataclass
class Outcome:
    """What a run of the queue came to.

    Attributes:
        measured: names of the cells that ended well in this run.
        failed: names of those that did not, with their errors.
        left_out: sentences on cells that cannot be measured here, by name.
        lost: what made the GPU unusable for this process, None where nothing did.
        waiting: unmeasured cells that the time was too short for, with their expected seconds.
        records: of all cells of the queue that were ever tried.
    """

    measured: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    lost: str | None = None
    waiting: dict[str, float] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)


def in_order(cells: Sequence[QueueCell], records: dict[str, Record]) -> list[QueueCell]:
    """Return the cells without a result: those that were never tried, then those that failed, each in their order."""
    todo = [cell for cell in cells if not is_measured(cell, records.get(cell.name))]
    return sorted(todo, key=lambda cell: has_failed(cell, records.get(cell.name)))


def run_queue(cells: Sequence[QueueCell], queue: Queue) -> Outcome:
    """Measure the cells that have no result, one after the other, as far as the time goes.

    A cell that would not end in time is passed over for shorter ones. One that fails leaves its error and is tried
    again after all others in the next run. The run ends early where an error has made the GPU unusable.

    Args:
        cells: in order of value.
        queue: where and how long.
    """
    deadline = time.monotonic() + 60.0 * queue.minutes
    run = _Run(queue, card_of(queue.device), deadline, Outcome(records=read_records(queue.folder)))
    todo = in_order(cells, run.outcome.records)
    position = {cell.name: number for number, cell in enumerate(cells, start=1)}
    queue.say(f"{run.card}: {len(cells) - len(todo)} of {len(cells)} cells are measured, {queue.minutes:g} minutes")
    while run.outcome.lost is None and (cell := next((cell for cell in todo if run.can_be_next(cell)), None)):
        queue.unwind_asked()
        todo.remove(cell)
        left = (deadline - time.monotonic()) / 60.0
        about = in_words(run.expected(cell))
        queue.say(f"[{position[cell.name]}/{len(cells)}] {cell.name}: about {about}, {left:.1f} minutes left")
        run.measure(cell)
    queue.unwind_asked()
    for cell in todo:
        sentence = cell.missing(run.place(cell))
        if sentence is None:
            run.outcome.waiting[cell.name] = run.expected(cell)
        else:
            run.outcome.left_out[cell.name] = sentence
    return run.outcome


@dataclass
class _Run:
    """One run of the queue."""

    queue: Queue
    card: str
    deadline: float
    outcome: Outcome

    def place(self, cell: QueueCell) -> Place:
        """Where a cell runs."""
        finished = {
            name: record["result"]
            for name, record in self.outcome.records.items()
            if "result" in record and record["card"] == self.card and record["quick"] == cell.quick
        }
        return Place(self.queue.device, self.queue.scratch / f"{cell.name}-{cell.digest}", self.deadline, finished)

    def expected(self, cell: QueueCell) -> float:
        """Seconds that a cell should take from now on."""
        remaining = cell.remaining(self.place(cell))
        return expected_seconds(cell, self.outcome.records, self.card) if remaining is None else remaining

    def can_be_next(self, cell: QueueCell) -> bool:
        """Whether a cell ends in time and has all that it needs."""
        fits = self.expected(cell) <= self.deadline - time.monotonic()
        return fits and cell.missing(self.place(cell)) is None

    def measure(self, cell: QueueCell) -> None:
        """Run a cell and write its record."""
        began, place, say = time.monotonic(), self.place(cell), self.queue.say
        try:
            result = cell.work(place)
            self._keep(cell, time.monotonic() - began + result.pop("earlier_seconds", 0.0), result=result)
            self.outcome.measured.append(cell.name)
            shutil.rmtree(place.scratch, ignore_errors=True)
            say(f"  measured in {in_words(time.monotonic() - began)}")
        except OutOfTime:
            seconds, remaining = time.monotonic() - began, cell.remaining(place)
            if remaining is None:
                self._keep(cell, seconds, error=f"it was stopped: it had not ended after {in_words(seconds)}.")
                self.outcome.failed[cell.name] = "the time was over before it ended"
            else:  # it goes on from its checkpoint
                self.outcome.waiting[cell.name] = remaining
            say("  stopped: the time is over")
        except Exception as error:
            if came_from_interruption(error):
                raise KeyboardInterrupt from error
            self._keep(cell, time.monotonic() - began, error=error)
            self.outcome.failed[cell.name] = printable(self.outcome.records[cell.name]["error"])
            say(f"  failed: {self.outcome.failed[cell.name]}")
            # What is left of a capture that failed would be in the way of all others.
            is_lost = isinstance(error, NotCaptured)
            if is_lost or (breaks_the_context(error) and not still_usable(self.queue.device)):
                self.outcome.lost = f"{cell.name} has made the GPU unusable for this process"
        # The error and its traceback held tensors until here.
        gc.collect()
        if self.queue.device.type == "cuda" and self.outcome.lost is None:
            torch.cuda.empty_cache()

    def _keep(
        self,
        cell: QueueCell,
        seconds: float,
        *,
        result: dict[str, Any] | None = None,
        error: BaseException | str | None = None,
    ) -> None:
        self.outcome.records[cell.name] = write_record(
            self.queue.folder, cell, card=self.card, seconds=seconds, result=result, error=error
        )


def breaks_the_context(error: BaseException | None) -> bool:
    """Return whether an error, or what it came from, may have made the GPU unusable for this process.

    Running out of memory does not.
    """
    while error is not None:
        out_of_memory = isinstance(error, torch.OutOfMemoryError)
        if not out_of_memory and (
            type(error).__name__ == "AcceleratorError" or any(words in str(error) for words in _OF_THE_CONTEXT)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def still_usable(device: torch.device) -> bool:
    """Return whether a GPU still computes for this process. A processor that reported such an error does not."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
        return float(torch.ones(1, device=device).add(1.0)) == 2.0
    except RuntimeError:
        return False


def in_words(seconds: float) -> str:
    """Return seconds for a reader: "4.2 s", "3.5 min"."""
    return f"{seconds:.1f} s" if seconds < 100.0 else f"{seconds / 60.0:.1f} min"
