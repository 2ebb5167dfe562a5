"""The command line of the GPU queue: what it refuses, what it says, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finer_nerfstudio.benchmarks.gpu.cell import Place, QueueCell
from finer_nerfstudio.cli import gpu_queue
from finer_nerfstudio.cli.main import main


def finer(*arguments: str) -> int:
    try:
        main(["gpu-queue", *arguments])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Signals and threads of the tests' process stay as they are.
    monkeypatch.setattr(gpu_queue, "note_signals", lambda: lambda: None)
    monkeypatch.setattr(gpu_queue, "prepare_processor", lambda: None)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--minutes", "0"), 2, "--minutes must be positive, not 0."),
        (("--bundle", "nowhere"), 1, "--bundle nowhere is no bundle"),
        (("--device", "cuda:99"), 2, "--device cuda:99"),
        (("--only", "nothing"), 2, "--only nothing matches no measurement; the first ones are ceilings: ceilings,"),
        (
            ("--prepare", "b", "--scene", "s", "--shape", "m.obj", "--images", "a.png"),
            2,
            "--scene s is no scene in Blender format: it holds no transforms_train.json.",
        ),
        (("--prepare", "b"), 2, "--prepare takes a --scene, one or more --images and a --shape."),
        (
            ("--prepare", "b", "--scene", "s", "--shape", "m.obj", "--images", "a.png", "c/a.png"),
            2,
            "two files with the same name",
        ),
    ],
)
def test_what_it_refuses(
    arguments: tuple[str, ...], code: int, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert finer(*arguments) == code
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_processor_measures_toys_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finer("--device", "cpu") == 2
    assert "there is no GPU here that PyTorch can use" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


def test_a_bundle_of_toys_is_for_toys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b").mkdir()
    keys = ("scene", "views", "images", "shape", "watertight", "inside", "contents", "digests")
    (tmp_path / "b" / "bundle.json").write_text(json.dumps({"format": 1, "quick": True, **dict.fromkeys(keys)}))
    assert finer("--bundle", "b") == 2
    assert "--bundle b holds toys: add --quick, or make another bundle." in capsys.readouterr().err


def test_without_a_bundle_the_rest_is_left_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert finer("--quick", "--device", "cpu", "--only", "quick-[cdal]*", "--output-dir", "results") == 0
    out = capsys.readouterr().out
    assert "quick-ceilings" in out
    assert "104 measurements, quick-lego-finer-sine the first of them, left out: no bundle was given," in out
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["quick-ceilings.json"]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (
            "CUDA error: device-side assert triggered",
            3,
            "has made the GPU unusable for this process: what was measured",
        ),
        ("no such thing", 1, "a did not end well: the same command tries again, after all others."),
    ],
)
def test_exit_codes(
    error: str, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(_: Place) -> dict[str, Any]:
        raise RuntimeError(error)

    cells = [QueueCell(name, "images", name, "", {}, 1.0, work) for name in ("a",)]
    monkeypatch.setattr(gpu_queue, "all_cells", lambda *_, **__: cells)
    assert finer("--quick", "--device", "cpu", "--output-dir", "results") == code
    said = capsys.readouterr()
    assert says in said.err
    assert f"RuntimeError: {error}" in said.out
    assert "images         0 of 1        1" in said.out


def test_wheels_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert finer("--list-wheels") == 0
    out = capsys.readouterr().out
    assert "tyro" in out
    assert "no bundle given" in out
    assert "pip download" in out
