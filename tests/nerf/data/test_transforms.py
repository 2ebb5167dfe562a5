"""Files of frames that were damaged in every way: each is read, or refused with one sentence."""

from __future__ import annotations

import copy
import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files.images import find_image
from finer_nerfstudio.nerf.data.captures import checked_captures
from finer_nerfstudio.nerf.data.dataparser import BlenderViewsDataParserConfig
from finer_nerfstudio.nerf.data.transforms import read_transforms

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**30), 1e308, -1e-308, math.nan, math.inf])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["OPENCV_FISHEYE", "EQUIRECTANGULAR", "FISHEYE624", "VR180_L", "../x.png", "/dev/null", "a" * 300]
    ),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
NAMES = ["w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", "camera_model", "is_fisheye"]
NAMES += ["k1", "k4", "p1", "distortion_params", "fisheye_crop_radius", "frames", "train_filenames", "val_filenames"]
NAMES += ["applied_transform", "applied_scale", "orientation_override", "transform_matrix", "file_path", "mask_path"]
NAMES += ["time", "equirectangular", "test_filenames", "depth_file_path"]


def content() -> dict[str, Any]:
    frames = []
    for index in range(3):
        pose = np.eye(4)
        pose[:3, 3] = (index, index**2, 0.5)
        frames.append({"file_path": f"{index}.png", "transform_matrix": pose.tolist()})
    return {"camera_angle_x": 0.7, "frames": frames}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    for index in range(3):
        Image.new("RGB", (8, 6)).save(folder / f"{index}.png")
    return folder


@given(
    st.lists(
        st.tuples(st.sampled_from([None, 0, 1, 2]), st.sampled_from(NAMES), ANYTHING),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
@settings(max_examples=150)
def test_any_values_are_read_or_refused(
    folder: Path, changes: list[tuple[int | None, str, Any]], blender: bool
) -> None:
    changed = content()
    for frame, name, value in changes:
        frames = changed["frames"]
        if frame is None:
            changed[name] = value
        elif isinstance(frames, list) and frame < len(frames) and isinstance(frames[frame], dict):
            frames[frame][name] = value
    for name in ("transforms.json", "transforms_train.json"):
        (folder / name).write_text(json.dumps(changed))
    config = BlenderViewsDataParserConfig() if blender else checked_captures(NerfstudioDataParserConfig())
    config.data = folder
    outputs: DataparserOutputs | None = None
    try:
        for split in ("train", "val"):
            outputs = config.setup().get_dataparser_outputs(split)
    except InputError as error:
        sentence = str(error)
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in sentence) or len(sentence) > 1000:
            raise AssertionError(sentence) from error
        return
    assert outputs is not None
    cameras = outputs.cameras
    assert len(cameras) == len(outputs.image_filenames) >= 1
    for value in (cameras.camera_to_worlds, cameras.fx, cameras.fy, cameras.cx, cameras.cy):
        assert bool(torch.isfinite(value).all())
    assert bool((cameras.fx > 0).all() & (cameras.fy > 0).all())


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=6), st.integers(0, 900))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(folder: Path, changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(json.dumps(content()).encode())
    for place, value in changes:
        damaged[place % len(damaged)] = value
    (folder / "damaged.json").write_bytes(bytes(damaged[: cut or None]))
    sentence = ""
    try:
        read_transforms(folder / "damaged.json")
    except InputError as error:
        sentence = str(error)
    assert "\n" not in sentence


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "transforms.json").open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(InputError, match="64 MB"):
        read_transforms(tmp_path / "transforms.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.json cannot be read: No such file"):
        read_transforms(tmp_path / "nothing.json")


@pytest.mark.parametrize("name", ["a.png", "a", "b.0001", "deep/c", "./a.png", "x.y.z"])
def test_pictures_are_found_with_the_suffix_that_was_left_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "deep").mkdir()
    for file in ("a.png", "b.0001.jpg", "deep/c.JPEG", "x.y.z.tiff"):
        (tmp_path / file).touch()
    found = find_image(tmp_path, name)
    assert found is not None
    assert found.is_file()


@pytest.mark.parametrize("name", ["b", "deep", "c.png", "n" * 900, "n" * 9000])
def test_what_is_no_picture_is_not_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "deep").mkdir()
    assert find_image(tmp_path, name) is None


@pytest.mark.parametrize(("size", "factor"), [((1601, 901), 2), ((4000, 3000), 4), ((1601, 901), 3)])
def test_a_lens_follows_its_picture(tmp_path: Path, size: tuple[int, int], factor: int) -> None:
    """Sizes of copies are rounded down; the lens in shares of the picture stays."""
    values = {"w": size[0], "h": size[1], "fl_x": 1200.0, "fl_y": 1210.0, "cx": 801.3, "cy": 450.1, "k1": 0.1}
    (tmp_path / "transforms.json").write_text(json.dumps({**content(), **values}))
    frame = read_transforms(tmp_path / "transforms.json").frames[0]
    width, height = size[0] // factor, size[1] // factor
    lens = frame.lens_of(width, height)
    np.testing.assert_allclose(lens.focal, (1200.0 * width / size[0], 1210.0 * height / size[1]))
    np.testing.assert_allclose(lens.center, (801.3 * width / size[0], 450.1 * height / size[1]))
    assert lens.distortion == (0.1, 0, 0, 0, 0, 0)


def test_a_frame_counts_before_its_file(tmp_path: Path) -> None:
    changed = copy.deepcopy(content())
    changed.update(fl_x=9.0, k1=0.5, k2=0.25, camera_model="OPENCV")
    changed["frames"][1].update(camera_angle_x=1.0, k1=0.0, camera_model="SIMPLE_PINHOLE")
    changed["frames"][2].update(fl_y=7.0)
    (tmp_path / "transforms.json").write_text(json.dumps(changed))
    first, second, third = (frame.lens_of(8, 6) for frame in read_transforms(tmp_path / "transforms.json").frames)
    assert first.focal == (9.0, 9.0)
    np.testing.assert_allclose(second.focal, 4 / math.tan(0.5))
    assert (second.distortion[0], second.distortion[1]) == (0.0, 0.25)
    assert third.focal == (7.0, 7.0)
