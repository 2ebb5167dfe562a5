"""The Blender parser against Nerfstudio's own, and real captures through the same option."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.nerf.data.captures import checked_captures
from finer_nerfstudio.nerf.data.dataparser import BlenderViewsDataParserConfig


def parse(folder: Path, split: str = "train", **options: Any) -> DataparserOutputs:
    return BlenderViewsDataParserConfig(data=folder, **options).setup().get_dataparser_outputs(split)


def write_scene(folder: Path, *, frames: int = 3, size: tuple[int, int] = (12, 8), **content: object) -> None:
    folder.mkdir(exist_ok=True)
    listed = []
    for index in range(frames):
        Image.new("RGBA", size, (10 * index, 20, 30, 255)).save(folder / f"{index}.png")
        matrix = np.eye(4)
        matrix[:3, 3] = (index, 2.0, -1.0)
        listed.append({"file_path": f"./{index}", "transform_matrix": matrix.tolist()})
    text = json.dumps({"camera_angle_x": 0.7, "frames": listed, **content})
    for split in ("train", "val", "test"):
        (folder / f"transforms_{split}.json").write_text(text)


def assert_same_rays(cameras: Cameras, reference: Cameras) -> None:
    for index in (0, len(cameras) - 1):
        ours = cameras.generate_rays(camera_indices=index, keep_shape=True)
        theirs = reference.generate_rays(camera_indices=index, keep_shape=True)
        torch.testing.assert_close(ours.origins, theirs.origins)
        torch.testing.assert_close(ours.directions, theirs.directions)


def test_lego_has_the_cameras_of_nerfstudios_parser(lego: Path) -> None:
    ours = parse(lego)
    theirs = BlenderDataParserConfig(data=lego, scale_factor=0.8).setup().get_dataparser_outputs("train")
    assert ours.image_filenames == theirs.image_filenames
    assert_same_rays(ours.cameras, theirs.cameras)
    torch.testing.assert_close(ours.scene_box.aabb, torch.tensor([[-1.0] * 3, [1.0] * 3]))


def test_view_stride_of_lego_is_the_papers_25_views(lego: Path) -> None:
    everything, chosen = parse(lego), parse(lego, train_view_stride=4)
    assert len(chosen.image_filenames) == 25
    assert chosen.image_filenames == everything.image_filenames[::4]
    torch.testing.assert_close(chosen.cameras.camera_to_worlds, everything.cameras.camera_to_worlds[::4])


def test_strides_concern_their_own_splits(tmp_path: Path) -> None:
    write_scene(tmp_path, frames=5)
    assert len(parse(tmp_path, "test", train_view_stride=2).image_filenames) == 5
    assert len(parse(tmp_path, "test", eval_view_stride=2).image_filenames) == 3
    assert len(parse(tmp_path, "train", eval_view_stride=2).image_filenames) == 5


def test_downscaled_cameras_look_through_the_centres_of_blocks(tmp_path: Path) -> None:
    write_scene(tmp_path, size=(12, 8))
    full = parse(tmp_path).cameras.generate_rays(camera_indices=0, keep_shape=True, disable_distortion=True)
    half_cameras = parse(tmp_path, downscale_factor=2).cameras
    # As ns-render gives it.
    from_float = parse(tmp_path, downscale_factor=2.0).cameras
    assert from_float.width.dtype == half_cameras.width.dtype
    torch.testing.assert_close(from_float.width, half_cameras.width)
    assert (int(half_cameras.width[0]), int(half_cameras.height[0])) == (6, 4)
    half = half_cameras.generate_rays(camera_indices=0, keep_shape=True)

    # On the plane at unit depth the ray of a block is the mean of its pixels' rays.
    on_plane = full.directions / full.directions[..., 2:]
    block_mean = on_plane.reshape(4, 2, 6, 2, 3).mean(dim=(1, 3))
    torch.testing.assert_close(half.directions / half.directions[..., 2:], block_mean)


def test_scale_moves_cameras_and_nothing_else(tmp_path: Path) -> None:
    write_scene(tmp_path)
    one, half = parse(tmp_path, scale_factor=1.0).cameras, parse(tmp_path, scale_factor=0.5).cameras
    torch.testing.assert_close(half.camera_to_worlds[..., 3], 0.5 * one.camera_to_worlds[..., 3])
    torch.testing.assert_close(half.camera_to_worlds[..., :3], one.camera_to_worlds[..., :3])
    torch.testing.assert_close(half.fx, one.fx)


def test_explicit_intrinsics_win_over_the_angle(tmp_path: Path) -> None:
    write_scene(tmp_path, fl_x=10.0, fl_y=11.0, cx=5.0, cy=3.0)
    cameras = parse(tmp_path).cameras
    assert [float(value[0]) for value in (cameras.fx, cameras.fy, cameras.cx, cameras.cy)] == [10.0, 11.0, 5.0, 3.0]


def test_explicit_intrinsics_are_scaled_with_the_images(tmp_path: Path) -> None:
    """The pictures on disk are 12x8, a quarter of what the camera took."""
    write_scene(tmp_path, w=48, h=32, fl_x=40.0, fl_y=44.0, cx=20.0, cy=12.0)
    cameras = parse(tmp_path).cameras
    assert [float(value[0]) for value in (cameras.fx, cameras.fy, cameras.cx, cameras.cy)] == [10.0, 11.0, 5.0, 3.0]
    write_scene(tmp_path, w=48, fl_x=40.0)
    cameras = parse(tmp_path).cameras
    assert [float(value[0]) for value in (cameras.fx, cameras.fy, cameras.cx, cameras.cy)] == [10.0, 10.0, 6.0, 4.0]


@pytest.mark.parametrize("size", [0, -48, "wide", None])
def test_a_size_that_is_none_is_refused(tmp_path: Path, size: object) -> None:
    write_scene(tmp_path, w=size, fl_x=40.0)
    with pytest.raises(InputError, match='"w" must be'):
        parse(tmp_path)


@pytest.mark.parametrize("name", ["k1", "k2", "k3", "k4", "p1", "p2"])
def test_distortion_is_refused_and_not_ignored(tmp_path: Path, name: str) -> None:
    coefficients: dict[str, Any] = {name: 0.0}
    write_scene(tmp_path, **coefficients)
    parse(tmp_path)
    coefficients[name] = -0.01
    write_scene(tmp_path, **coefficients)
    with pytest.raises(InputError, match=f'distortion \\("{name}"\\)'):
        parse(tmp_path)


def test_missing_test_split_falls_back_to_val_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scene(tmp_path)
    (tmp_path / "transforms_test.json").unlink()
    assert len(parse(tmp_path, "test").image_filenames) == 3
    assert "transforms_test.json" in capsys.readouterr().out.replace("\n", "")


def test_training_views_are_evaluated_on_where_there_are_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scene(tmp_path)
    (tmp_path / "transforms_val.json").unlink()
    (tmp_path / "transforms_test.json").unlink()
    assert len(parse(tmp_path, "test").image_filenames) == 3
    assert "those of training are used in their place" in capsys.readouterr().out


def test_training_never_falls_back_to_another_split(tmp_path: Path) -> None:
    write_scene(tmp_path)
    (tmp_path / "transforms_train.json").unlink()
    with pytest.raises(UsageError, match=r"transforms_train\.json"):
        parse(tmp_path)


@pytest.mark.parametrize("option", ["train_view_stride", "eval_view_stride", "downscale_factor"])
def test_options_out_of_range(tmp_path: Path, option: str) -> None:
    write_scene(tmp_path)
    with pytest.raises(UsageError, match=option.replace("_", "-")):
        parse(tmp_path, "train", **{option: 0})


def write_capture(folder: Path, **intrinsics: float) -> None:
    """A capture in Nerfstudio's own format: 12 views of 32x24 pixels on a ring, looking inwards."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for index in range(12):
        angle = 2 * np.pi * index / 12
        position = 3.0 * np.array([np.cos(angle), np.sin(angle), 0.3])
        backward = position / np.linalg.norm(position)
        right = np.cross([0.0, 0.0, 1.0], backward)
        right /= np.linalg.norm(right)
        matrix = np.eye(4)
        matrix[:3] = np.stack([right, np.cross(backward, right), backward, position], axis=1)
        columns = np.linspace(0, 255, 32, dtype=np.uint8)[None].repeat(24, axis=0)
        pixels = np.stack([columns, np.full_like(columns, 20 * index), columns[:, ::-1]], axis=2)
        Image.fromarray(pixels).save(folder / "images" / f"{index:03d}.png")
        frames.append({"file_path": f"images/{index:03d}.png", "transform_matrix": matrix.tolist()})
    camera = {"w": 32, "h": 24, "fl_x": 30.0, "fl_y": 30.0, "cx": 16.0, "cy": 12.0, "camera_model": "OPENCV"}
    (folder / "transforms.json").write_text(json.dumps({**camera, **intrinsics, "frames": frames}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"orientation_method": "pca"},
        {"orientation_method": "vertical", "center_method": "focus"},
        {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False, "scale_factor": 0.3},
        {"orientation_method": "up", "center_method": "none"},
        {"eval_mode": "interval", "eval_interval": 3, "scene_scale": 2.0},
        {"eval_mode": "all"},
        {"train_split_fraction": 0.5},
    ],
)
def test_a_capture_is_read_as_nerfstudios_own_parser_reads_it(tmp_path: Path, options: dict[str, Any]) -> None:
    write_capture(tmp_path / "capture", k1=0.1, k2=-0.02, p1=0.01, p2=0.0)
    config = NerfstudioDataParserConfig(data=tmp_path / "capture", **options)
    for split in ("train", "val", "test"):
        ours = checked_captures(config).setup().get_dataparser_outputs(split)
        theirs = config.setup().get_dataparser_outputs(split)
        assert ours.image_filenames == theirs.image_filenames
        # Both round to single precision, on different ways. Cameras around a scene have principal components of equal
        # size, of which the processor and the precision choose the axes: scenes are then turned about the vertical one.
        turned = ours.dataparser_transform[:, :3].float() @ theirs.dataparser_transform[:, :3].T
        turned = turned / turned.norm(dim=1, keepdim=True)
        if options.get("orientation_method") == "pca":
            torch.testing.assert_close(turned @ turned.T, torch.eye(3), atol=1e-5, rtol=0)
            assert torch.linalg.det(turned) > 0
            assert turned[2, 2] > 0.9999
        else:
            torch.testing.assert_close(turned, torch.eye(3), atol=1e-5, rtol=0)
            turned = torch.eye(3)
        expected = turned @ theirs.cameras.camera_to_worlds, turned @ theirs.dataparser_transform
        torch.testing.assert_close(ours.cameras.camera_to_worlds, expected[0], atol=5e-6, rtol=0)
        torch.testing.assert_close(ours.dataparser_transform.float(), expected[1], atol=5e-6, rtol=0)
        assert ours.dataparser_scale == pytest.approx(theirs.dataparser_scale, rel=1e-5)
        assert torch.equal(ours.scene_box.aabb, theirs.scene_box.aabb)
        for name in ("fx", "fy", "cx", "cy", "width", "height", "distortion_params", "camera_type"):
            assert torch.equal(getattr(ours.cameras, name), getattr(theirs.cameras, name)), name


