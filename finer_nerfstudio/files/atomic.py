"""Writing files so that what was there stays whole until the new content is."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finer_nerfstudio.errors import InputError, argument, in_one_line


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
        raise InputError(
            f"cannot write {path} ({in_one_line(error)}): free some space or choose another "
            f"{argument('path', option='--output-dir')}."
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


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
