"""What Nerfstudio's commands are to write and where, looked at before they work for minutes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.runs.command_line import value_on_command_line

# Exporters that radiance fields have nothing for, and what to take instead.
_NOT_FOR_FIELDS = {
    "marching-cubes": ("wants a signed distance field", "ns-export tsdf or ns-export poisson make meshes"),
    "gaussian-splat": ("writes the splats of splatfacto", "finer export splats bakes a radiance field into splats"),
}
_VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".gif")


def require_output_of_command() -> None:
    """Check --output-path of ns-eval, which writes JSON, and of ns-render, which writes a video unless asked otherwise,
    and the kind and --output-dir of ns-export.

    Raises:
        UsageError: for what the command would fail at when its work is done.
    """
    program = Path(sys.argv[0]).stem
    if program in ("ns-export", "exporter"):
        _require_export()
    given = value_on_command_line("--output-path")
    if given is None:
        return
    path = Path(given)
    if program in ("ns-eval", "eval"):
        if path.suffix != ".json" or path.is_dir():
            what = "is a folder" if path.is_dir() else "does not end in .json"
            raise UsageError(f"--output-path {path} {what}: name a JSON file for the numbers.")
    elif program in ("ns-render", "render") and "dataset" not in sys.argv:
        wants_video = value_on_command_line("--output-format") in (None, "video")
        if wants_video and (path.is_dir() or (path.suffix and path.suffix.lower() not in _VIDEOS)):
            what = "is a folder" if path.is_dir() else "has no ending of a video"
            raise UsageError(f"--output-path {path} {what}: name a file such as {path.with_suffix('.mp4')}.")


def _require_export() -> None:
    for kind, (reason, instead) in _NOT_FOR_FIELDS.items():
        if kind in sys.argv[1:]:
            raise UsageError(f"ns-export {kind} {reason}, and this run has a radiance field: {instead}.")
    given = value_on_command_line("--output-dir")
    if given is not None and not (Path(given).is_dir() and os.access(given, os.W_OK)):
        raise UsageError(f"--output-dir {given} is not a folder that can be written to: choose another one.")
