"""Marching and compaction on a GPU: one kernel counts the occupied steps of each ray, one writes them out.

A ray's steps are looked at twice, because where its segments go depends on those of all rays before it. Looking is
cheap: three fused multiply-adds and a byte of a grid that the second-level cache holds. No table of rays and steps
reaches memory, and no atomic operation is needed, so that equal inputs give equal segments in the same order.

This module needs Triton: import it where a CUDA tensor has arrived, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Int
from torch import Tensor

if TYPE_CHECKING:
    from finer_nerfstudio.nerf.captured.march import Steps, Walk

# Four warps with 16 rays of 64 steps: neighbouring rays of a batch are of unrelated pixels, so few of them together
# keep one long ray from holding up many short ones.
_RAYS = 16
_STEPS = 64

# Fusing multiplications and additions was Triton's default once and will not be.
_COMPILER_OPTIONS = {"enable_fp_fusion": True}


@triton.jit
@no_type_check
def _hits(start_ptr, per_step_ptr, ray, known, along, inside, occupied_ptr, RESOLUTION: tl.constexpr):
    """Which steps of a tile, ``[rays, steps]``, fall into occupied cells."""
    cell = tl.zeros_like(along).to(tl.int32)
    for axis in tl.static_range(3):
        begin = tl.load(start_ptr + ray * 3 + axis, mask=known, other=0.0)
        slope = tl.load(per_step_ptr + ray * 3 + axis, mask=known, other=0.0)
        coordinate = (begin[:, None] + slope[:, None] * along).to(tl.int32)
        coordinate = tl.minimum(tl.maximum(coordinate, 0), RESOLUTION - 1)
        cell = cell * RESOLUTION + coordinate
    return tl.load(occupied_ptr + cell, mask=inside, other=0) != 0


@triton.jit
@no_type_check
def _march_kernel(
    start_ptr,  # [rays, 3]
    per_step_ptr,  # [rays, 3]
    offset_ptr,  # [rays]
    length_ptr,  # [rays]
    occupied_ptr,  # [cells], a byte each
    counts_ptr,  # [rays] int64; written without, read with places
    first_ptr,  # [rays] int64, where the segments of each ray begin; None to count them
    ray_ptr,  # [samples] int64
    column_ptr,  # [samples] int64
    rays,
    step,
    RESOLUTION: tl.constexpr,
    RAYS: tl.constexpr,
    STEPS: tl.constexpr,
):
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    known = ray < rays
    offset = tl.load(offset_ptr + ray, mask=known, other=0.0)
    length = tl.load(length_ptr + ray, mask=known, other=0.0)
    place = tl.zeros((RAYS,), tl.int64)
    if first_ptr is not None:
        place = tl.load(first_ptr + ray, mask=known, other=0)
        # Rays that do not fit have none.
        length = tl.where(tl.load(counts_ptr + ray, mask=known, other=0) > 0, length, 0.0)
    # No step begins behind the end of its ray.
    longest = tl.max(length, axis=0)
    total = tl.zeros((RAYS,), tl.int64)
    for begin in range(0, (longest / step).to(tl.int32) + 1, STEPS):
        column = begin + tl.arange(0, STEPS)
        along = column[None, :].to(tl.float32) + offset[:, None]
        inside = (along * step < length[:, None]) & known[:, None]
        hit = _hits(start_ptr, per_step_ptr, ray, known, along, inside, occupied_ptr, RESOLUTION)
        number = hit.to(tl.int32)
        if first_ptr is not None:
            target = (place + total)[:, None] + tl.cumsum(number, axis=1) - number
            tl.store(ray_ptr + target, (ray[:, None] + tl.zeros_like(column)[None, :]).to(tl.int64), mask=hit)
            tl.store(column_ptr + target, (column[None, :] + tl.zeros_like(ray)[:, None]).to(tl.int64), mask=hit)
        total += tl.sum(number, axis=1)
    if first_ptr is None:
        tl.store(counts_ptr + ray, total, mask=known)


def _launch(
    walk: Walk, occupied: Tensor, steps: Steps, counts: Tensor, first: Tensor | None, ray: Tensor, column: Tensor
) -> None:
    rays = walk.start.shape[0]
    with torch.cuda.device_of(walk.start):
        _march_kernel[(triton.cdiv(rays, _RAYS),)](
            walk.start.contiguous(),
            walk.per_step.contiguous(),
            walk.offsets.contiguous(),
            walk.length.contiguous(),
            occupied.view(torch.uint8),
            counts,
            first,
            ray,
            column,
            rays,
            steps.length,
            RESOLUTION=steps.resolution,
            RAYS=_RAYS,
            STEPS=_STEPS,
            **_COMPILER_OPTIONS,
        )


def counts(walk: Walk, occupied: Bool[Tensor, " cells"], steps: Steps) -> Int[Tensor, " rays"]:
    """Return how many steps of each ray fall into occupied cells; see :func:`finer_nerfstudio.nerf.captured.march`."""
    found = torch.empty(walk.start.shape[0], dtype=torch.int64, device=walk.start.device)
    _launch(walk, occupied, steps, found, None, found, found)
    return found


def places(
    walk: Walk, occupied: Bool[Tensor, " cells"], steps: Steps, counts: Int[Tensor, " rays"], samples: int
) -> tuple[Int[Tensor, " samples"], Int[Tensor, " samples"]]:
    """Return ray and step of each segment of the rays that fit; padding is step 0 of the last ray.

    Args:
        walk: of the rays.
        occupied: which cells hold matter.
        steps: how finely.
        counts: segments of each ray, 0 for those that do not fit; in all no more than there is room for.
        samples: size of the result.
    """
    rays = walk.start.shape[0]
    ray = torch.full((samples,), rays - 1, dtype=torch.int64, device=walk.start.device)
    column = torch.zeros(samples, dtype=torch.int64, device=walk.start.device)
    first = counts.cumsum(0) - counts
    _launch(walk, occupied, steps, counts, first, ray, column)
    return ray, column
