"""Pictures of Gaussian splats in plain PyTorch, everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from finer_nerfstudio.nerf.data.views import View
from finer_nerfstudio.nerf.export import harmonics
from finer_nerfstudio.nerf.export.splats import Splats

Rasterizer = Callable[[Splats, View], tuple[Float[Tensor, "height width 3"], Float[Tensor, "height width"]]]
"""Gives colours over black and opacities."""
NEAR = 0.01
"""Nothing nearer to a camera is drawn, world units."""
# Those of the original and of gsplat: a Gaussian is blurred by 0.3 pixels squared, ends below 1/255 and is never quite
# opaque. (The kernels also end it some three standard deviations from its middle, in whole tiles.)
_BLUR = 0.3
_FAINTEST = 1.0 / 255.0
_REACH = math.sqrt(2.0 * math.log(1.0 / _FAINTEST))
_MOST_OPAQUE = 0.999
# Pairs of splat and pixel at a time; bounds the memory.
_PAIRS_AT_ONCE = 1 << 22


def rasterize(splats: Splats, view: View) -> tuple[Float[Tensor, "height width 3"], Float[Tensor, "height width"]]:
    """Colour over black and opacity of the splats in a view; differentiable, and no approximation of the kernels'
    order: every pixel blends its splats front to back.

    Follows "EWA splatting" (Zwicker et al. 2001) as Kerbl et al. 2023 have it, with the compensation of Yu et al. 2024
    (Mip-Splatting) for Gaussians smaller than a pixel.
    """
    flat = _projected(splats, view)
    colors, alphas = [], []
    for top, bottom in _bands(flat.low[:, 1], flat.high[:, 1], flat.per_row, view.height):
        color, alpha = _blended(flat, view, top, bottom)
        colors.append(color)
        alphas.append(alpha)
    return torch.cat(colors), torch.cat(alphas)


@dataclass(frozen=True)
class _Projected:
    """Splats in front of the camera as they lie in the picture, nearest first.

    Attributes:
        place: ``[splats, 2]`` in pixels.
        inverse: ``[splats, 2, 2]`` of the covariances, 1/pixels^2.
        opacity: ``[splats]`` in [0, 1].
        color: ``[splats, 3]``.
        low: ``[splats, 2]`` first column and row that a splat reaches.
        high: ``[splats, 2]`` column and row after the last.
        per_row: ``[splats]`` columns that it reaches.
    """

    place: Float[Tensor, "splats 2"]
    inverse: Float[Tensor, "splats 2 2"]
    opacity: Float[Tensor, " splats"]
    color: Float[Tensor, "splats 3"]
    low: Int[Tensor, "splats 2"]
    high: Int[Tensor, "splats 2"]
    per_row: Int[Tensor, " splats"]


def _projected(splats: Splats, view: View) -> _Projected:
    to_camera, eye = world_to_camera(view, splats.means)
    local = splats.means @ to_camera[:, :3].T + to_camera[:, 3]
    depth = local[:, 2]
    front = (depth > NEAR).nonzero().squeeze(-1)
    order = front[depth[front].argsort()]
    x, y, z = local[order].unbind(-1)
    (fx, fy), (cx, cy) = view.focal, view.center
    place = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1)
    # Far outside the picture the projection is no longer nearly affine; the kernels hold its slope there.
    slope_x = (x / z).clamp(-(cx + 0.15 * view.width) / fx, (1.15 * view.width - cx) / fx)
    slope_y = (y / z).clamp(-(cy + 0.15 * view.height) / fy, (1.15 * view.height - cy) / fy)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * slope_x / z, zero, fy / z, -fy * slope_y / z], dim=-1).view(-1, 2, 3)
    axes = jacobian @ to_camera[:, :3]
    sharp = axes @ splats.covariances()[order] @ axes.mT
    covariance = sharp + _BLUR * torch.eye(2).to(axes)
    # What is smaller than a pixel is blurred to one and fainter for it, so that splats fit all resolutions alike.
    kept = (torch.linalg.det(sharp) / torch.linalg.det(covariance)).clamp(min=1e-10).sqrt()
    opacity = torch.sigmoid(splats.opacity_logits[order]) * kept
    color = harmonics.colors(splats.harmonics[order], torch.nn.functional.normalize(splats.means[order] - eye, dim=-1))
    with torch.no_grad():
        middle = 0.5 * (covariance[:, 0, 0] + covariance[:, 1, 1])
        spread = (middle**2 - torch.linalg.det(covariance)).clamp(min=0.01).sqrt()
        radius = (_REACH * (middle + spread).sqrt()).ceil()[:, None]
        limits = place.new_tensor([view.width, view.height])
        low = (place - radius - 0.5).ceil().clamp(min=0).minimum(limits).long()
        high = ((place + radius - 0.5).floor() + 1).clamp(min=0).minimum(limits).long()
        per_row = (high - low).clamp(min=0)[:, 0]
    return _Projected(place, torch.linalg.inv(covariance), opacity, color, low, high, per_row)


def _blended(flat: _Projected, view: View, top: int, bottom: int) -> tuple[Tensor, Tensor]:
    """Colour ``[rows, width, 3]`` and opacity ``[rows, width]`` of the rows of a picture from ``top`` to ``bottom``."""
    place, inverse, opacity = flat.place, flat.inverse, flat.opacity
    first, last = flat.low[:, 1].clamp(min=top), flat.high[:, 1].clamp(max=bottom)
    with torch.no_grad():
        counts = flat.per_row * (last - first).clamp(min=0)
        splat = torch.repeat_interleave(torch.arange(len(place), device=place.device), counts)
        within = torch.arange(len(splat), device=place.device) - (counts.cumsum(0) - counts)[splat]
        column = flat.low[splat, 0] + within % flat.per_row[splat]
        row = first[splat] + within // flat.per_row[splat]
        alpha = _alpha(place, inverse, opacity, splat, column, row)
        seen = (alpha >= _FAINTEST).nonzero().squeeze(-1)
        pixel = (row[seen] - top) * view.width + column[seen]
        # Splats come in the order of depth, which a stable sort by pixel keeps.
        pixel, by_pixel = pixel.sort(stable=True)
        chosen = seen[by_pixel]
        splat, column, row = splat[chosen], column[chosen], row[chosen]
    alpha = _alpha(place, inverse, opacity, splat, column, row)
    # Transmittance is a product along each pixel's splats: a running sum of logarithms, less that at its first.
    logs = torch.log1p(-alpha.double())
    before = torch.cat([logs.new_zeros(1), logs.cumsum(0)])[:-1] if len(logs) else logs
    pixels = (bottom - top) * view.width
    lengths = torch.bincount(pixel, minlength=pixels)
    begin = (lengths.cumsum(0) - lengths)[pixel]
    weight = alpha * torch.exp(before - before[begin]).to(alpha.dtype)
    blended = torch.zeros(pixels, 4, dtype=alpha.dtype, device=alpha.device).index_add(
        0, pixel, weight[:, None] * torch.cat([flat.color[splat], torch.ones_like(weight)[:, None]], dim=-1)
    )
    return blended[:, :3].view(bottom - top, view.width, 3), blended[:, 3].view(bottom - top, view.width)


def _alpha(place: Tensor, inverse: Tensor, opacity: Tensor, splat: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Opacity of splats in the middles of pixels."""
    dx, dy = column + 0.5 - place[splat, 0], row + 0.5 - place[splat, 1]
    a, b, c = inverse[splat, 0, 0], inverse[splat, 0, 1], inverse[splat, 1, 1]
    power = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    return (opacity[splat] * torch.exp(-power)).clamp(max=_MOST_OPAQUE)


def _bands(low: Tensor, high: Tensor, per_row: Tensor, height: int) -> list[tuple[int, int]]:
    """Rows of the picture, in parts of not too many pairs each."""
    change = torch.zeros(height + 1, dtype=torch.long, device=low.device)
    drawn = high > low
    change.index_add_(0, low[drawn], per_row[drawn]).index_add_(0, high[drawn], -per_row[drawn])
    bands, top, pairs = [], 0, 0
    for row, count in enumerate(change.cumsum(0)[:height].tolist()):
        if row > top and pairs + count > _PAIRS_AT_ONCE:
            bands.append((top, row))
            top, pairs = row, 0
        pairs += count
    return [*bands, (top, height)]


def world_to_camera(view: View, like: Tensor) -> tuple[Float[Tensor, "3 4"], Float[Tensor, "3"]]:
    """Into a frame that looks along z with y down, as the kernels have it; and where the camera is."""
    pose = torch.tensor(view.pose, dtype=like.dtype, device=like.device).view(3, 4)
    rotation = (pose[:, :3] * like.new_tensor([1.0, -1.0, -1.0])).T
    return torch.cat([rotation, -rotation @ pose[:, 3:]], dim=1), pose[:, 3]
