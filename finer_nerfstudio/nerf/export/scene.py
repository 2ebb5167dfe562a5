"""A trained field as baking sees it: pictures, and what rays meet on their way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.compositing import ray_weights
from finer_nerfstudio.nerf.data.views import View
from finer_nerfstudio.nerf.model import FinerModel
from finer_nerfstudio.nerf.rendering import render
from finer_nerfstudio.nerf.sampling.rays import PinholeRays
from finer_nerfstudio.nerf.sampling.sampler import RayLimits
from finer_nerfstudio.nerf.sampling.segments import RaySegments
from finer_nerfstudio.nerf.scene import Scene
from finer_nerfstudio.runs.progress import Stage

_RAYS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Picture:
    """A picture of a scene.

    Attributes:
        view: the camera.
        color: ``[height, width, 3]`` over black, in [0, 1].
        alpha: ``[height, width]`` in [0, 1].
    """

    view: View
    color: Float[Tensor, "height width 3"]
    alpha: Float[Tensor, "height width"]

    def over(self, background: Float[Tensor, "3"]) -> Float[Tensor, "height width 3"]:
        """The picture before a background."""
        return self.color + (1.0 - self.alpha[..., None]) * background


def scene_of_model(model: FinerModel) -> Scene:
    """Return the scene that a trained model shows in evaluation.

    Raises:
        InputError: for a scene without end, and for one without an occupancy grid.
    """
    if model.unbounded:
        raise InputError("this run shows surroundings without end, and only what lies within a box can be baked.")
    if model.grid is None:
        raise InputError("baking goes by the occupancy grid, and this run has proposal networks in its place.")
    return model.scene()


@torch.no_grad()
def pictures_of(scene: Scene, views: Sequence[View], report: Stage, what: str = "rendering the field") -> list[Picture]:
    """Pictures of a scene, each of them as long as the last report says."""
    pictures = []
    for done, view in enumerate(views):
        report(what, done, len(views))
        rays = rays_of(view, scene.device)
        parts = []
        for start in range(0, len(rays), _RAYS_AT_ONCE):
            chunk = rays[start : start + _RAYS_AT_ONCE]
            seen = render(scene, RayBundle(chunk.origins, chunk.directions, chunk.pixel_area))
            alpha = seen["accumulation"].clamp(0.0, 1.0)
            parts.append(torch.cat([(seen["rgb"] - (1.0 - alpha)).clamp(0.0, 1.0), alpha], dim=-1))
        pixels = torch.cat(parts).reshape(view.height, view.width, 4)
        pictures.append(Picture(view, pixels[..., :3], pixels[..., 3]))
    return pictures


def rays_of(view: View, device: torch.device) -> RayBundle:
    """Rays through the middles of a view's pixels, row by row."""
    rays = PinholeRays(view.camera().reshape((1,))).to(device)
    rows, columns = torch.arange(view.height, device=device), torch.arange(view.width, device=device)
    pixels = torch.cartesian_prod(rows, columns)
    return rays(torch.cat([torch.zeros_like(pixels[:, :1]), pixels], dim=1))


@torch.no_grad()
def trace_rays(
    scene: Scene,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
) -> tuple[RaySegments, Float[Tensor, " samples"]]:
    """Return the occupied segments along rays and how much each weighs, without colours.

    Args:
        scene: to look into.
        origins: world units.
        directions: unit vectors.

    Returns:
        The occupied segments, and their rendering weights.
    """
    segments = scene.sampler.march(origins, directions, RayLimits(near_plane=scene.near_plane))
    rays = segments.ray_indices
    density = scene.field.density_at(origins[rays] + directions[rays] * segments.distances[:, None])
    return segments, ray_weights(density * segments.lengths, rays, segments.counts)
