"""Chains of layers by PyTorch's matrix products and a kernel for the activations.

On processors they are computed block of rows by block of rows, so that what one layer gives is still in the cache when
the next one reads it, and gradients between layers never leave the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from finer_nerfstudio.inr.kernels.layers import Layer
from finer_nerfstudio.inr.kernels.plain import ElementwiseMap
from finer_nerfstudio.inr.kernels.rounding import Precision, Rounding, product


@runtime_checkable
class ActivationKernel(Protocol):
    """How activations are computed inside the chain: one of the modules next to this one."""

    def forward(self, x: Tensor, bias: Tensor, activation: ElementwiseMap, out: Tensor) -> None:
        """``out = activation(x + bias)``.

        Args:
            x: ``[rows, features]``, contiguous.
            bias: ``[features]``, contiguous.
            activation: what to compute.
            out: ``[rows, form.outputs_per_input * features]``, contiguous.
        """
        ...

    def backward(
        self, x: Tensor, bias: Tensor, grad: Tensor, activation: ElementwiseMap, value: Tensor, dx: Tensor, sums: Tensor
    ) -> None:
        """Value and derivative in one pass.

        Args:
            x: ``[rows, features]``, contiguous.
            bias: ``[features]``, contiguous.
            grad: gradient with respect to the result, ``[rows, form.outputs_per_input * features]``, contiguous.
            activation: what to compute.
            value: receives the activation of ``x + bias``; shaped like ``grad``.
            dx: receives the gradient with respect to ``x``; may be ``grad`` itself where shapes agree.
            sums: ``[torch.get_num_threads(), features]``; the sum of ``dx`` over the rows is added, spread over the
                rows of ``sums`` in any way.
        """
        ...


# Bytes of a block on each core, as many as a present core has at its second level, for a layer's pre-activations, its
# result and one gradient.
_CACHE_BYTES = 2 << 20


def _block_rows(rows: Tensor, layers: Sequence[Layer]) -> int:
    if rows.device.type != "cpu":
        return max(1, rows.shape[0])
    widest = max(layer.width() for layer in layers)
    return max(16, _CACHE_BYTES // (3 * rows.element_size() * widest)) * torch.get_num_threads()


@dataclass(frozen=True)
class BlockProgram:
    """A program for chains, see :class:`finer_nerfstudio.inr.kernels.layers.ChainProgram`.

    Attributes:
        kernel: computes the activations.
    """

    kernel: ActivationKernel

    def run(
        self,
        rows: Tensor,
        layers: Sequence[Layer],
        stored: Sequence[Tensor | None],
        rounding: Rounding,
    ) -> Tensor:
        block = _block_rows(rows, layers)
        scratch = _Scratch(rows)
        out = rows.new_empty(rows.shape[0], layers[-1].width())
        for start in range(0, rows.shape[0], block):
            chosen = slice(start, start + block)
            x = rows[chosen]
            for i, layer in enumerate(layers):
                y = out[chosen] if i == len(layers) - 1 else scratch.get(f"result {i % 2}", len(x), layer.width())
                if layer.activation is None:
                    product(x, layer.weight.t(), layer.rounding(rounding).forward, out=y).add_(layer.bias)
                else:
                    kept = stored[i]
                    pre = _pre_activation(x, layer, None if kept is None else kept[chosen], scratch, rounding)
                    self.kernel.forward(pre, layer.bias, layer.activation, y)
                x = y
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
        block = _block_rows(rows, layers)
        scratch = _Scratch(rows)
        pairs = zip(layers, want_weight_grads, strict=True)
        weight_grads = [torch.zeros_like(layer.weight) if wanted else None for layer, wanted in pairs]
        sums = [rows.new_zeros(torch.get_num_threads(), layer.weight.shape[0]) for layer in layers]
        x_grad = torch.empty_like(rows) if want_x_grad else None
        for start in range(0, rows.shape[0], block):
            chosen = slice(start, start + block)
            x = rows[chosen]
            # Downwards: the gradient of a layer's affine map waits for the result of the layer below, which is computed
            # anew together with that layer's derivative.
            above = grad[chosen].contiguous()
            for i in range(len(layers) - 1, -1, -1):
                layer = layers[i]
                is_top = i == len(layers) - 1
                if is_top:
                    result_grad = above
                else:
                    result_grad = scratch.get(f"gradient {i % 2}", len(x), layer.width())
                    product(above, layers[i + 1].weight, layers[i + 1].rounding(rounding).backward, out=result_grad)
                if layer.activation is None:
                    sums[i][0] += result_grad.sum(dim=0)
                    affine_grad = result_grad
                else:
                    value = scratch.get("result", len(x), layer.width())
                    # In place, unless the memory is the caller's or of another shape.
                    in_place = not is_top and layer.width() == layer.weight.shape[0]
                    affine_grad = result_grad if in_place else scratch.get("affine", len(x), layer.weight.shape[0])
                    pre = stored[i]
                    pre = pre[chosen] if pre is not None else _pre_activation(x, layer, None, scratch, rounding)
                    self.kernel.backward(pre, layer.bias, result_grad, layer.activation, value, affine_grad, sums[i])
                    if not is_top:
                        _add_product(above.t(), value, weight_grads[i + 1], layers[i + 1].rounding(rounding).backward)
                above = affine_grad
            precision = layers[0].rounding(rounding).backward
            _add_product(above.t(), x, weight_grads[0], precision)
            if x_grad is not None:
                product(above, layers[0].weight, precision, out=x_grad[chosen])
        bias_grads = [partial.sum(dim=0) for partial in sums]
        return x_grad, [tensor for pair in zip(weight_grads, bias_grads, strict=True) for tensor in pair]


def _pre_activation(x: Tensor, layer: Layer, kept: Tensor | None, scratch: _Scratch, rounding: Rounding) -> Tensor:
    """The affine map without its bias, in memory that is kept for the backward pass or else in scratch."""
    pre = scratch.get("pre-activation", len(x), layer.weight.shape[0]) if kept is None else kept
    return product(x, layer.weight.t(), layer.rounding(rounding).forward, out=pre)


def _add_product(a: Tensor, b: Tensor, out: Tensor | None, precision: Precision) -> None:
    """``out += a b``, unless nobody wants it."""
    if out is None:
        return
    if precision == "float32":
        out.addmm_(a, b)
    else:
        out.add_(product(a, b, precision))


class _Scratch:
    """Memory for one block at a time, set aside once and used for every block."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._memory: dict[str, Tensor] = {}

    def get(self, purpose: str, rows: int, width: int) -> Tensor:
        """``[rows, width]``, contiguous; what it held for the same purpose before is lost."""
        memory = self._memory.get(purpose)
        if memory is None or memory.numel() < rows * width:
            memory = self._memory[purpose] = self._like.new_empty(rows * width)
        return memory[: rows * width].view(rows, width)
