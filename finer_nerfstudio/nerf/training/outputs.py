"""Where Nerfstudio's commands are to write, looked at before they work for minutes."""

from __future__ import annotations

import sys
from pathlib import Path

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.runs.command_line import value_on_command_line

_VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".gif")


def require_output_of_command() -> None:
    """Check --output-path of ns-eval, which writes JSON, and of ns-render, which writes a video unless asked otherwise.

    Raises:
        UsageError: for a path at which the command would fail when its work is done.
    """
    given = value_on_command_line("--output-path")
    if given is None:
        return
    program, path = Path(sys.argv[0]).stem, Path(given)
    if program in ("ns-eval", "eval"):
        if path.suffix != ".json" or path.is_dir():
            what = "is a folder" if path.is_dir() else "does not end in .json"
            raise UsageError(f"--output-path {path} {what}: name a JSON file for the numbers.")
    elif program in ("ns-render", "render") and "dataset" not in sys.argv:
        wants_video = value_on_command_line("--output-format") in (None, "video")
        if wants_video and (path.is_dir() or (path.suffix and path.suffix.lower() not in _VIDEOS)):
            what = "is a folder" if path.is_dir() else "has no ending of a video"
            raise UsageError(f"--output-path {path} {what}: name a file such as {path.with_suffix('.mp4')}.")
