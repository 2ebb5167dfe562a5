"""Distances, sampling, extraction, measures and pictures of surfaces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from finer_nerfstudio.runs import metrics
from finer_nerfstudio.runs.isosurface import extract_surface
from finer_nerfstudio.tasks.sdf.distance import cloud_distance, mesh_distance
from finer_nerfstudio.tasks.sdf.fit import inside_of_distance, inside_of_field
from finer_nerfstudio.tasks.sdf.sampling import COARSE_SCALE, FINE_SCALE, SurfaceSampler, training_points
from finer_nerfstudio.tasks.sdf.shading import Scalars, View, render
from finer_nerfstudio.tasks.sdf.shape import Shape


def mesh_shape(mesh: trimesh.Trimesh) -> Shape:
    return Shape(np.asarray(mesh.vertices), np.asarray(mesh.faces), None, True)


def random_points(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) - 0.5


# Distances


def exact_distance_to_box(points: np.ndarray, half: np.ndarray) -> np.ndarray:
    beyond = np.abs(points) - half
    return np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0)


def test_distance_to_a_box_is_exact() -> None:
    half = np.array([0.2, 0.3, 0.1])
    box = trimesh.creation.box(2 * half)
    points = random_points(5000)
    found = mesh_distance(box.vertices, box.faces)(points)
    np.testing.assert_allclose(found, exact_distance_to_box(points.double().numpy(), half), atol=1e-6)


def test_distance_agrees_with_a_float64_reference() -> None:
    import igl

    generator = np.random.default_rng(0)
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=0.4)
    mesh.vertices += generator.normal(scale=0.01, size=mesh.vertices.shape)
    points = random_points(3000)
    squared = igl.point_mesh_squared_distance(points.double().numpy(), mesh.vertices, np.array(mesh.faces, np.int64))[0]
    found = mesh_distance(mesh.vertices, mesh.faces)(points)
    np.testing.assert_allclose(found.abs(), np.sqrt(squared), atol=2e-6)
    np.testing.assert_array_equal(found < 0, mesh.contains(points.double().numpy()))


def test_a_hole_does_not_turn_the_inside_out() -> None:
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=0.4)
    whole = mesh_distance(mesh.vertices, mesh.faces)
    kept = mesh.triangles_center[:, 1] > -0.37
    pierced = mesh_distance(mesh.vertices, np.asarray(mesh.faces)[kept])
    points = random_points(4000)
    far = points[:, 1] > -0.3
    torch.testing.assert_close(pierced(points)[far].sign(), whole(points)[far].sign())


def test_overlapping_parts_are_one_inside() -> None:
    parts = [trimesh.creation.icosphere(subdivisions=3, radius=0.3) for _ in range(2)]
    parts[1].apply_translation([0.1, 0.0, 0.0])
    both = trimesh.util.concatenate(parts)
    assert isinstance(both, trimesh.Trimesh)
    assert float(mesh_distance(both.vertices, both.faces)(torch.tensor([[0.05, 0.0, 0.0]]))) < 0


def test_distance_to_a_cloud() -> None:
    points = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0)).double()
    points = (points / points.norm(dim=1, keepdim=True)).numpy()
    distance = cloud_distance(0.4 * points, points)
    queries = random_points(2000)
    expected = queries.norm(dim=1) - 0.4
    found = distance(queries)
    assert (found - expected).abs().max() < 0.02
    clear = expected.abs() > 0.01
    torch.testing.assert_close(found[clear].sign(), expected[clear].sign())


# Sampling


def test_surface_samples_are_uniform_by_area() -> None:
    box = trimesh.creation.box((0.8, 0.4, 0.2))
    points, normals = SurfaceSampler(mesh_shape(box)).points_and_normals(60_000, torch.Generator().manual_seed(0))
    inside = (points.abs() <= torch.tensor([0.4, 0.2, 0.1]) + 1e-6).all()
    assert inside
    areas = torch.tensor([0.4 * 0.2, 0.8 * 0.2, 0.8 * 0.4])
    shares = normals.abs().mean(dim=0)  # every normal is along one axis
    torch.testing.assert_close(shares, areas / areas.sum(), atol=0.01, rtol=0)
    torch.testing.assert_close((points * normals).sum(1), (normals.abs() * torch.tensor([0.4, 0.2, 0.1])).sum(1))


def test_training_points_are_coarse_and_fine_by_turns() -> None:
    generator = torch.Generator().manual_seed(0)
    surface = torch.zeros(40_000, 3)
    moved = training_points(surface, generator)
    assert (moved.abs() <= 0.5).all()
    # The mean modulus of Laplace noise is its scale; of coarse points, what wraps is taken out of the tail.
    assert float(moved[1::2].abs().mean()) == pytest.approx(FINE_SCALE, rel=0.02)
    assert float(moved[0::2].abs().median()) == pytest.approx(COARSE_SCALE * np.log(2), rel=0.03)
    again = training_points(surface, torch.Generator().manual_seed(0))
    assert torch.equal(moved, again)


def test_what_leaves_the_box_comes_back_on_the_other_side() -> None:
    surface = torch.full((1000, 3), 0.4999)
    moved = training_points(surface, torch.Generator().manual_seed(0))
    assert (moved.abs() <= 0.5).all()
    assert (moved < -0.3).any()


# Extraction


def sphere(points: Tensor) -> Tensor:
    return points.norm(dim=1) - 0.3


def torus(points: Tensor) -> Tensor:
    return torch.hypot(points[:, :2].norm(dim=1) - 0.3, points[:, 2]) - 0.09


def two_spheres(points: Tensor) -> Tensor:
    return torch.minimum(sphere(points + 0.11), (points - 0.35).norm(dim=1) - 0.08)


def sheet(points: Tensor) -> Tensor:
    return (points[:, 0] + 0.3 * points[:, 1] - 0.02).abs() - 0.018


def bumps(points: Tensor) -> Tensor:
    return sphere(points) + 0.02 * torch.sin(40 * points).prod(dim=1)


def dense(field: Callable[[Tensor], Tensor], resolution: int) -> tuple[np.ndarray, np.ndarray]:
    from skimage.measure import marching_cubes

    axis = torch.from_numpy(np.linspace(-0.5, 0.5, resolution).astype(np.float32))
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    volume = field(grid.reshape(-1, 3)).reshape(3 * (resolution,)).numpy()
    vertices, faces, _, _ = marching_cubes(volume, 0.0, gradient_direction="descent")
    return vertices.astype(np.float64) / (resolution - 1) - 0.5, faces


def triangles(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Rows of nine coordinates in an order that does not depend on how the mesh was put together."""
    corners = np.round(vertices[faces], 5) + 0.0
    first = np.lexsort(np.moveaxis(corners, -1, 0)[::-1], axis=-1)[:, 0]
    turned = corners[np.arange(len(corners))[:, None], (first[:, None] + np.arange(3)) % 3].reshape(-1, 9)
    return turned[np.lexsort(turned.T[::-1])]