def test_poses_go_back_to_where_they_came_from(tmp_path: Path) -> None:
    """What ns-export does with --save-world-frame and for cameras."""
    write_capture(tmp_path / "capture")
    outputs = parse(tmp_path / "capture")
    back = outputs.transform_poses_to_original_space(outputs.cameras.camera_to_worlds, camera_convention="opengl")
    frames = json.loads((tmp_path / "capture" / "transforms.json").read_text())["frames"]
    by_name = {frame["file_path"].split("/")[1]: frame["transform_matrix"] for frame in frames}
    for pose, path in zip(back.numpy(), outputs.image_filenames, strict=True):
        np.testing.assert_allclose(pose, np.array(by_name[path.name])[:3], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_view_stride", 2),
        ("eval_view_stride", 2),
        ("downscale_factor", 2),
        ("scale_factor", 0.5),
        ("scene_half_extent", 2.0),
    ],
)
def test_options_that_a_real_capture_would_ignore_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    write_capture(tmp_path / "capture")
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} "):
        parse(tmp_path / "capture", **{name: value})


def test_distortion_bends_rays_as_the_opencv_model_has_it(tmp_path: Path) -> None:
    import cv2

    distortion = {"k1": 0.1, "k2": -0.02, "p1": 0.01, "p2": -0.005}
    write_capture(tmp_path / "capture", **distortion)
    cameras = parse(tmp_path / "capture").cameras
    bundle = cameras.generate_rays(camera_indices=0, keep_shape=True)
    rotation = cameras.camera_to_worlds[0, :, :3]
    local = bundle.directions @ rotation  # camera frame: x right, y up, looking along -z
    points = np.stack([local[..., 0], -local[..., 1], -local[..., 2]], axis=-1).reshape(-1, 3).astype(np.float64)
    matrix = np.array([[30.0, 0.0, 16.0], [0.0, 30.0, 12.0], [0.0, 0.0, 1.0]])
    coefficients = np.array([distortion[name] for name in ("k1", "k2", "p1", "p2")])
    pixels, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, coefficients)
    rows, columns = np.meshgrid(np.arange(24) + 0.5, np.arange(32) + 0.5, indexing="ij")
    np.testing.assert_allclose(pixels.reshape(24, 32, 2), np.stack([columns, rows], axis=-1), atol=0.02)
