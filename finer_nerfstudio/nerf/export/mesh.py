"""From a trained field to a mesh: the surface that rendering shows, as far as the cameras of its run see it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from finer_nerfstudio.errors import InputError, argument
from finer_nerfstudio.files.meshes.mesh import Mesh, face_areas, parts_of, vertex_normals
from finer_nerfstudio.nerf.data.views import View
from finer_nerfstudio.nerf.export.depth import DepthMap, depth_maps
from finer_nerfstudio.nerf.export.options import MeshOptions
from finer_nerfstudio.nerf.export.surface import camera_positions
from finer_nerfstudio.nerf.field import FinerField
from finer_nerfstudio.nerf.radiance import box_to_world, world_to_box
from finer_nerfstudio.nerf.sampling.contraction import expand, shrinkage
from finer_nerfstudio.nerf.sampling.sampler import OccupancyGrid
from finer_nerfstudio.nerf.scene import Scene
from finer_nerfstudio.runs.isosurface import BLOCK, blocks_across, extract_surface
from finer_nerfstudio.runs.progress import Stage
from finer_nerfstudio.runs.raycasting import as_open3d, scene_of

_POINTS_AT_ONCE = 1 << 16
_VERTICES_AT_ONCE = 1 << 13
# Densities that single precision has no logarithm for are empty space.
_EMPTIEST = 1e-30
# Of the densities in which rays end: those that surface_density() tries.
_QUANTILES = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5)
# Rays end behind the surface that they meet, as light gets some way into matter. So the one that they meet nearest to
# their ends lies too deep, and the least dense is taken that is not much farther off.
_NOT_MUCH_FARTHER = 1.3
# Of the side of the scene's box: steps of a ray on the way to its end, so many before and behind.
_STEP, _STEPS_BEFORE, _STEPS_BEHIND = 0.0025, 200, 20
_FARTHEST_OFF = 0.05
_MOST_FOLLOWED = 1 << 12
_RAYS_AT_ONCE = 1 << 10
# Of the side of the scene's box: so far behind the place where rays have lost half of their light is still in sight.
_DEPTH_OF_SIGHT = 0.01
# Of all rays: fewer ends are no picture of anything.
_FEWEST_ENDS = 0.002
# So many tell as much as all of them.
_MOST_ENDS = 1 << 16
# Cosine between a ray and the normal against it: others graze what they end in, and get into thin matter only.
_LEAST_FACING = 0.5
# How far away something is, two cameras know and one does not.
_FEWEST_CAMERAS = 2
# Parts of less than this share of all area are specks.
_SMALLEST_PART = 1e-3
# Cameras whose colours are averaged.
_MOST_COLORS = 8


@dataclass(frozen=True)
class FieldMesh:
    """A mesh of a field, and how it was made.

    Attributes:
        mesh: with colours, world units.
        density: at which the surface was taken to be.
        spacing: of the grid in the scene's box, world units.
        left_out: triangles of the whole surface of that density that are ``unseen`` by the cameras, and of small
            ``parts``.
    """

    mesh: Mesh
    density: float
    spacing: float
    left_out: dict[str, int]


def mesh_of(scene: Scene, views: Sequence[View], options: MeshOptions, report: Stage) -> FieldMesh:
    """Return the surface of a field as far as cameras see it, with colours.

    The surface of one density (marching cubes) is cut down to the vertices that at least two cameras see: what is
    inside of objects was in no picture, and the field is arbitrary there. Small parts go, too. A vertex has the mean
    of the field's colours there along the rays of up to eight cameras that see it, evenly chosen; where none does,
    which happens after simplification, the colour against the normal.

    Args:
        scene: to look into.
        views: the cameras that the field was trained on.
        options: how.
        report: progress callback.

    Raises:
        InputError: where the field has no surface, or none that is seen.
    """
    maps = depth_maps(scene, views, report)
    region = region_of(scene.field, options.resolution, options.region)
    density = surface_density(region, maps) if options.density is None else options.density
    whole = extract(scene, region, density, report)
    seen = seen_from(whole, maps, region, report).sum(axis=1) >= min(_FEWEST_CAMERAS, len(maps))
    visible = whole.of_faces(seen[whole.faces].all(axis=1))
    if not len(visible.faces):
        raise InputError(
            f"the surface of density {density:.3g} is seen by no two views: train longer, or give another "
            f"{argument('density')}."
        )
    kept = visible.of_faces(_in_large_parts(visible, region))
    left_out = {
        "unseen": len(whole.faces) - len(visible.faces),
        "parts": len(visible.faces) - len(kept.faces),
    }
    if options.faces is not None:
        report("simplifying", 0, 1)
        kept = simplified(kept, options.faces)
    colors = vertex_colors(scene, kept, maps, region, report)
    return FieldMesh(replace(kept, colors=colors), density, region.spacing, left_out)


def _in_large_parts(mesh: Mesh, region: Region) -> Bool[np.ndarray, " n_faces"]:
    # In the field's coordinates: far away in a scene without end, areas would outweigh everything in its box.
    places = region.field.coordinates(torch.from_numpy(mesh.vertices).to(region.field.aabb)).cpu().numpy()
    part, area = parts_of(mesh.faces, len(mesh.vertices)), face_areas(places, mesh.faces)
    return np.bincount(part, area)[part] >= _SMALLEST_PART * area.sum()


@dataclass(frozen=True)
class Region:
    """The cube of the field's coordinates in which a surface is looked for, and its grid.

    In a scene without end the cube is one of contracted space: inside the scene's box it is divided as evenly as that
    of a bounded scene, and what is farther away the more coarsely, as the field is.

    Attributes:
        field: to look into.
        half: the cube reaches from minus this to this in coordinates of the networks; 1 is all of the field.
        resolution: grid points along each side of the cube.
        spacing: of grid points in the scene's box, world units.
    """

    field: FinerField
    half: float
    resolution: int
    spacing: float

    def to_world(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Points of the unit frame [-0.5, 0.5]^3 to world units."""
        coordinates = points * (2.0 * self.half)
        return box_to_world(expand(coordinates) if self.field.unbounded else coordinates, self.field.aabb)

    def holds(self, positions: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
        """Return which world positions are inside."""
        return (self.field.coordinates(positions).abs() <= self.half).all(dim=-1)

    def stretch(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """Return how many times longer a step of the grid is at world positions than in the scene's box, 1 or more."""
        return shrinkage(world_to_box(positions, self.field.aabb)).reciprocal()


def region_of(field: FinerField, resolution: int, size: float = 1.0) -> Region:
    """Return the region of a field that is ``size`` times its scene's box.

    Args:
        field: to look into.
        resolution: grid points along each side of the scene's box; a larger region has more, up to twice as many.
        size: 1 or more; larger ones in scenes without end alone.
    """
    box = 0.5 if field.unbounded else 1.0  # the largest coordinate in the scene's box, see contract()
    half = 1.0 - 0.5 / size if field.unbounded else 1.0
    spacing = float((field.aabb[1] - field.aabb[0]).max()) / (resolution - 1)
    return Region(field, half, 1 + round((resolution - 1) * half / box), spacing)


@torch.no_grad()
def surface_density(region: Region, maps: Sequence[DepthMap]) -> float:
    """Return the density at which to take the surface: the lowest that rays meet close to where they end.

    Volume density has no surface of its own. Rendering has one where half of a ray's light is stopped, but the
    densities there differ: by how far training has come, from place to place, and the more the thicker the matter is,
    as light gets some way into it. A surface of high density lies behind what one sees, and has holes where matter is
    thinner; one of low density is that of the haze in front of it. Some quantiles of the densities in which rays end
    are tried, and how far from their ends rays meet the surface, before or behind. The least density is chosen at which
    this is at most 1.3 times what it is at best, in the mean. Rays that graze a silhouette end in haze, and do not
    count.

    The factor was chosen on the demo scene and the generated square after four and three minutes of training, with
    other cameras than in docs/meshes.md (``--seed 1``) and with the density of where 98% of the rays end before it:
    that gave a surface near the best on the former, and haze on the latter.

    Args:
        region: in which rays have to end.
        maps: of the cameras.

    Raises:
        InputError: where hardly any ray ends in matter.
    """
    ends, directions, distances = (torch.cat(parts) for parts in zip(*(depth.ends() for depth in maps), strict=True))
    inside = region.holds(ends).nonzero().squeeze(-1)
    rays = sum(depth.distances.numel() for depth in maps)
    if len(inside) < _FEWEST_ENDS * rays:
        raise InputError(
            f"the field is still empty haze: {len(inside):,} of {rays:,} rays of the training views end in opaque "
            f"matter there; train it longer."
        )
    inside = _every(inside, _MOST_ENDS)
    facing = torch.cat(
        [
            -(region.field.normals_at(ends[part]) * directions[part]).sum(dim=-1) > _LEAST_FACING
            for part in inside.split(_VERTICES_AT_ONCE)
        ]
    )
    met = inside[facing]
    if not len(met):
        raise InputError("no ray of the training views meets a surface head on: train the field longer.")
    densities = torch.cat([region.field.density_at(ends[part]) for part in met.split(_VERTICES_AT_ONCE)])
    candidates = densities.quantile(densities.new_tensor(_QUANTILES))
    followed = _every(met, _MOST_FOLLOWED)
    off = [
        distances_to_surface(region, ends[part], directions[part], distances[part], candidates)
        for part in followed.split(_RAYS_AT_ONCE)
    ]
    mean = torch.cat(off).mean(dim=0)
    # Distances are known to a step.
    least = mean.min().clamp(min=0.5 * _STEP)
    return float(candidates[int((mean <= _NOT_MUCH_FARTHER * least).int().argmax())])


def distances_to_surface(
    region: Region,
    ends: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    distances: Float[Tensor, " rays"],
    densities: Float[Tensor, " densities"],
) -> Float[Tensor, "rays densities"]:
    """Return how far from their ends rays meet the surfaces of some densities, before or behind, in sides of the box.

    What is farther than 5% of the side is taken as that: how far a ray goes astray is of no account. In a scene
    without end, lengths are contracted as they are at the end of the ray.

    Args:
        region: whose field it is.
        ends: of the rays, world units.
        directions: unit vectors.
        distances: from the cameras to the ends, world units.
        densities: of the surfaces.
    """
    side = (region.field.aabb[1] - region.field.aabb[0]).max()
    stretch = region.stretch(ends)
    # From before the ends' neighbourhood, so that haze there counts as well, to behind it.
    steps = torch.arange(-_STEPS_BEFORE, _STEPS_BEHIND + 1, device=ends.device) * _STEP
    along = (steps * side * stretch[:, None]).maximum(-distances[:, None])
    places = ends[:, None] + directions[:, None] * along[..., None]
    found = torch.cat([region.field.density_at(part) for part in places.view(-1, 3).split(_POINTS_AT_ONCE)])
    dense = found.view(*along.shape, 1) >= densities
    first = torch.where(dense.any(dim=1), dense.int().argmax(dim=1), len(steps) - 1)
    return (along.gather(1, first) / (side * stretch[:, None])).abs().clamp(max=_FARTHEST_OFF)


def _every(places: Int[Tensor, " places"], most: int) -> Int[Tensor, " kept"]:
    """Return at most so many places, evenly chosen."""
    return places[:: max(1, -(-len(places) // most))]


@torch.no_grad()
def extract(scene: Scene, region: Region, density: float, report: Stage) -> Mesh:
    """Return the surface of a density in a region, world units, faces looking to where there is less.

    Raises:
        InputError: where there is none.
    """
    device = scene.device

    def field(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        found = region.field.density_at(region.to_world(points.to(device)))
        # Densities grow exponentially into matter, and their logarithms about evenly.
        return (math.log(density) - found.clamp(min=_EMPTIEST).log()).cpu()

    try:
        vertices, faces = extract_surface(
            field,
            region.resolution,
            candidates=_occupied_blocks(scene, region),
            points_at_once=_POINTS_AT_ONCE,
            report=report,
        )
    except ValueError as error:
        raise InputError(
            f"no surface of density {density:.3g} could be extracted ({error}): train longer, or give another "
            f"{argument('density')}."
        ) from error
    return Mesh(region.to_world(torch.from_numpy(vertices).to(device)).cpu().numpy(), faces)


def _occupied_blocks(scene: Scene, region: Region) -> Bool[np.ndarray, "blocks blocks blocks"]:
    """Blocks of the region's grid that cells are in which rendering looks into; all where there are no cells."""
    across = blocks_across(region.resolution)
    grid = scene.sampler
    if not isinstance(grid, OccupancyGrid):
        return np.ones(3 * (across,), bool)
    # No farther apart than cells, so that none is missed.
    width = 2.0 * region.half * BLOCK / (region.resolution - 1)
    steps = math.ceil(width * 0.5 * grid.resolution)
    places = torch.arange(across * steps + 1, device=scene.device) * (width / steps) - region.half
    axis = places.clamp(max=region.half) / (2.0 * region.half)
    blocks = []
    for index in range(across):
        slab = torch.cartesian_prod(axis[index * steps : (index + 1) * steps + 1], axis, axis)
        occupied = grid.occupied[grid.cell_of(region.to_world(slab))].view(steps + 1, len(axis), len(axis))
        flat = occupied.any(dim=0).float()[None, None]
        blocks.append(torch.nn.functional.max_pool2d(flat, steps + 1, stride=steps)[0, 0] > 0)
    return torch.stack(blocks).cpu().numpy()


def seen_from(
    mesh: Mesh, maps: Sequence[DepthMap], region: Region, report: Stage
) -> Bool[np.ndarray, "n_vertices views"]:
    """Return which vertices which cameras see.

    A vertex is seen where it is in the picture, nothing of the mesh is in front of it, and it is not far behind what
    rendering shows there.

    Args:
        mesh: world units.
        maps: of the cameras.
        region: whose grid the mesh is from: what is nearer to a vertex than its spacing is not in front of it.
        report: progress callback.
    """
    triangles = scene_of(mesh.vertices, mesh.faces)
    aabb = region.field.aabb
    points = torch.from_numpy(mesh.vertices).to(aabb)
    stretch = region.stretch(points)
    sight = _DEPTH_OF_SIGHT * float((aabb[1] - aabb[0]).max()) * stretch
    points, spacing = points.cpu(), (region.spacing * stretch).cpu()
    seen = np.zeros((len(points), len(maps)), bool)
    for index, depth in enumerate(maps):
        report("looking at the mesh", index, len(maps))
        there = depth.sees(points.to(depth.distances.device), sight).nonzero().squeeze(-1).cpu()
        way = camera_positions([depth.view]) - points[there]
        start = points[there] + torch.nn.functional.normalize(way, dim=-1) * spacing[there, None]
        rays = torch.cat([start, points[there] + way - start], dim=-1)
        hidden = triangles.test_occlusions(as_open3d(rays.numpy(), np.float32), 0.0, 1.0).numpy()
        seen[there.numpy()[~hidden], index] = True
    return seen


def simplified(mesh: Mesh, faces: int) -> Mesh:
    """Return a mesh of about so many triangles, by quadric error metrics (Garland and Heckbert 1997); without colours.

    Args:
        mesh: to simplify; one that has no more triangles is returned as it is.
        faces: how many to keep.
    """
    if len(mesh.faces) <= faces:
        return mesh
    import open3d

    whole = open3d.geometry.TriangleMesh(
        open3d.utility.Vector3dVector(mesh.vertices), open3d.utility.Vector3iVector(mesh.faces.astype(np.int32))
    )
    fewer = whole.simplify_quadric_decimation(faces)
    triangles = np.asarray(fewer.triangles, np.int64)
    return Mesh(np.asarray(fewer.vertices), triangles).of_faces(np.ones(len(triangles), bool))


@torch.no_grad()
def vertex_colors(
    scene: Scene, mesh: Mesh, maps: Sequence[DepthMap], region: Region, report: Stage
) -> Float[np.ndarray, "n_vertices 3"]:
    """Return the field's colours at vertices, sRGB in [0, 1], as the cameras see them; see :func:`mesh_of`.

    Args:
        scene: to look into.
        mesh: world units.
        maps: of the cameras.
        region: whose grid the mesh is from.
        report: progress callback.
    """
    device = scene.device
    eyes = camera_positions([depth.view for depth in maps]).to(device)
    seen = torch.from_numpy(seen_from(mesh, maps, region, report)).to(device)
    normals = torch.from_numpy(vertex_normals(mesh.vertices, mesh.faces)).float().to(device)
    places = torch.from_numpy(mesh.vertices).float().to(device)
    colors = []
    for start in range(0, len(places), _VERTICES_AT_ONCE):
        report("looking at colours", start, len(places))
        part = slice(start, start + _VERTICES_AT_ONCE)
        # The first, and others after equal numbers of cameras that see the vertex, too.
        order = seen[part].cumsum(dim=1)
        count = order[:, -1:]
        wanted = torch.arange(_MOST_COLORS, device=device) * count.clamp(min=_MOST_COLORS) // _MOST_COLORS
        chosen = (order[:, None, :] > wanted[..., None]).float().argmax(dim=-1)
        weight = (wanted < count).float()
        directions = torch.nn.functional.normalize(places[part, None] - eyes[chosen], dim=-1)
        unseen = count.squeeze(-1) == 0
        directions[unseen] = -normals[part][unseen, None]
        weight[unseen, 0] = 1.0
        hidden = scene.field.hidden_features(places[part])
        looks = scene.field.color(hidden[:, None].expand(-1, _MOST_COLORS, -1), directions)
        colors.append((looks * weight[..., None]).sum(dim=1) / weight.sum(dim=1, keepdim=True))
    return torch.cat(colors).clamp(0.0, 1.0).double().cpu().numpy()
