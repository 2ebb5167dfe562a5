"""Every kind of pixel against what was written, by other libraries or byte by byte, and files that are no pictures."""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files import images
from finer_nerfstudio.files.images import read_header, read_stored_image

RANDOM = np.random.default_rng(0)
HEIGHT, WIDTH = 9, 11


def random_values(dtype: str, *shape: int) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return RANDOM.random(shape).astype(kind)
    return RANDOM.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)


def full_of(dtype: str) -> float:
    return {"f": 1.0, "i": float("nan")}.get(np.dtype(dtype).kind, float(2 ** (8 * np.dtype(dtype).itemsize) - 1))


def png(path: Path, values: np.ndarray, depth: int, kind: int, key: tuple[int, ...] = ()) -> None:
    """A PNG by the standard's own words: kind 0 is grey, 2 RGB, 4 grey with alpha, 6 RGBA."""
    rows = values.reshape(values.shape[0], -1).astype(np.int64)
    bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    lines = b"".join(b"\0" + np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in bits)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, kind, 0, 0, 0))
    transparent = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    body = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + transparent + body)


@pytest.mark.parametrize(
    ("dtype", "samples"),
    [(kind, count) for kind in ("u1", "u2", "u4", "f2", "f4", "f8") for count in (1, 3, 4)]
    + [(kind, count) for kind in ("i1", "i2", "i4") for count in (1, 3)],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", [False, True])
def test_tiff_of_every_type_and_order(
    dtype: str, samples: int, compression: str | None, planar: bool, tmp_path: Path
) -> None:
    values = random_values(dtype, HEIGHT, WIDTH, samples)
    written = np.moveaxis(values, -1, 0) if planar and samples > 1 else values.squeeze()
    tifffile.imwrite(
        tmp_path / "image.tif",
        written,
        photometric="rgb" if samples > 1 else "minisblack",
        planarconfig=("separate" if planar else "contig") if samples > 1 else None,
        extrasamples=["unassalpha"] if samples == 4 else None,
        compression=compression,
    )
    stored = read_stored_image(tmp_path / "image.tif", upright=True)
    np.testing.assert_array_equal(stored.values, values)
    assert stored.values.dtype == np.dtype(dtype)
    np.testing.assert_equal(stored.full, full_of(dtype))
    header = read_header(tmp_path / "image.tif")
    assert (header.width, header.height, header.transparent) == (WIDTH, HEIGHT, samples == 4)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4", "bool"])
def test_the_smallest_value_may_be_white(dtype: str, tmp_path: Path) -> None:
    values = RANDOM.random((HEIGHT, WIDTH)) > 0.5 if dtype == "bool" else random_values(dtype, HEIGHT, WIDTH)
    tifffile.imwrite(tmp_path / "image.tif", values, photometric="miniswhite")
    stored = read_stored_image(tmp_path / "image.tif", upright=True)
    darkness = values.astype(np.float64) / (1.0 if dtype in ("bool", "f4") else full_of(dtype))
    np.testing.assert_allclose(stored.values[..., 0] / stored.full, 1.0 - darkness, atol=1e-7)


@pytest.mark.parametrize(("dtype", "step"), [("u2", 1.0), ("u4", 1.0), ("f4", 1e-6)])
def test_colour_that_was_multiplied_by_alpha_is_divided_again(dtype: str, step: float, tmp_path: Path) -> None:
    full = full_of(dtype)
    color, alpha = RANDOM.random((HEIGHT, WIDTH, 3)), RANDOM.uniform(0.2, 1.0, (HEIGHT, WIDTH, 1))
    alpha[0, 0] = 0.0
    written = np.concatenate([color * alpha, alpha], axis=2) * full
    written = (np.rint(written) if dtype != "f4" else written).astype(dtype)
    tifffile.imwrite(tmp_path / "image.tif", written, photometric="rgb", extrasamples=["assocalpha"])
    stored = read_stored_image(tmp_path / "image.tif", upright=True)
    seen = alpha[..., 0] > 0
    # Rounding of the product and of alpha, half a step each, and of what they are divided to.
    error = np.abs(stored.values[..., :3] / full - color)[seen].max() * full
    assert error <= step * (0.5 + 1.0 / 0.2)
    np.testing.assert_array_equal(stored.values[..., 3], written[..., 3])


def test_grey_with_alpha_in_tiff(tmp_path: Path) -> None:
    values = random_values("u2", HEIGHT, WIDTH, 2)
    tifffile.imwrite(tmp_path / "image.tif", values, photometric="minisblack", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_stored_image(tmp_path / "image.tif", upright=True).values, values)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_compressed_tiff_of_16_bits(channels: int, tmp_path: Path) -> None:
    """OpenCV writes LZW, which tifffile reads with another package only."""
    values = random_values("u2", HEIGHT, WIDTH, channels)
    order = [2, 1, 0, 3][:channels] if channels > 1 else [0]
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 5]
    assert cv2.imwrite(str(tmp_path / "image.tif"), values[..., order], options)
    with tifffile.TiffFile(tmp_path / "image.tif") as file:
        assert file.pages.first.compression.name == "LZW"
    np.testing.assert_array_equal(read_stored_image(tmp_path / "image.tif", upright=True).values, values)


