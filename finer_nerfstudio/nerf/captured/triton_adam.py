"""Adam's update and the moving average as one Triton kernel.

This module needs Triton: import it where a CUDA tensor has arrived, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from finer_nerfstudio.nerf.captured.adam import AdamRules

_BLOCK = 1024

# Fusing multiplications and additions was Triton's default once and will not be.
_COMPILER_OPTIONS = {"enable_fp_fusion": True}


@triton.jit
@no_type_check
def _adam_kernel(
    values_ptr,
    gradient_ptr,
    first_ptr,
    second_ptr,
    average_ptr,
    numbers_ptr,  # learning rate over the first correction, root of the second one, decay of the average
    count,
    beta_1,
    beta_2,
    eps,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = place < count
    rate = tl.load(numbers_ptr)
    correction = tl.load(numbers_ptr + 1)
    decay = tl.load(numbers_ptr + 2)
    gradient = tl.load(gradient_ptr + place, mask=known, other=0.0)
    first = tl.load(first_ptr + place, mask=known, other=0.0)
    second = tl.load(second_ptr + place, mask=known, other=0.0)
    value = tl.load(values_ptr + place, mask=known, other=0.0)
    average = tl.load(average_ptr + place, mask=known, other=0.0)
    first += (1.0 - beta_1) * (gradient - first)
    second = beta_2 * second + (1.0 - beta_2) * gradient * gradient
    value -= rate * first / (tl.sqrt(second) / correction + eps)
    average += (1.0 - decay) * (value - average)
    tl.store(first_ptr + place, first, mask=known)
    tl.store(second_ptr + place, second, mask=known)
    tl.store(values_ptr + place, value, mask=known)
    tl.store(average_ptr + place, average, mask=known)


def update(
    values: Tensor, gradient: Tensor, first: Tensor, second: Tensor, average: Tensor, numbers: Tensor, rules: AdamRules
) -> None:
    """Update flat float32 buffers ``[weights]`` in place; see :class:`finer_nerfstudio.nerf.captured.adam.FlatAdam`.

    Args:
        values: the weights.
        gradient: of the loss.
        first: first moments.
        second: second moments.
        average: moving average of the weights.
        numbers: ``[3]``: learning rate over the first moment's correction, root of the second's, decay of the average.
        rules: betas and eps.
    """
    with torch.cuda.device_of(values):
        _adam_kernel[(triton.cdiv(values.numel(), _BLOCK),)](
            values,
            gradient,
            first,
            second,
            average,
            numbers,
            values.numel(),
            *rules.betas,
            rules.eps,
            BLOCK=_BLOCK,
            **_COMPILER_OPTIONS,
        )
