"""Pixel formats and area averaging."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files.images import read_stored_image
from finer_nerfstudio.nerf.data.captures import checked_captures
from finer_nerfstudio.nerf.data.dataparser import BlenderViewsDataParserConfig
from finer_nerfstudio.nerf.data.images import SceneImages, area_average, to_rgb_or_rgba
from finer_nerfstudio.nerf.data.notes import Notes

Pixels = npt.NDArray[np.uint8]


def over(pixels: np.ndarray, background: float) -> npt.NDArray[np.float64]:
    """Straight-alpha RGBA over a grey background, values in [0, 255]."""
    alpha = pixels[..., 3:] / 255.0
    return pixels[..., :3] * alpha + background * (1.0 - alpha)


@given(
    arrays(np.uint8, st.tuples(st.integers(4, 13), st.integers(4, 13), st.just(4))),
    st.integers(1, 4),
    st.sampled_from([0.0, 255.0, 128.0]),
)
@settings(max_examples=100, deadline=None)
def test_averaging_commutes_with_compositing(pixels: Pixels, factor: int, background: float) -> None:
    rows, columns = pixels.shape[0] // factor, pixels.shape[1] // factor
    composite = over(pixels, background)[: rows * factor, : columns * factor]
    expected = composite.reshape(rows, factor, columns, factor, 3).mean(axis=(1, 3))
    averaged = 255.0 * area_average(pixels / np.float32(255), factor)
    assert averaged.shape == (rows, columns, 4)
    np.testing.assert_allclose(over(averaged, background), expected, atol=1e-4)


@given(arrays(np.uint8, st.tuples(st.integers(3, 12), st.integers(3, 12), st.just(3))), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_averaging_of_opaque_pictures_is_the_box_filter(pixels: Pixels, factor: int) -> None:
    rows, columns = pixels.shape[0] // factor, pixels.shape[1] // factor
    cropped = pixels[: rows * factor, : columns * factor] / np.float32(255)
    reference = cv2.resize(cropped, (columns, rows), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(area_average(pixels / np.float32(255), factor), reference, atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb_or_rgba(mode: str, tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 16, dtype=np.uint8)[None].repeat(4, axis=0)
    if mode == "I;16":
        picture = Image.fromarray(ramp.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(ramp).convert(mode if mode != "CMYK" else "RGB").convert(mode)
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    picture.save(path)
    pixels = to_rgb_or_rgba(read_stored_image(path, upright=False), path, Notes())
    assert pixels.dtype == np.float32
    assert pixels.shape == (4, 16, 4 if mode in ("LA", "RGBA") else 3)
    if mode != "1":
        assert np.abs(255 * pixels[..., 0] - ramp).max() <= (8 if mode == "P" else 1)


def test_palette_transparency_is_kept(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((1, 1), 1)
    picture.save(tmp_path / "picture.png", transparency=0)
    path = tmp_path / "picture.png"
    pixels = to_rgb_or_rgba(read_stored_image(path, upright=False), path, Notes())
    assert pixels[1, 1].tolist() == [0, 1, 0, 1]
    assert pixels[0, 0, 3] == 0


def test_one_picture_with_alpha_makes_the_others_opaque_rgba(tmp_path: Path) -> None:
    frames = [{"file_path": name, "transform_matrix": np.eye(4).tolist()} for name in ("a", "b")]
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "a.png")
    Image.new("RGBA", (4, 4), (1, 2, 3, 100)).save(tmp_path / "b.png")
    (tmp_path / "transforms_train.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    dataset = SceneImages(BlenderViewsDataParserConfig(data=tmp_path).setup().get_dataparser_outputs("train"))
    assert dataset.get_numpy_image(0)[0, 0].tolist() == [1, 2, 3, 255]
    assert dataset.get_numpy_image(1)[0, 0].tolist() == [1, 2, 3, 100]


def test_lego_images_keep_their_alpha_and_halve_by_area(lego: Path) -> None:
    def dataset(factor: int) -> SceneImages:
        config = BlenderViewsDataParserConfig(data=lego, train_view_stride=50, downscale_factor=factor)
        return SceneImages(config.setup().get_dataparser_outputs("train"))

    full, half = dataset(1)[0]["image"], dataset(2)[0]["image"]
    assert full.shape == (200, 200, 4)
    assert half.shape == (100, 100, 4)
    assert 0.05 < float((full[..., 3] == 0).float().mean()) < 0.95

    def over_white(image: torch.Tensor) -> torch.Tensor:
        return image[..., :3] * image[..., 3:] + 1.0 - image[..., 3:]

    mean = over_white(full).reshape(100, 2, 100, 2, 3).mean(dim=(1, 3))
    torch.testing.assert_close(over_white(half), mean, atol=1e-6, rtol=0)


def test_damaged_image_is_named(lego: Path, tmp_path: Path) -> None:
    outputs = BlenderViewsDataParserConfig(data=lego, train_view_stride=50).setup().get_dataparser_outputs("train")
    broken = tmp_path / "broken.png"
    broken.write_bytes(outputs.image_filenames[0].read_bytes()[:5000])
    outputs.image_filenames[0] = broken
    with pytest.raises(InputError, match=r"broken\.png"):
        SceneImages(outputs).get_numpy_image(0)


def test_an_image_of_which_not_even_the_header_can_be_read_is_named(tmp_path: Path) -> None:
    frames = [{"file_path": name, "transform_matrix": np.eye(4).tolist()} for name in ("a.png", "b.png")]
    for frame in frames:
        Image.new("RGB", (4, 4)).save(tmp_path / str(frame["file_path"]))
    (tmp_path / "transforms_train.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    dataset = SceneImages(BlenderViewsDataParserConfig(data=tmp_path).setup().get_dataparser_outputs("train"))
    (tmp_path / "b.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"b\.png cannot be read as an image"):
        dataset.get_numpy_image(0)


def test_pictures_and_masks_shrink_with_the_cameras(tmp_path: Path) -> None:
    """As --pipeline.datamanager.camera-res-scale-factor asks for; colours of what is transparent do not bleed."""
    pixels = np.zeros((9, 13, 4), np.uint8)
    pixels[:, :7] = (200, 100, 50, 255)
    pixels[:, 7:] = (0, 255, 0, 0)
    mask = np.zeros((9, 13), np.uint8)
    mask[4:] = 255
    frames = []
    for index in range(2):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        pose = np.eye(4)
        pose[0, 3] = index
        frames.append({"file_path": f"{index}.png", "mask_path": "mask.png", "transform_matrix": pose.tolist()})
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (tmp_path / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    outputs = BlenderViewsDataParserConfig(data=tmp_path).setup().get_dataparser_outputs("train")
    dataset = SceneImages(outputs, scale_factor=0.5)
    data = dataset[0]
    assert data["image"].shape == (int(dataset.cameras.height[0]), int(dataset.cameras.width[0]), 4) == (4, 6, 4)
    seen = data["image"][..., 3] > 0.01
    expected = torch.tensor([200.0, 100.0, 50.0]) / 255
    torch.testing.assert_close(data["image"][seen][:, :3], expected.expand(int(seen.sum()), 3), atol=1e-5, rtol=0)
    assert data["mask"].squeeze(-1).tolist() == [[False] * 6] * 2 + [[True] * 6] * 2


def test_the_colour_of_masked_pixels_can_be_chosen(tmp_path: Path) -> None:
    """--mask-color after nerfstudio-data."""
    Image.new("RGB", (4, 2), (255, 255, 255)).save(tmp_path / "0.png")
    Image.new("RGBA", (4, 2), (255, 255, 255, 100)).save(tmp_path / "1.png")
    Image.fromarray(np.array([[0, 0, 255, 255]] * 2, np.uint8)).save(tmp_path / "mask.png")
    frames = []
    for index in range(2):
        pose = np.eye(4)
        pose[0, 3] = index
        frames.append({"file_path": f"{index}.png", "mask_path": "mask.png", "transform_matrix": pose.tolist()})
    (tmp_path / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    config = NerfstudioDataParserConfig(data=tmp_path, mask_color=(1.0, 0.0, 0.5))
    dataset = SceneImages(checked_captures(config).setup().get_dataparser_outputs("train"))
    for image, full in ((dataset.get_data(0)["image"], 1), (dataset.get_data(0, "uint8")["image"], 255)):
        assert image[0, 3].tolist() == [full] * 4
        np.testing.assert_allclose(image[0, 0], np.array([1.0, 0.0, 0.5, 1.0]) * full, atol=0.5 if full > 1 else 0)


def test_blocks_with_a_masked_pixel_are_masked(tmp_path: Path) -> None:
    """In Blender format too; the remainder of 13x9 pixels at a third of the size is cut off."""
    mask = np.full((9, 13), 255, np.uint8)
    mask[4, 5] = 0
    mask[:, 12] = 0
    Image.new("RGB", (13, 9)).save(tmp_path / "0.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    frame = {"file_path": "0", "mask_path": "mask.png", "transform_matrix": np.eye(4).tolist()}
    (tmp_path / "transforms_train.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": [frame]}))
    config = BlenderViewsDataParserConfig(data=tmp_path, downscale_factor=3)
    data = SceneImages(config.setup().get_dataparser_outputs("train"))[0]
    expected = np.ones((3, 4), dtype=bool)
    expected[1, 1] = False
    assert data["image"].shape[:2] == (3, 4)
    np.testing.assert_array_equal(data["mask"].squeeze(-1).numpy(), expected)
