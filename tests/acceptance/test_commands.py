"""A trained run goes through every command that Nerfstudio has for one."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]

Run = Callable[..., "subprocess.CompletedProcess[str]"]

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ns-render refuses to start without ffmpeg")


def test_training_leaves_a_run_that_learned_something(run: Run, trained_run: Path, tmp_path: Path) -> None:
    summary = json.loads((trained_run / "training.json").read_text())
    assert summary["steps"] == 250
    assert summary["rays"] > 250 * 16
    assert [path.name for path in (trained_run / "nerfstudio_models").iterdir()] == ["step-000000249.ckpt"]
    assert not (trained_run / "nerfstudio_models.partial").exists()

    report = tmp_path / "evaluation.json"
    renders = tmp_path / "renders"
    copied = tmp_path / "copied"
    shutil.copytree(trained_run, copied)
    done = run(
        "ns-eval",
        "--load-config",
        copied / "config.yml",
        "--output-path",
        report,
        "--render-output-path",
        renders,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    evaluation = json.loads(report.read_text())
    assert Path(evaluation["checkpoint"]).parent == copied / "nerfstudio_models", "a copied run has weights of its own"
    results = evaluation["results"]
    pictures = sorted(renders.glob("*_img_*.png"))
    assert len(pictures) == 4, "all test views are evaluated"
    # A white picture, the best that can be had without learning anything, sets the bar.
    truths = [np.asarray(Image.open(path).convert("RGB"), dtype=np.float64)[:, :48] / 255 for path in pictures]
    blank = np.mean([-10 * np.log10(np.mean((truth - 1) ** 2)) for truth in truths])
    assert results["psnr"] > blank + 3
    assert 0 < results["ssim"] <= 1
    if "lpips" not in results:
        assert done.stdout.count("LPIPS is not available") == 1
    # What ns-eval computed is what the saved pictures show.
    renderings = [np.asarray(Image.open(path).convert("RGB"), dtype=np.float64)[:, 48:] / 255 for path in pictures]
    recomputed = np.mean([-10 * np.log10(np.mean((a - b) ** 2)) for a, b in zip(truths, renderings, strict=True)])
    assert results["psnr"] == pytest.approx(recomputed, abs=0.1)


@needs_ffmpeg
def test_render_dataset_with_normals_and_depth(run: Run, trained_run: Path, tmp_path: Path) -> None:
    done = run(
        "ns-render",
        "dataset",
        "--load-config",
        trained_run / "config.yml",
        "--output-path",
        tmp_path,
        "--split",
        "test",
        "--rendered-output-names",
        "rgb",
        "normals",
        "depth",
        "occupancy",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    for name in ("rgb", "normals", "depth", "occupancy"):
        assert len(list((tmp_path / "test" / name).iterdir())) == 4


@needs_ffmpeg
def test_render_interpolate_writes_a_video(run: Run, trained_run: Path, tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    done = run(
        "ns-render",
        "interpolate",
        "--load-config",
        trained_run / "config.yml",
        "--output-path",
        video,
        "--interpolation-steps",
        "2",
        "--frame-rate",
        "4",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert video.stat().st_size > 1000


@needs_ffmpeg
def test_a_video_of_odd_size_is_made_one_for_every_player(
    run: Run, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command in the documentation; 48 pixels, cut by a factor, are 47."""
    config = trained_run / "config.yml"
    monkeypatch.chdir(tmp_path)
    options = ["--output-path", "renders/flight.mp4", "--interpolation-steps", "1", "--frame-rate", "4"]
    done = run("ns-render", "interpolate", "--load-config", config, *options, "--downscale-factor", str(48 / 47))
    assert done.returncode == 0, done.stdout[-3000:]
    (command,) = re.findall(r"^ffmpeg .*$", (ROOT / "docs" / "captures.md").read_text(), re.MULTILINE)
    assert run(*shlex.split(command)).returncode == 0
    about = ["-v", "error", "-show_entries", "stream=width,height,pix_fmt", "-of", "csv=p=0"]
    assert run("ffprobe", *about, "renders/flight.mp4").stdout.strip() == "47,47,yuv444p"
    assert run("ffprobe", *about, "renders/even.mp4").stdout.strip() == "46,46,yuv420p"


