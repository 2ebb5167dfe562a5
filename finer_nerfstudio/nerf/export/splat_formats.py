"""Formats of Gaussian splats that are not read here, recognised by their content."""

from __future__ import annotations

import gzip
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

_SPLAT_ROW = np.dtype([("place", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 4), ("rotation", "u1", 4)])
_KSPLAT_HEADER, _KSPLAT_SECTION = 4096, 1024
# Of a .splat file, which has no header, this many rows are looked at.
_ROWS_LOOKED_AT = 4096
_LONGEST_META = 1 << 24


def compressed_format(path: Path) -> str | None:
    """Name the compressed format of splats that a file is in, or None for anything else.

    Raises:
        OSError: where the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(max(_KSPLAT_HEADER, _ROWS_LOOKED_AT * _SPLAT_ROW.itemsize))
    size = path.stat().st_size
    if start.startswith(b"ply"):
        header = start.partition(b"end_header")[0]
        return "compressed .ply" if b"packed_position" in header else None
    if _is_spz(path, start):
        return ".spz"
    if start.startswith(b"PK"):
        return ".sog" if _is_sog(path) else None
    if start.lstrip().startswith(b"{"):
        return ".sog (unpacked)" if size <= _LONGEST_META and _describes_sog(path.read_bytes()) else None
    if _is_ksplat(start, size):
        return ".ksplat"
    return ".splat" if _is_splat(start, size) else None


def how_to_convert(path: Path, name: str) -> str:
    """Say in a sentence that a file is in the format ``name``, and how it becomes one that is read."""
    return (
        f"{path} holds Gaussian splats as {name}, which is not read here: convert it first, for example by "
        f"npx @playcanvas/splat-transform {path} {path.with_name('converted.ply')}"
    )


def _is_spz(path: Path, start: bytes) -> bool:
    if not start.startswith(b"\x1f\x8b"):
        return start.startswith(b"NGSP")
    try:
        with gzip.open(path) as file:
            return file.read(4) == b"NGSP"
    except (OSError, EOFError, zlib.error):
        return False


def _is_sog(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            described = [info for info in archive.infolist() if Path(info.filename).name == "meta.json"]
            return any(info.file_size <= _LONGEST_META and _describes_sog(archive.read(info)) for info in described[:1])
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return False


def _describes_sog(text: bytes) -> bool:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"means", "scales", "quats", "sh0"} <= set(content)


def _is_ksplat(start: bytes, size: int) -> bool:
    """By its header: a version, how many sections and splats there can be and are, and a level of compression."""
    if len(start) < _KSPLAT_HEADER:
        return False
    major, minor = start[:2]
    most_sections, sections, most_splats, splats = np.frombuffer(start, "<u4", 4, offset=4).tolist()
    level = int(np.frombuffer(start, "<u2", 1, offset=20)[0])
    counted = 1 <= sections <= most_sections and 1 <= splats <= most_splats
    return (major, level <= 2, counted) == (0, True, True) and (
        minor >= 1 and size > _KSPLAT_HEADER + _KSPLAT_SECTION * most_sections
    )


def _is_splat(start: bytes, size: int) -> bool:
    """By its rows: finite places, deviations that are not negative, and unit quaternions in bytes."""
    if not size or size % _SPLAT_ROW.itemsize:
        return False
    rows = np.frombuffer(start, _SPLAT_ROW, len(start) // _SPLAT_ROW.itemsize)
    with np.errstate(invalid="ignore"):
        plausible = np.isfinite(rows["place"]).all(axis=1) & (np.abs(rows["place"]) < 1e9).all(axis=1)
        plausible &= (rows["scale"] >= 0).all(axis=1) & (rows["scale"] < 1e9).all(axis=1)
        length = np.linalg.norm((rows["rotation"].astype(np.float64) - 128.0) / 128.0, axis=1)
    return bool((plausible & (np.abs(length - 1.0) < 0.05)).mean() > 0.9)
