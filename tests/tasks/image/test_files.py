"""Images of every kind, and files that only look like images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.files.png import write_image
from finer_nerfstudio.tasks.image import files
from finer_nerfstudio.tasks.image.files import read_image, sample_image

RANDOM = np.random.default_rng(0)


def pixels(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return RANDOM.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("1", 1), ("P", 3), ("CMYK", 3), ("I;16", 1)]
)
@pytest.mark.parametrize("size", [(1, 1), (40, 1), (7, 23)])
def test_modes_and_proportions(mode: str, channels: int, size: tuple[int, int], tmp_path: Path) -> None:
    source = Image.fromarray(pixels(size[1], size[0], 4), "RGBA")
    source = source.convert("L").convert("I;16") if mode == "I;16" else source.convert("RGB").convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    source.save(path)
    image = read_image(path)
    assert image.pixels.shape == (size[1], size[0], channels)
    assert image.maximum == (65535 if mode == "I;16" else 255)
    assert any("CMYK" in note for note in image.notes) == (mode == "CMYK")
    if mode in ("L", "RGB"):
        np.testing.assert_array_equal(image.pixels.squeeze(), np.asarray(source).squeeze())
    assert not image.pixels.flags.writeable


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_written_is_read(channels: int, dtype: type, tmp_path: Path) -> None:
    original = pixels(9, 14, channels, dtype=dtype)
    write_image(tmp_path / "image.png", original)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png").pixels, original)


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    Image.fromarray(pixels(20, 30, 3)).save(tmp_path / "turned.jpg", exif=exif)
    image = read_image(tmp_path / "turned.jpg")
    assert (image.height, image.width) == (30, 20)
    assert any("EXIF" in note for note in image.notes)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_16_bits(orientation: int, tmp_path: Path) -> None:
    """As Pillow turns the same picture in 8 bits."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "small.png", exif=exif)
    write_image(tmp_path / "large.png", pixels.astype(np.uint16) * 257)
    whole, marked = (tmp_path / "large.png").read_bytes(), (tmp_path / "small.png").read_bytes()
    start = marked.index(b"eXIf") - 4
    chunk = marked[start : start + 12 + int.from_bytes(marked[start : start + 4], "big")]
    end_of_header = 8 + 25
    (tmp_path / "large.png").write_bytes(whole[:end_of_header] + chunk + whole[end_of_header:])
    expected = read_image(tmp_path / "small.png").pixels
    np.testing.assert_array_equal(read_image(tmp_path / "large.png").pixels, expected.astype(np.uint16) * 257)


def test_lab_has_no_transparency(tmp_path: Path) -> None:
    Image.fromarray(sample_image(16).pixels).convert("RGB").convert("LAB").save(tmp_path / "lab.tif")
    assert read_image(tmp_path / "lab.tif").channels == 3


@pytest.mark.parametrize("planar", ["separate", "contig"])
def test_tiff_of_16_bits_keeps_them_in_either_order(planar: str, tmp_path: Path) -> None:
    original = pixels(20, 30, 3, dtype=np.uint16)
    written = np.moveaxis(original, -1, 0) if planar == "separate" else original
    tifffile.imwrite(tmp_path / "image.tif", written, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, original)


def test_the_smallest_value_may_be_white(tmp_path: Path) -> None:
    original = pixels(20, 30, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "image.tif", original, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels[..., 0], 65535 - original)


def test_portable_maps_of_16_bits_keep_them(tmp_path: Path) -> None:
    original = pixels(20, 30, 3, dtype=np.uint16)
    (tmp_path / "image.ppm").write_bytes(b"P6 30 20 65535\n" + original.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "image.ppm").pixels, original)


def test_other_depths_are_spread_over_16_bits_and_it_is_said(tmp_path: Path) -> None:
    original = RANDOM.integers(0, 1024, (20, 30, 3))
    (tmp_path / "image.ppm").write_bytes(b"P6 30 20 1023\n" + original.astype(">u2").tobytes())
    image = read_image(tmp_path / "image.ppm")
    np.testing.assert_allclose(image.pixels / 65535, original / 1023, atol=0.5 / 65535)
    assert any("1023" in note for note in image.notes)


