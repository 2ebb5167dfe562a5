"""Baked grids on disk: what is written is read back, and damage gets a sentence."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.baking.grid import SparseGrid, read_grid, write_grid


def some_grid() -> SparseGrid:
    generator = torch.Generator().manual_seed(0)
    return SparseGrid(
        torch.tensor([[-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]]),
        8,
        torch.randint(0, 8, (20, 3), generator=generator),
        torch.rand(20, generator=generator).half().float(),
        torch.randn(20, 3, generator=generator).half().float(),
        torch.randn(20, 4, 3, generator=generator).half().float(),
    )


def test_round_trip(tmp_path: Path) -> None:
    grid = some_grid()
    write_grid(tmp_path / "g.npz", grid)
    again = read_grid(tmp_path / "g.npz")
    assert again.resolution == grid.resolution
    for name in ("aabb", "coordinates", "opacity", "normals", "harmonics"):
        assert torch.equal(getattr(again, name), getattr(grid, name)), name


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("version", np.array("2024-01-01", "M8[s]"), "type"),
        ("version", np.array([1]), "one number"),
        ("resolution", np.array(2**63, np.uint64), "resolution is 9223372036854775808"),
        ("resolution", np.array("x"), "type"),
        ("coordinates", np.array(3), "shape"),
        ("coordinates", np.full((20, 3), -1), "outside"),
        ("coordinates", np.full((20, 3), 8), "outside"),
        ("coordinates", np.full((20, 3), 1.0), "type"),
        ("opacity", np.array(["x"] * 20), "type"),
        ("opacity", np.full(20, 1j), "type"),
        ("opacity", np.array([None] * 20), "cannot be read"),
        ("harmonics", np.zeros((20, 5, 3)), "harmonics"),
        ("normals", np.full((20, 3), np.nan), "NaN"),
    ],
)
def test_other_arrays_are_refused(name: str, value: Any, words: str, tmp_path: Path) -> None:
    write_grid(tmp_path / "g.npz", some_grid())
    with np.load(tmp_path / "g.npz") as file:
        content: dict[str, Any] = {key: file[key] for key in file.files}
    np.savez_compressed(tmp_path / "bad.npz", **{**content, name: value})
    with pytest.raises(InputError, match=words):
        read_grid(tmp_path / "bad.npz")


def test_every_damaged_byte_gets_a_sentence_or_changes_nothing(tmp_path: Path) -> None:
    grid = some_grid()
    write_grid(tmp_path / "g.npz", grid)
    content = (tmp_path / "g.npz").read_bytes()
    refused = 0
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        (tmp_path / "bad.npz").write_bytes(damaged)
        try:
            assert torch.equal(read_grid(tmp_path / "bad.npz").harmonics, grid.harmonics)
        except InputError:
            refused += 1
    assert refused > len(content) / 7 / 3


@pytest.mark.parametrize("name", ["opacity.npy", "another.npy"])
def test_what_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(name: str, tmp_path: Path) -> None:
    write_grid(tmp_path / "g.npz", some_grid())
    file = io.BytesIO()
    with (
        zipfile.ZipFile(tmp_path / "g.npz") as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for item in set(old.namelist()) - {name}:
            new.writestr(item, old.read(item))
        new.writestr(name, bytes(80_000_000))
    (tmp_path / "bomb.npz").write_bytes(file.getvalue())
    with pytest.raises(InputError, match="unpacks to 80,0"):
        read_grid(tmp_path / "bomb.npz")
