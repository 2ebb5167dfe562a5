"""Pictures as files hold them: every kind of pixel by a library that reads it right, and measured before decoding.

Pillow reads nearly everything, and turns much of it into 8 bits. What would suffer from that is read by others: TIFF of
more than 8 bits by tifffile, PNG and JPEG 2000 of 16 bits by OpenCV, PPM of 16 bits here.
"""

from __future__ import annotations

import logging
import lzma
import math
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from finer_nerfstudio.errors import InputError, in_one_line
from finer_nerfstudio.files.memory import available_memory, gigabytes

_LARGEST = 1 << 30
# A few bytes can ask for gigabytes. Deflate makes at most 1032 bytes of one (RFC 1951), LZW and JPEG not many more, and
# what is read takes two copies.
_MOST_OF_A_BYTE = 4000
_MEMORY_FOR_ANY_FILE = 1 << 28
_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG", ".tif", ".tiff", ".webp")
_EXIF_ORIENTATION = 0x0112
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# TIFF 6.0, and what tifffile calls the photometric interpretations that are read here.
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB = 0, 1, 2
# Compressions that tifffile unpacks without looking at the size, and what one byte can become (measured for LZMA).
_UNPACKERS: dict[int, Callable[[], Any]] = {
    8: zlib.decompressobj,
    32946: zlib.decompressobj,
    34925: lzma.LZMADecompressor,
}
_MOST_UNPACKED = 10_000
_PORTION = 1 << 24
_ASSOCIATED, _UNASSOCIATED = 1, 2
# What people try, by where a name for it stands in the file; (offset, bytes, name).
_FOREIGN = (
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"PF", "portable float map"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypcrx", "a camera's raw format"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL \r\n", "JPEG XL"),
    (0, b"FUJIFILM", "a camera's raw format"),
    (0, b"\x93NUMPY", "NumPy's own format"),
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
)
# What Python says where a decoder runs into a value that it did not expect; it means nothing to a user.
_OF_PYTHON = (TypeError, LookupError, AttributeError, ArithmeticError, UnicodeError)
_ABOUT_NUMBERS = ("invalid literal for", "could not convert")
# Pillow's limit on pixels is one number for the whole process, and scenes are read by many threads.
_OPENING = threading.Lock()

# No library's remarks on damaged metadata are of use to somebody who looks at a picture.
warnings.filterwarnings("ignore", module=r"PIL\.")
for _library in ("PIL", "tifffile"):
    logging.getLogger(_library).addHandler(logging.NullHandler())


@dataclass(frozen=True)
class ImageHeader:
    """The header of a picture's file: its size, and whether it is transparent.

    Attributes:
        width: pixels, as decoding gives them without a turn by EXIF.
        height: pixels.
        transparent: some pixels may be transparent.
    """

    width: int
    height: int
    transparent: bool


@dataclass(frozen=True)
class StoredImage:
    """A picture's pixels as they are stored.

    Attributes:
        values: ``[height, width, channels]``, of any integer or floating type: grey, grey and alpha, RGB or RGBA, alpha
            straight.
        full: the value of full intensity: 255, 4095, 65535, ...; 1 for floating types; NaN for signed integers, which
            have none.
        notes: sentences on what was done to what the file holds.
    """

    values: np.ndarray
    full: float
    notes: tuple[str, ...] = ()


def find_image(folder: Path, name: str) -> Path | None:
    """Find the picture that a scene's file names, with the suffix that the name may lack."""
    for suffix in ("", *_SUFFIXES):
        candidate = folder / f"{name}{suffix}"
        try:
            if candidate.is_file():
                return candidate
        except OSError:  # a name that is too long for this machine
            return None
    return None


def read_header(path: Path) -> ImageHeader:
    """Measure a picture without decoding it.

    Raises:
        InputError: for what is missing or no image, and for pictures that are too large to be decoded.
    """
    with _in_a_sentence(path):
        return _header(path)


def read_stored_image(path: Path, *, upright: bool) -> StoredImage:
    """Read a picture, of an animation the first frame.

    Palettes and CMYK become RGB, with 8 bits; a colour key becomes alpha. TIFF is turned as its tag says.

    Args:
        path: a file.
        upright: turn other formats too, as their EXIF orientation says.

    Raises:
        InputError: for what is missing, damaged, too large or no image, and for kinds of pixels that are not read.
    """
    with _in_a_sentence(path):
        _header(path)
        start = _start(path)
        if start.startswith(_TIFF_STARTS):
            stored = _read_deep_tiff(path)
            if stored is not None:
                return stored
        if start[:2] in (b"P2", b"P3", b"P5", b"P6"):
            stored = _read_deep_pnm(path)
            if stored is not None:
                return stored
        return _read_with_pillow(path, start, upright)


