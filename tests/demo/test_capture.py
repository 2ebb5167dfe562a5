"""The demo capture as its users meet it, and its lens against Nerfstudio's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from finer_nerfstudio.demo.capture import SHOOTS, DemoCapture, pixel_directions
from finer_nerfstudio.demo.lens import distort, undistort

SCRIPTS = Path(__file__).parents[2] / "scripts"
SMALL = ("--width", "32", "--views", "10", "--supersampling", "1")


def run(output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "make_demo_capture.py"), "--output-dir", str(output), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("scene", ["square", "room"])
@given(st.integers(0, 1000))
def test_the_lens_has_an_inverse(scene: str, seed: int) -> None:
    lens = SHOOTS[scene].lens
    # As far from the axis as the corners of the images are.
    corner = 0.51 / lens.focal * np.array([1.0, SHOOTS[scene].sides[1] / SHOOTS[scene].sides[0]])
    points = np.random.default_rng(seed).uniform(-corner, corner, (50, 2))
    ideal = undistort(points, **lens.distortion)
    np.testing.assert_allclose(distort(ideal, **lens.distortion), points, atol=1e-12)
    assert np.abs(ideal - points).max() > 0.01


@pytest.mark.parametrize("scene", ["square", "room"])
def test_pixels_look_where_nerfstudios_rays_go(scene: Literal["square", "room"]) -> None:
    options = DemoCapture(scene=scene, width=64, supersampling=1)
    (width, height), lens = options.size, options.shoot.lens
    focal, k = lens.focal * width, lens.distortion
    center = lens.center[0] * width, lens.center[1] * height
    cameras = Cameras(
        camera_to_worlds=torch.eye(4)[None, :3],
        fx=focal,
        fy=focal,
        cx=center[0],
        cy=center[1],
        width=width,
        height=height,
        distortion_params=torch.tensor([[k["k1"], k["k2"], 0.0, 0.0, k["p1"], k["p2"]]]),
    )
    expected = cameras.generate_rays(camera_indices=0).directions
    ours = torch.from_numpy(pixel_directions(options)[:, :, 0])
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    without = Cameras(torch.eye(4)[None, :3], focal, focal, *center, width=width, height=height)
    assert float((without.generate_rays(camera_indices=0).directions - expected).abs().max()) > 0.02


def test_the_same_options_give_the_same_files_and_leave_them_alone(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        assert run(folder, *SMALL).returncode == 0
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 10 + 2
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)
    before = {name: (first / name).stat().st_mtime_ns for name in files}
    assert run(first, *SMALL).returncode == 0
    assert before == {name: (first / name).stat().st_mtime_ns for name in files}
    refused = run(first, *SMALL, "--seed", "1")
    assert refused.returncode in (1, 2)
    assert "Traceback" not in refused.stderr

    content = json.loads((first / "transforms.json").read_text())
    assert content["camera_model"] == "OPENCV"
    assert set(content["train_filenames"]).isdisjoint(content["test_filenames"])
    with Image.open(first / content["frames"][0]["file_path"]) as image:
        assert (image.mode, image.size) == ("RGB", (32, 24))
    parser = NerfstudioDataParserConfig(data=first).setup()
    assert [len(parser.get_dataparser_outputs(split).image_filenames) for split in ("train", "test")] == [9, 1]


@pytest.mark.parametrize(
    "option",
    [("--width", "8"), ("--views", "3"), ("--supersampling", "0"), ("--seed", "-1"), ("--scene", "garden")],
)
def test_impossible_options_get_a_sentence(option: tuple[str, str], tmp_path: Path) -> None:
    done = run(tmp_path / "capture", *option)
    assert done.returncode == 2
    assert option[0] in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "capture").exists()
