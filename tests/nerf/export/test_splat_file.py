"""The PLY layout of 3D Gaussian Splatting, read byte by byte."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.export.splat_file import read_splats, write_splats
from finer_nerfstudio.nerf.export.splats import Splats
from finer_nerfstudio.nerf.export.viewing import read_baked


def some_splats(count: int = 7, degree: int = 2) -> Splats:
    generator = torch.Generator().manual_seed(0)
    shapes = ((count, 3), (count, 3), (count, 4), (count, 3), (count,), (count, (degree + 1) ** 2, 3))
    return Splats(*(torch.randn(*shape, generator=generator) for shape in shapes))


def test_layout_byte_by_byte(tmp_path: Path) -> None:
    splats = some_splats()
    write_splats(tmp_path / "s.ply", splats)
    header, _, body = (tmp_path / "s.ply").read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 7"]
    names = [line.split()[2] for line in lines[3:]]
    assert [line.split()[:2] for line in lines[3:]] == [["property", "float"]] * len(names)
    assert names == [
        *["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"],
        *(f"f_rest_{i}" for i in range(24)),
        *["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"],
    ]
    assert len(body) == 7 * 4 * len(names)
    row = dict(zip(names, struct.unpack(f"<{len(names)}f", body[2 * 4 * len(names) : 3 * 4 * len(names)]), strict=True))
    assert [row[name] for name in "xyz"] == splats.means[2].tolist()
    assert [row[f"n{name}"] for name in "xyz"] == splats.normals[2].tolist()
    assert [row[f"f_dc_{channel}"] for channel in range(3)] == splats.harmonics[2, 0].tolist()
    for channel in range(3):  # all higher harmonics of red, then of green, then of blue
        found = [row[f"f_rest_{8 * channel + i}"] for i in range(8)]
        assert found == splats.harmonics[2, 1:, channel].tolist()
    assert row["opacity"] == splats.opacity_logits[2]
    assert [row[f"scale_{i}"] for i in range(3)] == splats.log_scales[2].tolist()
    rotation = np.array([row[f"rot_{i}"] for i in range(4)])
    expected = splats.rotations[2].double().numpy()
    np.testing.assert_allclose(rotation, expected / np.linalg.norm(expected), rtol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_round_trip(degree: int, tmp_path: Path) -> None:
    splats = some_splats(degree=degree)
    write_splats(tmp_path / "s.ply", splats)
    again, notes = read_baked(tmp_path / "s.ply")
    assert isinstance(again, Splats)
    assert notes == []
    assert again.degree == degree
    for name in ("means", "normals", "log_scales", "opacity_logits", "harmonics"):
        assert torch.equal(getattr(again, name), getattr(splats, name)), name
    assert torch.allclose(again.covariances(), splats.covariances(), rtol=1e-4, atol=1e-5)


def write_text(path: Path, properties: str, row: str, *, count: int = 1) -> Path:
    lines = [f"property float {name}" for name in properties.split()]
    header = ["ply", "format ascii 1.0", f"element vertex {count}", *lines, "end_header"]
    path.write_text("\n".join([*header, row]) + "\n")
    return path


MINIMAL = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"


def test_text_without_normals_of_another_program(tmp_path: Path) -> None:
    path = write_text(tmp_path / "s.ply", MINIMAL, "1 2 3 .1 .2 .3 0 -1 -2 -3 1 0 0 0")
    splats, _ = read_splats(path)
    assert splats.means.tolist() == [[1.0, 2.0, 3.0]]
    assert splats.normals.tolist() == [[0.0, 0.0, 0.0]]
    assert splats.degree == 0


@pytest.mark.parametrize(
    ("properties", "row", "sentence"),
    [
        ("x y z", "1 2 3", "no Gaussian splats"),
        (f"{MINIMAL} f_rest_0", "1 2 3 .1 .2 .3 0 -1 -2 -3 1 0 0 0 9", "f_rest"),
        (MINIMAL, "nan 2 3 .1 .2 .3 0 -1 -2 -3 1 0 0 0", "no splat that can be shown: .* the position of 1"),
        (f"{MINIMAL} f_rest_0", "1 2 3", "f_rest|cannot be read"),
        (MINIMAL, "1 2", "cannot be read"),
    ],
)
def test_other_files_are_refused(properties: str, row: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        read_splats(write_text(tmp_path / "s.ply", properties, row))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    write_splats(tmp_path / "s.ply", some_splats())
    (tmp_path / "s.ply").write_bytes((tmp_path / "s.ply").read_bytes()[:-10])
    with pytest.raises(InputError, match="cannot be read"):
        read_splats(tmp_path / "s.ply")


@pytest.mark.parametrize(
    "header",
    [
        "format ascii 1.0\nelement vertex 1000000000000\nproperty float x\n",
        "format binary_little_endian 1.0\nelement vertex 99999999999999999999999\nproperty float x\n",
        "format ascii 1.0\nelement vertex -5\nproperty float x\n",
        "format binary_little_endian 1.0\nelement vertex 1\nproperty list uint float x\n",
        "format ascii 1.0\nelement vertex many\nproperty float x\n",
        "format ascii 1.0\nelement vertex 1\nproperty float x\nproperty float x\n",
        "format ascii 1.0\nelement vertex",
        "",
    ],
)
def test_headers_that_cannot_be_are_refused(header: str, tmp_path: Path) -> None:
    (tmp_path / "s.ply").write_bytes(f"ply\n{header}end_header\n".encode() + b"\xff" * 12)
    with pytest.raises(InputError, match=r"s\.ply"):
        read_baked(tmp_path / "s.ply")


def test_splats_of_which_something_is_unknown_are_counted_and_left_out(tmp_path: Path) -> None:
    splats = some_splats(9)
    splats.means[0, 1] = torch.nan
    splats.means[1, 2] = torch.inf
    splats.rotations[2] = torch.nan
    splats.log_scales[3, 0] = torch.inf
    splats.log_scales[4, 0] = torch.nan
    splats.opacity_logits[5] = torch.nan
    splats.harmonics[6, 3, 1] = torch.nan
    # Opaque, and without any thickness: other programs write these as infinite.
    splats.opacity_logits[7], splats.log_scales[8, 2] = torch.inf, -torch.inf
    splats.normals[7] = torch.nan
    write_splats(tmp_path / "s.ply", splats)
    again, (note,) = read_splats(tmp_path / "s.ply")
    assert torch.equal(again.means, splats.means[7:])
    assert torch.sigmoid(again.opacity_logits[0]) == 1.0
    assert again.log_scales[1, 2].exp() == 0.0
    assert again.normals[0].tolist() == [0.0, 0.0, 0.0]
    assert note.startswith("7 of 9 splats are left out")
    for reason in ("position of 2", "rotation of 1", "scale of 2", "opacity of 1", "colour of 1"):
        assert reason in note


def test_splats_without_a_rotation_are_left_out(tmp_path: Path) -> None:
    row = "1 2 3 .1 .2 .3 0 -1 -2 -3"
    path = write_text(tmp_path / "s.ply", MINIMAL, f"{row} 0 0 0 0\n{row} 2 0 0 0", count=2)
    splats, (note,) = read_splats(path)
    assert splats.rotations.tolist() == [[2.0, 0.0, 0.0, 0.0]]
    assert "the rotation of 1" in note


def test_positions_in_double_precision_keep_it(tmp_path: Path) -> None:
    path = write_text(tmp_path / "s.ply", MINIMAL, "500000.0123 2 3 .1 .2 .3 0 -1 -2 -3 1 0 0 0")
    path.write_text(path.read_text().replace("property float x", "property double x"))
    splats, _ = read_splats(path)
    assert splats.means[0, 0].item() == 500000.0123


@given(place=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans(), in_header=st.booleans())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_read_or_get_a_sentence(
    place: int, value: int, cut: bool, in_header: bool, tmp_path: Path
) -> None:
    write_splats(tmp_path / "s.ply", some_splats(3))
    damaged = bytearray((tmp_path / "s.ply").read_bytes())
    place %= damaged.index(b"end_header") if in_header else len(damaged)
    damaged[place] = value
    (tmp_path / "s.ply").write_bytes(damaged[:place] if cut else damaged)
    with contextlib.suppress(InputError):
        splats, _ = read_baked(tmp_path / "s.ply")
        assert len(splats) <= 3


def test_claims_of_more_splats_than_memory_holds_are_refused(tmp_path: Path) -> None:
    lists = MINIMAL.replace("x y", "y")
    for count in (1 << 31, 1 << 62, 1 << 70):
        path = write_text(tmp_path / "s.ply", MINIMAL, "1 2 3", count=count)
        with pytest.raises(InputError, match=r"it claims [0-9,]+ rows, and has|cannot be read as a PLY file \(.+\)"):
            read_splats(path)
        path = write_text(tmp_path / "s.ply", lists, "1 2 3", count=count)
        content = path.read_bytes().replace(b"property float y\n", b"property list uint float x\nproperty float y\n")
        path.write_bytes(content.replace(b"ascii", b"binary_little_endian"))
        with pytest.raises(InputError, match=r"holds no Gaussian splats: it has lists"):
            read_splats(path)
