"""How coarsely a stage may be stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.inr.growth import GrowthStage
from finer_nerfstudio.streams.header import Precision
from finer_nerfstudio.streams.payload import pack_stage, parameters_of, unpack_stage_

_LARGEST_STEP = 64.0
_REFINEMENTS = 3


def coarsest(
    stages: Sequence[GrowthStage], decibels: Callable[[], float], *, allowed_loss: float = 0.1, float32: bool = True
) -> tuple[Precision, float]:
    """The precision and the step that take the fewest bytes and cost less than ``allowed_loss``.

    int8 is tried first, its step doubled as long as that is cheap enough, and then refined. Where even the finest
    step costs too much come float16 and bfloat16, and float32 if need be. Everything is left as it was.

    Args:
        stages: what one stage of a stream adds to each of its networks, trained.
        decibels: the quality with these as they are at that moment.
        allowed_loss: dB below the quality of unrounded parameters.
        float32: whether it may be chosen; else it is float16 that is taken where nothing is good enough.
    """
    tensors = [tensor for stage in stages for tensor, _ in parameters_of(stage)]
    original = [tensor.detach().clone() for tensor in tensors]
    best = decibels()

    def is_good(precision: Precision, step: float = 1.0) -> bool:
        try:
            unpack_stage_(stages, pack_stage(stages, precision, step), precision)
            return decibels() >= best - allowed_loss
        except InputError:
            return False
        finally:
            with torch.no_grad():
                for tensor, values in zip(tensors, original, strict=True):
                    tensor.copy_(values)

    if is_good("int8"):
        low, high = 1.0, 2.0
        while high <= _LARGEST_STEP and is_good("int8", high):
            low, high = high, 2.0 * high
        for _ in range(_REFINEMENTS):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if is_good("int8", middle) else (low, middle)
        return "int8", low
    for precision in ("float16", "bfloat16"):
        if is_good(precision):
            return precision, 1.0
    return ("float32" if float32 else "float16"), 1.0
