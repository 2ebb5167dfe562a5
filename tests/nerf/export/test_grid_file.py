"""Files of baked grids, and what others may have made of them."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.export.grid import SparseGrid, read_grid, write_grid
from finer_nerfstudio.nerf.export.viewing import read_baked


def some_grid(voxels: int = 9) -> SparseGrid:
    generator = torch.Generator().manual_seed(0)

    def halves(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator).half().float()

    coordinates = torch.randint(0, 5, (voxels, 3), generator=generator)
    box = torch.tensor([[-1.0, -1.0, -2.0], [1.0, 2.0, 3.0]])
    return SparseGrid(box, 5, coordinates, halves(voxels), halves(voxels, 3), halves(voxels, 4, 3))


def test_round_trip(tmp_path: Path) -> None:
    grid = some_grid()
    write_grid(tmp_path / "g.npz", grid)
    again, notes = read_baked(tmp_path / "g.npz")
    assert isinstance(again, SparseGrid)
    assert notes == []
    assert again.resolution == 5
    for name in ("aabb", "coordinates", "opacity", "normals", "harmonics"):
        assert torch.equal(getattr(again, name), getattr(grid, name)), name


def stored(**changed: Any) -> dict[str, np.ndarray]:
    grid = some_grid()
    content: dict[str, Any] = {"format": "finer-sparse-grid", "version": 1, "resolution": 5}
    for name in ("aabb", "coordinates", "opacity", "normals", "harmonics"):
        content[name] = getattr(grid, name).numpy()
    return {name: np.asarray(value) for name, value in {**content, **changed}.items()}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"format": "something else"}, "no baked grid"),
        ({"format": np.array([1, 2])}, "no baked grid"),
        ({"version": 2}, "version 2"),
        ({"version": "one"}, "no whole number"),
        ({"resolution": [5, 5]}, "no whole number"),
        ({"resolution": 5.0}, "no whole number"),
        ({"resolution": 2}, "outside"),
        ({"resolution": -1}, "outside"),
        ({"coordinates": np.full((9, 3), -1)}, "outside"),
        ({"coordinates": np.zeros((9, 3))}, "coordinates"),
        ({"coordinates": np.zeros((8, 3), int)}, "shape"),
        ({"coordinates": np.array(3)}, "shape"),
        ({"opacity": np.array(["a"] * 9)}, "opacity"),
        ({"opacity": np.full(9, 1.5)}, "between 0 and 1"),
        ({"opacity": np.full(9, np.nan)}, "NaN"),
        ({"opacity": np.array([object()] * 9)}, "cannot be read"),
        ({"harmonics": np.zeros((9, 5, 3))}, "5 harmonics"),
        ({"aabb": np.ones((2, 3))}, "empty"),
        ({"aabb": np.array([[-1e300] * 3, [1e300] * 3])}, "empty"),
    ],
)
def test_other_content_gets_a_sentence(changed: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "g.npz", **stored(**changed))
    with pytest.raises(InputError, match=sentence):
        read_grid(tmp_path / "g.npz")


def written(shape: str, body: bytes) -> bytes:
    header = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (written("(1000000000000,)", b""), "claims"),
        (written("(-1,)", b""), "claims"),
        (written("(35000000,)", bytes(70_000_000)), "claim to hold"),
        (b"\x93NUMPY\x09\x00", "version"),
        (b"nothing", "cannot be read"),
    ],
)
def test_files_that_claim_to_be_large_are_not_unpacked(body: bytes, reason: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, **{name: value for name, value in stored().items() if name != "opacity"})
    with zipfile.ZipFile(content, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("opacity.npy", body)
    (tmp_path / "g.npz").write_bytes(content.getvalue())
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=reason):
            read_grid(tmp_path / "g.npz")
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


@given(place=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_read_or_get_a_sentence(place: int, value: int, cut: bool, tmp_path: Path) -> None:
    write_grid(tmp_path / "g.npz", some_grid())
    damaged = bytearray((tmp_path / "g.npz").read_bytes())
    damaged[place % len(damaged)] = value
    (tmp_path / "g.npz").write_bytes(damaged[: place % len(damaged)] if cut else damaged)
    with contextlib.suppress(InputError):
        assert len(read_grid(tmp_path / "g.npz")) == 9