def test_unsigned_numbers_of_32_bits_do_not_wrap(tmp_path: Path) -> None:
    original = np.array([[0, 1 << 30, 1 << 31, (1 << 32) - 1]], dtype=np.uint32)
    tifffile.imwrite(tmp_path / "image.tif", original, photometric="minisblack")
    image = read_image(tmp_path / "image.tif")
    np.testing.assert_array_equal(image.pixels[..., 0], [[0, 16384, 32768, 65535]])
    assert any("4.29497e+09" in note for note in image.notes)


def test_alpha_of_floating_pictures_is_not_stretched_with_their_colours(tmp_path: Path) -> None:
    original = np.concatenate([np.linspace(-2, 6, 36).reshape(3, 4, 3), np.full((3, 4, 1), 0.25)], axis=2)
    tifffile.imwrite(tmp_path / "image.tif", original.astype("f4"), photometric="rgb", extrasamples=["unassalpha"])
    read = read_image(tmp_path / "image.tif").pixels
    assert (read[..., 3] == round(0.25 * 65535)).all()
    np.testing.assert_allclose(read[..., :3] / 65535, (original[..., :3] + 2) / 8, atol=1e-5)


def test_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (10, 200, 90)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    image = read_image(tmp_path / "moving.gif")
    assert any("3 frames" in note for note in image.notes)
    assert image.pixels.max() == 10


def test_float_images(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(-3, 5, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "float.tif")
    image = read_image(tmp_path / "float.tif")
    assert image.maximum == 65535
    assert image.pixels.min() == 0
    assert image.pixels.max() == 65535
    assert any("-3 to 5" in note for note in image.notes)


def test_transparent_palette(tmp_path: Path) -> None:
    picture = Image.fromarray(pixels(8, 8, 3)).quantize(4)
    picture.save(tmp_path / "palette.png", transparency=0)
    assert read_image(tmp_path / "palette.png").channels == 4


def test_area_averaging_is_exact(tmp_path: Path) -> None:
    original = pixels(12, 24, 3)
    write_image(tmp_path / "image.png", original)
    averaged = read_image(tmp_path / "image.png", size=6).pixels
    expected = original.reshape(3, 4, 6, 4, 3).mean(axis=(1, 3))
    assert averaged.shape == (3, 6, 3)
    assert np.abs(averaged - expected).max() <= 0.5 + 1e-3


def test_transparent_colours_do_not_bleed(tmp_path: Path) -> None:
    original = np.zeros((4, 4, 4), np.uint8)
    original[:, :2] = (200, 100, 50, 255)
    original[:, 2:] = (0, 255, 0, 0)
    write_image(tmp_path / "image.png", original)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png", size=1).pixels[0, 0], (200, 100, 50, 128))


def test_large_images_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LARGEST_IN_MEMORY", 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    original = pixels(30, 20, 3)
    write_image(tmp_path / "image.png", original)
    image = read_image(tmp_path / "image.png", scratch=tmp_path / "scratch")
    assert isinstance(image.pixels, np.memmap)
    np.testing.assert_array_equal(image.pixels, original)
    assert Image.MAX_IMAGE_PIXELS == 100


def encoded(format: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels(64, 64, 3)).save(content, format)
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.png", b""),
        ("text.png", b"this is a sentence and no picture"),
        ("cut.png", encoded("PNG")[:400]),
        ("cut.jpg", encoded("JPEG")[:900]),
        ("header.png", encoded("PNG")[:20]),
        ("zeros.png", bytes(1000)),
    ],
)
def test_what_is_no_image_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        read_image(tmp_path / name)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(InputError, match="folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("size", [0, -3, 65])
def test_sizes_that_the_image_does_not_have(size: int, tmp_path: Path) -> None:
    write_image(tmp_path / "image.png", pixels(64, 32, 3))
    with pytest.raises(UsageError, match="size"):
        read_image(tmp_path / "image.png", size=size)


def test_the_sample_is_always_the_same() -> None:
    first, second = sample_image(64), sample_image(64)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.pixels.std() > 30


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here is a file")
    with pytest.raises(InputError, match="cannot write"):
        write_image(tmp_path / "file" / "image.png", pixels(4, 4, 3))
