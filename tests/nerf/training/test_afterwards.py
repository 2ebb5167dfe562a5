"""What Nerfstudio's commands say at their end."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from finer_nerfstudio.nerf.training.afterwards import _say_next


@pytest.mark.parametrize(
    ("command", "written", "said"),
    [
        (["ns-render", "spiral", "--output-path", "a/f.mp4"], ["a/f.mp4"], "next: look at a/f.mp4"),
        (["ns-render", "spiral"], ["renders/output.mp4"], "next: look at renders/output.mp4"),
        (["ns-render", "dataset"], ["renders/test/rgb/0.jpg"], "next: look at renders/test/rgb/0.jpg"),
        (["ns-export", "pointcloud", "--output-dir", "e"], ["e/cloud.ply"], "next: open e/cloud.ply"),
        (
            ["ns-export", "poisson", "--load-config", "run/config.yml", "--output-dir", "e"],
            ["e/mesh.ply"],
            "next: open e/mesh.ply\nor, in the coordinates of the data: finer export original e/mesh.ply "
            "--load-config run/config.yml",
        ),
        (
            ["ns-eval", "--load-config", "run/config.yml", "--output-path", "e.json"],
            ["e.json"],
            "next: ns-viewer --load-config run/config.yml",
        ),
        (["ns-viewer", "--load-config", "run/config.yml"], ["e.json"], ""),
    ],
)
def test_what_was_written_is_named_and_nothing_else(
    command: list[str],
    written: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", command)
    since = time.time()
    _say_next(since)
    assert capsys.readouterr().out == "", "nothing was written"
    for name in written:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (since - 60, since - 60))
    _say_next(since)
    assert capsys.readouterr().out == "", "by an earlier command"
    for name in written:
        os.utime(name, (since + 1, since + 1))
    _say_next(since)
    assert capsys.readouterr().out.strip() == said
