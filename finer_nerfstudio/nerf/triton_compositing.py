"""Rendering weights on a GPU, ray by ray: one Triton kernel forward and one backward.

A sum over all rays, of which each takes the difference, would be added up in another order each time it is computed on
a GPU. Here a ray's segments are added up by themselves, in their own order: equal inputs give equal weights and
gradients, bit for bit.

This module needs Triton: import it where a CUDA tensor has arrived, not before.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

# A warp looks at two segments a lane at a time.
_CHUNK = 64
_COMPILER_OPTIONS = {"num_warps": 1, "enable_fp_fusion": True}
# Below this, 1 - exp(-x) would be mostly rounding.
_SMALL: tl.constexpr = tl.constexpr(0.03)


@triton.jit
@no_type_check
def _opacity(thickness):
    """``1 - exp(-thickness)``, to the last digits for thin segments too."""
    series = thickness * (
        1.0 - thickness * (0.5 - thickness * (0.16666666666666666 - thickness * 0.041666666666666664))
    )
    return tl.where(tl.abs(thickness) < _SMALL, series, 1.0 - tl.exp(-thickness))


@triton.jit
@no_type_check
def _weights_kernel(
    thickness_ptr,  # [samples]
    first_ptr,  # [rays] int64, where the segments of each ray begin
    count_ptr,  # [rays] int64
    weight_ptr,  # [samples]
    behind_ptr,  # [samples], what passes through each segment
    CHUNK: tl.constexpr,
):
    ray = tl.program_id(0)
    first = tl.load(first_ptr + ray)
    count = tl.load(count_ptr + ray)
    passed = 0.0
    for begin in range(0, count, CHUNK):
        slot = begin + tl.arange(0, CHUNK)
        inside = slot < count
        thickness = tl.load(thickness_ptr + first + slot, mask=inside, other=0.0)
        up_to = tl.cumsum(thickness, axis=0)
        transmittance = tl.exp(-(passed + (up_to - thickness)))
        weight = transmittance * _opacity(thickness)
        tl.store(weight_ptr + first + slot, weight, mask=inside)
        tl.store(behind_ptr + first + slot, transmittance - weight, mask=inside)
        passed += tl.sum(thickness, axis=0)


@triton.jit
@no_type_check
def _gradient_kernel(
    grad_ptr,  # [samples], of the weights
    weight_ptr,
    behind_ptr,
    first_ptr,
    count_ptr,
    thickness_grad_ptr,  # [samples]
    CHUNK: tl.constexpr,
):
    ray = tl.program_id(0)
    first = tl.load(first_ptr + ray)
    count = tl.load(count_ptr + ray)
    total = 0.0
    for begin in range(0, count, CHUNK):
        slot = begin + tl.arange(0, CHUNK)
        inside = slot < count
        grad = tl.load(grad_ptr + first + slot, mask=inside, other=0.0)
        total += tl.sum(grad * tl.load(weight_ptr + first + slot, mask=inside, other=0.0), axis=0)
    for begin in range(0, count, CHUNK):
        slot = begin + tl.arange(0, CHUNK)
        inside = slot < count
        grad = tl.load(grad_ptr + first + slot, mask=inside, other=0.0)
        amount = grad * tl.load(weight_ptr + first + slot, mask=inside, other=0.0)
        behind = tl.load(behind_ptr + first + slot, mask=inside, other=0.0)
        later = total - tl.cumsum(amount, axis=0)
        tl.store(thickness_grad_ptr + first + slot, grad * behind - later, mask=inside)
        total -= tl.sum(amount, axis=0)


def weights(
    thickness: Float[Tensor, " samples"], counts: Int[Tensor, " rays"]
) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]]:
    """Return rendering weights, and what passes through each segment; both 0 for samples behind the last ray's.

    Args:
        thickness: optical thickness of each segment, float32, flat, ordered by ray and then by distance.
        counts: number of segments of each ray.
    """
    thickness = thickness.contiguous()
    weight, behind = torch.zeros_like(thickness), torch.zeros_like(thickness)
    if len(counts):
        with torch.cuda.device_of(thickness):
            _weights_kernel[(len(counts),)](
                thickness, counts.cumsum(0) - counts, counts, weight, behind, CHUNK=_CHUNK, **_COMPILER_OPTIONS
            )
    return weight, behind


def gradient(
    grad: Float[Tensor, " samples"],
    weight: Float[Tensor, " samples"],
    behind: Float[Tensor, " samples"],
    counts: Int[Tensor, " rays"],
) -> Float[Tensor, " samples"]:
    """Return the gradient with respect to the thickness.

    Args:
        grad: with respect to the weights.
        weight: what :func:`weights` gave.
        behind: what :func:`weights` gave.
        counts: number of segments of each ray.
    """
    found = torch.zeros_like(weight)
    if len(counts):
        with torch.cuda.device_of(weight):
            _gradient_kernel[(len(counts),)](
                grad.contiguous(),
                weight,
                behind,
                counts.cumsum(0) - counts,
                counts,
                found,
                CHUNK=_CHUNK,
                **_COMPILER_OPTIONS,
            )
    return found
