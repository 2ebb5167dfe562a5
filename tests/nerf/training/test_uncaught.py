"""Errors that Nerfstudio's commands do not catch: what a user reads in place of a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.cameras.camera_paths import get_path_from_json
from nerfstudio.utils.eval_utils import eval_load_checkpoint

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
    [(None, "cannot be read (No such file or directory)"), ("{", "is not valid JSON"), ("{}", "is no camera path")],
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
