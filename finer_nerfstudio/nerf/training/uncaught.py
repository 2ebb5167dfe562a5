"""One sentence for errors that Nerfstudio's commands let end the process before they know whose run it is."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType, TracebackType

from finer_nerfstudio.errors import InputError, in_one_line
from finer_nerfstudio.nerf.training.checkpoint_loading import damaged_checkpoint
from finer_nerfstudio.runs.command_line import came_from_interruption, exit_on_input_error, value_on_command_line

# Options that name a file, what Nerfstudio reads where they are not given, and what to do.
_FILES = {
    "--load-config": (None, "name the config.yml in the folder of a run"),
    "--output-dir": (None, "name a folder that can be written to"),
    "--camera-path-filename": (Path("camera_path.json"), "name a file of the viewer's Render tab"),
}


# Of the environment: set to anything, it has tracebacks shown.
_TRACEBACK = "FINER_TRACEBACK"
_ours = threading.Event()


def run_is_ours() -> None:
    """Say that this process trains, or opens, a run of one of this package's methods."""
    _ours.set()


def say_uncaught() -> None:
    """Have a sentence said, in place of a traceback, where a command of Nerfstudio ends with an error or by Ctrl-C.

    Programs of other people that import the package keep their tracebacks, and so do runs of other methods.
    ``FINER_TRACEBACK=1`` brings the others back.
    """
    if not _runs_command_of_nerfstudio():
        return
    before = sys.excepthook

    def say_or_trace(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if came_from_interruption(error):
            unfinished = _unfinished_video(trace)
            if unfinished is not None:
                unfinished.unlink(missing_ok=True)
            print(f"interrupted{'' if unfinished is None else '; no video was made'}.", file=sys.stderr)
            if isinstance(error, KeyboardInterrupt):  # by which Python ends the process itself
                return
            raise SystemExit(130)
        sentence = _sentence(error, trace)
        if os.environ.get(_TRACEBACK) or (sentence is None and not _ours.is_set()):
            before(kind, error, trace)
        elif sentence is None:
            program = Path(sys.argv[0]).stem
            sentence = f"{program} ended with {kind.__name__} ({in_one_line(error)}): {_TRACEBACK}=1 shows where."
        if sentence is not None:
            with contextlib.suppress(SystemExit), exit_on_input_error():
                raise InputError(sentence)

    sys.excepthook = say_or_trace


def _runs_command_of_nerfstudio() -> bool:
    program = Path(sys.argv[0])
    return program.name.startswith("ns-") or "nerfstudio" in program.parts


def _unfinished_video(trace: TracebackType | None) -> Path | None:
    """The file that ns-render was writing; it could be played, and would be taken for whole."""
    for frame, _ in traceback.walk_tb(trace):
        if frame.f_code.co_name == "_render_trajectory_video" and frame.f_locals.get("output_format") == "video":
            return Path(frame.f_locals["output_filename"])
    return None


def _sentence(error: BaseException, trace: TracebackType | None) -> str | None:
    if isinstance(error, OSError) and error.filename is not None:
        for option, (default, advice) in _FILES.items():
            asked = _given(option) or default
            failed = Path(str(error.filename))
            if asked is not None and (failed == asked or (option == "--output-dir" and failed in asked.parents)):
                reason = "is a folder" if asked.is_dir() else f"cannot be opened ({in_one_line(error)})"
                return f"{option} {asked} {reason}: {advice}."
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    if not isinstance(error, OSError) and _reads_config(frames):
        option = "--load-config"
        reason = "" if isinstance(error, AssertionError) else f" ({in_one_line(error)})"
        return f"{option} {_given(option)} is not the configuration of a run{reason}: {_FILES[option][1]}."
    if any(frame.f_globals.get("__name__") == "mediapy" for frame in frames):
        # The writer's own error ends with ffmpeg's words; where ffmpeg is gone already, there are none.
        last = (str(error).strip().splitlines() or [""])[-1].strip().rstrip(".")
        reason = last if isinstance(error, RuntimeError) else f"ffmpeg ended: {in_one_line(error)}"
        return f"--output-path cannot be written as a video ({reason}): name a file such as flight.mp4."
    for frame in frames:
        if frame.f_code.co_name == "eval_load_checkpoint":
            path = frame.f_locals.get("load_path") or frame.f_locals["config"].load_dir
            return str(damaged_checkpoint(str(path), error))
    if (any(map(_reads_camera_path, frames)) or _looks_into_camera_path(frames[-1])) and isinstance(
        error, (ValueError, LookupError, TypeError)
    ):
        option = "--camera-path-filename"
        default, advice = _FILES[option]
        reason = "is not valid JSON" if isinstance(error, json.JSONDecodeError) else "is no camera path"
        words = f"{in_one_line(error)} is missing" if isinstance(error, KeyError) else in_one_line(error)
        return f"{option} {_given(option) or default} {reason} ({words}): {advice}."
    return None


# Of a file's text, and of YAML in it.
_READERS = ("yaml", "pathlib", "codecs")


def _reads_config(frames: list[FrameType]) -> bool:
    """Whether this is where Nerfstudio reads a run's config.yml, before anything is built from it."""
    for frame, within in itertools.pairwise([*frames, None]):
        if frame is not None and frame.f_code.co_name == "eval_setup":
            return within is None or within.f_globals.get("__name__", "").partition(".")[0] in _READERS
    return False


def _reads_camera_path(frame: FrameType) -> bool:
    """Whether this is where Nerfstudio reads the file, or takes a camera path from it."""
    name = frame.f_code.co_name
    return name in ("get_path_from_json", "get_crop_from_json") or (
        name == "load" and frame.f_globals.get("__name__") == "json" and _given("--camera-path-filename") is not None
    )


def _looks_into_camera_path(frame: FrameType) -> bool:
    """Whether this is ns-render with what the file held."""
    return frame.f_code.co_name == "main" and "camera_path" in frame.f_locals


def _given(option: str) -> Path | None:
    value = value_on_command_line(option)
    return None if value is None else Path(value)
