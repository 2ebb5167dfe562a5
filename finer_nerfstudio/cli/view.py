"""Open splats, baked here or made by another program, or a baked grid, in the browser.

finer view demo.ply
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class View:
    """Open a baked file, or splats of another program, in the browser."""

    file: tyro.conf.Positional[Path]
    """A .ply file with Gaussian splats, or an .npz file that finer export grid wrote."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all of this machine's."""
    port: int = 8080
    """Port to listen on, 0 for any free one."""


OPTIONS = View


def run(command: View) -> None:
    """Serve the file until Ctrl-C."""
    from finer_nerfstudio.nerf.export.viewing import show

    server = show(command.file, host=command.host, port=command.port, note=print)
    print(f"http://{command.host}:{server.get_port()}/ shows {command.file}; Ctrl-C ends it", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600.0)
