"""Chains of layers on GPUs: which Triton kernels compute them, and whether they may.

``activations`` runs bias and activation as one kernel each way between PyTorch's matrix products; ``networks`` runs
whole networks as one kernel each way where they are small enough. Compilers and GPUs are many, so before the first use
for a kind of activation the kernels are checked against tensor functions on the GPU at hand; where they fail to compile
or to agree, everything runs by tensor functions, and a warning says so once.

This module needs Triton: import it where a CUDA tensor has arrived, not before.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from finer_nerfstudio.inr.kernels import plain, triton_activation, triton_network
from finer_nerfstudio.inr.kernels.blocks import ActivationKernel, BlockProgram
from finer_nerfstudio.inr.kernels.form import KernelForm
from finer_nerfstudio.inr.kernels.layers import ChainProgram, Layer
from finer_nerfstudio.inr.kernels.plain import ElementwiseMap
from finer_nerfstudio.inr.kernels.rounding import (
    Precision,
    Rounding,
    product,
    pytorch_rounds_to_tf32,
    read_rounding,
)

# What fits of all methods allow, see docs/speed.md.
DEFAULT_PRECISION = "float32"
# Relative to the largest number of a result; phases of the check are below ten.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class TritonActivations:
    """Activations by :mod:`triton_activation`, see :class:`finer_nerfstudio.inr.kernels.blocks.ActivationKernel`."""

    def forward(self, x: Tensor, bias: Tensor, activation: ElementwiseMap, out: Tensor) -> None:
        triton_activation.launch(x, bias, None, out, None, _form(activation))

    def backward(
        self, x: Tensor, bias: Tensor, grad: Tensor, activation: ElementwiseMap, value: Tensor, dx: Tensor, sums: Tensor
    ) -> None:
        triton_activation.launch(x, bias, grad, value, dx, _form(activation))
        sums[0] += dx.sum(dim=0)


@dataclass(frozen=True)
class TritonLayers:
    """PyTorch's matrix products, and activations by :mod:`triton_activation` between them.

    A GPU takes all rows at once, and is waited for less the fewer operations it is told to do: gradients are written
    where they belong, and nothing is set to zero first. See
    :class:`finer_nerfstudio.inr.kernels.layers.ChainProgram`.
    """

    def run(self, rows: Tensor, layers: Sequence[Layer], stored: Sequence[Tensor | None], rounding: Rounding) -> Tensor:
        x = rows
        for layer, kept in zip(layers, stored, strict=True):
            precision = layer.rounding(rounding).forward
            if layer.activation is None:
                x = product(x, layer.weight.t(), precision) + layer.bias
                continue
            pre = product(x, layer.weight.t(), precision, out=kept)
            x = rows.new_empty(len(rows), layer.width())
            triton_activation.launch(pre, layer.bias, None, x, None, _form(layer.activation))
        return x

    def run_backward(
        self,
        rows: Tensor,
        grad: Tensor,
        layers: Sequence[Layer],
        stored: Sequence[Tensor | None],
        rounding: Rounding,
        want_x_grad: bool,
        want_weight_grads: Sequence[bool],
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        weight_grads: list[Tensor | None] = [None] * len(layers)
        bias_grads: list[Tensor | None] = [None] * len(layers)
        above = affine_grad = grad.contiguous()
        for i in range(len(layers) - 1, -1, -1):
            layer = layers[i]
            if layer.activation is not None:
                pre = stored[i]
                if pre is None:  # of the first layer, which reads the rows
                    pre = product(rows, layer.weight.t(), layer.rounding(rounding).forward)
                value, through = rows.new_empty(len(rows), layer.width()), torch.empty_like(pre)
                triton_activation.launch(pre, layer.bias, above, value, through, _form(layer.activation))
                if i + 1 < len(layers) and want_weight_grads[i + 1]:
                    weight_grads[i + 1] = product(affine_grad.t(), value, layers[i + 1].rounding(rounding).backward)
                above = through
            affine_grad = above
            bias_grads[i] = affine_grad.sum(dim=0)
            if i > 0 or want_x_grad:
                above = product(affine_grad, layer.weight, layer.rounding(rounding).backward)
        if want_weight_grads[0]:
            weight_grads[0] = product(affine_grad.t(), rows, layers[0].rounding(rounding).backward)
        pairs = zip(weight_grads, bias_grads, strict=True)
        return above if want_x_grad else None, [tensor for pair in pairs for tensor in pair]


@dataclass(frozen=True)
class TritonNetworks:
    """Whole networks by :mod:`triton_network`, see :class:`finer_nerfstudio.inr.kernels.layers.ChainProgram`.

    Of small networks the backward pass starts from the input, and uses nothing that was stored.
    """

    def run(self, rows: Tensor, layers: Sequence[Layer], stored: Sequence[Tensor | None], rounding: Rounding) -> Tensor:
        weights, biases, forms = _parts(layers)
        precision = _network_precision(rounding.forward) or "tf32"
        kept = [memory for memory in stored[1:-1] if memory is not None]
        if not kept or triton_network.recomputes(_widths(layers)):
            return triton_network.forward(rows, weights, biases, forms, precision=precision)
        together = _neighbours(kept)
        block = torch.stack(kept) if together is None else together
        out = triton_network.forward(rows, weights, biases, forms, precision=precision, stored=block)
        if together is None:
            for memory, made in zip(kept, block, strict=True):
                memory.copy_(made)
        return out

    def run_backward(
        self,
        rows: Tensor,
        grad: Tensor,
        layers: Sequence[Layer],
        stored: Sequence[Tensor | None],
        rounding: Rounding,
        want_x_grad: bool,
        want_weight_grads: Sequence[bool],
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        weights, biases, forms = _parts(layers)
        forward = _network_precision(rounding.forward) or "tf32"
        backward = _network_precision(rounding.backward) or "tf32"
        if triton_network.recomputes(_widths(layers)):
            x_grad, weight_grads, bias_grads = triton_network.backward(
                rows, weights, biases, forms, grad, want_input_grad=want_x_grad, rounding=Rounding(forward, backward)
            )
        else:
            kept = [memory for memory in stored[1:-1] if memory is not None]
            block = _neighbours(kept) if kept else rows.new_empty(0, len(rows), _widths(layers)[0])
            block = torch.stack(kept) if block is None else block
            x_grad, weight_grads, bias_grads = triton_network.backward_stored(
                rows, weights, biases, forms, grad, block, want_input_grad=want_x_grad, precision=backward
            )
        pairs = zip(weight_grads, bias_grads, strict=True)
        return x_grad, [tensor for pair in pairs for tensor in pair]


def default_rounding() -> Rounding:
    """Return how operands of matrix products are rounded on a GPU where neither autocast nor a caller says it.

    FINER_GPU_PRECISION in the environment chooses: one of float32, tf32, bfloat16 and float16, or two of them for the
    forward and the backward pass. Unless given, it is the fastest with which fits of all methods end as in float32.

    Raises:
        ValueError: for anything else.
    """
    try:
        return read_rounding(os.environ.get("FINER_GPU_PRECISION", DEFAULT_PRECISION))
    except ValueError as error:
        raise ValueError(f"FINER_GPU_PRECISION: {error}") from None


def program_for(x: Tensor, layers: Sequence[Layer], rounding: Rounding) -> ChainProgram:
    """The program for a chain on a GPU.

    FINER_GPU_KERNELS in the environment chooses: ``activations`` unless given, ``networks`` to have small networks as
    one kernel in each direction where operands are rounded, or ``plain``.
    """
    forms = [layer.activation.kernel_form() for layer in layers if layer.activation is not None]
    wanted = os.environ.get("FINER_GPU_KERNELS", "activations")
    if x.dtype != torch.float32 or wanted == "plain" or not all(_checked(form, x.device) for form in forms):
        return BlockProgram(plain)
    if wanted == "networks" and _is_small(layers) and _is_rounded(rounding):
        return TritonNetworks()
    return TritonLayers()


def kernel_for(x: Tensor, activation: ElementwiseMap) -> ActivationKernel:
    """The kernel for an activation by itself on a GPU."""
    usable = x.dtype == torch.float32 and _checked(activation.kernel_form(), x.device)
    return TritonActivations() if usable and os.environ.get("FINER_GPU_KERNELS") != "plain" else plain


def _checked(form: KernelForm | None, device: torch.device) -> bool:
    # Scales change nothing of what is compiled.
    return form is not None and _agrees(replace(form, omega=2.0, s=1.0, omega_f=3.0 if form.omega_f else 0.0), device)


@functools.cache
def _agrees(form: KernelForm, device: torch.device) -> bool:
    """Whether the activation's kernels give what tensor functions give, on this very device."""
    from finer_nerfstudio.inr.activations import activation_of_form

    activation = activation_of_form(form)
    generator = torch.Generator().manual_seed(0)
    x, bias = torch.randn(33, 70, generator=generator).to(device), torch.randn(70, generator=generator).to(device)
    grad = torch.randn(33, 70 * form.outputs_per_input, generator=generator).to(device)
    results = []
    try:
        for kernel in (TritonActivations(), plain):
            out, value = torch.empty_like(grad), torch.empty_like(grad)
            dx, sums = torch.empty_like(x), x.new_zeros(torch.get_num_threads(), 70)
            kernel.forward(x, bias, activation, out)
            kernel.backward(x, bias, grad, activation, value, dx, sums)
            results.append((out, value, dx, sums.sum(dim=0)))
        pairs = list(zip(*results, strict=True))
        agree = all(float((a - b).abs().max()) <= _TOLERANCE * float(b.abs().max()) for a, b in pairs)
        reason = "results differ from those of tensor functions"
    except Exception as error:  # whatever a compiler or a driver comes up with
        agree, reason = False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    if not agree:
        warnings.warn(f"The fused {form.family} kernels are not used on {device}: {reason}.", stacklevel=2)
    return agree


