"""Surfaces of fields that are no distances, looked for where the caller knows of matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from finer_nerfstudio.runs.isosurface import BLOCK, blocks_across, extract_surface

RESOLUTION = 65
ACROSS = blocks_across(RESOLUTION)


def ball_of_density(points: Tensor) -> Tensor:
    """Negative in a ball of radius 0.3, and the same far away as just outside: no distance at all."""
    return (40.0 * (points.norm(dim=1) - 0.3)).tanh()


def all_blocks() -> np.ndarray:
    return np.ones((ACROSS, ACROSS, ACROSS), bool)


def same_mesh(some: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> None:
    for a, b in zip(some, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_blocks_cover_the_grid() -> None:
    for resolution in range(2, 40):
        assert (blocks_across(resolution) - 1) * BLOCK < resolution - 1 <= blocks_across(resolution) * BLOCK


def test_a_surface_is_followed_from_one_block_that_is_known() -> None:
    whole = extract_surface(ball_of_density, RESOLUTION, candidates=all_blocks())
    mesh = trimesh.Trimesh(*whole, process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.3**3, rel=0.01)
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 0.3).max() < 2e-4
    one = np.zeros_like(all_blocks())
    one[ACROSS // 2, ACROSS // 2, ACROSS // 2] = True  # in the middle of the ball, where no surface is
    same_mesh(extract_surface(ball_of_density, RESOLUTION, candidates=one), whole)


def test_what_no_candidate_leads_to_is_not_looked_at() -> None:
    asked: list[Tensor] = []

    def two(points: Tensor) -> Tensor:
        asked.append(points)
        places = torch.tensor([[-0.3, 0.0, 0.0], [0.3, 0.0, 0.0]])
        return (20.0 * (torch.cdist(points, places).amin(dim=1) - 0.1)).tanh()

    left = all_blocks()
    left[ACROSS // 2 :] = False
    vertices, faces = extract_surface(two, RESOLUTION, candidates=left)
    assert trimesh.Trimesh(vertices, faces, process=False).is_watertight
    assert vertices[:, 0].max() < 0
    assert torch.cat(asked)[:, 0].max() <= 0.0


def test_a_surface_ends_open_at_the_end_of_the_grid() -> None:
    vertices, faces = extract_surface(lambda points: points[:, 2] - 0.1, 33, candidates=np.ones(3 * (4,), bool))
    np.testing.assert_allclose(vertices[:, 2], 0.1, atol=1e-6)
    assert trimesh.Trimesh(vertices, faces, process=False).area == pytest.approx(1.0)
    normals = trimesh.Trimesh(vertices, faces, process=False).face_normals
    np.testing.assert_allclose(normals, np.broadcast_to([0.0, 0.0, 1.0], normals.shape), atol=1e-6)


def test_no_candidates_and_no_surface_are_said() -> None:
    with pytest.raises(ValueError, match="no surface"):
        extract_surface(ball_of_density, RESOLUTION, candidates=~all_blocks())
    with pytest.raises(ValueError, match="no surface"):
        extract_surface(lambda points: torch.ones(len(points)), RESOLUTION, candidates=all_blocks())
