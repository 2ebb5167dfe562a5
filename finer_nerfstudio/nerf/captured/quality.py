"""Quality of a field on test views: the mean of views, each rendered over white."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.nerf.captured.grid import FixedGrid
from finer_nerfstudio.nerf.captured.march import march, walk_of
from finer_nerfstudio.nerf.captured.views import PixelRays, Views
from finer_nerfstudio.nerf.compositing import composite
from finer_nerfstudio.nerf.data.alpha import over_white
from finer_nerfstudio.nerf.radiance import Radiance
from finer_nerfstudio.runs import metrics

_RAYS = 1 << 14
# Samples whose features are in memory at a time.
_MOST_SAMPLES = 1 << 20
# Ten times what training skips.
_WEIGHT_THRESHOLD = 1e-3


@dataclass(frozen=True)
class Quality:
    """Means over views.

    Attributes:
        psnr: in dB.
        ssim: in [-1, 1].
        views: number of views.
        seconds: that rendering and comparing took.
    """

    psnr: float
    ssim: float
    views: int
    seconds: float


@torch.no_grad()
def rendered(field: Radiance[Any], grid: FixedGrid, views: PixelRays, view: int) -> Float[Tensor, "height width 3"]:
    """Return a view of a field over white, in [0, 1].

    Args:
        field: what to look at.
        grid: says where matter may be, and how finely rays are sampled.
        views: whose cameras are used.
        view: which.
    """
    first = view * views.height * views.width
    pixels = torch.arange(first, first + views.height * views.width, device=grid.occupied.device)
    parts = [_over_white(field, grid, views, part) for part in pixels.split(_RAYS)]
    return torch.cat(parts).clamp(0.0, 1.0).view(views.height, views.width, 3)


def _over_white(field: Radiance[Any], grid: FixedGrid, views: PixelRays, pixels: Tensor) -> Tensor:
    """Colours of pixels; where a field is full of haze, a part of them at a time."""
    origins, directions = views.rays(pixels)
    offsets = torch.full((len(pixels),), 0.5, device=pixels.device)
    walk = walk_of(origins, directions, offsets, grid.aabb, grid.steps)
    needed = int(march(walk, grid.occupied, grid.steps, 1).found.sum())
    if needed > _MOST_SAMPLES and len(pixels) > 1:
        return torch.cat([_over_white(field, grid, views, half) for half in pixels.chunk(2)])
    segments = march(walk, grid.occupied, grid.steps, max(1, needed))
    seen = composite(field, origins, directions, segments, weight_threshold=_WEIGHT_THRESHOLD)
    return seen.rgb + seen.passed[:, None]


def measure(field: Radiance[Any], grid: FixedGrid, views: Views) -> Quality:
    """Return the mean quality of a field on views.

    Args:
        field: what to look at.
        grid: says where matter may be, and how finely rays are sampled.
        views: what it should look like.
    """
    begin = time.perf_counter()
    pixels = PixelRays.of_views(views, grid.occupied.device)
    numbers = torch.arange(pixels.pixels, device=grid.occupied.device).view(pixels.count, -1)
    psnr = ssim = 0.0
    for view in range(pixels.count):
        rgb = rendered(field, grid, pixels, view)
        color = pixels.colors(numbers[view])
        image = over_white(color).view(rgb.shape)
        psnr += float(metrics.psnr(rgb, image))
        ssim += float(metrics.ssim(rgb, image))
    return Quality(psnr / pixels.count, ssim / pixels.count, pixels.count, time.perf_counter() - begin)