@contextmanager
def _in_a_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever they come across in a damaged file
        reason = in_one_line(error)
        if isinstance(error, UnidentifiedImageError):
            reason = "no known kind of image"
        if isinstance(error, MemoryError):
            reason = "it asks for more memory than there is"
        if isinstance(error, _OF_PYTHON) or reason.startswith(_ABOUT_NUMBERS):
            reason = "what it says of itself makes no sense"
        reason = reason.replace(str(path), "it").rstrip(".")
        name = str(path) if len(str(path)) <= 1000 else f"{str(path)[:200]} ..."
        raise InputError(
            f"{name} cannot be read as an image ({reason}): it is damaged or something else. Where another program "
            "opens it, save it there as PNG; else name another file."
        ) from error


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(32)


def _header(path: Path) -> ImageHeader:
    if not path.exists():
        raise InputError(f"there is no image {path}: name a picture that exists.")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name one image file.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (zero bytes).")
    start = _start(path)
    for offset, name_in_file, name in _FOREIGN:
        if start[offset:].startswith(name_in_file):
            raise InputError(f"{path} is in {name}, which is not read here: convert it to PNG or TIFF.")
    if start.startswith(_TIFF_STARTS):
        header, channels, depth = _tiff_header(path)
    else:
        with _opened(path) as picture:
            header = ImageHeader(picture.width, picture.height, _has_alpha(picture))
            channels, depth = len(picture.getbands()), 4 if picture.mode in ("I", "F") else 2
    pixels = header.width * header.height
    if pixels < 1:
        raise InputError(f"{path} has no pixels.")
    if pixels > _LARGEST:
        raise InputError(f"{path} has {header.width}x{header.height} pixels: more than a gigapixel.")
    needed, available = 2 * pixels * channels * depth, available_memory()
    size = f"{header.width}x{header.height} pixels"
    if needed > max(_MEMORY_FOR_ANY_FILE, _MOST_OF_A_BYTE * path.stat().st_size):
        raise InputError(f"{path} says that it has {size}, for which it is too short: is it damaged?")
    if needed > available:
        raise InputError(
            f"{path} has {size}, which take {gigabytes(needed)} of memory to read, and {gigabytes(available)} are "
            f"free: make a smaller copy of it."
        )
    return header


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Pillow takes large images for attacks; here they are what people come for, up to a limit of our own."""
    with _OPENING:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            picture = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    with picture:
        yield picture


def _has_alpha(picture: Image.Image) -> bool:
    # LAB has a band called A too.
    return (picture.mode != "LAB" and "A" in picture.getbands()) or "transparency" in picture.info


def _read_with_pillow(path: Path, start: bytes, upright: bool) -> StoredImage:
    notes = []
    with _opened(path) as picture:
        frames = getattr(picture, "n_frames", 1)
        if frames > 1:
            notes.append(f"{path.name} has {frames} frames, of which the first was taken.")
        orientation = _orientation(picture)
        # Pillow takes a file that ends early for one that goes on in grey, unless its pixels are asked for.
        picture.load()
        values, full = _pixels(picture, path, start, notes)
    turned_by_pillow = picture.format == "TIFF"
    if orientation != 1 and (upright or turned_by_pillow):
        notes.append(f"{path.name} was turned as its EXIF orientation says.")
        values = values if turned_by_pillow else _turned(values, orientation)
    return StoredImage(values, full, tuple(notes))


def _orientation(picture: Image.Image) -> int:
    try:
        orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged metadata of a picture that is whole
        return 1
    return orientation if orientation in range(1, 9) else 1


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """EXIF 2.32, tag 0x0112: where the first row and the first column belong."""
    if orientation == 1:
        return values
    mirrored = {2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1], 5: values.swapaxes(0, 1)}
    rotated = {6: np.rot90(values, -1), 7: np.rot90(values, 2).swapaxes(0, 1), 8: np.rot90(values, 1)}
    return np.ascontiguousarray((mirrored | rotated)[orientation])


def _pixels(picture: Image.Image, path: Path, start: bytes, notes: list[str]) -> tuple[np.ndarray, float]:
    """Pixels and the value of full intensity of a loaded picture."""
    mode, key = picture.mode, picture.info.get("transparency")
    png_depth, png_kind = (start[24], start[25]) if picture.format == "PNG" else (0, 0)
    if (png_depth == 16 and png_kind in (2, 4, 6)) or (picture.format == "JPEG2000" and mode in ("RGB", "RGBA")):
        deep = _decoded_by_opencv(path)
        if deep is not None and deep.dtype == np.uint16:
            # OpenCV has grey with alpha as colour.
            return deep[..., [0, 3]] if png_kind == 4 else deep, 65535.0
    if mode.startswith("I;16") or (mode == "I" and png_depth == 16):
        values = np.array(picture).astype(np.uint16)[..., None]
        if isinstance(key, int):
            values = np.concatenate([values, np.where(values == key, 0, 65535).astype(np.uint16)], axis=2)
        tiff_depth = getattr(picture, "tag_v2", {}).get(258, (16,))[0]
        return values, float((1 << tiff_depth) - 1)
    if mode in ("I", "F"):
        return np.array(picture)[..., None], 1.0 if mode == "F" else float("nan")
    if mode == "L" and png_depth in (2, 4) and isinstance(key, int):
        # Pillow spreads 2 and 4 bits to 8, but not the key.
        picture.info["transparency"] = key * 255 // ((1 << png_depth) - 1)
    target = ("L" if mode in ("L", "LA", "1", "La") else "RGB") + ("A" if _has_alpha(picture) else "")
    if mode not in ("L", "LA", "RGB", "RGBA", "1", "P", "PA"):
        notes.append(f"{path.name} was converted from {mode} to {target}.")
    values = np.array(picture if mode == target else picture.convert(target))
    return values[..., None] if values.ndim == 2 else values, 255.0


def _decoded_by_opencv(path: Path) -> np.ndarray | None:
    """``[height, width, channels]`` in the order red, green, blue, alpha."""
    import cv2

    cv2.setLogLevel(0)
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        return None
    values = values if values.ndim == 3 else values[..., None]
    return np.ascontiguousarray(values[..., [2, 1, 0, 3][: values.shape[2]]]) if values.shape[2] > 2 else values


def _read_deep_pnm(path: Path) -> StoredImage | None:
    """PGM and PPM with more than 8 bits, as numbers or as bytes; None for others."""
    content = path.read_bytes()
    words: list[bytes] = []
    place = 0
    while len(words) < 4:
        while content[place : place + 1].isspace():
            place += 1
        if content[place : place + 1] == b"#":
            place = content.index(b"\n", place)
            continue
        end = place
        while end < len(content) and not content[end : end + 1].isspace():
            end += 1
        words.append(content[place:end])
        place = end
    width, height, full = (int(word) for word in words[1:])
    if not 255 < full < 65536:
        return None
    channels = 3 if words[0] in (b"P3", b"P6") else 1
    count = height * width * channels
    if words[0] in (b"P5", b"P6"):
        values = np.frombuffer(content, ">u2", count, place + 1)
    else:
        values = np.array(content[place:].split()[:count], dtype=np.int64)
    if values.max() > full or values.min() < 0:
        raise ValueError(f"it holds values above {full}, which it says is white")
    return StoredImage(values.reshape(height, width, channels).astype(np.uint16), float(full))


def _tiff_header(path: Path) -> tuple[ImageHeader, int, int]:
    """The first picture's header, its channels and the bytes of each."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = _first_page(file, path)
        transparent = any(kind in (_ASSOCIATED, _UNASSOCIATED) for kind in _extra_channels(page))
        width, height = page.imagewidth, page.imagelength
        if _tiff_orientation(page) >= 5:
            width, height = height, width
        return ImageHeader(width, height, transparent), page.samplesperpixel, max(1, page.bitspersample // 8)


def _first_page(file: Any, path: Path) -> Any:
    page = file.pages.first
    if page.is_reduced:
        raise InputError(
            f"{path} is a camera's raw photograph, of which only the preview is an image: develop it to PNG or TIFF."
        )
    return page


def _extra_channels(page: Any) -> list[int]:
    """Return the uses of channels beside the colours; one of which nothing is said is alpha, as it is to Pillow."""
    extra = [int(kind) for kind in page.extrasamples]
    colors = {_MIN_IS_WHITE: 1, _MIN_IS_BLACK: 1, _RGB: 3}.get(int(page.photometric))
    return [_UNASSOCIATED] if not extra and colors is not None and page.samplesperpixel == colors + 1 else extra


def _tiff_orientation(page: Any) -> int:
    tag = page.tags.get(_EXIF_ORIENTATION)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _read_deep_tiff(path: Path) -> StoredImage | None:
    """Grey and RGB of more than 8 bits, signed or floating; None for those that Pillow reads as they are."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = _first_page(file, path)
        photometric, bits = int(page.photometric), int(page.bitspersample)
        if photometric not in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB) or (bits <= 8 and int(page.sampleformat) == 1):
            return None
        notes = []
        if len(file.pages) > 1:
            notes.append(f"{path.name} has {len(file.pages)} frames, of which the first was taken.")
        values = _tiff_values(page, path)
        if values is None:
            return None
        colors = 3 if photometric == _RGB else 1
        extra = _extra_channels(page)
        orientation = _tiff_orientation(page)
    full = {"u": float((1 << bits) - 1), "f": 1.0}.get(values.dtype.kind, float("nan"))
    if values.shape[2] < colors:
        raise ValueError(f"it has {values.shape[2]} channels of {colors}")
    unknown = len(extra) < values.shape[2] - colors or any(kind not in (_ASSOCIATED, _UNASSOCIATED) for kind in extra)
    if colors == 1 and unknown:
        raise ValueError(f"it has {values.shape[2]} channels, and does not say what they are")
    kept = list(range(colors))
    alpha = next((colors + i for i, kind in enumerate(extra) if kind in (_ASSOCIATED, _UNASSOCIATED)), None)
    if np.isnan(full) and (photometric == _MIN_IS_WHITE or alpha is not None):
        raise ValueError("signed numbers with alpha, or of which the smallest is white, are not read")
    if photometric == _MIN_IS_WHITE:
        values = values.copy()
        values[..., 0] = np.asarray(full, values.dtype) - values[..., 0]
    if alpha is not None:
        kept.append(alpha)
        if extra[alpha - colors] == _ASSOCIATED:
            values = _straight(values, colors, alpha, full)
    if len(kept) < values.shape[2]:
        notes.append(f"{path.name} has {values.shape[2]} channels, of which the first {colors} are colour.")
    if orientation != 1:
        notes.append(f"{path.name} was turned as its EXIF orientation says.")
    return StoredImage(_turned(values[..., kept], orientation), full, tuple(notes))


def _tiff_values(page: Any, path: Path) -> np.ndarray | None:
    """``[height, width, samples]``; None where Pillow is right and tifffile cannot read it."""
    bits, samples = int(page.bitspersample), int(page.samplesperpixel)
    _require_bounded_parts(page)
    try:
        values = page.asarray(maxworkers=1)
    except (ValueError, NotImplementedError, KeyError) as error:
        if "imagecodecs" not in str(error):
            raise
        if samples == 1 and bits in (12, 16) and int(page.photometric) == _MIN_IS_BLACK and page.dtype.kind == "u":
            return None
        values = _decoded_by_opencv(path) if int(page.planarconfig) == 1 else None
        if values is None or values.shape != (page.imagelength, page.imagewidth, samples) or values.dtype != page.dtype:
            compression = page.compression.name
            raise ValueError(
                f"{bits} bits with {compression} compression are not read, save it without compression"
            ) from error
        return values
    if page.axes == "YX":
        return values[..., None]
    if page.axes == "SYX":
        return np.ascontiguousarray(np.moveaxis(values, 0, -1))
    if page.axes != "YXS":
        raise ValueError(f"it has axes {page.axes}, not height and width")
    return values


def _require_bounded_parts(page: Any) -> None:
    """Check that no strip or tile unpacks to much more than there are pixels in it.

    Raises:
        ValueError: if one does.
    """
    unpacker = _UNPACKERS.get(int(page.compression))
    if unpacker is None:
        return
    allowed = math.prod(page.chunks) * page.dtype.itemsize + _PORTION
    for content, _ in page.parent.filehandle.read_segments(page.dataoffsets, page.databytecounts):
        if content is None or len(content) * _MOST_UNPACKED <= allowed:
            continue
        stream, size = unpacker(), 0
        while not stream.eof:
            part = stream.decompress(content, _PORTION)
            content = getattr(stream, "unconsumed_tail", b"")
            size += len(part)
            if size > allowed:
                raise ValueError("one of its parts unpacks to more than the pixels that it stands for")
            if not part and not content:
                break  # it is cut short, which its reader says


def _straight(values: np.ndarray, colors: int, alpha: int, full: float) -> np.ndarray:
    """Colour that was multiplied by its alpha, divided by it again."""
    opacity = values[..., alpha : alpha + 1].astype(np.float64) / full
    color = values[..., :colors] / np.where(opacity > 0, opacity, 1.0)
    if values.dtype.kind != "f":
        color = np.clip(np.rint(color), 0, full)
    straight = values.copy()
    straight[..., :colors] = color.astype(values.dtype)
    return straight
