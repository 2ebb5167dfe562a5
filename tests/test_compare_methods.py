"""The comparison script's handling of what it finds and of interruption; training itself is stood in for."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "scripts" / "compare_methods.py"

MEASURED = {
    "config": "somewhere/config.yml",
    "test": {"psnr": 20.0, "ssim": 0.9, "num_rays_per_sec": 1000.0},
    "training": {"rays_per_second": 2000.0},
    "views": 1,
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with a training that takes no time; ``script.trained`` lists the methods that went through it."""
    spec = importlib.util.spec_from_file_location("compare_methods", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "compare_methods", module)
    spec.loader.exec_module(module)
    trained: list[str] = []

    def train(method: str, config: Any, console: object) -> dict[str, Any]:
        views = config.output_dir / method / "test_views"
        views.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 4)).save(views / "0_img_0000.png")
        trained.append(method)
        return MEASURED

    monkeypatch.setattr(module, "_train_and_evaluate", train)
    monkeypatch.setattr(module, "trained", trained, raising=False)
    return module


def compare(script: ModuleType, folder: Path, **options: Any) -> int:
    options = {"methods": ["siren", "finer-sine"], "output_dir": folder / "out", **options}
    return script.main(script.Comparison(data=folder, **options))


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_finished_methods_are_not_trained_again(script: ModuleType, tmp_path: Path) -> None:
    assert compare(script, tmp_path) == 0
    assert script.trained == ["siren", "finer-sine"]
    assert compare(script, tmp_path) == 0
    assert script.trained == ["siren", "finer-sine"]
    assert (tmp_path / "out" / "comparison.png").exists()


@pytest.mark.parametrize("change", [{"minutes": 6.0}, {"seed": 1}])
def test_other_settings_are_trained_anew(script: ModuleType, tmp_path: Path, change: dict[str, Any]) -> None:
    compare(script, tmp_path)
    assert compare(script, tmp_path, **change) == 0
    assert len(script.trained) == 4


def test_another_version_is_trained_anew(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(script, tmp_path)
    monkeypatch.setattr(script.finer_nerfstudio, "__version__", "1000.0")
    assert compare(script, tmp_path) == 0
    assert len(script.trained) == 4


@pytest.mark.parametrize("missing", ["test", "training", "config"])
def test_results_that_lack_a_part_are_named(
    script: ModuleType, tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(script, tmp_path)
    cell = tmp_path / "out" / "siren" / "result.json"
    result = json.loads(cell.read_text())
    del result[missing]
    cell.write_text(json.dumps(result))
    assert compare(script, tmp_path) == 1
    assert str(cell) in sentence(capsys)


def test_test_views_removed_by_hand_are_named(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(script, tmp_path)
    shutil.rmtree(tmp_path / "out" / "siren" / "test_views")
    assert compare(script, tmp_path) == 1
    assert "test views of siren" in sentence(capsys)


def test_a_negative_view_is_refused(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(script, tmp_path, compare_view=-1) == 2
    assert "--compare-view" in sentence(capsys)
    assert not script.trained


def test_an_output_folder_that_is_a_file_is_refused(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("")
    assert compare(script, tmp_path) == 1
    assert "--output-dir" in sentence(capsys)
    assert compare(script, tmp_path, output_dir=tmp_path / "out" / "below") == 1
    assert "--output-dir" in sentence(capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_read_only_output_folder_is_refused_before_training(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    assert compare(script, tmp_path) == 1
    assert "--output-dir" in sentence(capsys)
    assert not script.trained


def test_ctrl_c_keeps_finished_methods_and_says_so(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = script._train_and_evaluate

    def interrupted(method: str, *rest: Any) -> dict[str, Any]:
        if method == "finer-sine":
            raise KeyboardInterrupt
        return train(method, *rest)

    monkeypatch.setattr(script, "_train_and_evaluate", interrupted)
    assert compare(script, tmp_path) == 130
    assert "finished are kept" in sentence(capsys)
    monkeypatch.setattr(script, "_train_and_evaluate", train)
    assert compare(script, tmp_path) == 0
    assert script.trained == ["siren", "finer-sine"]
