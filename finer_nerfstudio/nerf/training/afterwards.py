"""What Nerfstudio's commands have left, said when they end: they name no file, or no next step."""

from __future__ import annotations

import atexit
import sys
import time
from pathlib import Path

from finer_nerfstudio.nerf.training import terminal
from finer_nerfstudio.runs.command_line import value_on_command_line

# Where ns-render writes unless it is told.
_VIDEO, _PICTURES = "renders/output.mp4", "renders"


def say_next_at_exit() -> None:
    """Have ns-eval, ns-render and ns-export end with what to look at, if they have written it."""
    atexit.register(_say_next, time.time())


def _say_next(since: float) -> None:
    program = Path(sys.argv[0]).stem
    if program in ("ns-render", "render"):
        default = _PICTURES if "dataset" in sys.argv else _VIDEO
        written = _newest(Path(value_on_command_line("--output-path") or default), since)
        if written is not None:
            terminal.say(f"next: look at {terminal.shown(written)}")
    elif program in ("ns-export", "exporter"):
        folder = value_on_command_line("--output-dir")
        written = None if folder is None else _newest(Path(folder), since)
        if written is not None:
            terminal.say(f"next: open {terminal.shown(written)}")
            config = value_on_command_line("--load-config")
            if config is not None and "--save-world-frame" not in sys.argv:
                files = f"{terminal.quoted(written)} --load-config {terminal.quoted(Path(config))}"
                terminal.say(f"or, in the coordinates of the data: finer export original {files}")
    elif program in ("ns-eval", "eval"):
        numbers = value_on_command_line("--output-path")
        if numbers is not None and _newest(Path(numbers), since) is not None:
            config = value_on_command_line("--load-config") or ""
            terminal.say(f"next: ns-viewer --load-config {terminal.quoted(Path(config))}")


def _newest(path: Path, since: float) -> Path | None:
    """The file, or of a folder the one that was written last; None where nothing was written since then."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    newest = max(files, key=lambda file: file.stat().st_mtime, default=None)
    return newest if newest is not None and newest.stat().st_mtime >= since else None
