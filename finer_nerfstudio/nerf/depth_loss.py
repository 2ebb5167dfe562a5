"""Supervision by depth: matter along a ray belongs to where it was measured."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfacc import accumulate_along_rays
from torch import Tensor

from finer_nerfstudio.nerf.sampling.contraction import far_away, progress_at
from finer_nerfstudio.nerf.sampling.segments import Segments


def depth_loss(
    segments: Segments,
    weights: Float[Tensor, " samples"],
    measured: Float[Tensor, "rays 1"],
    *,
    reach: float | None,
    farthest: Float[Tensor, " rays"],
) -> Float[Tensor, ""]:
    """Return the mean earth mover's distance between what rays meet and what was measured on them.

    It is the sum of the weights' distances to the measured place, with that of the share of the ray which nothing
    stopped. Unlike the error of the expected distance, it is not 0 for a haze around the right place.

    Args:
        segments: of rays.
        weights: of the segments in the ray's colour; their sum is at most 1.
        measured: distances along these rays and perhaps more, world units; 0 where nothing is known.
        reach: of the sampler in a scene without end, where places count as :func:`progress_at` has them.
        farthest: where each ray ends in a scene with an end, world units; places count in units of it.

    Returns:
        The mean over the rays of which something is known; 0 if there are none.
    """
    rays, count = segments.ray_indices, segments.num_rays
    measured = measured[:count, 0]
    known = measured > 0
    if reach is None:
        target, end = (measured / farthest).clamp(max=1.0), torch.ones_like(measured)
        places = segments.distances / farthest[rays]
    else:
        target, end = progress_at(measured, reach), progress_at(torch.full_like(measured, far_away(reach)), reach)
        places = progress_at(segments.distances, reach)
    off = (places - target[rays]).abs()
    moved = accumulate_along_rays(weights, off[:, None], rays, count).squeeze(-1)
    stopped = accumulate_along_rays(weights, None, rays, count).squeeze(-1)
    total = moved + (1.0 - stopped) * (end - target).abs()
    return torch.where(known, total, 0.0).sum() / known.sum().clamp(min=1)
