"""Meshes of fields whose surfaces are known: where they are, what is left out, and what colours they have."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.files.meshes.mesh import Mesh, vertex_normals
from finer_nerfstudio.nerf.data.views import View
from finer_nerfstudio.nerf.export.depth import depth_maps
from finer_nerfstudio.nerf.export.mesh import FieldMesh, distances_to_surface, mesh_of, region_of
from finer_nerfstudio.nerf.export.mesh_picture import MeshRenderer
from finer_nerfstudio.nerf.export.options import MeshOptions
from finer_nerfstudio.nerf.radiance import world_to_box
from finer_nerfstudio.nerf.sampling.contraction import contract
from finer_nerfstudio.nerf.sampling.importance import Amount
from finer_nerfstudio.nerf.sampling.sampler import OccupancyGrid
from finer_nerfstudio.nerf.sampling.unbounded_grid import UnboundedGrid
from finer_nerfstudio.nerf.scene import Scene

Density = Callable[[Tensor], Tensor]
BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


class KnownField:
    """What of a field an export needs, with a density that is given and colours of places and directions."""

    def __init__(self, density: Density, *, unbounded: bool = False) -> None:
        self.aabb, self.unbounded, self.density_at = BOX, unbounded, density

    def coordinates(self, positions: Tensor) -> Tensor:
        in_box = world_to_box(positions, self.aabb)
        return contract(in_box) if self.unbounded else in_box

    def normals_at(self, positions: Tensor) -> Tensor:
        with torch.enable_grad():
            places = positions.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.density_at(places).sum(), places)
        return -torch.nn.functional.normalize(gradient, dim=-1)

    def hidden_features(self, positions: Tensor) -> Tensor:
        return positions

    def color(self, hidden: Tensor, directions: Tensor) -> Tensor:
        """The place, and in blue how far downwards one looks."""
        place = 0.5 + 0.4 * hidden[..., :2].clamp(-1, 1)
        return torch.cat([place, 0.5 - 0.5 * directions[..., 2:]], dim=-1)


def solid(distance: Density, density: float = 200.0, softness: float = 0.01) -> Density:
    """Matter where a signed distance is negative, with a soft boundary; half of the density at its surface."""
    return lambda points: density * torch.sigmoid(-distance(points) / softness)


def ball(points: Tensor) -> Tensor:
    return points.norm(dim=-1) - 0.5


def scene_of(density: Density, *, unbounded: bool = False) -> Scene:
    sizes = {"resolution": 32, "steps": 192}
    grid = UnboundedGrid(BOX, amount=Amount(4.0, 96, 192), **sizes) if unbounded else OccupancyGrid(BOX, **sizes)
    for seed in range(12 if unbounded else 4):
        grid.update(density, everywhere=True, generator=torch.Generator().manual_seed(seed))
    # Updates look at random places, and sharp boundaries are found where they are beside the cell's.
    cells = grid.occupied.view(1, 1, 32, 32, 32).float()
    grid.occupied.copy_(torch.nn.functional.max_pool3d(cells, 3, stride=1, padding=1).flatten() > 0)
    field = cast(Any, KnownField(density, unbounded=unbounded))
    return Scene(field, grid, 0.05, 1e-3)


def ring_of_views(count: int = 12, away: float = 3.0, height: float = 1.5, size: int = 48) -> list[View]:
    """Cameras around the origin that look at it from above."""
    views = []
    for i in range(count):
        angle = 2 * math.pi * i / count
        eye = np.array([away * math.cos(angle), away * math.sin(angle), height])
        back = eye / np.linalg.norm(eye)
        right = np.cross([0.0, 0.0, 1.0], back)
        right /= np.linalg.norm(right)
        pose = np.stack([right, np.cross(back, right), back, eye], axis=1)
        views.append(
            View(size, size, (1.1 * size, 1.1 * size), (size / 2, size / 2), tuple(float(x) for x in pose.flatten()))
        )
    return views


def made_from(scene: Scene, **options: Any) -> FieldMesh:
    return mesh_of(scene, ring_of_views(), MeshOptions(**{"resolution": 65, **options}), lambda *_: None)


def test_the_surface_is_where_rendering_begins_to_stop_light_and_nothing_inside_is_left() -> None:
    def with_caves(points: Tensor) -> Tensor:
        caves = torch.sin(25 * points).prod(dim=-1) > 0.2
        hollow = caves & (points.norm(dim=-1) < 0.42)
        return torch.where(hollow, 0.0, solid(ball)(points))

    made = made_from(scene_of(with_caves))
    radii = np.linalg.norm(made.mesh.vertices, axis=1)
    # Within one and a half times the softness of the boundary, and a hundredth of the scene's size.
    assert np.abs(radii - 0.5).max() < 0.02
    assert made.left_out["unseen"] > 1000, "that is the caves"
    # Cameras are above: they see the upper half, and of the lower what is not turned away from them.
    heights = made.mesh.vertices[:, 2]
    assert heights.max() == pytest.approx(0.5, abs=0.03)
    assert -0.48 < heights.min() < -0.2
    normals = vertex_normals(made.mesh.vertices, made.mesh.faces)
    assert (np.einsum("nc,nc->n", normals, made.mesh.vertices / radii[:, None]) > 0.9).mean() > 0.99


@pytest.mark.parametrize("unbounded", [False, True])
def test_haze_around_matter_is_not_the_surface(unbounded: bool) -> None:
    """Some rays end in it, so that the least of the densities in which rays end is that of haze."""

    def in_haze(points: Tensor) -> Tensor:
        off = ball(points)
        stripes = torch.sigmoid(20.0 * (torch.sin(7.0 * points[..., 0]) - 0.6))
        return solid(ball)(points) + 6.0 * stripes * torch.exp(-off / 0.15) * (off > 0)

    made = made_from(scene_of(in_haze, unbounded=unbounded))
    off = np.abs(np.linalg.norm(made.mesh.vertices, axis=1) - 0.5)
    assert (off < 0.04).mean() > 0.95


def test_distances_to_surfaces_are_those_of_the_formula() -> None:
    scene = scene_of(solid(ball, softness=0.03))
    region = region_of(scene.field, 65)
    toward = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    ends, densities = 0.5 * toward, torch.tensor([20.0, 100.0, 180.0, 1e6])
    found = distances_to_surface(region, ends, -toward, torch.full((50,), 2.0), densities)
    radii = [0.5 - 0.03 * math.log(density / (200.0 - density)) for density in (20.0, 100.0, 180.0)]
    expected = [abs(radius - 0.5) / 2.0 for radius in radii] + [0.05]
    torch.testing.assert_close(found, torch.tensor(expected).expand(50, 4), atol=2.6e-3, rtol=0)
    # A camera that stands closer looks at nothing behind itself.
    near = distances_to_surface(region, ends, -toward, torch.full((50,), 0.01), densities)
    torch.testing.assert_close(near[:, 0], torch.full((50,), 0.005))


def test_a_given_density_moves_the_surface_to_it() -> None:
    scene = scene_of(solid(ball, softness=0.03))
    for density in (20.0, 100.0):
        made = made_from(scene, density=density)
        assert made.density == density
        # Where the sigmoid has that share.
        true = 0.5 - 0.03 * math.log(density / (200.0 - density))
        np.testing.assert_allclose(np.linalg.norm(made.mesh.vertices, axis=1), true, atol=2e-3)


def test_colors_are_the_means_of_what_the_cameras_see() -> None:
    made = made_from(scene_of(solid(ball)))
    colors, vertices = made.mesh.colors, made.mesh.vertices
    assert colors is not None
    np.testing.assert_allclose(colors[:, :2], 0.5 + 0.4 * vertices[:, :2], atol=1e-5)
    # Every camera that sees the top is as high as the others.
    top = vertices[:, 2] > 0.49
    eye = np.array([3.0, 0.0, 1.5])
    downwards = (eye[2] - 0.5) / np.linalg.norm(eye - [0.0, 0.0, 0.5])
    np.testing.assert_allclose(colors[top, 2], 0.5 + 0.5 * downwards, atol=0.02)


def test_simplification_keeps_the_surface_and_has_colors() -> None:
    made = made_from(scene_of(solid(ball)), faces=600)
    assert 500 <= len(made.mesh.faces) <= 600
    assert np.abs(np.linalg.norm(made.mesh.vertices, axis=1) - 0.5).max() < 0.04
    assert made.mesh.colors is not None
    np.testing.assert_allclose(made.mesh.colors[:, :2], 0.5 + 0.4 * made.mesh.vertices[:, :2], atol=1e-5)


def test_specks_are_left_out() -> None:
    def with_speck(points: Tensor) -> Tensor:
        speck = (points - torch.tensor([0.0, 0.0, 0.9])).norm(dim=-1) - 0.01
        return solid(lambda at: torch.minimum(ball(at), speck), softness=0.004)(points)

    scene = scene_of(with_speck)
    cast(OccupancyGrid, scene.sampler).occupied.fill_(True)  # updates, which look here and there, may miss it
    made = made_from(scene, resolution=257)
    assert made.mesh.vertices[:, 2].max() < 0.6
    assert made.left_out["parts"] > 0


def test_of_a_scene_without_end_the_box_is_taken_or_more() -> None:
    def ball_and_far_one(points: Tensor) -> Tensor:
        far = (points - torch.tensor([-2.0, 0.0, 0.0])).norm(dim=-1) - 0.5
        return solid(lambda at: torch.minimum(ball(at), far))(points)

    scene = scene_of(ball_and_far_one, unbounded=True)
    boxed = made_from(scene).mesh.vertices
    assert np.abs(boxed).max() <= 1.0
    assert np.abs(np.linalg.norm(boxed, axis=1) - 0.5).max() < 0.03
    wider = made_from(scene, region=4.0).mesh.vertices
    far = np.linalg.norm(wider - [-2.0, 0.0, 0.0], axis=1)
    is_far = wider[:, 0] < -1.0
    assert is_far.sum() > 100
    assert np.abs(far[is_far] - 0.5).max() < 0.06
    # Inside the box the grid is the same.
    assert region_of(scene.field, 65, 4.0).spacing == region_of(scene.field, 65).spacing
    np.testing.assert_allclose(
        np.linalg.norm(wider[~is_far], axis=1).mean(), np.linalg.norm(boxed, axis=1).mean(), atol=2e-3
    )


def test_regions_of_all_sizes_end_where_they_should() -> None:
    field = cast(Any, KnownField(solid(ball), unbounded=True))
    for size in (1.0, 1.5, 3.0, 100.0):
        region = region_of(field, 101, size)
        corner = region.to_world(torch.tensor([[0.5, 0.0, 0.0]]))
        assert float(corner[0, 0]) == pytest.approx(size, rel=1e-3)
        assert region.resolution <= 201
    assert region_of(field, 101, math.inf).half == 1.0


def test_haze_and_densities_that_nothing_has_are_refused() -> None:
    with pytest.raises(InputError, match="haze"):
        made_from(scene_of(lambda points: torch.full_like(points[..., 0], 0.01)))
    with pytest.raises(InputError, match="another density"):
        made_from(scene_of(solid(ball)), density=1e6)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"resolution": 4}, "resolution"),
        ({"region": 0.5}, "region"),
        ({"region": math.nan}, "region"),
        ({"density": 0.0}, "density"),
        ({"density": math.inf}, "density"),
        ({"faces": 0}, "faces"),
        ({"held_out": -1}, "held_out"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        MeshOptions(**options).require_possible()


# How far cameras see


def test_depths_are_those_of_the_surface() -> None:
    views = ring_of_views(count=3)
    for depth in depth_maps(scene_of(solid(ball, density=2000.0, softness=0.002)), views, lambda *_: None):
        radii = depth.ends()[0].norm(dim=-1)
        assert len(radii) > 200
        # A step of rendering is 0.018 long; those that graze the ball end behind it.
        assert float((radii - 0.5).abs().median()) < 0.01
        assert float((radii - 0.5).abs().max()) < 0.04
        middle = depth.distances[depth.view.height // 2, depth.view.width // 2]
        assert float(middle) == pytest.approx(math.hypot(3.0, 1.5) - 0.5, abs=0.02)
        assert bool(depth.distances[0].isinf().all())


def test_points_behind_the_surface_or_the_camera_are_not_seen() -> None:
    (view,) = ring_of_views(count=1)
    (depth,) = depth_maps(scene_of(solid(ball, density=2000.0)), [view], lambda *_: None)
    front = np.array(view.pose).reshape(3, 4)[:, 3]
    front = front / np.linalg.norm(front)
    along = torch.tensor(front, dtype=torch.float32) * torch.tensor([0.8, 0.52, 0.4, -0.5, 5.0])[:, None]
    assert depth.sees(along, 0.02).tolist() == [True, True, False, False, False]
    aside = torch.tensor([[0.0, 2.9, 0.0], [0.0, 0.7, 0.0]])
    assert depth.sees(aside, 0.02).tolist() == [False, True], "the first is out of the picture"


# Pictures


def test_a_picture_of_a_mesh_shows_its_colors() -> None:
    square = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    colors = np.array([[0.0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]])
    down = (1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 2.0)
    view = View(40, 40, (40.0, 40.0), (20.0, 20.0), down)
    picture = MeshRenderer(Mesh(square, np.array([[0, 1, 2], [0, 2, 3]]), colors), torch.device("cpu")).picture(view)
    assert float(picture.alpha.min()) == 1.0
    # At a distance of 2, 40 pixels show -1 to 1, rows from above.
    ramp = (np.arange(40) + 0.5) / 40
    np.testing.assert_allclose(picture.color[..., 0], np.broadcast_to(ramp, (40, 40)), atol=1e-5)
    np.testing.assert_allclose(picture.color[..., 1], np.broadcast_to(ramp[::-1, None], (40, 40)), atol=1e-5)
    smaller = MeshRenderer(Mesh(0.5 * square, np.array([[0, 1, 2], [0, 2, 3]]), colors), torch.device("cpu"))
    assert float(smaller.picture(view).alpha.mean()) == pytest.approx(0.25)
