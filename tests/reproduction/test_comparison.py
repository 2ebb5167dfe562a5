"""The comparison's handling of what it finds and of interruption; training itself is stood in for."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finer_nerfstudio.cli.compare import run
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.reproduction.comparison import Comparison
from finer_nerfstudio.reproduction.radiance import cells
from finer_nerfstudio.reproduction.radiance.cells import RadianceRun, attempt_folder
from finer_nerfstudio.runs.command_line import exit_on_input_error

MEASURED = {
    "config": "somewhere/config.yml",
    "psnr": 20.0,
    "ssim": 0.9,
    "lpips": None,
    "rays_per_second": 2000.0,
    "rendered_rays_per_second": 1000.0,
    "views": 1,
}


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A training that takes no time; these methods went through it."""
    methods: list[str] = []

    def train(run: RadianceRun) -> dict[str, Any]:
        attempt = attempt_folder(run)
        views = attempt / "test_views"
        views.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 4)).save(views / "0_img_0000.png")
        methods.append(run.method)
        return {**MEASURED, "attempt": str(attempt.relative_to(run.folder))}

    monkeypatch.setattr(cells, "train_and_evaluate", train)
    return methods


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A folder with one picture, that trains and tests."""
    folder = tmp_path / "lego"
    folder.mkdir()
    Image.new("RGBA", (300, 4)).save(folder / "r_0.png")
    for split in ("train", "test"):
        content = {"camera_angle_x": 0.7, "frames": [{"file_path": "./r_0"}]}
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))
    return folder


def compare(folder: Path, **options: Any) -> int:
    """The verb's exit code."""
    options = {"methods": ["siren", "finer-sine"], "output_dir": folder.parent / "out", **options}
    try:
        with exit_on_input_error():
            run(Comparison(data=folder, **options))
    except SystemExit as ended:
        return int(str(ended.code))
    return 0


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_finished_methods_are_not_trained_again(trained: list[str], scene: Path, tmp_path: Path) -> None:
    assert compare(scene) == 0
    assert trained == ["siren", "finer-sine"]
    assert compare(scene) == 0
    assert trained == ["siren", "finer-sine"]
    assert (tmp_path / "out" / "comparison.png").exists()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results) == trained
    assert results["siren"]["settings"]["scene"]["name"] == "lego"
    assert "/lego/" not in json.dumps(results), "a scene is itself wherever it lies"


@pytest.mark.parametrize("change", [{"minutes": 6.0}, {"seed": 1}, {"train_view_stride": 2}])
def test_other_settings_are_trained_anew(trained: list[str], scene: Path, change: dict[str, Any]) -> None:
    compare(scene)
    assert compare(scene, **change) == 0
    assert len(trained) == 4


def test_another_version_is_trained_anew(trained: list[str], scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(scene)
    monkeypatch.setattr(cells, "__version__", "1000.0")
    assert compare(scene) == 0
    assert len(trained) == 4


def test_a_result_that_lacks_its_parts_is_named(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(scene)
    cell = tmp_path / "out" / "cells" / "lego-siren.json"
    cell.write_text(json.dumps({"result": {}}))
    assert compare(scene) == 1
    assert str(cell) in sentence(capsys)


def test_test_views_removed_by_hand_are_named(
    trained: list[str], scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what is said to remove has the method trained again."""
    compare(scene)
    shutil.rmtree(tmp_path / "out" / "cells" / "lego-siren" / "1" / "test_views")
    assert compare(scene) == 1
    said = sentence(capsys)
    assert "test views of siren" in said
    folder, file = re.findall(r"remove (\S+) and (\S+) to", said)[0]
    shutil.rmtree(folder)
    Path(file).unlink()
    assert compare(scene) == 0
    assert trained == ["siren", "finer-sine", "siren"]


def test_a_method_that_fails_leaves_the_others(
    trained: list[str], scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = cells.train_and_evaluate

    def fails(run: RadianceRun) -> dict[str, Any]:
        if run.method == "siren":
            raise InputError("lego-siren: out of luck")
        return train(run)

    monkeypatch.setattr(cells, "train_and_evaluate", fails)
    assert compare(scene) == 1
    assert "out of luck" in sentence(capsys)
    assert trained == ["finer-sine"]
    assert list(json.loads((tmp_path / "out" / "results.json").read_text())) == ["finer-sine"]
    monkeypatch.setattr(cells, "train_and_evaluate", train)
    assert compare(scene) == 0
    assert trained == ["finer-sine", "siren"]


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        ({"compare_view": -1}, "--compare-view"),
        ({"minutes": 0.0}, "--minutes"),
        ({"minutes": float("nan")}, "--minutes"),
        ({"seed": -1}, "--seed"),
        ({"train_view_stride": 0}, "--train-view-stride"),
        ({"eval_view_stride": -2}, "--eval-view-stride"),
        ({"methods": []}, "none"),
        ({"methods": ["finer-sin"]}, "finer-sin"),
        ({"methods": ["siren", "siren"]}, "--methods"),
    ],
)
def test_options_that_cannot_be_are_refused(
    trained: list[str], scene: Path, mistake: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(scene, **mistake) == 2
    assert named in sentence(capsys)
    assert not trained


def test_an_output_folder_that_is_a_file_is_refused(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("")
    assert compare(scene) == 1
    assert "--output-dir" in sentence(capsys)
    assert compare(scene, output_dir=tmp_path / "out" / "below") == 1
    assert "--output-dir" in sentence(capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_read_only_output_folder_is_refused_before_training(
    trained: list[str], scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    assert compare(scene) == 1
    assert "--output-dir" in sentence(capsys)
    assert not trained


def test_ctrl_c_keeps_finished_methods_and_says_so(
    trained: list[str], scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = cells.train_and_evaluate

    def interrupted(run: RadianceRun) -> dict[str, Any]:
        if run.method == "finer-sine":
            raise KeyboardInterrupt
        return train(run)

    monkeypatch.setattr(cells, "train_and_evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt, match="finished are kept"):
        compare(scene)
    monkeypatch.setattr(cells, "train_and_evaluate", train)
    assert compare(scene) == 0
    assert trained == ["siren", "finer-sine"]
