"""Writing files so that what was there stays whole until the new content is."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finer_nerfstudio.errors import InputError, UsageError, argument, in_one_line

# Of a disk, or of somebody's share of it.
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends without an error, the finished file takes the place of ``path``.

    Folders are made as needed.

    Raises:
        InputError: where the file cannot be written (permissions, a full disk, a folder in its place).
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        move_in(unfinished, path)
    except OSError as error:
        space = "free some space, or " if error.errno in _FULL else ""
        in_the_way = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = f"{_file_above(path)} is a file" if in_the_way else in_one_line(error)
        another = argument("path", option="--output-dir")
        raise InputError(f"cannot write {path} ({reason}): {space}choose another {another}.") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def require_writable(path: Path, named: str) -> None:
    """Refuse a file or folder that could not be made or written, before there is anything to write.

    Args:
        path: of the file, or of the folder.
        named: what the caller calls it.

    Raises:
        InputError: naming the folder that is in the way.
    """
    folder = path if path.is_dir() else path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "cannot be written to" if folder.is_dir() else "is not a folder"
        raise InputError(f"{named} {path}: {folder} {what}: choose another place.")


def require_folder(path: Path, named: str) -> None:
    """Refuse a folder that could not be made or written to, before there is anything to write.

    Args:
        path: of the folder.
        named: what the caller calls it.

    Raises:
        UsageError: for a file in its place.
        InputError: naming the folder that is in the way.
    """
    if path.is_file():
        raise UsageError(f"{named} {path} is a file: name a folder.")
    require_writable(path, named)


def _file_above(path: Path) -> Path:
    """The file where there should be a folder."""
    return next((folder for folder in path.parents if folder.is_file()), path)


def move_in(unfinished: Path, path: Path) -> None:
    """Put a finished file in the place of ``path``, which has either content after a power failure, and no third one.

    Raises:
        OSError: where that fails.
    """
    _sync(unfinished)
    os.replace(unfinished, path)
    # The new name is safe with its folder; Windows has no such thing as syncing one.
    with suppress(OSError):
        _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one step."""
    with replacing(path) as unfinished:
        unfinished.write_text(text)


# A list of nothing else; texts have no line ends in JSON, so that it is none within a text.
_NUMBERS = re.compile(r'\[\n\s*([^\[\]{}"]*?)\n\s*\]')


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` to ``path`` as indented JSON in one step; numbers that JSON does not have become null.

    Lists of numbers are on one line each.
    """
    text = json.dumps(_finite(content), indent=2, allow_nan=False)
    write_text(path, _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    if isinstance(content, float) and content - content != 0.0:  # infinite or NaN
        return None
    return content
