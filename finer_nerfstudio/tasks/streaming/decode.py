"""Where a stream's bytes come from: a file or a web server, whole or as many as asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finer_nerfstudio.errors import InputError, UsageError, argument, in_one_line

_PORTION = 1 << 14
_SECONDS_TO_ANSWER = 30.0


def portions_of(source: str, *, max_bytes: int | None = None) -> Iterator[bytes]:
    """The bytes of a file or of an http(s) address as they come.

    A server is asked for the wanted range alone; one that does not know ranges is read no further than that.

    Args:
        source: path or address.
        max_bytes: read no more than this.

    Raises:
        UsageError: for a number of bytes below one.
        InputError: where nothing can be read. A connection that breaks off ends the bytes: what came counts.
    """
    if max_bytes is not None and max_bytes < 1:
        raise UsageError(f"{argument('max_bytes')} must be at least 1, not {max_bytes}.")
    if source.startswith(("http://", "https://")):
        yield from _from_address(source, max_bytes)
        return
    path, left = Path(source), max_bytes
    try:
        with path.open("rb") as file:
            while portion := file.read(_PORTION if left is None else min(_PORTION, left)):
                left = None if left is None else left - len(portion)
                yield portion
    except OSError as error:
        raise InputError(
            f"{source} cannot be read ({in_one_line(error)}): name a .finer file or its address."
        ) from error


def _from_address(address: str, max_bytes: int | None) -> Iterator[bytes]:
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    request = Request(address)
    if max_bytes is not None:
        request.add_header("Range", f"bytes=0-{max_bytes - 1}")
    left = max_bytes
    arrived = False
    try:
        with urlopen(request, timeout=_SECONDS_TO_ANSWER) as answer:
            while left is None or left > 0:
                # read1 gives what is there: a stage is shown as soon as it is complete.
                portion = answer.read1(_PORTION if left is None else min(_PORTION, left))
                if not portion:
                    return
                arrived = True
                left = None if left is None else left - len(portion)
                yield portion
    except (OSError, HTTPException, ValueError) as error:
        if not arrived:
            raise InputError(
                f"{address} cannot be read ({in_one_line(error)}): is the server running, and the address right?"
            ) from error
