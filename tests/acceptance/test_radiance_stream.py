"""A radiance field that grows in ``ns-train``, and its way through the container, as a user types it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finer_nerfstudio.nerf.streaming.scene import scene_of
from finer_nerfstudio.streams.reader import read_stream

ROOT = Path(__file__).parents[2]
WIDTHS = ("10", "18", "27")

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Command = Callable[..., "tuple[int, str]"]


@pytest.fixture(scope="module")
def growing_run(small_scene: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Folder of a short run whose field grew twice."""
    output = tmp_path_factory.mktemp("growing")
    options = ["--max-num-iterations", "240", "--vis", "tensorboard", "--pipeline.target-num-samples", "3000"]
    # The default learning rate is for thousands of steps.
    options += ["--optimizers.fields.optimizer.lr", "7e-4"]
    done = run(
        "ns-train", "finer-sine-stream", "--data", small_scene, "--output-dir", output,
        "--pipeline.model.field.widths", *WIDTHS, "--pipeline.model.samples-per-ray", "64",
        "--pipeline.model.grid-resolution", "32", *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    (config,) = output.rglob("config.yml")
    return config.parent


@pytest.fixture(scope="module")
def packed(growing_run: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Folder of its stream."""
    folder = tmp_path_factory.mktemp("packed")
    done = run(
        sys.executable, ROOT / "scripts" / "stream.py", "pack", growing_run, "--views", "2", "--output-dir", folder
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "report.html" in done.stdout
    return folder


def the_stream(folder: Path) -> Path:
    (path,) = folder.glob("*.finer")
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_the_run_remembers_its_stages(growing_run: Path) -> None:
    (checkpoint,) = (growing_run / "nerfstudio_models").glob("*.ckpt")
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)["pipeline"]
    assert state["_model.field._extra_state"] == {"active": 3}
    # What was frozen and what is averaged are the same, to the bit, in all stages but the last.
    for name, value in state.items():
        if name.startswith(("_model.field.density_net._stages.0", "_model.field.color_net._stages.1")):
            averaged = state[name.replace("_model.field.", "_model.averaged_field.module.")]
            assert torch.equal(value, averaged), name


def test_packing_leaves_stream_pictures_numbers_and_report(packed: Path) -> None:
    content = the_stream(packed).read_bytes()
    stream = read_stream(content)
    metrics = json.loads((packed / "metrics.json").read_text())
    assert [stage.widths for stage in stream.header.stages] == [[int(width)] * 2 for width in WIDTHS]
    assert metrics["bytes"] == metrics["stages"][-1]["bytes"] == len(content)
    for stage, row in zip(stream.header.stages, metrics["stages"], strict=True):
        assert stage.quality["psnr"] == row["psnr"]
        assert 5 < row["psnr"] < 60
    assert (packed / "report.html").read_text().count("data:image/png") >= 1
    shown = [pixels(packed / f"stage-{i}.png") for i in range(3)]
    assert all(picture.shape == (48, 48, 3) and picture.std() > 3 for picture in shown)
    assert not np.array_equal(shown[0], shown[1])


def test_quality_is_that_of_the_decoded_test_views(packed: Path, small_scene: Path) -> None:
    """Measured again from the files: the decoder's picture against the photograph over white."""
    stream = read_stream(the_stream(packed).read_bytes())
    frames = json.loads((small_scene / "transforms_test.json").read_text())["frames"]
    scene = scene_of(stream)
    found = []
    for frame in (frames[0], frames[2]):  # two of four, evenly spread
        pose = np.array(frame["transform_matrix"])[:3]
        pose[:, 3] *= 0.8  # the parser's scale factor
        picture = scene.picture(replace(scene.signal.view, pose=tuple(pose.flatten()))) / 255.0
        with Image.open((small_scene / frame["file_path"]).with_suffix(".png")) as photograph:
            truth = np.asarray(photograph.convert("RGBA"), np.float64) / 255.0
        truth = truth[..., :3] * truth[..., 3:] + 1.0 - truth[..., 3:]
        found.append(-10.0 * np.log10(((picture - truth) ** 2).mean()))
    assert np.mean(found) == pytest.approx(stream.header.stages[-1].quality["psnr"], abs=0.05)


def test_every_prefix_decodes_to_its_stage(packed: Path, command: Command, tmp_path: Path) -> None:
    content = the_stream(packed).read_bytes()
    stream = read_stream(content)
    ends = np.cumsum([stream.header_bytes, *(stage.bytes for stage in stream.header.stages)])
    for stages in (1, 2, 3):
        cut = tmp_path / f"cut-{stages}.finer"
        cut.write_bytes(content[: ends[stages] + (50 if stages < 3 else 0)])
        code, output = command("stream.py", "decode", cut, "--output-dir", tmp_path / f"decoded-{stages}")
        assert code == 0, output
        written = sorted(path.name for path in (tmp_path / f"decoded-{stages}").iterdir())
        assert written == [f"stage-{i}.png" for i in range(stages)]
        for name in written:
            assert np.array_equal(pixels(tmp_path / f"decoded-{stages}" / name), pixels(packed / name))


def test_an_orbit(packed: Path, command: Command, tmp_path: Path) -> None:
    code, output = command(
        "stream.py", "decode", the_stream(packed), "--frames", "4", "--size", "24", "--output-dir", tmp_path / "orbit"
    )
    assert code == 0, output
    with Image.open(tmp_path / "orbit" / "orbit.webp") as animation:
        assert (animation.size, getattr(animation, "n_frames", 1)) == ((24, 24), 4)


def test_a_moved_run_is_packed_too(growing_run: Path, tmp_path: Path, run: Run) -> None:
    moved = tmp_path / "elsewhere" / "method" / "time"
    shutil.copytree(growing_run, moved)
    options = ["--precision", "float32", "--views", "1", "--output-dir", tmp_path / "packed"]
    done = run(sys.executable, ROOT / "scripts" / "stream.py", "pack", moved / "config.yml", *options)
    assert done.returncode == 0, done.stdout[-3000:]
    (checkpoint,) = (growing_run / "nerfstudio_models").glob("*.ckpt")
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)["pipeline"]
    sent = dict(read_stream(the_stream(tmp_path / "packed").read_bytes()).networks[0].named_parameters())
    for name, value in sent.items():
        assert torch.equal(value.detach(), state[f"_model.averaged_field.module.density_net.{name}"]), name


BAD: dict[str, tuple[list[str], int, str]] = {
    "no run": (["pack", "nowhere"], 1, "no trained run"),
    "a field that does not grow": (["pack", "{trained}"], 1, "does not grow"),
    "views": (["pack", "{growing}", "--views", "-1"], 2, "--views"),
    "allowed loss": (["pack", "{growing}", "--allowed-loss", "0"], 2, "--allowed-loss"),
    "a folder in use": (["pack", "{growing}", "--output-dir", "{packed}"], 2, "--overwrite"),
    "frames": (["decode", "{stream}", "--frames", "1"], 2, "--frames"),
    "too large": (["decode", "{stream}", "--size", "100000"], 1, "--max-pixels"),
    "a page": (["serve", "{stream}", "--port", "0"], 1, "no image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, command: Command, fill: Callable[[str], str]) -> None:
    arguments, expected, sentence = BAD[name]
    code, output = command("stream.py", *(fill(argument) for argument in arguments))
    assert code == expected, output
    assert sentence in output
    assert "Traceback" not in output


@pytest.fixture
def fill(growing_run: Path, trained_run: Path, packed: Path) -> Callable[[str], str]:
    return lambda text: text.format(growing=growing_run, trained=trained_run, packed=packed, stream=the_stream(packed))


def test_a_run_without_its_checkpoint(growing_run: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "config.yml").write_text((growing_run / "config.yml").read_text())
    code, output = command("stream.py", "pack", tmp_path, "--output-dir", tmp_path / "out")
    assert code == 1, output
    assert "Traceback" not in output
    assert "checkpoint" in output
