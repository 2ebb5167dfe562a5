"""Errors that Nerfstudio's commands do not catch: what a user reads in place of a traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mediapy
import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_paths import get_path_from_json
from nerfstudio.utils.eval_utils import eval_load_checkpoint, eval_setup

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.nerf.training import uncaught
from finer_nerfstudio.nerf.training.asked import (
    crop_of_command,
    exports_mesh,
    require_possible_command,
    require_possible_mesh,
)
from finer_nerfstudio.nerf.training.uncaught import say_uncaught


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], str]:
    """What is on standard error after something went wrong in a command of Nerfstudio that nobody caught."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ns-eval"])
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    say_uncaught()

    def say(action: Callable[[], Any]) -> str:
        try:
            action()
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        else:
            raise AssertionError("nothing went wrong")
        return capsys.readouterr().err.replace("\n", " ")

    return say


@pytest.mark.parametrize("keep", [0, 500, 20_000])
def test_a_checkpoint_that_is_cut_short(keep: int, tmp_path: Path, said: Callable[[Callable[[], Any]], str]) -> None:
    checkpoint = tmp_path / "step-000000009.ckpt"
    torch.save({"pipeline": {"weight": torch.zeros(10_000)}, "step": 9}, checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    config: Any = SimpleNamespace(load_dir=tmp_path, load_step=None)
    text = said(lambda: eval_load_checkpoint(config, torch.nn.Module()))  # pyright: ignore[reportArgumentType]
    assert text.startswith(f"error: the checkpoint {checkpoint} cannot be read")
    assert "move it away" in text
    assert "Traceback" not in text


def load(path: Path) -> Any:
    """As ns-render camera-path does."""
    with path.open() as file:
        return get_path_from_json(json.load(file))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be opened (No such file or directory)"), ("{", "is not valid JSON"), ("{}", "is no camera path")],
)
def test_a_camera_path_that_is_none(
    content: str | None,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[Callable[[], Any]], str],
) -> None:
    path = tmp_path / "path.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(sys, "argv", ["ns-render", "camera-path", "--camera-path-filename", str(path)])
    text = said(lambda: load(path))
    assert text.startswith(f"error: --camera-path-filename {path} {reason}")
    assert "Render tab" in text
    assert "Traceback" not in text