def test_twelve_bits_are_known_as_twelve(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 4096, (4, 6))
    bits = (values[..., None] >> np.arange(11, -1, -1)) & 1
    data = np.packbits(bits.reshape(4, -1).astype(np.uint8), axis=1).tobytes()
    tags = [(256, 3, 6), (257, 3, 4), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 4)]
    tags.append((279, 4, len(data)))
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    start = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    (tmp_path / "image.tif").write_bytes(start + data + struct.pack("<H", len(tags)) + directory + bytes(4))
    stored = read_stored_image(tmp_path / "image.tif", upright=True)
    np.testing.assert_array_equal(stored.values[..., 0], values)
    assert stored.full == 4095


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_tiff_is_turned_as_pillow_turns_the_same_in_8_bits(orientation: int, tmp_path: Path) -> None:
    values = random_values("u1", HEIGHT, WIDTH, 3)
    tag = [(0x0112, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "deep.tif", values.astype(np.uint16) * 257, photometric="rgb", extratags=tag)
    tifffile.imwrite(tmp_path / "small.tif", values, photometric="rgb", extratags=tag)
    with Image.open(tmp_path / "small.tif") as picture:
        picture.load()
        expected = np.asarray(picture)
    for name, step in (("deep.tif", 257), ("small.tif", 1)):
        stored = read_stored_image(tmp_path / name, upright=False)
        np.testing.assert_array_equal(stored.values // step, expected)
        header = read_header(tmp_path / name)
        assert (header.height, header.width) == expected.shape[:2]
        assert len(stored.notes) == (orientation != 1)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_colour_key_of_grey_png(depth: int, tmp_path: Path) -> None:
    values = RANDOM.integers(0, 1 << depth, (HEIGHT, WIDTH, 1))
    values[0, :4] = (1 << depth) // 2
    key = int(values[0, 0, 0])
    png(tmp_path / "image.png", values, depth, 0, (key,))
    stored = read_stored_image(tmp_path / "image.png", upright=True)
    np.testing.assert_allclose(stored.values[..., :1] / stored.full, values / ((1 << depth) - 1), atol=1e-12)
    np.testing.assert_array_equal(stored.values[..., 1] == stored.full, values[..., 0] != key)
    np.testing.assert_array_equal(stored.values[..., 1] == 0, values[..., 0] == key)
    assert read_header(tmp_path / "image.png").transparent


@pytest.mark.parametrize("depth", [8, 16])
def test_the_colour_key_of_rgb_png(depth: int, tmp_path: Path) -> None:
    values = RANDOM.integers(0, 1 << depth, (HEIGHT, WIDTH, 3))
    values[0, :4] = values[0, 0]
    values[0, 1, 2] ^= 1  # its neighbour, which shares the upper half of all channels
    png(tmp_path / "image.png", values, depth, 2, tuple(int(value) for value in values[0, 0]))
    stored = read_stored_image(tmp_path / "image.png", upright=True)
    np.testing.assert_array_equal(stored.values[..., :3], values)
    np.testing.assert_array_equal(stored.values[..., 3] == 0, (values == values[0, 0]).all(axis=-1))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_of_every_kind(depth: int, kind: int, channels: int, tmp_path: Path) -> None:
    values = RANDOM.integers(0, 1 << depth, (HEIGHT, WIDTH, channels))
    png(tmp_path / "no suffix", values, depth, kind)
    stored = read_stored_image(tmp_path / "no suffix", upright=True)
    np.testing.assert_array_equal(stored.values, values)
    assert stored.full == (1 << depth) - 1


@pytest.mark.parametrize("full", [1, 100, 255, 256, 1023, 65535])
@pytest.mark.parametrize("kind", [b"P2", b"P3", b"P5", b"P6"])
def test_portable_maps(full: int, kind: bytes, tmp_path: Path) -> None:
    channels = 3 if kind in (b"P3", b"P6") else 1
    values = RANDOM.integers(0, full + 1, (HEIGHT, WIDTH, channels))
    header = kind + b"\n# by hand\n%d %d\n# twice\n%d\n" % (WIDTH, HEIGHT, full)
    body = values.astype(">u2" if full > 255 else "u1").tobytes()
    if kind in (b"P2", b"P3"):
        body = " ".join(str(value) for value in values.reshape(-1)).encode()
    (tmp_path / "image.ppm").write_bytes(header + body)
    stored = read_stored_image(tmp_path / "image.ppm", upright=True)
    # Those of fewer than 256 values are spread to 255 by Pillow.
    exact = full >= 255
    np.testing.assert_allclose(stored.values / stored.full, values / full, atol=0 if exact else 0.5 / 255)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_2000_of_16_bits(channels: int, tmp_path: Path) -> None:
    values = random_values("u2", 40, 50, channels)
    order = [2, 1, 0, 3][:channels] if channels > 1 else [0]
    assert cv2.imwrite(str(tmp_path / "image.jp2"), values[..., order], [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    np.testing.assert_array_equal(read_stored_image(tmp_path / "image.jp2", upright=True).values, values)


def test_exif_turns_only_what_is_asked_to_stand_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random_values("u1", 20, 30, 3)).save(tmp_path / "image.jpg", exif=exif)
    assert read_stored_image(tmp_path / "image.jpg", upright=True).values.shape == (30, 20, 3)
    as_it_lies = read_stored_image(tmp_path / "image.jpg", upright=False)
    assert as_it_lies.values.shape == (20, 30, 3)
    assert not as_it_lies.notes
    header = read_header(tmp_path / "image.jpg")
    assert (header.width, header.height) == (30, 20)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\x93NUMPY", "NumPy"),
    ],
)
def test_other_formats_are_named(start: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(start + bytes(100))
    with pytest.raises(InputError, match=f"{name}.*convert"):
        read_stored_image(tmp_path / "image.png", upright=True)


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (random_values("i2", HEIGHT, WIDTH), {"photometric": "miniswhite"}, "signed numbers"),
        (random_values("u2", HEIGHT, WIDTH, 5), {"photometric": "minisblack", "planarconfig": "contig"}, "5 channels"),
        (random_values("u2", HEIGHT, WIDTH, 3), {"photometric": "rgb", "subfiletype": 1}, "raw photograph"),
    ],
)
def test_tiff_that_is_not_read_says_why(values: np.ndarray, options: dict, words: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", values, **options)
    with pytest.raises(InputError, match=rf"image\.tif.*{words}"):
        read_stored_image(tmp_path / "image.tif", upright=True)


def test_names_that_are_too_long_for_the_machine(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="File name too long") as caught:
        read_stored_image(tmp_path / ("n" * 5000), upright=True)
    assert len(str(caught.value)) < 400


def test_more_channels_than_colours_are_said(tmp_path: Path) -> None:
    values = random_values("u2", HEIGHT, WIDTH, 4)
    tifffile.imwrite(tmp_path / "image.tif", values, photometric="rgb", extrasamples=["unspecified"])
    stored = read_stored_image(tmp_path / "image.tif", upright=True)
    np.testing.assert_array_equal(stored.values, values[..., :3])
    assert "4 channels" in stored.notes[0]


def header_of_png(width: int, height: int) -> bytes:
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100))
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (content, data, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [(100_000, 100_000, "gigapixel"), (30_000, 30_000, "too short"), (12_000, 12_000, "too short")],
)
def test_size_is_looked_at_before_anything_is_decoded(
    width: int, height: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    (tmp_path / "image.png").write_bytes(header_of_png(width, height))
    for read in (read_header, lambda path: read_stored_image(path, upright=True)):
        with pytest.raises(InputError, match=words):
            read(tmp_path / "image.png")


@pytest.mark.parametrize("compression", [8, 32946, 34925])
def test_parts_of_tiff_that_unpack_to_much_more_than_their_pixels(compression: int, tmp_path: Path) -> None:
    import lzma

    huge = bytes(50_000_000)
    strip = lzma.compress(huge, preset=0) if compression == 34925 else zlib.compress(huge)
    entries = {256: 64, 257: 64, 258: 16, 259: compression, 262: 1, 273: 134, 277: 1, 278: 64, 279: len(strip)}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    content = b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows
    (tmp_path / "bomb.tiff").write_bytes(content.ljust(134, b"\0") + strip)
    with pytest.raises(InputError, match="unpacks to more"):
        read_stored_image(tmp_path / "bomb.tiff", upright=True)
    whole = RANDOM.integers(0, 65535, (64, 64), dtype=np.uint16).tobytes()
    strip = lzma.compress(whole) if compression == 34925 else zlib.compress(whole)
    content = content.replace(struct.pack("<HHI", 279, 4, 1) + content[8 + 2 + 8 * 12 + 8 :][:4],
                              struct.pack("<HHII", 279, 4, 1, len(strip)))  # fmt: skip
    (tmp_path / "fine.tiff").write_bytes(content.ljust(134, b"\0") + strip)
    found = read_stored_image(tmp_path / "fine.tiff", upright=True)
    assert found.values.tobytes() == whole


def test_more_than_a_gigapixel_is_refused(tmp_path: Path) -> None:
    start = struct.pack("<2sHI", b"II", 42, 8)
    tags = [(256, 4, 100_000), (257, 4, 100_000), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    (tmp_path / "image.tif").write_bytes(start + struct.pack("<H", len(tags)) + directory + bytes(4))
    with pytest.raises(InputError, match="100000x100000 pixels: more than a gigapixel"):
        read_stored_image(tmp_path / "image.tif", upright=True)


def test_what_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "image.png")
    monkeypatch.setattr(images, "available_memory", lambda: 50_000)
    with pytest.raises(InputError, match=r"100x100 pixels.*memory"):
        read_stored_image(tmp_path / "image.png", upright=True)


def test_pillows_limit_is_left_as_it_was_by_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("RGB", (100, 100)).save(tmp_path / "image.png")
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(20):
                read_stored_image(tmp_path / "image.png", upright=True)
        except BaseException as error:
            failures.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert Image.MAX_IMAGE_PIXELS == 10


def examples() -> list[bytes]:
    """Small files of many formats."""
    found = []
    picture = Image.fromarray(random_values("u1", HEIGHT, WIDTH, 3))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "JPEG2000", "SGI", "PCX"):
        content = io.BytesIO()
        picture.save(content, kind)
        found.append(content.getvalue())
    for values, photometric in (
        (random_values("u2", HEIGHT, WIDTH, 3), "rgb"),
        (random_values("f4", 9, 9), "miniswhite"),
    ):
        content = io.BytesIO()
        tifffile.imwrite(content, values, photometric=photometric, compression="zlib")
        found.append(content.getvalue())
    found.append(b"P6 4 4 1023 " + bytes(96))
    found.append(b"P3 2 2 1023 " + b"1 2 3 " * 4)
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("name", ["it", "my picture.png", "it's.tif"])
def test_what_is_no_picture_is_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("hello")
    for read in (read_header, lambda path: read_stored_image(path, upright=True)):
        with pytest.raises(InputError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path} cannot be read as an image (no known kind of image): ")
        assert str(caught.value).endswith("save it there as PNG; else name another file.")


@given(
    st.sampled_from(EXAMPLES),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=8),
    st.integers(0, 1 << 16),
)
@settings(max_examples=400)
def test_damaged_files_are_pictures_or_sentences(content: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    import tempfile

    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        path.write_bytes(bytes(damaged[: max(1, cut % (2 * len(damaged)))]))
        stored = message = None
        try:
            stored = read_stored_image(path, upright=True)
        except InputError as error:
            message = str(error)
        if stored is None:
            assert message is not None
            assert str(path) in message
            assert "\n" not in message
            # Neither a file called 'it' nor what Python says to programmers.
            assert not re.search(
                r"'it'|invalid literal|object is not|not supported between|unsupported operand", message
            )
            return
        header = read_header(path)
        assert stored.values.ndim == 3
        assert {stored.values.shape[0], stored.values.shape[1]} == {header.width, header.height}
