"""From a trained field to a sparse grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from finer_nerfstudio.errors import InputError, argument
from finer_nerfstudio.nerf.data.views import View
from finer_nerfstudio.nerf.export import harmonics
from finer_nerfstudio.nerf.export.grid import GridRenderer, SparseGrid
from finer_nerfstudio.nerf.export.scene import Picture, rays_of
from finer_nerfstudio.nerf.export.surface import camera_positions, require_surface
from finer_nerfstudio.nerf.radiance import box_to_world
from finer_nerfstudio.nerf.sampling.sampler import OccupancyGrid
from finer_nerfstudio.nerf.scene import Scene
from finer_nerfstudio.runs.progress import Stage

# Voxels that take less light are empty; those that take more are opaque.
_FAINTEST = 0.01
_OPAQUE = 0.99
# Densities are means over so many places along each axis of a voxel.
_PLACES = 2
_VOXELS_AT_ONCE = 1 << 12
_POINTS_AT_ONCE = 1 << 16
# As for splats: the views see one side of a voxel.
_STIFFNESS = 0.02


@torch.no_grad()
def bake_grid(
    scene: Scene,
    views: Sequence[View],
    *,
    resolution: int,
    degree: int,
    per_voxel: int,
    generator: torch.Generator,
    report: Stage,
) -> SparseGrid:
    """Voxels of a field's box.

    Args:
        scene: to bake.
        views: from whose cameras colours are taken.
        resolution: voxels per axis.
        degree: of the colours' harmonics, 0 to 3.
        per_voxel: views that a voxel's colours are taken from.
        generator: source of their choice, on the processor.
        report: progress callback.

    Raises:
        InputError: where the field has no surface to speak of.
    """
    require_surface(scene, views, generator)
    aabb = scene.field.aabb
    width = float(((aabb[1] - aabb[0]) / resolution).mean())
    opacity = torch.stack([_slab_opacity(scene, i, resolution, width, report) for i in range(resolution)])
    coordinates = surface_voxels(opacity).to(scene.device)
    if not len(coordinates):
        raise InputError(f"no voxel holds matter: train the field longer, or raise {argument('resolution')}.")
    taken = opacity[coordinates[:, 0], coordinates[:, 1], coordinates[:, 2]]
    eyes = camera_positions(views).to(scene.device)
    normals, colors = [], []
    for done, part in enumerate(coordinates.split(_VOXELS_AT_ONCE)):
        report("looking at colours", done * _VOXELS_AT_ONCE, len(coordinates))
        centers = aabb[0] + (part + 0.5) * ((aabb[1] - aabb[0]) / resolution)
        normal = scene.field.normals_at(centers)
        order = torch.rand(len(centers), len(eyes), generator=generator).to(centers)
        facing = ((eyes - centers[:, None]) * normal[:, None]).sum(dim=-1) > 0
        chosen = (order + facing).topk(min(per_voxel, len(eyes)), dim=1).indices
        directions = torch.nn.functional.normalize(centers[:, None] - eyes[chosen], dim=-1)
        hidden = scene.field.hidden_features(centers)
        seen = scene.field.color(hidden[:, None].expand(-1, chosen.shape[1], -1), directions)
        # What looks at the back of a surface counts little: it does not see the voxel.
        weights = 0.02 + (-directions * normal[:, None]).sum(dim=-1).clamp(min=0.0)
        normals.append(normal)
        colors.append(harmonics.fit(directions, seen, weights, degree=degree, stiffness=_STIFFNESS))
    return SparseGrid(aabb, resolution, coordinates, taken, torch.cat(normals), torch.cat(colors))


def _slab_opacity(scene: Scene, index: int, resolution: int, width: float, report: Stage) -> Float[Tensor, "size size"]:
    """Opacities of the voxels of one index along x."""
    report("looking into voxels", index, resolution)
    within = (torch.arange(_PLACES) + 0.5) / _PLACES
    along = (torch.arange(resolution)[:, None] + within).flatten()
    places = torch.cartesian_prod(index + within, along, along).to(scene.device)
    positions = box_to_world(places * (2.0 / resolution) - 1.0, scene.field.aabb)
    # Rendering sees no matter in cells that the grid has for empty.
    grid = scene.sampler
    assert isinstance(grid, OccupancyGrid), "what is baked goes by it"
    occupied = grid.occupied[grid.cell_of(positions)].nonzero().squeeze(-1)
    density = positions.new_zeros(len(positions))
    for part in occupied.split(_POINTS_AT_ONCE):
        density[part] = scene.field.density_at(positions[part])
    shape = (_PLACES, resolution, _PLACES, resolution, _PLACES)
    return -torch.expm1(-width * density.view(shape).mean(dim=(0, 2, 4)))


def surface_voxels(opacity: Float[Tensor, "size size size"]) -> Int[Tensor, "voxels 3"]:
    """Coordinates of the voxels that hold matter, those left out that lie two layers deep in opaque ones."""
    from scipy.ndimage import binary_erosion

    values = opacity.cpu().numpy()
    hidden = binary_erosion(values > _OPAQUE, iterations=2, border_value=1)
    return torch.from_numpy(np.argwhere(np.logical_and(values > _FAINTEST, np.logical_not(hidden))))


@torch.no_grad()
def picture_of_grid(renderer: GridRenderer, view: View) -> Picture:
    """Return a view of a grid."""
    rays = rays_of(view, renderer.grid.aabb.device)
    color, alpha = renderer.colors(rays.origins, rays.directions)
    return Picture(view, color.view(view.height, view.width, 3), alpha.view(view.height, view.width))
