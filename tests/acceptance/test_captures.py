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
SHORT = ["--vis", "tensorboard", "--pipeline.model.field.width", "32", "--pipeline.model.samples-per-ray", "48"]
PROPOSAL = ["--pipeline.model.sampler", "proposal", "--pipeline.target-num-samples", "1000"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Command = Callable[..., None]


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """The demo capture, 18 pictures of 48x36 pixels."""
    folder = tmp_path_factory.mktemp("capture") / "small"
    script = ROOT / "scripts" / "make_demo_capture.py"
    done = run(sys.executable, script, "--output-dir", folder, "--width", "48", "--views", "18")
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture
def nerfstudio(monkeypatch: pytest.MonkeyPatch) -> Command:
    """``ns-train`` and ``ns-eval`` in this process, which has Nerfstudio loaded already."""

    def call(*command: str | Path) -> None:
        from nerfstudio.scripts import eval as evaluation
        from nerfstudio.scripts import train

        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        {"ns-train": train, "ns-eval": evaluation}[str(command[0])].entrypoint()

    return call


def results_of(nerfstudio: Command, output: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """What ns-eval finds of the run in a folder, and the run's checkpoint."""
    config = min(output.rglob("config.yml"))
    nerfstudio("ns-eval", "--load-config", config, "--output-path", output / "evaluation.json")
    checkpoint = max(config.parent.glob("nerfstudio_models/*.ckpt"))
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return json.loads((output / "evaluation.json").read_text())["results"], state


def test_a_capture_trains_and_is_evaluated(capture: Path, tmp_path: Path, nerfstudio: Command) -> None:
    """Views that were not trained on come out closer than pictures of one colour could, the best for each of them."""
    nerfstudio("ns-train", "finer-sine", "--data", capture, "--output-dir", tmp_path, *SHORT,
               # Sixteen pictures of 48 pixels are too few for details that a grid of features could hold.
               "--pipeline.model.field.encoding", "none", "--optimizers.fields.optimizer.lr", "2e-3",
               "--pipeline.model.appearance-dim", "4",
               "--pipeline.model.camera-optimizer.mode", "SO3xR3",
               "--max-num-iterations", "200", "nerfstudio-data")  # fmt: skip
    results, state = results_of(nerfstudio, tmp_path)
    transforms = json.loads((capture / "transforms.json").read_text())
    names = transforms["test_filenames"]
    pictures = [np.asarray(Image.open(capture / name)) / 255 for name in names]
    flat = np.mean([-10 * np.log10(picture.var(axis=(0, 1)).mean()) for picture in pictures])
    assert results["psnr"] > flat + 0.7
    assert state["pipeline"]["_model._extra_state"]["unbounded"] == "yes"
    assert set(state["optimizers"]) == {"fields", "camera_opt"}
    codes = state["pipeline"]["_model.field.codes"]
    assert codes.shape == (16, 4)
    assert bool((codes.norm(dim=1) > 0).all())
    # Poses were right before, and have not gone far.
    given = {frame["file_path"]: frame["transform_matrix"] for frame in transforms["frames"]}
    refined = json.loads(next(tmp_path.rglob("refined_poses.json")).read_text())["frames"]
    assert len(refined) == 16
    for frame in refined:
        pose, before = np.array(frame["transform_matrix"]), np.array(given[frame["file_path"]])
        assert 0 < np.abs(pose - before).max() < 0.3
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-4)


def test_proposal_networks_train_are_evaluated_and_resumed(
    small_scene: Path, tmp_path: Path, nerfstudio: Command
) -> None:
    train = ["ns-train", "finer-sine", "--data", small_scene, *SHORT, *PROPOSAL]
    nerfstudio(*train, "--output-dir", tmp_path / "first", "--max-num-iterations", "60")
    results, state = results_of(nerfstudio, tmp_path / "first")
    # The scene stands before white, which an empty field is.
    assert 8 < results["psnr"] < 60
    assert set(state["optimizers"]) == {"fields", "proposal_networks"}
    # Not at every step: nerfacto looks into its proposal networks without training them at every other one.
    trained = float(state["optimizers"]["proposal_networks"]["state"][0]["step"])
    assert trained > 20
    (models,) = (tmp_path / "first").rglob("nerfstudio_models")
    nerfstudio(*train, "--output-dir", tmp_path / "on", "--load-dir", models, "--max-num-iterations", "2")
    (resumed,) = (tmp_path / "on").rglob("*.ckpt")
    moments = torch.load(resumed, map_location="cpu", weights_only=True)["optimizers"]["proposal_networks"]["state"]
    assert float(moments[0]["step"]) >= trained, "Adam's moments of the proposal networks go on"