def _is_small(layers: Sequence[Layer]) -> bool:
    """Whether the chain is a network that one kernel takes, and another one back if it is to be trained."""
    *hidden, last = layers
    if last.activation is not None or any(layer.activation is None for layer in hidden):
        return False
    if any(layer.full_precision for layer in layers[1:]):
        return False
    widths = _widths(layers)
    forms = [_form(cast(ElementwiseMap, layer.activation)) for layer in hidden]
    if not triton_network.supports(layers[0].weight.shape[1], widths, last.weight.shape[0], forms):
        return False
    return not torch.is_grad_enabled() or triton_network.recomputes(widths) or len(set(widths)) == 1


def _is_rounded(rounding: Rounding) -> bool:
    """Whether tensor cores compute the products, without which the network kernel does not pay."""
    precisions = (rounding.forward, rounding.backward) if torch.is_grad_enabled() else (rounding.forward,)
    return all(_network_precision(precision) is not None for precision in precisions)


def _network_precision(precision: Precision) -> Precision | None:
    """Return what the network kernel rounds to, None where PyTorch would not round at all."""
    if precision == "float32":
        return "tf32" if pytorch_rounds_to_tf32() else None
    return precision


def _widths(layers: Sequence[Layer]) -> list[int]:
    """Features after each activation of a network."""
    return [layer.width() for layer in layers[:-1]]


def _neighbours(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return contiguous tensors of one shape as one, if they lie one after the other in memory."""
    first = tensors[0]
    size = first.numel() * first.element_size()
    if any(
        tensor.shape != first.shape or not tensor.is_contiguous() or tensor.data_ptr() != first.data_ptr() + i * size
        for i, tensor in enumerate(tensors)
    ):
        return None
    if first.untyped_storage().data_ptr() != tensors[-1].untyped_storage().data_ptr():
        return None
    return first.as_strided((len(tensors), *first.shape), (first.numel(), *first.stride()))


def _form(activation: ElementwiseMap) -> KernelForm:
    form = activation.kernel_form()
    assert form is not None
    return form


def _parts(layers: Sequence[Layer]) -> tuple[list[Tensor], list[Tensor], list[KernelForm]]:
    forms = [_form(layer.activation) for layer in layers if layer.activation is not None]
    return [layer.weight for layer in layers], [layer.bias for layer in layers], forms