@pytest.mark.parametrize("field", [sphere, torus, two_spheres, sheet, bumps])
@pytest.mark.parametrize("resolution", [50, 64])
def test_extraction_is_that_of_the_dense_grid(field: Callable[[Tensor], Tensor], resolution: int) -> None:
    vertices, faces = extract_surface(field, resolution)
    true_vertices, true_faces = dense(field, resolution)
    assert abs(len(faces) - len(true_faces)) <= 0.001 * len(true_faces)  # slivers without area are left out
    # Every vertex of either mesh is one of the other.
    for some, others in ((vertices, true_vertices), (true_vertices, vertices)):
        distances, _ = metrics._nearest(some, others)
        assert distances.max() < 1e-6
    found, true = trimesh.Trimesh(vertices, faces, process=False), trimesh.Trimesh(true_vertices, true_faces)
    assert found.area == pytest.approx(true.area, rel=1e-5)
    assert found.volume == pytest.approx(true.volume, rel=1e-5)


def test_triangles_are_those_of_the_dense_grid() -> None:
    # A surface that meets no grid point, where nothing is left to rounding.
    def field(points: Tensor) -> Tensor:
        return (points - torch.tensor([0.0123, -0.0071, 0.0049])).norm(dim=1) - 0.31234

    np.testing.assert_allclose(triangles(*extract_surface(field, 41)), triangles(*dense(field, 41)), atol=2e-5)


def test_the_extracted_surface_is_closed_looks_outward_and_is_where_it_should_be() -> None:
    vertices, faces = extract_surface(torus, 96)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(2 * np.pi**2 * 0.3 * 0.09**2, rel=0.01)
    # Linear interpolation is off by an eighth of the squared spacing times the curvature.
    assert np.abs(torus(torch.from_numpy(vertices)).numpy()).max() < 1 / 95**2 / 0.09 / 4


def test_only_the_neighbourhood_of_the_surface_is_evaluated() -> None:
    asked = 0

    def counting(points: Tensor) -> Tensor:
        nonlocal asked
        asked += len(points)
        return sphere(points)

    extract_surface(counting, 256)
    assert asked < 0.2 * 256**3


