"""Photographs with a distorting lens and no end to see, and proposal networks, through Nerfstudio's commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

SHORT = ["--vis", "tensorboard", "--pipeline.model.field.width", "32", "--pipeline.model.samples-per-ray", "48"]


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """The demo capture, 18 pictures of 48x36 pixels."""
    folder = tmp_path_factory.mktemp("capture") / "small"
    script = ROOT / "scripts" / "make_demo_capture.py"
    done = run(sys.executable, script, "--output-dir", folder, "--width", "48", "--views", "18")
    assert done.returncode == 0, done.stdout
    return folder


def results_of(run: Run, output: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """What ns-eval finds, and the state of the model."""
    config = min(output.rglob("config.yml"))
    done = run("ns-eval", "--load-config", config, "--output-path", output / "evaluation.json")
    assert done.returncode == 0, done.stdout[-3000:]
    checkpoint = max(config.parent.glob("nerfstudio_models/*.ckpt"))
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return json.loads((output / "evaluation.json").read_text())["results"], state


def test_a_capture_trains_and_is_evaluated(capture: Path, tmp_path: Path, run: Run) -> None:
    """Views that were not trained on come out closer than the mean colour of all pictures would."""
    done = run("ns-train", "finer-sine", "--data", capture, "--output-dir", tmp_path, *SHORT,
               "--max-num-iterations", "150", "nerfstudio-data")  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    results, state = results_of(run, tmp_path)
    pictures = {path.name: np.asarray(Image.open(path)) / 255 for path in (capture / "images").iterdir()}
    names = json.loads((capture / "transforms.json").read_text())["test_filenames"]
    mean = np.mean([picture.mean(axis=(0, 1)) for picture in pictures.values()], axis=0)
    flat = np.mean([-10 * np.log10(((pictures[Path(name).name] - mean) ** 2).mean()) for name in names])
    assert results["psnr"] > flat + 1.0
    assert state["pipeline"]["_model._extra_state"]["unbounded"] == "yes"


def test_proposal_networks_train_are_evaluated_and_resumed(small_scene: Path, tmp_path: Path, run: Run) -> None:
    options = [*SHORT, "--pipeline.model.sampler", "proposal", "--pipeline.target-num-samples", "1000"]
    done = run("ns-train", "finer-sine", "--data", small_scene, "--output-dir", tmp_path / "first", *options,
               "--max-num-iterations", "60")  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    results, state = results_of(run, tmp_path / "first")
    assert 8 < results["psnr"] < 60
    assert set(state["optimizers"]) == {"fields", "proposal_networks"}
    (models,) = (tmp_path / "first").rglob("nerfstudio_models")
    resume = ["--load-dir", models, "--max-num-iterations", "2"]
    done = run("ns-train", "finer-sine", "--data", small_scene, "--output-dir", tmp_path / "on", *options, *resume)
    assert done.returncode == 0, done.stdout[-3000:]
    done = run("ns-train", "finer-sine", "--data", small_scene, "--output-dir", tmp_path / "no", *SHORT, *resume)
    assert done.returncode == 1
    assert "--pipeline.model.sampler proposal" in done.stdout
    assert "Traceback" not in done.stdout
