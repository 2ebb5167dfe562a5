"""What Nerfstudio's commands are asked for, looked at before they work for minutes."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from nerfstudio.data.scene_box import OrientedBox

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.files.atomic import require_folder, require_writable
from finer_nerfstudio.runs.command_line import value_on_command_line, values_on_command_line

# Exporters that radiance fields have nothing for, and what to take instead.
_NOT_FOR_FIELDS = {
    "marching-cubes": ("wants a signed distance field", "finer export mesh makes a mesh of a radiance field"),
    "gaussian-splat": ("writes the splats of splatfacto", "finer export splats bakes a radiance field into splats"),
}
_MESHES = ("tsdf", "poisson")
_VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".gif")
# Of ns-render and ns-export, which find out about others by an error of their own.
_POSITIVE = (
    "--interpolation-steps",
    "--frame-rate",
    "--seconds",
    "--radius",
    "--downscale-factor",
    "--jpeg-quality",
    "--num-points",
    "--num-rays-per-batch",
    "--resolution",
    "--batch-size",
    "--std-ratio",
    "--target-num-faces",
    "--num-pixels-per-side",
    "--px-per-uv-triangle",
)


def require_possible_command() -> None:
    """Check the numbers and paths that ns-eval, ns-render and ns-export are given, and that a field has such an export.

    Raises:
        UsageError: for what the command would fail at, perhaps when its work is done.
    """
    program = Path(sys.argv[0]).stem
    if program in ("ns-eval", "eval"):
        _require_evaluation()
    elif program in ("ns-render", "render"):
        _require_positive()
        _require_rendering()
    elif program in ("ns-export", "exporter"):
        _require_positive()
        _require_export()


def _require_positive() -> None:
    for option in _POSITIVE:
        given = value_on_command_line(option)
        try:
            is_positive = given is None or float(given) > 0
        except ValueError:  # tyro has refused it, or it is a word that the option knows
            continue
        if not is_positive:
            raise UsageError(f"{option} must be positive, not {given}.")


def _require_evaluation() -> None:
    given, pictures = (value_on_command_line(name) for name in ("--output-path", "--render-output-path"))
    if given is not None:
        path = Path(given)
        if path.suffix != ".json" or path.is_dir():
            what = "is a folder" if path.is_dir() else "does not end in .json"
            raise UsageError(f"--output-path {path} {what}: name a JSON file for the numbers.")
        require_writable(path, "--output-path")
    if pictures is not None:
        require_folder(Path(pictures), "--render-output-path")


def _require_rendering() -> None:
    camera_path = value_on_command_line("--camera-path-filename")
    if "camera-path" in sys.argv and camera_path is not None:
        _require_camera_path(Path(camera_path))
    given = value_on_command_line("--output-path")
    if given is None:
        return
    path = Path(given)
    makes_video = "dataset" not in sys.argv and value_on_command_line("--output-format") in (None, "video")
    gets_ending = not path.suffix and "camera-path" in sys.argv  # from that exporter alone
    if makes_video and (path.is_dir() or (path.suffix.lower() not in _VIDEOS and not gets_ending)):
        what = "is a folder" if path.is_dir() else "has no ending of a video"
        raise UsageError(f"--output-path {path} {what}: name a file such as {path.with_suffix('.mp4')}.")
    if makes_video:
        require_writable(path, "--output-path")
    else:
        require_folder(path, "--output-path")


def _require_camera_path(path: Path) -> None:
    """Refuse numbers from which no picture could be made; what is no camera path at all is said where it is read."""
    try:
        content = json.loads(path.read_text())
        cameras = content["camera_path"]
        numbers = {"seconds": content["seconds"], "fps": content.get("fps", 1)}
        numbers |= {name: content[name] for name in ("render_height", "render_width")}
        numbers |= {f"fov of camera {i}": camera["fov"] for i, camera in enumerate(cameras)}
        wrong = [name for name, value in numbers.items() if not 0 < float(value) < math.inf]
        wrong += [
            f"camera_to_world of camera {i}"
            for i, camera in enumerate(cameras)
            if len(camera["camera_to_world"]) != 16 or not all(map(math.isfinite, camera["camera_to_world"]))
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return
    if wrong:
        raise UsageError(
            f"--camera-path-filename {path}: {wrong[0]} cannot be used. Sizes, times and angles are positive, and "
            f"poses have 16 numbers: save the path anew in the viewer's Render tab."
        )


def _require_export() -> None:
    for kind, (reason, instead) in _NOT_FOR_FIELDS.items():
        if kind in sys.argv[1:]:
            raise UsageError(f"ns-export {kind} {reason}, and this run has a radiance field: {instead}.")
    crop_of_command()
    given = value_on_command_line("--output-dir")
    if given is not None:
        require_folder(Path(given), "--output-dir")


def exports_mesh() -> bool:
    """Return whether this is ns-export on the way to a mesh."""
    return Path(sys.argv[0]).stem in ("ns-export", "exporter") and any(kind in sys.argv[1:] for kind in _MESHES)


def require_possible_mesh(*, unbounded: bool) -> None:
    """Check that ns-export can make a mesh of a field.

    Args:
        unbounded: whether the field shows surroundings without end.

    Raises:
        UsageError: for points of all that a view shows, of which Poisson's method makes a blob as large as the sky.
    """
    if unbounded and "poisson" in sys.argv[1:] and crop_of_command() is None:
        raise UsageError(
            "ns-export poisson would put a surface around all that this run shows, sky and all: cut out the scene's "
            "box with --obb-center 0 0 0 --obb-rotation 0 0 0 --obb-scale 2 2 2, or take finer export mesh."
        )


def crop_of_command() -> OrientedBox | None:
    """Return the box that ns-export is told to cut out, None where it is not told all of it.

    Raises:
        UsageError: for a box that holds nothing.
    """
    given = [_three(f"--obb-{name}") for name in ("center", "rotation", "scale")]
    if any(values is None for values in given):
        return None
    center, rotation, scale = (values or (0.0, 0.0, 0.0) for values in given)
    if not all(map(math.isfinite, (*center, *rotation, *scale))) or min(scale) <= 0:
        raise UsageError(
            "--obb-center, --obb-rotation and --obb-scale must be numbers, and those of --obb-scale positive: a box of "
            "no size holds nothing."
        )
    return OrientedBox.from_params(center, rotation, scale)


def _three(option: str) -> tuple[float, float, float] | None:
    """Three numbers on the command line; None where they are not there, or None is given."""
    try:
        x, y, z = map(float, values_on_command_line(option, 3))
    except ValueError:
        return None
    return x, y, z
