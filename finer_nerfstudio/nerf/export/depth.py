"""How far the cameras of a run see: where rendering has the surface."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from finer_nerfstudio.nerf.data.views import View, evenly
from finer_nerfstudio.nerf.export.scene import rays_of, trace_rays
from finer_nerfstudio.nerf.export.surface import half_stopped
from finer_nerfstudio.nerf.scene import Scene
from finer_nerfstudio.runs.progress import Stage

_RAYS_AT_ONCE = 1 << 14
# More views than that show little that these do not.
_MOST_VIEWS = 100
# Of all views together: two million rays take about a minute on a processor.
_MOST_RAYS = 1 << 20
# What is seen beside a silhouette is up to a pixel off.
_PIXELS_AROUND = 1


@dataclass(frozen=True)
class DepthMap:
    """How far a camera sees.

    Attributes:
        view: the camera.
        distances: ``[height, width]`` along the rays through the middles of pixels, world units, at which half of the
            light is stopped; infinite where less than half is.
    """

    view: View
    distances: Float[Tensor, "height width"]

    def ends(self) -> tuple[Float[Tensor, "ends 3"], Float[Tensor, "ends 3"], Float[Tensor, " ends"]]:
        """Return where rays end, of those that do, world units, their directions, and how long they are."""
        rays = rays_of(self.view, self.distances.device)
        ended = self.distances.flatten().isfinite().nonzero().squeeze(-1)
        directions, distances = rays.directions[ended], self.distances.flatten()[ended]
        return rays.origins[ended] + directions * distances[:, None], directions, distances

    def sees(
        self, points: Float[Tensor, "points 3"], tolerance: Float[Tensor, " points"] | float
    ) -> Bool[Tensor, " points"]:
        """Return which points are in the picture and not behind what is seen there.

        Args:
            points: world units.
            tolerance: so far behind what the rays of a pixel and those beside it meet still counts, world units.
        """
        place, ahead, distance = _projected(points, self.view)
        height, width = self.distances.shape
        column, row = place.floor().long().unbind(-1)
        within = ahead & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        farthest = F.max_pool2d(
            self.distances[None, None], 2 * _PIXELS_AROUND + 1, stride=1, padding=_PIXELS_AROUND
        ).flatten()
        at = (row * width + column).clamp(0, height * width - 1)
        return within & (distance <= farthest[at] + tolerance)


def _projected(
    points: Float[Tensor, "points 3"], view: View
) -> tuple[Float[Tensor, "points 2"], Bool[Tensor, " points"], Float[Tensor, " points"]]:
    """Columns and rows of points in pixels, which of them are in front of the camera, and how far they are from it."""
    pose = points.new_tensor(view.pose).view(3, 4)
    offset = points - pose[:, 3]
    local = offset @ pose[:, :3]
    ahead = local[:, 2] < 0
    across = local[:, :2] * points.new_tensor([1.0, -1.0]) / torch.where(ahead, -local[:, 2], 1.0)[:, None]
    place = across * points.new_tensor(view.focal) + points.new_tensor(view.center)
    return place.nan_to_num(-1.0), ahead, offset.norm(dim=-1)


@torch.no_grad()
def depth_maps(scene: Scene, views: Sequence[View], report: Stage) -> list[DepthMap]:
    """Return how far cameras see, of at most 100 of them, in pictures that are no larger than theirs.

    Args:
        scene: to look into.
        views: the cameras.
        report: progress callback.
    """
    chosen = [views[index] for index in evenly(len(views), min(len(views), _MOST_VIEWS))]
    affordable = int(math.sqrt(_MOST_RAYS / len(chosen)))
    maps = []
    for done, view in enumerate(chosen):
        report("looking for surfaces", done, len(chosen))
        smaller = view.resized(min(affordable, max(view.height, view.width)))
        rays = rays_of(smaller, scene.device)
        parts = []
        for start in range(0, len(rays), _RAYS_AT_ONCE):
            chunk = rays[start : start + _RAYS_AT_ONCE]
            hit, distance = half_stopped(*trace_rays(scene, chunk.origins, chunk.directions))
            parts.append(torch.full_like(chunk.origins[:, 0], math.inf).index_copy(0, hit, distance))
        maps.append(DepthMap(smaller, torch.cat(parts).view(smaller.height, smaller.width)))
    return maps
