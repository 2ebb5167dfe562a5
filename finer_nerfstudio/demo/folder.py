"""A folder of pictures that is made in one step, on all cores."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol

from finer_nerfstudio.errors import InputError, UsageError, argument, in_one_line

MOST_VIEWS = 10_000
"""Images of a folder, or of each of its splits."""
LARGEST_SIDE = 8_192
"""Of an image, pixels."""
RECIPE = "scene.json"
"""Name of the file that says how a folder was made."""


# Elsewhere than on a terminal.
_SECONDS_OF_SILENCE = 10.0


def draw_all(render: Callable[[str, int], None], jobs: list[tuple[str, int]]) -> None:
    """Call ``render`` with each of the ``jobs`` on all cores."""
    # Threads suffice, as NumPy releases the interpreter lock, and unlike processes they cannot outlive us.
    pool = ThreadPoolExecutor(max_workers=_usable_cores())
    try:
        futures = [pool.submit(render, *job) for job in jobs]
        for future in _with_progress(as_completed(futures), len(jobs)):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _with_progress(items: Iterator[Future[None]], total: int) -> Iterator[Future[None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(*columns, console=console) as progress:
            yield from progress.track(items, total=total, description="Rendering")
        return
    said = time.monotonic()
    for done, item in enumerate(items, 1):
        if time.monotonic() - said > _SECONDS_OF_SILENCE:
            said = time.monotonic()
            print(f"rendering: {done} of {total} pictures", file=sys.stderr, flush=True)
        yield item


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_json(path: Path, content: object) -> None:
    """Write ``content`` readably."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class Recipe(Protocol):
    """Options that decide what a folder holds."""

    @property
    def output_dir(self) -> Path:
        """The folder to create."""
        ...

    def problem(self) -> str | None:
        """Return the fault of the values in one sentence, or None."""
        ...

    def files(self) -> list[str]:
        """Return what a finished folder holds, relative to it; for values without a fault."""
        ...

    def recipe(self) -> Mapping[str, int | str]:
        """All that decides the files' content."""
        ...


def _is_complete(folder: Path, options: Recipe) -> bool:
    """Whether ``folder`` holds all files, made with these options."""
    try:
        recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return recipe == options.recipe() and all((folder / name).is_file() for name in options.files())


def make_folder(options: Recipe, write: Callable[[Path], None]) -> bool:
    """Create a folder in one step or leave a finished one alone.

    Args:
        options: whose ``output_dir`` is the folder.
        write: puts them into an empty folder, with the recipe in a file of the name ``RECIPE``.

    Returns:
        Whether there was something to do.

    Raises:
        UsageError: for options out of range, and for a folder that holds something else.
        InputError: where the folder cannot be written.
    """
    if problem := options.problem():
        raise UsageError(problem)
    target = options.output_dir.expanduser().resolve()
    shown = options.output_dir
    try:
        if _is_complete(target, options):
            return False
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            if not target.is_dir():
                raise UsageError(f"{shown} is a file: choose another {argument('output_dir')}.")
            raise UsageError(
                f"{shown} holds something else, or what other options make: choose another {argument('output_dir')}."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        # The finished scene moves into place in one step, so nobody ever sees half of it under its name.
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-unfinished-", dir=target.parent) as staging:
            folder = Path(staging) / target.name
            folder.mkdir()
            write(folder)
            folder.rename(target)
    except OSError as error:
        raise InputError(
            f"cannot write {shown} ({in_one_line(error)}): choose another {argument('output_dir')}."
        ) from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was written") from None
    return True