def test_an_interruption_needs_no_traceback(said: Callable[[Callable[[], Any]], str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert said(interrupted).strip() == "interrupted."


def test_errors_of_others_keep_their_traceback(said: Callable[[Callable[[], Any]], str]) -> None:
    assert "ZeroDivisionError" in said(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("program", "is_one"),
    [("/usr/bin/ns-export", True), ("/lib/nerfstudio/scripts/eval.py", True), ("mine.py", False), ("", False)],
)
def test_other_programs_keep_their_hook(program: str, is_one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    say_uncaught()
    assert (sys.excepthook is not sys.__excepthook__) == is_one


def test_an_interruption_that_had_something_fail_on_the_way_out() -> None:
    code = (
        "import sys; sys.argv = ['ns-render']\n"
        "from finer_nerfstudio.nerf.training.uncaught import say_uncaught\n"
        "say_uncaught()\n"
        "try:\n    raise KeyboardInterrupt\nfinally:\n    raise RuntimeError('Error writing')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted.\n")


def test_a_video_that_cannot_be_written(tmp_path: Path, said: Callable[[Callable[[], Any]], str]) -> None:
    def write() -> None:
        with mediapy.VideoWriter(tmp_path, (8, 8), fps=1) as writer:
            for _ in range(400):
                writer.add_image(np.zeros((8, 8, 3), np.uint8))

    if shutil.which("ffmpeg") is None:
        pytest.skip("videos are written by ffmpeg")
    text = said(write)
    assert text.startswith("error: --output-path cannot be written as a video (")
    assert "Traceback" not in text


@pytest.mark.parametrize("content", ["seven sentences", "- 1\n", "!!python/object:no.such.Thing {}\n", "a: [\n"])
def test_a_config_that_is_none(
    content: str, tmp_path: Path, said: Callable[[Callable[[], Any]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yml"
    path.write_text(content)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ns-eval", "--load-config", str(path)])
    text = said(lambda: eval_setup(path))
    assert text.startswith(f"error: --load-config {path} is not the configuration of a run")
    assert "name the config.yml" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["ns-eval", "--output-path", "numbers.txt"], "does not end in .json"),
        (["ns-eval", "--output-path", "{folder}"], "is a folder"),
        (["ns-render", "interpolate", "--output-path", "{folder}"], "is a folder"),
        (["ns-render", "camera-path", "--output-path=flight.txt"], "has no ending of a video"),
        (["ns-render", "interpolate", "--output-path", "flight"], "has no ending of a video"),
        (["ns-eval", "--output-path", "numbers.json"], None),
        (["ns-render", "dataset", "--output-path", "{folder}"], None),
        (["ns-render", "interpolate", "--output-format", "images", "--output-path", "{folder}"], None),
        (["ns-render", "camera-path", "--output-path", "flight.mp4"], None),
        (["ns-render", "camera-path", "--output-path", "flight"], None),
        (["ns-viewer"], None),
    ],
)
def test_places_where_a_command_could_not_write(
    arguments: list[str], reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "folder.json"
    folder.mkdir()
    monkeypatch.setattr(sys, "argv", [argument.format(folder=folder) for argument in arguments])
    if reason is None:
        require_possible_command()
    else:
        with pytest.raises(UsageError, match=f"--output-path .*{reason}"):
            require_possible_command()


@pytest.mark.parametrize(
    ("kind", "instead"), [("marching-cubes", "finer export mesh"), ("gaussian-splat", "finer export splats")]
)
def test_exporters_that_are_not_for_radiance_fields(
    kind: str, instead: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ns-export", kind, "--output-dir", str(tmp_path)])
    with pytest.raises(UsageError, match=f"ns-export {kind} .*{instead}"):
        require_possible_command()


BOX_OF_SCENE = ["--obb-center", *"000", "--obb-rotation", *"000", "--obb-scale", *"222"]


@pytest.mark.parametrize(
    ("arguments", "unbounded", "refused"),
    [
        (["poisson"], False, False),
        (["poisson"], True, True),
        (["poisson", "--obb-center", "0", "0", "0"], True, True),
        (["poisson", *BOX_OF_SCENE], True, False),
        (["tsdf"], True, False),
    ],
)
def test_poissons_method_wants_a_box_in_a_scene_without_end(
    arguments: list[str], unbounded: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ns-export", *arguments])
    assert exports_mesh()
    if refused:
        with pytest.raises(UsageError, match="--obb-scale 2 2 2"):
            require_possible_mesh(unbounded=unbounded)
    else:
        require_possible_mesh(unbounded=unbounded)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ns-export", "pointcloud"])
    assert not exports_mesh()


def test_an_export_into_a_file_is_refused_before_it_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ns-export", "tsdf", "--output-dir", str(tmp_path / "file")])
    with pytest.raises(UsageError, match=r"--output-dir .*file is a file: name a folder"):
        require_possible_command()
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ns-export", "tsdf", "--output-dir", str(tmp_path)])
    require_possible_command()


def test_an_output_folder_that_cannot_be_made(
    said: Callable[[Callable[[], Any]], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As ns-export makes it, before it reads any run."""
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "below" / "it"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ns-export", "tsdf", "--output-dir", str(folder)])
    text = said(lambda: folder.mkdir(parents=True))
    assert text.startswith(f"error: --output-dir {folder} cannot be opened (")


def test_whatever_else_ends_a_run_of_ours_is_a_sentence(
    said: Callable[[Callable[[], Any]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise AssertionError("Model must have\nan SDF field")

    monkeypatch.setattr(uncaught, "_ours", threading.Event())
    assert "Traceback" in said(fail), "of somebody else's method"
    uncaught.run_is_ours()
    text = said(fail)
    assert "error: ns-eval ended with AssertionError (Model must have an SDF field): FINER_TRACEBACK=1 shows" in text
    assert "Traceback" not in text
    monkeypatch.setenv("FINER_TRACEBACK", "1")
    assert "Traceback" in said(fail)


@pytest.mark.parametrize(
    ("program", "option", "value"),
    [
        ("ns-render", "--interpolation-steps", "0"),
        ("ns-render", "--interpolation-steps", "-1"),
        ("ns-render", "--frame-rate", "0"),
        ("ns-render", "--seconds", "0"),
        ("ns-render", "--downscale-factor", "nan"),
        ("ns-export", "--num-points", "0"),
        ("ns-export", "--resolution", "-2"),
    ],
)
def test_numbers_that_must_be_positive(program: str, option: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{program}", "x", option, value])
    with pytest.raises(UsageError, match=f"{option} must be positive, not {value}"):
        require_possible_command()
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{program}", "x", option, "3"])
    require_possible_command()


@pytest.mark.parametrize(
    ("program", "option", "name"),
    [
        ("ns-eval", "--output-path", "numbers.json"),
        ("ns-eval", "--render-output-path", "views"),
        ("ns-render", "--output-path", "flight.mp4"),
        ("ns-export", "--output-dir", "mesh"),
    ],
)
def test_an_output_below_a_file(
    program: str, option: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{program}", "x", option, str(tmp_path / "file" / name)])
    with pytest.raises(InputError, match=f"{option} .*{name}: .*file is not a folder: choose"):
        require_possible_command()
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{program}", "x", option, str(tmp_path / "new" / name)])
    require_possible_command()


def test_a_configuration_that_is_no_text(tmp_path: Path, said: Callable[[Callable[[], Any]], str]) -> None:
    config = tmp_path / "config.yml"
    config.write_bytes(bytes(range(128, 256)))
    monkeyed = said(lambda: eval_setup(config))
    assert "is not the configuration of a run" in monkeyed


@pytest.mark.parametrize(("content", "words"), [({}, "'seconds' is missing"), ([], "is no camera path")])
def test_a_camera_path_that_ns_render_looks_into(
    content: Any, words: str, said: Callable[[Callable[[], Any]], str]
) -> None:
    def main() -> None:
        camera_path = content
        print(camera_path["seconds"])

    text = said(main)
    assert words in text
    assert "--camera-path-filename" in text


def test_the_file_of_an_interrupted_video_is_removed(tmp_path: Path, said: Callable[[Callable[[], Any]], str]) -> None:
    def _render_trajectory_video(output_filename: Path, output_format: str) -> None:
        output_filename.write_bytes(b"half of a video")
        raise KeyboardInterrupt

    video, images = tmp_path / "flight.mp4", tmp_path / "pictures"
    assert "interrupted; no video was made." in said(lambda: _render_trajectory_video(video, "video"))
    assert not video.exists()
    assert "interrupted." in said(lambda: _render_trajectory_video(images, "images"))
    assert images.exists()


def test_bars_of_nerfstudio_move_on_a_terminal() -> None:
    """rich decides once whether they may: not while output is swallowed."""
    code = (
        "import sys; sys.stdout.isatty = lambda: True; import rich, finer_nerfstudio.nerf.training.terminal as t;\n"
        "with t.silence(): console = rich.get_console()\nprint(console.is_interactive)"
    )
    environment = {**os.environ, "TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "True"


def test_a_box_to_cut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    box = ["--obb-center", "1", "0", "0", "--obb_rotation", "0", "0", "0", "--obb-scale", "2", "1", "1"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ns-export", "pointcloud", *box])
    found = crop_of_command()
    assert found is not None
    assert found.within(torch.tensor([[1.9, 0.0, 0.0], [2.1, 0.0, 0.0]])).tolist() == [True, False]
    for wrong in ([*box[:-1], "0"], [*box[:-1], "nan"], [*box[:-1], "-1"]):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/ns-export", "pointcloud", *wrong])
        with pytest.raises(UsageError, match="--obb-scale positive"):
            require_possible_command()
    for fewer in (box[:4], [*box[:9], "None"]):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/ns-export", "pointcloud", *fewer])
        assert crop_of_command() is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seconds": 0}, "seconds"),
        ({"fps": 0}, "fps"),
        ({"render_height": -4}, "render_height"),
        ({"render_width": "wide"}, None),  # which is said where the file is read
        ({"camera_path": [{"fov": 0, "camera_to_world": [0.0] * 16}]}, "fov of camera 0"),
        ({"camera_path": [{"fov": 50, "camera_to_world": [0.0] * 3}]}, "camera_to_world of camera 0"),
        ({}, None),
    ],
)
def test_numbers_of_a_camera_path(
    change: dict[str, Any], named: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {
        "seconds": 1.0,
        "render_height": 8,
        "render_width": 8,
        "camera_path": [{"fov": 50, "camera_to_world": [1.0] * 16}],
    }
    path = tmp_path / "path.json"
    path.write_text(json.dumps(content | change))
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ns-render", "camera-path", "--camera-path-filename", str(path)])
    if named is None:
        require_possible_command()
        return
    with pytest.raises(UsageError, match=f"path.json: {named} cannot be used"):
        require_possible_command()
