"""The folder that a run writes to: for one run at a time, without what a killed one left half-written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from finer_nerfstudio.errors import InputError, argument, in_one_line

FOLDER = argument("folder", option="--output-dir")
"""The folder of a run in the sentences of errors."""

_LOCK = ".lock"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have ``folder`` to oneself, and sweep the unfinished files of earlier runs, which nobody can be writing.

    The operating system gives a folder free when its process ends, however it ends. The folder is made as needed.

    Args:
        folder: where one run writes. Its subfolders are neither claimed nor swept: they may be other runs'.

    Raises:
        InputError: where another process has it, or where it cannot be written.
    """
    lock = claim(folder)
    try:
        yield
    finally:
        release(lock)


def claim(folder: Path) -> FileLock:
    """As :func:`claimed`, until :func:`release` or the end of the process.

    Raises:
        InputError: where another process has it, or where it cannot be written.
    """
    lock = FileLock(folder / _LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another run is writing to {folder}: wait for its end, or give this one another folder."
        ) from None
    except NotImplementedError:  # a file system without locks
        pass
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({in_one_line(error)}): choose another folder.") from error
    sweep(folder)
    return lock


def release(lock: FileLock) -> None:
    """Give a folder free that :func:`claim` took."""
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def sweep(folder: Path) -> None:
    """Delete what unfinished writing left in ``folder``: files and folders whose names end in .partial."""
    for unfinished in folder.glob("*.partial"):
        with suppress(OSError):
            if unfinished.is_dir():
                shutil.rmtree(unfinished)
            else:
                unfinished.unlink()
