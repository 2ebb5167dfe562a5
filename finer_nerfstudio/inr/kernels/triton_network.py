"""A whole coordinate network as one Triton kernel, and its backward pass as another.

A small network spends its time on memory traffic: every layer of a batch is written and read several times. Here one
program takes a tile of rows through all layers, and of the batch only coordinates are read and outputs written. Tiles
are split along the features into chunks of at most 64, as many as it takes. There are two sorts of networks, told
apart by :func:`recomputes`.

*Small ones*, up to 64 features, keep their activations in registers, and weights come from the caches. The backward
pass, :func:`backward`, starts from the coordinates. It needs every layer's pre-activations in reverse order, so each
program spills them to a scratch of its own, which its next tile overwrites: ``depth * tile_rows * width`` numbers a
program, at most 16 KB a layer, that stay in the second-level cache and cost memory nothing. Programs are as many as
multiprocessors can hold, take tiles by turns, and add to weight gradients of their own, which are summed at the end:
no atomic operations, so that equal inputs give equal gradients, bit for bit.

*Wide ones* pass activations from layer to layer in a scratch that stays in the caches, as what the next product takes,
two bytes each in half precision. In registers they do not fit: of a wavelet network of 362 packed features, 32 rows at
a time, a thread spilled 424 bytes forward and 1,736 backward, and the assembler took minutes; from the scratch it
spills none. For training, the forward pass leaves pre-activations in memory, in float32 as phases need, and
:func:`backward_stored` takes gradients through all layers. It leaves activations and gradients as operands, from which
PyTorch's products make the weight gradients. The reason is arithmetic. A tile of 32 rows that adds ``width^2`` sums to
memory moves ``8 * width^2 / 32`` bytes a row and layer: 1 KB for 64 features, 4 KB for 128 and 16 KB for 256, whose
sums on 132 multiprocessors, 35 MB a layer, outgrow a cache of 50 MB with the second layer. Storing moves ``8 * width``
bytes of pre-activations and ``8 * width`` (half precision) or ``16 * width`` (float32) of operands: 4 to 6 KB for 256
features, and layers one by one about 13 KB. At 3.3 TB/s a step of three layers of 256 on 65,536 rows should move 0.8 to
1.2 GB in 0.24 to 0.36 ms, and by partial sums 3.2 GB in 1 ms. None of this has been timed.

Wavelets: a packed row keeps all real parts before all imaginary ones. Here the two parts of a number are neighbours,
which is how a register tile can be split into them; weights are reordered on the way in, gradients on the way out.

This module needs Triton: import it where a CUDA tensor has arrived, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.inr.kernels.form import KernelForm
from finer_nerfstudio.inr.kernels.rounding import Precision, Rounding, product
from finer_nerfstudio.inr.kernels.triton_activation import numbers_and_switches
from finer_nerfstudio.inr.kernels.triton_tiles import (
    Tiling,
    forward_kernel,
    recomputing_kernel,
    wide_backward_kernel,
    wide_forward_kernel,
)

# Features after an activation of real numbers and of complex ones, both parts counted.
_LARGEST_WIDTH = 256
_LARGEST_PACKED_WIDTH = 512
_LARGEST_INPUT = 128
# Wider networks add more partial sums to memory than their operands are.
_LARGEST_SMALL_WIDTH = 64
# What a product needs of each of its sides.
_SMALLEST_SIDE = 16
# Features of a register tile.
_LARGEST_CHUNK = 64
_THREAD_REGISTERS = 255
# Warps that share a multiprocessor when each thread has all the registers it may have.
_WARPS_AT_ONCE = 8

_Kind = Literal["small", "recomputing", "wide"]
_DEFAULT = Rounding("tf32", "tf32")
_HALVES: dict[Precision, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def supports(in_features: int, widths: Sequence[int], out_features: int, forms: Sequence[KernelForm | None]) -> bool:
    """Whether :func:`forward` can compute a network.

    Args:
        in_features: coordinates, at most 128.
        widths: features after each activation, at most 256, or for a wavelet 512 packed ones.
        out_features: signal values, at most 256.
        forms: the activation after each layer but the last: all the same, except that the first one's input may be
            real.
    """
    if not forms or len(widths) != len(forms) or any(form is None for form in forms):
        return False
    first, *others = (form for form in forms if form is not None)
    if any(form != replace(first, real_input=False) for form in others):
        return False
    largest = _LARGEST_WIDTH
    if first.family == "wavelet":
        largest = _LARGEST_PACKED_WIDTH
        if any(width % 2 for width in widths):
            return False
    sizes_fit = 1 <= in_features <= _LARGEST_INPUT and 1 <= out_features <= _LARGEST_WIDTH
    return sizes_fit and all(1 <= width <= largest for width in widths)


def recomputes(widths: Sequence[int]) -> bool:
    """Whether a network that :func:`supports` takes has the kernels for small ones, and :func:`backward`.

    Wider ones are for :func:`backward_stored`, which wants layers of one width; see the top of this file.
    """
    return max(widths) <= _LARGEST_SMALL_WIDTH


def forward(
    coords: Float[Tensor, "*batch n_in"],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    forms: Sequence[KernelForm],
    *,
    precision: Precision = "tf32",
    stored: Float[Tensor, "hidden rows features"] | None = None,
) -> Float[Tensor, "*batch n_out"]:
    """``W_L act_L( ... act_1(W_0 coords + b_0) ... ) + b_L``, of which nothing in between reaches memory.

    Args:
        coords: coordinates, used in float32.
        weights: real matrices ``[outputs, inputs]``; packed block matrices for a wavelet.
        biases: ``[outputs]`` each.
        forms: the activation after each layer but the last; see :func:`supports`.
        precision: of the operands of products. Sums, pre-activations, phases and the whole first layer are float32 in
            any case.
        stored: receives ``W_i z`` of every layer but the first and the last, for :func:`backward_stored`.

    Returns:
        float32 values.

    Raises:
        ValueError: for a network that :func:`supports` refuses, and for layers of several widths that are to be stored.
    """
    small = stored is None and recomputes([weight.shape[1] for weight in weights[1:]])
    network = _Network(weights, biases, forms, Rounding(precision, precision), kind="small" if small else "wide")
    if stored is not None:
        network.require_one_width()
    tiling = network.tiling
    x = coords.reshape(-1, coords.shape[-1]).float().contiguous()
    y = x.new_empty(x.shape[0], network.n_out)
    tiles = triton.cdiv(len(x), tiling.rows)
    if tiles and small:
        arguments: tuple = (x, *network.packed, y, *x.shape, network.n_out, *network.numbers)
        with torch.cuda.device_of(x):
            forward_kernel[(tiles,)](*arguments, **network.switches)
    elif tiles:
        programs = min(tiles, network.programs)
        scratch = x.new_empty(programs, 2, tiling.rows, tiling.width, dtype=network.operands)
        arrays = (x, *network.packed, y, stored, scratch)
        arguments = (*arrays, *x.shape, network.n_out, network.features, *network.numbers)
        with torch.cuda.device_of(x):
            wide_forward_kernel[(programs,)](*arguments, **network.switches)
    return y.reshape(*coords.shape[:-1], network.n_out)


def backward(
    coords: Float[Tensor, "*batch n_in"],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    forms: Sequence[KernelForm],
    grad_y: Float[Tensor, "*batch n_out"],
    *,
    want_input_grad: bool,
    rounding: Rounding = _DEFAULT,
) -> tuple[Float[Tensor, "*batch n_in"] | None, list[Tensor], list[Tensor]]:
    """The gradients of :func:`forward`, from its inputs and the gradient of its result.

    Args:
        coords: what :func:`forward` was given, as are the next three.
        weights: see there.
        biases: see there.
        forms: see there.
        grad_y: gradient with respect to the result.
        want_input_grad: whether the gradient with respect to ``coords`` is wanted.
        rounding: of the products that are computed anew, as in :func:`forward`, and of those of gradients.

    Returns:
        Gradients with respect to ``coords`` (or None), to each weight, and to each bias; float32.

    Raises:
        ValueError: for a network that is not small, see :func:`recomputes`.
    """
    network = _Network(weights, biases, forms, rounding, kind="recomputing")
    if not recomputes(network.widths):
        raise ValueError(f"a network of {max(network.widths)} features is too wide to be computed anew")
    tiling = network.tiling
    x = coords.reshape(-1, coords.shape[-1]).float().contiguous()
    y_grad = grad_y.reshape(-1, network.n_out).float().contiguous()
    x_grad = torch.empty_like(x) if want_input_grad else None
    tiles = triton.cdiv(x.shape[0], tiling.rows)
    if tiles:
        programs = min(tiles, network.programs)
        sums = [torch.empty(programs, *t.shape, dtype=torch.float32, device=x.device) for t in network.packed]
        scratch = x.new_empty(programs, tiling.hidden + 1, tiling.rows, tiling.width)
        arrays = (x, *network.packed, y_grad, x_grad, *sums, scratch)
        arguments: tuple = (*arrays, *x.shape, network.n_out, *network.numbers)
        with torch.cuda.device_of(x):
            recomputing_kernel[(programs,)](*arguments, FORWARD=rounding.forward, **network.switches)
        grads = [partial.sum(0) for partial in sums]
    else:
        grads = [torch.zeros_like(t, dtype=torch.float32) for t in network.packed]
    return None if x_grad is None else x_grad.reshape(coords.shape), *network.unpacked(*grads)


def backward_stored(
    coords: Float[Tensor, "*batch n_in"],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    forms: Sequence[KernelForm],
    grad_y: Float[Tensor, "*batch n_out"],
    stored: Float[Tensor, "hidden rows features"],
    *,
    want_input_grad: bool,
    precision: Precision = "tf32",
) -> tuple[Float[Tensor, "*batch n_in"] | None, list[Tensor], list[Tensor]]:
    """The gradients of :func:`forward`, from what it stored: one kernel, and a product for each weight.

    Args:
        coords: what :func:`forward` was given, as are the next three.
        weights: see there.
        biases: see there.
        forms: see there.
        grad_y: gradient with respect to the result.
        stored: what it left there.
        want_input_grad: whether the gradient with respect to ``coords`` is wanted.
        precision: of the operands of the products, but for the first layer's, which are float32.

    Returns:
        As :func:`backward`.
    """
    network = _Network(weights, biases, forms, Rounding(precision, precision), kind="wide")
    network.require_one_width()
    tiling = network.tiling
    x = coords.reshape(-1, coords.shape[-1]).float().contiguous()
    y_grad = grad_y.reshape(-1, network.n_out).float().contiguous()
    rows, tiles = len(x), triton.cdiv(len(x), tiling.rows)
    first, hidden, _, bias = network.packed
    values = x.new_empty(tiling.hidden + 1, rows, tiling.width, dtype=network.operands)
    grads = x.new_empty(tiling.hidden, rows, tiling.width, dtype=network.operands)
    first_grads = x.new_empty(rows, first.shape[1])
    sums = x.new_empty(tiles, tiling.hidden + 1, tiling.width)
    if tiles:
        arrays = (x, *network.packed, y_grad, stored, values, grads, first_grads, sums)
        arguments: tuple = (*arrays, *x.shape, network.n_out, network.features, *network.numbers)
        with torch.cuda.device_of(x):
            wide_backward_kernel[(tiles,)](*arguments, **network.switches)
    first_grad = product(x.t(), first_grads, "float32")
    hidden_grad = torch.empty_like(hidden, dtype=torch.float32)
    for receiving, grad, value in zip(hidden_grad, grads, values, strict=False):
        product(grad.t(), value, precision, out=receiving)
    bias_grad = torch.zeros_like(bias)
    bias_grad[:-1, : tiling.width] = sums.sum(dim=0)
    bias_grad[-1, : network.n_out] = y_grad.sum(dim=0)
    last_grad = product(y_grad.t(), values[-1], precision)
    x_grad = product(first_grads, first.t(), "float32").reshape(coords.shape) if want_input_grad else None
    return x_grad, *network.unpacked(first_grad, hidden_grad, last_grad, bias_grad)


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 3  # the interpreter: few, so that a program has several tiles in tests
    return torch.cuda.get_device_properties(device).multi_processor_count


class _Network:
    """A network as the kernels take it: padded with zeros, and the parts of complex numbers side by side.

    A padded unit has some activation, but no weight reads it; nor does any gradient reach it.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        forms: Sequence[KernelForm],
        rounding: Rounding,
        *,
        kind: _Kind,
    ) -> None:
        self.widths = [weight.shape[1] for weight in weights[1:]]
        n_in, self.n_out = weights[0].shape[1], weights[-1].shape[0]
        if not supports(n_in, self.widths, self.n_out, forms) or len(weights) != len(forms) + 1:
            raise ValueError(
                f"no fused kernel computes a network {n_in} -> {' -> '.join(map(str, self.widths))} -> {self.n_out} "
                f"with the activations {', '.join(form.family for form in forms)}"
            )
        self.shapes = [weight.shape for weight in weights]
        self.features = self.widths[0]
        self.is_complex = forms[0].family == "wavelet"
        width = _padded(max(self.widths))
        half = rounding.forward == rounding.backward and rounding.forward in _HALVES
        self.operands = _HALVES[rounding.forward] if half else torch.float32
        shape = _launch_shape(kind, width, half=half, is_complex=self.is_complex)
        self.tiling = _tiling(n_in, width, self.n_out, len(weights) - 2, shape, complex_first=forms[0].real_input)
        # The first form differs from the others in what its input is, and in no number.
        self.numbers, first_switches = numbers_and_switches(forms[0])
        self.switches = {
            "SWITCHES": replace(first_switches, real_input=False),
            "FIRST_SWITCHES": first_switches,
            "TILING": self.tiling,
            "PRECISION": rounding.backward,
            # Triton's decorator makes other objects for its interpreter.
            "INTERPRETED": not isinstance(forward_kernel, triton.JITFunction),
            "num_warps": shape.warps,
            "num_stages": shape.stages,
            # Left alone, the assembler of CUDA 13.4 gives some of these kernels 32 registers and spills the rest.
            "maxnreg": _THREAD_REGISTERS,
            "enable_fp_fusion": True,
        }
        self.programs = _multiprocessors(weights[0].device) * max(1, _WARPS_AT_ONCE // shape.warps)
        self.packed = self._pack(weights, biases, self.operands)

    def require_one_width(self) -> None:
        """Raise ValueError unless all hidden layers have as many features."""
        if len(set(self.widths)) > 1:
            raise ValueError(f"layers of {', '.join(map(str, self.widths))} features are not stored as one tensor")

    def _pack(self, weights: Sequence[Tensor], biases: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
        """First, hidden and last weights and all biases, as the kernels' parameters describe them."""
        tiling = self.tiling
        device = weights[0].device
        units = tiling.chunks * tiling.first_chunk
        first = torch.zeros(self.shapes[0][1], units, device=device)
        hidden = torch.zeros(tiling.hidden, tiling.width, tiling.width, dtype=dtype, device=device)
        last = torch.zeros(tiling.outputs, tiling.width, dtype=dtype, device=device)
        bias = torch.zeros(len(biases), tiling.bias_stride, device=device)
        for slot, weight in zip(self._slots(first, hidden, last), weights, strict=True):
            slot.copy_(weight.detach().reshape(slot.shape))
        for slot, values in zip(self._bias_slots(bias), biases, strict=True):
            slot.copy_(values.detach().reshape(slot.shape))
        return first, hidden, last, bias

    def unpacked(self, first: Tensor, hidden: Tensor, last: Tensor, bias: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients in the shapes of the weights and biases."""
        weights = [slot.reshape(s) for slot, s in zip(self._slots(first, hidden, last), self.shapes, strict=True)]
        return weights, [slot.reshape(s[0]) for slot, s in zip(self._bias_slots(bias), self.shapes, strict=True)]

    def _slots(self, first: Tensor, hidden: Tensor, last: Tensor) -> list[Tensor]:
        """Where each weight lies in the packed ones, viewed in the weight's own order."""
        slots = []
        for i, (rows, columns) in enumerate(self.shapes):
            padded = first.T if i == 0 else last if i == len(self.shapes) - 1 else hidden[i - 1]
            slot = padded[:rows, :columns]
            if self.is_complex and i > 0:
                slot = _neighbours_as_halves(slot, 1)
            slots.append(_neighbours_as_halves(slot, 0) if self._complex_result(i) else slot)
        return slots

    def _bias_slots(self, bias: Tensor) -> list[Tensor]:
        slots = [bias[i, : shape[0]] for i, shape in enumerate(self.shapes)]
        return [_neighbours_as_halves(slot, 0) if self._complex_result(i) else slot for i, slot in enumerate(slots)]

    def _complex_result(self, i: int) -> bool:
        """Whether linear layer ``i`` gives complex numbers."""
        is_real = i == len(self.shapes) - 1 or (i == 0 and self.tiling.complex_first)
        return self.is_complex and not is_real


def _neighbours_as_halves(tensor: Tensor, dim: int) -> Tensor:
    """A view ``[..., 2, n, ...]`` of pairs ``[..., 2 n, ...]`` side by side."""
    return tensor.unflatten(dim, (-1, 2)).transpose(dim, dim + 1)


def _padded(width: int) -> int:
    """Features with padding: a power of two up to a chunk, and then whole chunks, in any number."""
    if width <= _LARGEST_CHUNK:
        return max(_SMALLEST_SIDE, triton.next_power_of_2(width))
    return triton.cdiv(width, _LARGEST_CHUNK) * _LARGEST_CHUNK


@dataclass(frozen=True)
class _Shape:
    """How a kernel is launched.

    Attributes:
        rows: of a tile.
        inner: features of what a product takes from memory at a time.
        warps: of a program.
        stages: of a product's operands that are under way at one time, each in shared memory of its own.
    """

    rows: int
    inner: int
    warps: int
    stages: int


def _launch_shape(kind: _Kind, width: int, *, half: bool, is_complex: bool) -> _Shape:
    """Return the shape with which the kernels spill few registers, see tests/inr/kernels/test_triton_interpreter.py."""
    if kind == "wide":
        return _Shape(rows=64, inner=64 if half else 32, warps=8, stages=3)
    # A second stage would keep twice the weights in shared memory.
    if kind == "recomputing" and is_complex:
        return _Shape(rows=32, inner=width, warps=4, stages=1)
    return _Shape(rows=64, inner=width, warps=8 if kind == "recomputing" else 4, stages=1)


def _tiling(n_in: int, width: int, n_out: int, hidden: int, shape: _Shape, *, complex_first: bool) -> Tiling:
    """Tiles for any GPU since Ampere: 64 K registers a multiprocessor, and 99 KB of shared memory a block at least."""
    width = max(2 * _SMALLEST_SIDE, width) if complex_first else width
    outputs = _padded(n_out)
    return Tiling(
        rows=shape.rows,
        inputs=max(_SMALLEST_SIDE, triton.next_power_of_2(n_in)),
        width=width,
        chunk=min(width, _LARGEST_CHUNK),
        outputs=outputs,
        output_chunk=min(outputs, _LARGEST_CHUNK),
        hidden=hidden,
        complex_first=complex_first,
        inner=min(width, shape.inner),
    )
