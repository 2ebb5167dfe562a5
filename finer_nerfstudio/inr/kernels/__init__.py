"""The one place that decides how an activation is computed.

Today there is one way: plain tensor functions inside an autograd function that stores the pre-activation alone and
recomputes everything else. On a CPU they run over blocks that fit into the cache, because a chain of elementwise
operations over a whole batch would fetch every intermediate result from main memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class ElementwiseMap(Protocol):
    """What a kernel needs of an activation."""

    def value(self, x: Tensor) -> Tensor: ...

    def vjp(self, x: Tensor, grad: Tensor) -> Tensor: ...


# Elements per block: with a handful of float32 intermediates a block stays within 2-4 MB of second-level cache, and is
# still large enough that starting an operation costs little beside running it.
_BLOCK_ELEMENTS = 1 << 18


def activate(x: Tensor, activation: ElementwiseMap) -> Tensor:
    """``activation.value(x)``, differentiable any number of times, storing only ``x``.

    Args:
        x: pre-activations ``[*batch, features]``, any real range. Half-precision values are computed in float32,
            because phases grow beyond what half precision resolves, and given back in their own type.
    """
    return _Activate.apply(x, activation)  # pyright: ignore[reportReturnType]


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, activation: ElementwiseMap) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x)
        ctx.activation = activation
        return _blockwise(activation.value, x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            # Somebody asked for a second derivative: leave a graph of plain operations behind.
            value = _in_float32(ctx.activation.value, x)
            return torch.autograd.grad(value, x, grad, create_graph=True)[0], None
        return _blockwise(ctx.activation.vjp, x, grad), None


def _in_float32(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    dtype = tensors[0].dtype
    if dtype in (torch.float16, torch.bfloat16):
        return function(*(tensor.float() for tensor in tensors)).to(dtype)
    return function(*tensors)


def _blockwise(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    first = tensors[0]
    if first.device.type != "cpu" or first.dim() < 2 or first.numel() <= 2 * _BLOCK_ELEMENTS:
        return _in_float32(function, *tensors)
    rows = [tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors]
    block = max(1, _BLOCK_ELEMENTS // first.shape[-1])
    out: Tensor | None = None
    for start in range(0, rows[0].shape[0], block):
        part = _in_float32(function, *(tensor[start : start + block] for tensor in rows))
        if out is None:
            out = part.new_empty(rows[0].shape[0], part.shape[-1])
        out[start : start + block] = part
    assert out is not None
    return out.reshape(*first.shape[:-1], out.shape[-1])