@needs_ffmpeg
def test_render_camera_path(run: Run, trained_run: Path, tmp_path: Path) -> None:
    matrix = torch.eye(4)
    matrix[2, 3] = 3.0
    path = tmp_path / "camera_path.json"
    frame = {"camera_to_world": matrix.flatten().tolist(), "fov": 40.0, "aspect": 1.0}
    path.write_text(
        json.dumps({"camera_path": [frame, frame], "render_height": 40, "render_width": 40, "fps": 2, "seconds": 1.0})
    )
    done = run(
        "ns-render",
        "camera-path",
        "--load-config",
        trained_run / "config.yml",
        "--camera-path-filename",
        path,
        "--output-format",
        "images",
        "--image-format",
        "png",
        "--output-path",
        tmp_path / "frames",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    frames = sorted((tmp_path / "frames").glob("*.png"))
    assert len(frames) == 2
    picture = np.asarray(Image.open(frames[0]))
    assert picture.shape[:2] == (40, 40)
    assert picture.std() > 5, "something is in the picture"


def test_export_pointcloud_has_unit_normals_on_the_scene(run: Run, trained_run: Path, tmp_path: Path) -> None:
    done = run(
        "ns-export",
        "pointcloud",
        "--load-config",
        trained_run / "config.yml",
        "--output-dir",
        tmp_path,
        "--num-points",
        "3000",
        "--num-rays-per-batch",
        "8192",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    import open3d

    cloud = open3d.io.read_point_cloud(tmp_path / "point_cloud.ply")
    points, normals = np.asarray(cloud.points), np.asarray(cloud.normals)
    assert len(points) >= 2500
    assert np.abs(points).max() <= 1.05
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=0.05)


def test_resume_goes_on_where_training_stopped(run: Run, trained_run: Path, small_scene: Path, tmp_path: Path) -> None:
    done = run(
        "ns-train",
        "finer-wavelet",
        "--data",
        small_scene,
        "--output-dir",
        tmp_path,
        "--load-dir",
        trained_run / "nerfstudio_models",
        "--max-num-iterations",
        "20",
        "--pipeline.model.field.width",
        "48",
        "--vis",
        "tensorboard",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert checkpoint.name == "step-000000269.ckpt"
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    (scheduler,) = saved["schedulers"].values()
    # Step 250 of 270 of a decay to a tenth, not the start of another one.
    assert scheduler["_last_lr"][0] < 0.13 * scheduler["base_lrs"][0]


def test_viewer_of_a_finished_run(trained_run: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [
            Path(sys.executable).parent / "ns-viewer",
            "--load-config",
            trained_run / "config.yml",
            "--viewer.websocket-port",
            str(port),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            page = ""
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and not page:
                assert server.poll() is None, "ns-viewer stopped"
                try:
                    page = urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).read().decode()
                except OSError:
                    time.sleep(0.5)
            assert "<html" in page.lower()
        finally:
            server.terminate()


def test_viewer_is_not_open_to_the_network_by_default(trained_run: Path) -> None:
    config = yaml.load((trained_run / "config.yml").read_text(), Loader=yaml.Loader)
    assert config.viewer.websocket_host == "127.0.0.1"


def test_mixed_precision_and_spherical_harmonics_train(run: Run, small_scene: Path, tmp_path: Path) -> None:
    done = run(
        "ns-train",
        "finer-gauss",
        "--data",
        small_scene,
        "--output-dir",
        tmp_path,
        "--max-num-iterations",
        "10",
        "--mixed-precision",
        "True",
        "--pipeline.model.field.direction-encoding",
        "spherical-harmonics",
        "--vis",
        "tensorboard",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(list(tmp_path.rglob("*.ckpt"))) == 1


def test_training_by_the_clock_stops_and_decays(run: Run, small_scene: Path, tmp_path: Path) -> None:
    done = run(
        "ns-train",
        "finer-sine",
        "--data",
        small_scene,
        "--output-dir",
        tmp_path,
        "--max-minutes",
        "0.05",
        "--pipeline.model.field.width",
        "32",
        "--vis",
        "tensorboard",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    (scheduler,) = saved["schedulers"].values()
    assert scheduler["_last_lr"][0] == pytest.approx(0.1 * scheduler["base_lrs"][0], rel=1e-3)
    (summary,) = tmp_path.rglob("training.json")
    assert checkpoint.name == f"step-{json.loads(summary.read_text())['steps'] - 1:09d}.ckpt"


def test_same_seed_same_weights(run: Run, small_scene: Path, tmp_path: Path) -> None:
    states = []
    for name in ("first", "second"):
        done = run(
            "ns-train",
            "finer-sine",
            "--data",
            small_scene,
            "--output-dir",
            tmp_path / name,
            "--max-num-iterations",
            "25",
            "--pipeline.model.field.width",
            "32",
            "--machine.seed",
            "7",
            "--vis",
            "tensorboard",
        )
        assert done.returncode == 0, done.stdout[-3000:]
        (checkpoint,) = (tmp_path / name).rglob("*.ckpt")
        states.append(torch.load(checkpoint, map_location="cpu", weights_only=True)["pipeline"])
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, states[1][key]), key


def test_help_lists_every_method_with_its_description(run: Run) -> None:
    done = run("ns-train", "--help")
    assert done.returncode == 0
    for method in ("finer-sine", "finer-gauss", "finer-wavelet", "siren", "gauss", "wire", "pemlp"):
        assert method in done.stdout
    assert "variable-periodic" in done.stdout
    assert "SIREN" in done.stdout
