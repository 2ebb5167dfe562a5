"""The one place that decides how activations and the layers around them are computed.

Three ways give the same numbers up to rounding: compiled kernels on processors (``compiled.py``), Triton kernels on
GPUs (``triton_program.py``), and tensor functions everywhere else (``plain.py``).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from finer_nerfstudio.inr.kernels import compiled, plain
from finer_nerfstudio.inr.kernels.blocks import ActivationKernel, BlockProgram
from finer_nerfstudio.inr.kernels.layers import ChainProgram, Layer, fused_chain, plain_chain
from finer_nerfstudio.inr.kernels.plain import ElementwiseMap, in_float32
from finer_nerfstudio.inr.kernels.rounding import EXACT, Rounding, requested_rounding, rounded, rounded_backward

__all__ = ["ElementwiseMap", "Layer", "Rounding", "activate", "evaluate_layers", "rounded", "rounded_backward"]


def evaluate_layers(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """``x`` through affine maps and activations, one after the other.

    Under autocast, operands of matrix products are rounded to its type in both directions, and under :func:`rounded` to
    what it says for each, unless a layer asks for full precision. Products are summed up in float32, and activations
    get their phases in float32.

    Args:
        x: ``[*batch, n_in]``, of the weights' type.
        layers: at least one; all but the last have an activation.

    Returns:
        ``[*batch, n_out]``, differentiable any number of times, and under the transforms of ``torch.func``.

    Raises:
        ValueError: where a layer reads another number of features than there are. Kernels would read beyond them.
    """
    features = x.shape[-1] if x.dim() else 0
    for layer in layers:
        if layer.weight.shape[1] != features:
            raise ValueError(f"the layer reads {layer.weight.shape[1]} features, and its input has {features}")
        features = layer.width()
    if _is_transformed():
        return plain_chain(x, layers)
    rounding = _rounding_for(x)
    return fused_chain(x, layers, _program_for(x, layers, rounding), rounding)


def activate(x: Tensor, activation: ElementwiseMap) -> Tensor:
    """``activation.value(x)``, differentiable any number of times, storing only ``x``.

    Args:
        x: pre-activations ``[*batch, features]``, any real range. Half-precision values are computed in float32,
            because phases grow beyond what half precision resolves, and given back in their own type.
    """
    if _is_transformed():
        return in_float32(activation.value, x)
    return _Activate.apply(x, activation, _kernel_for(x, activation))  # pyright: ignore[reportReturnType]


def _rounding_for(x: Tensor) -> Rounding:
    requested = requested_rounding(x)
    if requested is None and x.device.type == "cuda" and _has_triton():
        from finer_nerfstudio.inr.kernels import triton_program

        return triton_program.default_rounding()
    return requested or EXACT


def _program_for(x: Tensor, layers: Sequence[Layer], rounding: Rounding) -> ChainProgram:
    if x.device.type == "cuda" and _has_triton():
        from finer_nerfstudio.inr.kernels import triton_program

        return triton_program.program_for(x, layers, rounding)
    activations = [layer.activation for layer in layers]
    if not compiled.supports(x, activations):
        return BlockProgram(plain)
    return compiled if compiled.computes(rounding, activations) else BlockProgram(compiled)


def _kernel_for(x: Tensor, activation: ElementwiseMap) -> ActivationKernel:
    if x.device.type == "cuda" and _has_triton():
        from finer_nerfstudio.inr.kernels import triton_program

        return triton_program.kernel_for(x, activation)
    return compiled if compiled.supports(x, [activation]) else plain


def _is_transformed() -> bool:
    """Whether a transform of ``torch.func`` is at work, which needs operations that it can look into."""
    return torch._C._are_functorch_transforms_active()


@functools.cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, activation: ElementwiseMap, kernel: ActivationKernel
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.activation, ctx.kernel = activation, kernel
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        form = activation.kernel_form()
        out = rows.new_empty(len(rows), rows.shape[1] * (1 if form is None else form.outputs_per_input))
        kernel.forward(rows, rows.new_zeros(rows.shape[1]), activation, out)
        return out.reshape(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            # Somebody asked for a second derivative: leave a graph of plain operations behind.
            value = in_float32(ctx.activation.value, x)
            return torch.autograd.grad(value, x, grad, create_graph=True)[0], None, None
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        grad_rows = grad.reshape(-1, grad.shape[-1]).contiguous()
        features = rows.shape[1]
        dx, sums = torch.empty_like(rows), rows.new_zeros(torch.get_num_threads(), features)
        value = torch.empty_like(grad_rows)
        ctx.kernel.backward(rows, rows.new_zeros(features), grad_rows, ctx.activation, value, dx, sums)
        return dx.reshape(x.shape), None, None
