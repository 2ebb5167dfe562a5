"""Formats of splats that are named rather than read, each written here by its own description."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.export.splat_formats import compressed_format
from finer_nerfstudio.nerf.export.viewing import read_baked

RNG = np.random.default_rng(0)


def splat(count: int = 20) -> bytes:
    """antimatter15/splat: 32 bytes each of place, deviations, RGBA and a quaternion."""
    rows = []
    for _ in range(count):
        quaternion = RNG.normal(size=4)
        quaternion = (quaternion / np.linalg.norm(quaternion) * 128 + 128).clip(0, 255).astype(np.uint8)
        numbers = struct.pack("<6f", *RNG.normal(size=3), *RNG.uniform(0, 0.1, 3))
        rows.append(numbers + RNG.integers(0, 256, 4, dtype=np.uint8).tobytes() + quaternion.tobytes())
    return b"".join(rows)


def spz() -> bytes:
    return gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 2, 1, 0, 12, 0, 0) + bytes(19))


def ksplat() -> bytes:
    """mkkellogg/GaussianSplats3D: a header of 4,096 bytes, 1,024 a section, then the splats."""
    header = struct.pack("<BBHIIIIHH", 0, 1, 0, 1, 1, 8, 8, 1, 0)
    return header.ljust(4096, b"\0") + bytes(1024) + bytes(8 * 24)


def sog_description() -> bytes:
    return json.dumps({"version": 2, "count": 1, "means": {}, "scales": {}, "quats": {}, "sh0": {}}).encode()


def sog() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("meta.json", sog_description())
        archive.writestr("means_l.webp", b"RIFF")
    return file.getvalue()


def compressed_ply() -> bytes:
    names = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 1",
        *(f"property uint {name}" for name in names),
    ]
    return "\n".join([*header, "end_header\n"]).encode() + bytes(16)


FORMATS = {
    ".splat": splat,
    ".spz": spz,
    ".ksplat": ksplat,
    ".sog": sog,
    ".sog (unpacked)": sog_description,
    "compressed .ply": compressed_ply,
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_named_by_their_content_with_a_converter(name: str, tmp_path: Path) -> None:
    path = tmp_path / "scene.bin"
    path.write_bytes(FORMATS[name]())
    with pytest.raises(InputError) as raised:
        read_baked(path)
    assert f"as {name}, " in str(raised.value)
    assert f"npx @playcanvas/splat-transform {path} {tmp_path / 'converted.ply'}" in str(raised.value)


def test_a_later_spz_that_is_not_zipped_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "scene").write_bytes(b"NGSP" + bytes(60))
    assert compressed_format(tmp_path / "scene") == ".spz"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(32),
        bytes(8192),
        b"text without end " * 64,
        RNG.integers(0, 256, 3200, dtype=np.uint8).tobytes(),
        RNG.normal(size=800).astype("<f4").tobytes(),
        gzip.compress(b"something else", mtime=0),
        gzip.compress(b"NGSP", mtime=0)[:9],
        b"PK\3\4 and no more",
        b'{"means": 1}',
        b"{" * 100_000,
    ],
    ids=range(11),
)
def test_other_content_is_none_of_them(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "scene").write_bytes(content)
    assert compressed_format(tmp_path / "scene") is None
    with pytest.raises(InputError, match=r"neither|cannot be read|no baked grid"):
        read_baked(tmp_path / "scene")
