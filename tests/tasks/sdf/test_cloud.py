"""Normals of clouds that look inward, disagree, or do neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import trimesh

from finer_nerfstudio.tasks.sdf.cloud import disagreement
from finer_nerfstudio.tasks.sdf.shape import Shape, read_shape


def surface(mesh: trimesh.Trimesh, count: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    from trimesh.sample import sample_surface

    points, faces, *_ = sample_surface(mesh, count, seed=0)
    return np.asarray(points), np.asarray(mesh.face_normals[faces])


SURFACES: dict[str, Callable[[], trimesh.Trimesh]] = {
    "ball": lambda: trimesh.creation.icosphere(subdivisions=4),
    "box": lambda: trimesh.creation.box((1, 2, 3)),
    "ring": lambda: trimesh.creation.torus(2.0, 0.5),
    "tube": lambda: trimesh.creation.annulus(0.7, 1.0, 2.0),
}


def read(path: Path, points: np.ndarray, normals: np.ndarray, shift: Sequence[float] = (0, 0, 0)) -> Shape:
    np.savetxt(path, np.column_stack([points + shift, normals]), fmt="%.8f")
    return read_shape(path)


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("shift", [(0, 0, 0), (10, 0, 0), (-300, 20, 5)])
def test_normals_that_look_inward_are_turned_wherever_the_cloud_is(
    name: str, shift: Sequence[float], tmp_path: Path
) -> None:
    points, normals = surface(SURFACES[name]())
    outward = read(tmp_path / "cloud.xyz", points, normals, shift)
    assert not any("turned" in note or "disagree" in note for note in outward.notes)
    inward = read(tmp_path / "cloud.xyz", points, -normals, shift)
    assert any("looked inward and were turned" in note for note in inward.notes)
    assert inward.normals is not None
    np.testing.assert_allclose(inward.normals, normals, atol=1e-6)


@pytest.mark.parametrize("name", SURFACES)
def test_normals_that_disagree_are_said_to(name: str, tmp_path: Path) -> None:
    points, normals = surface(SURFACES[name]())
    signs = np.random.default_rng(0).choice([-1, 1], len(points))
    shape = read(tmp_path / "cloud.xyz", points, normals * signs[:, None])
    assert any("normals disagree" in note for note in shape.notes)
    assert not any("turned" in note for note in shape.notes)
    assert disagreement(points, normals * signs[:, None]) == pytest.approx(0.5, abs=0.05)
    # A few wrong ones are no reason.
    few = np.where(np.random.default_rng(0).uniform(size=len(points)) < 0.02, -1, 1)
    assert not any("disagree" in note for note in read(tmp_path / "cloud.xyz", points, normals * few[:, None]).notes)


def test_single_precision_far_from_the_origin_is_said_to_have_steps(tmp_path: Path) -> None:
    points, normals = surface(trimesh.creation.icosphere(subdivisions=3, radius=5.0))
    far = points + np.array([512_345.678, 5_432_109.876, 312.5])
    rounded = read(tmp_path / "cloud.xyz", far.astype(np.float32).astype(np.float64), normals)
    assert any("single precision" in note and "0.5 apart" in note for note in rounded.notes)
    assert not any("precision" in note for note in read(tmp_path / "cloud.xyz", far, normals).notes)
    assert not any("precision" in note for note in read(tmp_path / "cloud.xyz", points, normals).notes)