def test_surfaces_are_followed_out_of_blocks_that_looked_empty() -> None:
    # A thin rod that starts in a ball: away from the ball no corner of a block is near enough to suspect it, because
    # the field is not a distance there.
    def rod(points: Tensor) -> Tensor:
        radius = points[:, 1:].sub(0.0371).norm(dim=1)
        thin = torch.where(points[:, 0] > 0, (radius - 0.012) * 0.02, torch.ones(()))
        return torch.where(radius < 0.03, torch.minimum(thin, sphere(points)), sphere(points).clamp(-0.01, 1.0))

    vertices, _ = extract_surface(rod, 65)
    assert vertices[:, 0].max() > 0.49


@pytest.mark.parametrize("value", [1.0, -1.0, float("nan")])
def test_fields_without_a_surface_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"sign everywhere|finite"):
        extract_surface(lambda points: torch.full((len(points),), value), 32)


# Measures


def test_chamfer_of_shifted_points() -> None:
    points = np.stack(np.meshgrid(*3 * (np.arange(4.0),), indexing="ij"), axis=-1).reshape(-1, 3)
    assert metrics.chamfer(points, points) == 0.0
    assert metrics.chamfer(points + np.array([0.1, 0.0, 0.0]), points) == pytest.approx(2 * 0.01)
    assert metrics.chamfer(points, points[:1]) == pytest.approx(np.square(points).sum(axis=1).mean())


def test_iou_of_masks() -> None:
    first, second = np.zeros(10, bool), np.zeros(10, bool)
    assert metrics.iou(first, second) == 1.0
    first[:6], second[3:9] = True, True
    assert metrics.iou(first, second) == pytest.approx(3 / 9)


def test_normal_consistency_of_turned_normals() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3))
    up, tilted = np.tile([0.0, 0.0, 1.0], (50, 1)), np.tile([0.0, np.sin(0.3), np.cos(0.3)], (50, 1))
    assert metrics.chamfer_and_normal_consistency(points, up, points, tilted) == pytest.approx((0.0, np.cos(0.3)))
    assert metrics.chamfer_and_normal_consistency(points, up, points, -up) == pytest.approx((0.0, -1.0))


@pytest.mark.parametrize("half", [0.5, 1.0])
def test_blocks_far_from_the_surface_need_no_distances(half: float) -> None:
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.3)
    mesh.vertices += np.array([0.1, -0.05, 0.02])
    asked = 0
    exact = mesh_distance(mesh.vertices, mesh.faces)

    def distance(points: Tensor) -> Tensor:
        nonlocal asked
        asked += len(points)
        return exact(points)

    found = inside_of_distance(distance, half, resolution=60, closed=True)
    evaluated = asked
    np.testing.assert_array_equal(found, inside_of_field(exact, half, resolution=60))
    assert found.any()
    assert evaluated < 0.7 * found.size


def test_an_open_surface_has_its_inside_far_from_it_too() -> None:
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.4)
    bowl = ball.submesh([np.flatnonzero(ball.triangles_center[:, 1] < 0.1)], append=True)
    assert isinstance(bowl, trimesh.Trimesh)
    distance = mesh_distance(np.asarray(bowl.vertices), np.asarray(bowl.faces))
    shape = Shape(np.asarray(bowl.vertices), np.asarray(bowl.faces), None, bool(bowl.is_watertight))
    assert not shape.watertight
    found = inside_of_distance(distance, 0.5, resolution=50, closed=shape.watertight)
    np.testing.assert_array_equal(found, inside_of_field(distance, 0.5, resolution=50))


# Pictures


def test_a_rendered_ball_is_a_shaded_disc() -> None:
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    frame = {"center": np.zeros(3), "radius": 1.0, "size": 128}
    picture = render(np.asarray(ball.vertices), np.asarray(ball.faces), View(0.0, 0.0), **frame).astype(float)
    covered = (picture < 250).any(axis=-1)
    assert covered.mean() == pytest.approx(np.pi * 0.5**2 / 4, rel=0.02)
    # The light comes from the upper left.
    assert picture[48, 48].mean() > picture[80, 80].mean() + 20
    values = np.asarray(ball.vertices)[:, 0]
    colored = render(
        np.asarray(ball.vertices),
        np.asarray(ball.faces),
        View(0.0, 0.0),
        scalars=Scalars(values, -0.5, 0.5, "coolwarm"),
        **frame,
    ).astype(float)
    left, right = colored[64, 40], colored[64, 88]
    assert left[2] > left[0]
    assert right[0] > right[2]
