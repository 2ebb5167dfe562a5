"""A small web server for one stream, with ranges, and the page that decodes it in the browser."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import numpy as np
from PIL import Image

from finer_nerfstudio.errors import InputError, UsageError, argument, in_one_line
from finer_nerfstudio.files.images import read_header
from finer_nerfstudio.streams.header import StreamHeader
from finer_nerfstudio.tasks.image.files import read_image
from finer_nerfstudio.tasks.streaming.subjects import image_size

STREAM_NAME = "stream.finer"
ORIGINAL_NAME = "original.png"
"""Of the picture beside the stream's, both as encoding leaves it in a folder and as it is served."""
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".finer": "application/cbor-seq",
    ".png": "image/png",
}
_TICKS_PER_SECOND = 20
# Of a visitor who says nothing, or takes nothing.
_SECONDS_OF_PATIENCE = 30.0
# Visitors who are answered at the same time; more wait until it is their turn.
_MOST_VISITORS = 128
_MOST_WAITING = 1024
# The longer side of a picture on the page.
_LARGEST_SIDE = 1024


def page_files() -> dict[str, bytes]:
    """The page and its scripts, by name."""
    folder = files("finer_nerfstudio.tasks.streaming") / "page"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if Path(entry.name).suffix in _TYPES}


def original_of(header: StreamHeader, path: Path) -> bytes:
    """Read the picture that a stream was made of, to be shown beside it.

    Args:
        header: of the stream.
        path: an image of the stream's size, or a larger one of the same proportions.

    Returns:
        A PNG file of 8 bits, averaged down as far as the page does.

    Raises:
        InputError: for an image that cannot be read, and for one of another shape.
    """
    height, width, _ = image_size(header)
    found = read_header(path)
    image = read_image(path, size=min(_LARGEST_SIDE, max(found.height, found.width)))
    shorter = min(height, width, image.height, image.width)
    if abs(image.width * height / (image.height * width) - 1.0) > 1.0 / shorter:
        raise InputError(
            f"{path} has {found.width}x{found.height} pixels, and the stream's picture {width}x{height}: it is "
            "another picture."
        )
    pixels = image.pixels if image.maximum == 255 else (image.pixels / 257.0).round().astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if image.channels == 1 else pixels).save(content, "PNG")
    return content.getvalue()


@contextmanager
def serving(
    path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    kilobytes: float | None = None,
    original: bytes | None = None,
) -> Iterator[ThreadingHTTPServer]:
    """A server for the stream in ``path``; run it by ``serve_forever()``.

    Args:
        path: a file, which is read anew for every request, so that one that still grows can be served.
        host: address to listen on.
        port: 0 for any free one.
        kilobytes: of the stream per second and connection (1,000 bytes), as over a slow link; None for no limit.
        original: a PNG file to show beside the stream's picture.

    Raises:
        UsageError: for a speed that is not positive, and for a port that cannot be had.
    """
    if kilobytes is not None and not kilobytes > 0:
        raise UsageError(f"{argument('kilobytes')} must be a positive number, not {kilobytes}.")

    class Handler(_Handler):
        stream_path = path
        speed = None if kilobytes is None else 1000.0 * kilobytes
        page = page_files() | ({} if original is None else {ORIGINAL_NAME: original})

    try:
        server = _Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"{argument('host')} {host} {argument('port')} {port}: cannot listen there ({in_one_line(error)}): "
            f"choose another of the two."
        ) from error
    try:
        yield server
    finally:
        server.server_close()


class _Server(ThreadingHTTPServer):
    """A server of a bounded number of threads, which has nothing to say of visitors who go away."""

    request_queue_size = _MOST_WAITING

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = BoundedSemaphore(_MOST_VISITORS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._free.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SECONDS_OF_PATIENCE
    stream_path: Path
    speed: float | None
    page: dict[str, bytes]

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: requests are no news."""

    def _answer(self, *, with_content: bool) -> None:
        name = self.path.split("?", 1)[0].lstrip("/") or "index.html"
        if name == STREAM_NAME:
            try:
                content = self.stream_path.read_bytes()
            except OSError:
                self.send_error(404)
                return
            self._send_stream(content, with_content=with_content)
        elif name in self.page:
            self._send_head(200, name, len(self.page[name]))
            if with_content:
                self.wfile.write(self.page[name])
        else:
            self.send_error(404)

    def _send_stream(self, content: bytes, *, with_content: bool) -> None:
        size = len(content)
        start, stop = 0, size
        asked = self.headers.get("Range")
        if asked is not None:
            found = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", asked.strip())
            # Several ranges, and what is not understood, may be answered by everything (RFC 9110, 14.2).
            if found and any(found.groups()):
                first, last = found.groups()
                if first:
                    start, stop = int(first), min(size, int(last) + 1) if last else size
                else:
                    start = max(0, size - int(last))
                if start >= stop:
                    self._send_head(416, STREAM_NAME, 0, {"Content-Range": f"bytes */{size}"})
                    return
            else:
                asked = None
        extra = {"Accept-Ranges": "bytes"}
        if asked is not None:
            extra["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._send_head(200 if asked is None else 206, STREAM_NAME, stop - start, extra)
        if not with_content:
            return
        portion = stop - start if self.speed is None else max(1, int(self.speed / _TICKS_PER_SECOND))
        try:
            for position in range(start, stop, max(1, portion)):
                self.wfile.write(content[position : min(stop, position + portion)])
                self.wfile.flush()
                if self.speed is not None:
                    time.sleep(portion / self.speed)
        except OSError:
            # Whoever asked has seen enough.
            self.close_connection = True

    def _send_head(self, status: int, name: str, length: int, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", _TYPES[Path(name).suffix])
        self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "no-store")
        for header, value in (extra or {}).items():
            self.send_header(header, value)
        self.end_headers()
