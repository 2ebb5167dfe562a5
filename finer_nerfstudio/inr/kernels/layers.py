"""A chain of affine maps and activations as one operation for autograd.

For the backward pass only pre-activations are stored, one tensor per hidden layer; activations and derivatives are
computed anew from them in one pass. How that is done is up to a program: ``compiled.py`` on processors,
``triton_program.py`` on GPUs, and ``blocks.py`` elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from finer_nerfstudio.inr.kernels.memory import empty_rows
from finer_nerfstudio.inr.kernels.plain import ElementwiseMap
from finer_nerfstudio.inr.kernels.rounding import EXACT, Rounding


@dataclass(frozen=True)
class Layer:
    """``x -> activation(x W^T + b)``.

    Attributes:
        weight: ``[n_out, n_in]``.
        bias: ``[n_out]``.
        activation: None for the affine map alone, as the last layer of a network is.
        full_precision: whether the layer's matrix products are as precise as the weights whatever others round to.
        full_precision_forward: the same of the forward pass alone.
        complex_valued: whether the weight stands for a complex matrix P + jQ, as [[P, -Q], [Q, P]]. Three real products
            then do for four, and the gradient with respect to the weight is right in sum for P and for Q alone.
    """

    weight: Tensor
    bias: Tensor
    activation: ElementwiseMap | None
    full_precision: bool = False
    full_precision_forward: bool = False
    complex_valued: bool = False

    def rounding(self, chosen: Rounding) -> Rounding:
        """Return how operands of this layer's products are rounded, given what was chosen for the chain."""
        if self.full_precision:
            return EXACT
        return Rounding(backward=chosen.backward) if self.full_precision_forward else chosen

    def width(self) -> int:
        """Features that the layer gives."""
        form = None if self.activation is None else self.activation.kernel_form()
        return self.weight.shape[0] * (1 if form is None else form.outputs_per_input)


@runtime_checkable
class ChainProgram(Protocol):
    """How a chain is computed."""

    def run(
        self,
        rows: Tensor,
        layers: Sequence[Layer],
        stored: Sequence[Tensor | None],
        rounding: Rounding,
    ) -> Tensor:
        """Return the output of the last layer.

        Args:
            rows: input ``[rows, n_in]``.
            layers: the chain; all but the last have an activation.
            stored: for every layer memory ``[rows, n_out]`` to leave its affine map without bias in, or None.
            rounding: of the operands of matrix products.
        """
        ...

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
        """Gradients with respect to the rows, and to weight and bias of every layer by turns.

        Args:
            rows: input of :meth:`run`.
            grad: gradient with respect to its result.
            layers: the chain.
            stored: what :meth:`run` left behind.
            rounding: as for :meth:`run`.
            want_x_grad: whether anybody wants the gradient with respect to ``rows``.
            want_weight_grads: whether anybody wants that of a layer's weight.
        """
        ...


# From so few inputs a layer's pre-activations are computed anew in the backward pass rather than stored.
_FEW_INPUTS = 16


def plain_chain(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """The chain by PyTorch's own operations, which autograd can differentiate any number of times."""
    for layer in layers:
        x = F.linear(x, layer.weight, layer.bias)
        if layer.activation is not None:
            x = layer.activation.value(x)
    return x


def fused_chain(x: Tensor, layers: Sequence[Layer], program: ChainProgram, rounding: Rounding = EXACT) -> Tensor:
    """The chain as one operation.

    Args:
        x: ``[*batch, n_in]``, of the layers' type.
        layers: at least one.
        program: computes it.
        rounding: of the operands of matrix products, in either direction.
    """
    # Autograd has to see every tensor as an argument of its own.
    shells = tuple(replace(layer, weight=_NOTHING, bias=_NOTHING) for layer in layers)
    parameters = [tensor for layer in layers for tensor in (layer.weight, layer.bias.contiguous())]
    if not torch.is_grad_enabled():
        # What a function is told of needed gradients knows nothing of torch.no_grad(): pre-activations would be kept.
        x, *parameters = (tensor.detach() for tensor in (x, *parameters))
    return _Chain.apply(x, shells, program, rounding, *parameters)  # pyright: ignore[reportReturnType]


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, shells: tuple[Layer, ...], program: ChainProgram, rounding: Rounding, *parameters: Tensor
    ) -> Tensor:
        layers = _filled(shells, parameters)
        rows = x.reshape(-1, x.shape[-1])
        needed = any(ctx.needs_input_grad)
        stored = _storage(rows, layers) if needed else [None] * len(layers)
        ctx.shells, ctx.program, ctx.rounding = shells, program, rounding
        with torch.autocast(x.device.type, enabled=False):
            out = program.run(rows, layers, stored, rounding)
        ctx.kept = [tensor is not None for tensor in stored]
        ctx.save_for_backward(x, *parameters, *(tensor for tensor in stored if tensor is not None))
        return out.reshape(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *saved = ctx.saved_tensors
        parameters = saved[: 2 * len(ctx.shells)]
        layers = _filled(ctx.shells, parameters)
        if torch.is_grad_enabled():
            # Somebody asked for a second derivative: leave a graph of plain operations behind.
            needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[4:]]
            wanted = [tensor for tensor, needed in zip([x, *parameters], needs, strict=True) if needed]
            found = iter(torch.autograd.grad(plain_chain(x, layers), wanted, grad, create_graph=True))
            x_grad, *parameter_grads = [next(found) if needed else None for needed in needs]
            return x_grad, None, None, None, *parameter_grads
        pre_activations = iter(saved[2 * len(layers) :])
        stored = [next(pre_activations) if kept else None for kept in ctx.kept]
        rows, grad_rows = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        # Where the backward pass is called under autocast, its sums are float32 all the same.
        with torch.autocast(x.device.type, enabled=False):
            x_grad, parameter_grads = ctx.program.run_backward(
                rows, grad_rows, layers, stored, ctx.rounding, ctx.needs_input_grad[0], ctx.needs_input_grad[4::2]
            )
        return None if x_grad is None else x_grad.reshape(x.shape), None, None, None, *parameter_grads


_NOTHING = torch.empty(0)


def _filled(shells: Sequence[Layer], parameters: Sequence[Tensor]) -> list[Layer]:
    pairs = zip(shells, parameters[::2], parameters[1::2], strict=True)
    return [replace(shell, weight=weight, bias=bias) for shell, weight, bias in pairs]


def _storage(rows: Tensor, layers: Sequence[Layer]) -> list[Tensor | None]:
    """Memory for pre-activations, None where they are not kept.

    Those of layers of one size, one after the other, are neighbours: a kernel may take them as one tensor.
    """
    stored: list[Tensor | None] = [None] * len(layers)
    few = layers[0].weight.shape[1] <= _FEW_INPUTS
    kept = [i for i, layer in enumerate(layers) if layer.activation is not None and not (i == 0 and few)]
    for width, group in itertools.groupby(kept, key=lambda i: layers[i].weight.shape[0]):
        indices = list(group)
        for i, memory in zip(indices, empty_rows(rows, len(indices), len(rows), width), strict=True):
            stored[i] = memory
    return stored
