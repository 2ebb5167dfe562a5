"""The comparison's handling of what it finds and of interruption; training itself is stood in for."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finer_nerfstudio.cli.compare import run
from finer_nerfstudio.reproduction import comparison
from finer_nerfstudio.reproduction.comparison import Comparison
from finer_nerfstudio.runs.command_line import exit_on_input_error

MEASURED = {
    "config": "somewhere/config.yml",
    "test": {"psnr": 20.0, "ssim": 0.9, "num_rays_per_sec": 1000.0},
    "training": {"rays_per_second": 2000.0},
    "views": 1,
}


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A training that takes no time; these methods went through it."""
    methods: list[str] = []

    def train(method: str, config: Comparison, tell: object) -> dict[str, Any]:
        views = config.output_dir / method / "test_views"
        views.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 4)).save(views / "0_img_0000.png")
        methods.append(method)
        return MEASURED

    monkeypatch.setattr(comparison, "_train_and_evaluate", train)
    return methods


def compare(folder: Path, **options: Any) -> int:
    """The verb's exit code."""
    options = {"methods": ["siren", "finer-sine"], "output_dir": folder / "out", **options}
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


def test_finished_methods_are_not_trained_again(trained: list[str], tmp_path: Path) -> None:
    assert compare(tmp_path) == 0
    assert trained == ["siren", "finer-sine"]
    assert compare(tmp_path) == 0
    assert trained == ["siren", "finer-sine"]
    assert (tmp_path / "out" / "comparison.png").exists()


@pytest.mark.parametrize("change", [{"minutes": 6.0}, {"seed": 1}])
def test_other_settings_are_trained_anew(trained: list[str], tmp_path: Path, change: dict[str, Any]) -> None:
    compare(tmp_path)
    assert compare(tmp_path, **change) == 0
    assert len(trained) == 4


def test_another_version_is_trained_anew(trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(tmp_path)
    monkeypatch.setattr(comparison, "__version__", "1000.0")
    assert compare(tmp_path) == 0
    assert len(trained) == 4


@pytest.mark.parametrize("missing", ["test", "training", "config"])
def test_results_that_lack_a_part_are_named(tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    compare(tmp_path)
    cell = tmp_path / "out" / "siren" / "result.json"
    result = json.loads(cell.read_text())
    del result[missing]
    cell.write_text(json.dumps(result))
    assert compare(tmp_path) == 1
    assert str(cell) in sentence(capsys)


def test_test_views_removed_by_hand_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(tmp_path)
    shutil.rmtree(tmp_path / "out" / "siren" / "test_views")
    assert compare(tmp_path) == 1
    assert "test views of siren" in sentence(capsys)


def test_a_negative_view_is_refused(trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(tmp_path, compare_view=-1) == 2
    assert "--compare-view" in sentence(capsys)
    assert not trained


def test_an_output_folder_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("")
    assert compare(tmp_path) == 1
    assert "--output-dir" in sentence(capsys)
    assert compare(tmp_path, output_dir=tmp_path / "out" / "below") == 1
    assert "--output-dir" in sentence(capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_read_only_output_folder_is_refused_before_training(
    trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    assert compare(tmp_path) == 1
    assert "--output-dir" in sentence(capsys)
    assert not trained


def test_ctrl_c_keeps_finished_methods_and_says_so(
    trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = comparison._train_and_evaluate

    def interrupted(method: str, *rest: Any) -> dict[str, Any]:
        if method == "finer-sine":
            raise KeyboardInterrupt
        return train(method, *rest)

    monkeypatch.setattr(comparison, "_train_and_evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt, match="finished are kept"):
        compare(tmp_path)
    monkeypatch.setattr(comparison, "_train_and_evaluate", train)
    assert compare(tmp_path) == 0
    assert trained == ["siren", "finer-sine"]
