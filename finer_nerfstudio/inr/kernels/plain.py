"""Activations by tensor functions: for every device and type, for activations of a user's own, and to check the others.

On processors they run over blocks that fit into the cache, because a chain of elementwise operations over a whole batch
would fetch every intermediate result from main memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from finer_nerfstudio.inr.kernels.form import KernelForm


@runtime_checkable
class ElementwiseMap(Protocol):
    """An activation as kernels see it."""

    def value(self, x: Tensor) -> Tensor: ...

    def vjp(self, x: Tensor, grad: Tensor) -> Tensor: ...

    def kernel_form(self) -> KernelForm | None: ...


# Elements per block: with a handful of float32 intermediates a block stays within 2-4 MB of second-level cache, and is
# still large enough that starting an operation costs little beside running it.
_BLOCK_ELEMENTS = 1 << 18


def forward(x: Tensor, bias: Tensor, activation: ElementwiseMap, out: Tensor) -> None:
    """As :meth:`finer_nerfstudio.inr.kernels.blocks.ActivationKernel.forward`."""
    out.copy_(blockwise(activation.value, x + bias))


def backward(
    x: Tensor, bias: Tensor, grad: Tensor, activation: ElementwiseMap, value: Tensor, dx: Tensor, sums: Tensor
) -> None:
    """As :meth:`finer_nerfstudio.inr.kernels.blocks.ActivationKernel.backward`."""
    biased = x + bias
    value.copy_(blockwise(activation.value, biased))
    dx.copy_(blockwise(activation.vjp, biased, grad))
    sums[0] += dx.sum(dim=0)


def in_float32(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function`` computed in float32 if ``tensors`` are of half precision, and given back in their type."""
    dtype = tensors[0].dtype
    if dtype in (torch.float16, torch.bfloat16):
        return function(*(tensor.float() for tensor in tensors)).to(dtype)
    return function(*tensors)


def blockwise(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function`` of tensors ``[*batch, features]``, computed in blocks of rows on a processor."""
    first = tensors[0]
    if first.device.type != "cpu" or first.dim() < 2 or first.numel() <= 2 * _BLOCK_ELEMENTS:
        return in_float32(function, *tensors)
    rows = [tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors]
    block = max(1, _BLOCK_ELEMENTS // first.shape[-1])
    out: Tensor | None = None
    for start in range(0, rows[0].shape[0], block):
        part = in_float32(function, *(tensor[start : start + block] for tensor in rows))
        if out is None:
            out = part.new_empty(rows[0].shape[0], part.shape[-1])
        out[start : start + block] = part
    assert out is not None
    return out.reshape(*first.shape[:-1], out.shape[-1])
