"""The folder that a run writes to: for one run at a time, without what a killed one left half-written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from finer_nerfstudio.errors import InputError, UsageError, argument, in_one_line

FOLDER = argument("folder", option="--output-dir")
"""The folder of a run in the sentences of errors."""

_LOCK = ".lock"


@contextmanager
def output_folder(folder: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Make the folder of a run and have it to oneself, or find out that it must not be written to.

    Args:
        folder: for one run's results.
        resume: whether a run that is there is gone on with.
        overwrite: whether a run that is there is replaced.

    Raises:
        UsageError: where the folder holds a run already and neither ``resume`` nor ``overwrite`` was asked for.
        InputError: where it cannot be written to.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(f"{FOLDER} {folder} is a file: name a folder.") from error
    except OSError as error:
        raise InputError(f"cannot make the folder {folder} ({in_one_line(error)}): choose another {FOLDER}.") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write to {folder}: choose another {FOLDER}.")
    there = [name for name in ("checkpoint.safetensors", "metrics.json") if (folder / name).exists()]
    if there and not resume and not overwrite:
        raise UsageError(
            f"{folder} holds a run already ({there[0]}): go on with it by {argument('resume', True)}, replace it by "
            f"{argument('overwrite', True)}, or choose another {FOLDER}."
        )
    with _discarded_if_empty(folder, made=made), claimed(folder):
        if overwrite and not resume:
            for name in there:
                # Else a later --resume would take up the run that was to be replaced.
                try:
                    os.replace(folder / name, folder / f"{name}.previous")
                except OSError as error:
                    raise InputError(
                        f"cannot write to {folder} ({in_one_line(error)}): choose another {FOLDER}."
                    ) from error
        yield


@contextmanager
def _discarded_if_empty(folder: Path, *, made: bool) -> Iterator[None]:
    try:
        yield
    finally:
        if made:
            with suppress(OSError):  # it holds something
                folder.rmdir()


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
