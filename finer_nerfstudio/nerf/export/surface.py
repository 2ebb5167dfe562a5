"""Where the surfaces of a trained field are, and how they look from the training views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.data.views import View
from finer_nerfstudio.nerf.export.scene import trace_rays
from finer_nerfstudio.nerf.radiance import world_to_box
from finer_nerfstudio.nerf.sampling.segments import RaySegments
from finer_nerfstudio.nerf.scene import Scene
from finer_nerfstudio.runs.progress import Stage

_RAYS_AT_ONCE = 1 << 14
# Points met for each point kept: enough that those kept can lie evenly.
_MEETINGS = 8
# Rays tried for each point kept, after which a scene of which little is in the pictures is taken as it is.
_MOST_RAYS = 80
# Less than that many rays in a thousand on opaque matter is no picture of anything.
_FEWEST_IN_A_THOUSAND = 2
_NEIGHBOURS = 4
# What lies within so many distances between neighbours, before and behind, is taken for the same surface.
_LAYER = 2.0
# Nothing is farther from its neighbours than this many times the median: such points are specks.
_LONELIEST = 3.0


@dataclass(frozen=True)
class SurfacePoints:
    """Points on surfaces, about evenly spread.

    Attributes:
        positions: ``[points, 3]`` world units.
        normals: ``[points, 3]`` unit vectors.
        spacing: ``[points]`` mean distance to the nearest others, world units.
    """

    positions: Float[Tensor, "points 3"]
    normals: Float[Tensor, "points 3"]
    spacing: Float[Tensor, " points"]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, chosen: Int[Tensor, " chosen"]) -> SurfacePoints:
        return SurfacePoints(self.positions[chosen], self.normals[chosen], self.spacing[chosen])


def surface_points(
    scene: Scene, views: Sequence[View], count: int, *, generator: torch.Generator, report: Stage
) -> SurfacePoints:
    """Points where half of a ray's light is stopped, on rays of the training views.

    Args:
        scene: to look into.
        views: through random places of whose pictures the rays pass.
        count: how many points to keep at most.
        generator: source of the rays, on the processor.
        report: progress callback.

    Raises:
        InputError: where the field has no surface to speak of.
    """
    require_surface(scene, views, generator)
    wanted, met, tried = _MEETINGS * count, 0, 0
    positions: list[Tensor] = []
    while met < wanted and tried < _MOST_RAYS * count:
        report("looking for surfaces", met, wanted)
        origins, directions = (part.to(scene.device) for part in random_rays(views, _RAYS_AT_ONCE, generator))
        segments, weights = trace_rays(scene, origins, directions)
        rays, distances = half_stopped(segments, weights)
        place = origins[rays] + directions[rays] * distances[:, None]
        positions.append(place[(world_to_box(place, scene.field.aabb).abs() <= 1.0).all(dim=-1)])
        tried, met = tried + len(origins), met + len(rays)
    found = torch.cat(positions)
    kept = found[evenly_spread(world_to_box(found, scene.field.aabb), count)]
    normals = torch.cat([scene.field.normals_at(part) for part in kept.split(_RAYS_AT_ONCE)])
    return SurfacePoints(kept, normals, neighbour_distance(kept))


def require_surface(scene: Scene, views: Sequence[View], generator: torch.Generator) -> None:
    """Refuse a field in which there is nothing to see.

    Raises:
        InputError: where hardly any ray of the training views meets opaque matter.
    """
    origins, directions = (part.to(scene.device) for part in random_rays(views, _RAYS_AT_ONCE, generator))
    rays, _ = half_stopped(*trace_rays(scene, origins, directions))
    if 1000 * len(rays) < _FEWEST_IN_A_THOUSAND * len(origins):
        raise InputError(
            f"the field is still empty haze: {len(rays):,} of {len(origins):,} rays of the training views meet opaque "
            "matter; train it longer."
        )


def random_rays(
    views: Sequence[View], count: int, generator: torch.Generator
) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 3"]]:
    """Origins and unit directions of rays through random places of random views' pictures."""
    poses, sizes, focal, center = _tables(views)
    which = torch.randint(len(views), (count,), generator=generator)
    place = torch.rand(count, 2, generator=generator) * sizes[which]
    across = (place - center[which]) / focal[which]
    # A camera looks along -z, with y up; rows of pixels count downwards.
    local = torch.stack([across[:, 0], -across[:, 1], -torch.ones(count)], dim=-1)
    directions = (poses[which, :, :3] @ local[..., None]).squeeze(-1)
    return poses[which, :, 3], torch.nn.functional.normalize(directions, dim=-1)


def _tables(views: Sequence[View]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Poses ``[views, 3, 4]``, and widths and heights, focal lengths and centres ``[views, 2]``."""
    poses = torch.tensor([view.pose for view in views], dtype=torch.float32).reshape(-1, 3, 4)
    sizes = torch.tensor([(view.width, view.height) for view in views], dtype=torch.float32)
    focal = torch.tensor([view.focal for view in views], dtype=torch.float32)
    center = torch.tensor([view.center for view in views], dtype=torch.float32)
    return poses, sizes, focal, center


def camera_positions(views: Sequence[View]) -> Float[Tensor, "views 3"]:
    """Where cameras are, world units."""
    return _tables(views)[0][:, :, 3]


def half_stopped(
    segments: RaySegments, weights: Float[Tensor, " samples"]
) -> tuple[Int[Tensor, " stopped"], Float[Tensor, " stopped"]]:
    """Rays of which more than half is stopped, and the distance at which half is.

    A mean of distances would lie between two surfaces where a ray grazes the nearer one; this lies on one of them.
    """
    total = weights.double().cumsum(0)
    before = total - weights
    first = (segments.counts.cumsum(0) - segments.counts)[segments.ray_indices]
    before = before - before[first]
    half = ((before <= 0.5) & (before + weights > 0.5)).nonzero().squeeze(-1)
    share = ((0.5 - before[half]) / weights[half]).to(weights.dtype)
    return segments.ray_indices[half], segments.distances[half] + (share - 0.5) * segments.lengths[half]


def evenly_spread(points: Float[Tensor, "points 3"], count: int) -> Int[Tensor, " kept"]:
    """Indices of at most ``count`` points that lie about evenly: of each cell of a lattice the most central one.

    The lattice is the finest of which no more than ``count`` cells hold points.
    """
    low = points.amin(dim=0)
    extent = float((points.amax(dim=0) - low).max()) or 1.0

    def cells(side: float) -> Int[Tensor, " points"]:
        index = ((points - low) / side).long()
        across = int(extent / side) + 1
        return (index[:, 0] * across + index[:, 1]) * across + index[:, 2]

    finest, coarsest = extent / (1 << 14), 2.0 * extent
    for _ in range(24):
        side = (finest * coarsest) ** 0.5
        if len(cells(side).unique()) > count:
            finest = side
        else:
            coarsest = side
    _, cell = cells(coarsest).unique(return_inverse=True)
    off_center = ((points - low) / coarsest % 1.0 - 0.5).norm(dim=-1)
    by_place = off_center.argsort(stable=True)
    in_cells = by_place[cell[by_place].argsort(stable=True)]
    is_first = torch.ones(len(in_cells), dtype=torch.bool, device=points.device)
    is_first[1:] = cell[in_cells[1:]] != cell[in_cells[:-1]]
    return in_cells[is_first]


def neighbour_distance(points: Float[Tensor, "points 3"]) -> Float[Tensor, " points"]:
    """Mean distance of each point to its four nearest others."""
    from scipy.spatial import KDTree

    positions = points.cpu().numpy()
    distances, _ = KDTree(positions).query(positions, k=min(1 + _NEIGHBOURS, len(positions)), workers=-1)
    mean = torch.from_numpy(distances.reshape(len(positions), -1)[:, 1:].mean(axis=1)).to(points)
    return mean.clamp(max=_LONELIEST * float(mean.median()))


def in_picture(points: Float[Tensor, "points 3"], views: Sequence[View]) -> Bool[Tensor, "points views"]:
    """Which points lie within the pictures of which views, hidden or not."""
    within = []
    for pose, size, focal, center in zip(*(table.to(points.device) for table in _tables(views)), strict=True):
        local = (points - pose[:, 3]) @ pose[:, :3]
        depth = -local[:, 2]
        place = local[:, :2] * points.new_tensor([1.0, -1.0]) / depth[:, None] * focal + center
        within.append((depth > 0) & ((place >= 0) & (place <= size)).all(dim=-1))
    return torch.stack(within, dim=-1)


@dataclass(frozen=True)
class Appearance:
    """How points look from some views.

    Attributes:
        directions: ``[points, views, 3]`` unit vectors from the cameras to the points.
        colors: ``[points, views, 3]`` in [0, 1].
        weights: ``[points, views]`` share of the ray's light that comes from around the point, in [0, 1].
        alpha: ``[points]`` opacity of what is around the point.
    """

    directions: Float[Tensor, "points views 3"]
    colors: Float[Tensor, "points views 3"]
    weights: Float[Tensor, "points views"]
    alpha: Float[Tensor, " points"]


@torch.no_grad()
def appearance(
    scene: Scene,
    points: SurfacePoints,
    views: Sequence[View],
    *,
    per_point: int,
    generator: torch.Generator,
    report: Stage,
) -> Appearance:
    """Return the field's colours around points along rays from the training cameras.

    Args:
        scene: to look into.
        points: on its surfaces.
        views: the cameras.
        per_point: from how many views to look at each point, of those whose picture it is in and that it faces.
        generator: source of the choice, on the processor.
        report: progress callback.
    """
    positions = points.positions
    eyes = camera_positions(views).to(positions)
    facing = ((eyes - positions[:, None]) * points.normals[:, None]).sum(dim=-1) > 0
    candidates = in_picture(positions, views)
    # Normals of hazy places say little, so that facing views come first but others may follow.
    order = torch.rand(candidates.shape, generator=generator).to(positions) + 2.0 * candidates + 1.0 * facing
    chosen = order.topk(min(per_point, len(views)), dim=1).indices
    offsets = positions[:, None] - eyes[chosen]
    directions = torch.nn.functional.normalize(offsets, dim=-1)
    colors, weights = torch.zeros_like(directions), torch.zeros_like(directions[..., 0])
    reached = torch.zeros_like(weights)
    looks = candidates.gather(1, chosen).nonzero()
    for done, part in enumerate(looks.split(_RAYS_AT_ONCE)):
        report("looking at colours", done * _RAYS_AT_ONCE, len(looks))
        point, view = part.unbind(-1)
        origins, along = eyes[chosen[point, view]], directions[point, view]
        segments, weight = trace_rays(scene, origins, along)
        off = segments.distances - offsets[point, view].norm(dim=-1)[segments.ray_indices]
        reach = torch.maximum(_LAYER * points.spacing[point][segments.ray_indices], segments.lengths)
        around = (off.abs() < reach).nonzero().squeeze(-1)
        rays, weight_around = segments.ray_indices[around], weight[around]
        place = origins[rays] + along[rays] * segments.distances[around, None]
        color = scene.field.color(scene.field.hidden_features(place), along[rays])
        total = weight.new_zeros(len(part)).index_add(0, rays, weight_around)
        mixed = color.new_zeros(len(part), 3).index_add(0, rays, weight_around[:, None] * color)
        before = torch.zeros_like(total).index_add(0, segments.ray_indices, torch.where(off < -reach, weight, 0.0))
        colors[point, view] = mixed / total.clamp(min=1e-6)[:, None]
        weights[point, view] = total
        reached[point, view] = 1.0 - before
    alpha = weights.sum(dim=1) / reached.sum(dim=1).clamp(min=1e-6)
    return Appearance(directions, colors.clamp(0.0, 1.0), weights.clamp(0.0, 1.0), alpha.clamp(0.0, 1.0))
