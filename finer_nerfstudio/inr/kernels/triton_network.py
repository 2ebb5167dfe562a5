"""A whole coordinate network as one Triton kernel, and its backward pass as another.

A small network spends its time on memory traffic: every layer of a batch is written and read several times. Here one
program takes a tile of rows through all layers. Its activations stay in registers, split along the features into
chunks of at most 64 that products can take as operands, weights come from the second-level cache, and of the batch
only coordinates are read and outputs written. Activations are held as what the next product takes, two bytes each in
half precision, which is what gives wide networks their rows.

There are two backward passes, and :func:`recomputes` chooses.

*Recomputing*, up to 64 features: :func:`backward` starts from the coordinates. It needs every layer's pre-activations
in reverse order, which do not fit into registers, so each program spills them to a scratch of its own, which its next
tile overwrites: ``depth * tile_rows * width`` numbers a program, at most 16 KB a layer, that stay in the second-level
cache and cost memory nothing. Programs are as many as multiprocessors, take tiles by turns, and add to weight
gradients of their own, which are summed at the end: no atomic operations, so that equal inputs give equal gradients,
bit for bit.

*From stored pre-activations*, wider than that: :func:`forward` leaves them in memory, in float32, as phases need, and
:func:`backward_stored` takes gradients through all layers, leaving activations and gradients as operands from which
PyTorch's products make the weight gradients. The reason is arithmetic. A tile of 32 rows adds ``width^2`` sums to
memory and so moves ``8 * width^2 / 32`` bytes a row and layer: 1 KB for 64 features, 4 KB for 128 and 16 KB for 256,
whose sums on 132 multiprocessors, 35 MB a layer, no longer fit into a cache of 50 MB from the second layer on. Storing
moves ``8 * width`` bytes of pre-activations and ``8 * width`` (half precision) or ``16 * width`` (float32) of operands:
4 to 6 KB for 256 features, a third of what they cost as separate layers, about 13 KB. At 3.3 TB/s a step of three
layers of 256 on 65,536 rows then moves 0.8 to 1.2 GB in 0.24 to 0.36 ms, and partial sums 3.2 GB in 1 ms.

Wavelets: a packed row keeps all real parts before all imaginary ones. Here the two parts of a number are neighbours,
which is how a register tile can be split into them; weights are reordered on the way in, gradients on the way out.

This module needs Triton: import it where a CUDA tensor has arrived, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.inr.kernels.form import KernelForm
from finer_nerfstudio.inr.kernels.rounding import Precision, Rounding, product
from finer_nerfstudio.inr.kernels.triton_activation import numbers_and_switches
from finer_nerfstudio.inr.kernels.triton_tiles import Tiling, chain_kernel, forward_kernel, recomputing_kernel

# Features after an activation of real numbers and of complex ones, both parts counted.
_LARGEST_WIDTH = 256
_LARGEST_PACKED_WIDTH = 512
_LARGEST_INPUT = 128
# Wider networks add more partial sums to memory than their operands are.
_LARGEST_RECOMPUTED_WIDTH = 64
# What a product needs of each of its sides.
_SMALLEST_SIDE = 16
# Features of a register tile.
_LARGEST_CHUNK = 64
# Registers of a multiprocessor, and of a thread at most.
_REGISTERS = 1 << 16
_THREAD_REGISTERS = 255

_Kind = Literal["forward", "backward", "chain"]
_DEFAULT = Rounding("tf32", "tf32")
_SHAPE = {}


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
    """Whether :func:`backward` is the backward pass for a network that :func:`supports` takes.

    Wider ones are for :func:`backward_stored`, which wants layers of one width; see the top of this file.
    """
    return max(widths) <= _LARGEST_RECOMPUTED_WIDTH


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
    network = _Network(weights, biases, forms, Rounding(precision, precision), kind="forward")
    if stored is not None:
        network.require_one_width()
    x = coords.reshape(-1, coords.shape[-1]).float().contiguous()
    y = x.new_empty(x.shape[0], network.n_out)
    if x.shape[0]:
        arguments: tuple = (x, *network.packed, y, stored, *x.shape, network.n_out, network.features, *network.numbers)
        with torch.cuda.device_of(x):
            forward_kernel[(triton.cdiv(x.shape[0], network.tiling.rows),)](*arguments, **network.switches)
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
    """
    network = _Network(weights, biases, forms, rounding, kind="backward")
    tiling = network.tiling
    x = coords.reshape(-1, coords.shape[-1]).float().contiguous()
    y_grad = grad_y.reshape(-1, network.n_out).float().contiguous()
    x_grad = torch.empty_like(x) if want_input_grad else None
    tiles = triton.cdiv(x.shape[0], tiling.rows)
    if tiles:
        programs = min(tiles, _multiprocessors(x.device))
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
    network = _Network(weights, biases, forms, Rounding(precision, precision), kind="chain")
    network.require_one_width()
    tiling, features = network.tiling, network.features
    first_features = len(weights[0])
    x = coords.reshape(-1, coords.shape[-1]).float().contiguous()
    y_grad = grad_y.reshape(-1, network.n_out).float().contiguous()
    rows, tiles = len(x), triton.cdiv(len(x), tiling.rows)
    operands = network.packed[1].dtype
    values = x.new_empty(tiling.hidden + 1, rows, features, dtype=operands)
    grads = x.new_empty(tiling.hidden, rows, features, dtype=operands)
    first_grads = x.new_empty(rows, first_features)
    sums = x.new_empty(tiles, tiling.hidden + 1, features)
    if tiles:
        arrays = (x, *network.packed, y_grad, stored, values, grads, first_grads, sums)
        arguments: tuple = (*arrays, *x.shape, network.n_out, features, first_features, *network.numbers)
        with torch.cuda.device_of(x):
            chain_kernel[(tiles,)](*arguments, **network.switches)
    above = [*grads, y_grad]
    weight_grads = [product(first_grads.t(), x, "float32")]
    weight_grads += [product(grad.t(), value, precision) for grad, value in zip(above, values, strict=True)]
    bias_grads = [*sums.sum(dim=0), y_grad.sum(dim=0)]
    bias_grads[0] = bias_grads[0][:first_features]
    x_grad = product(first_grads, weights[0], "float32").reshape(coords.shape) if want_input_grad else None
    return x_grad, weight_grads, bias_grads


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
        rows, warps = _launch_shape(kind, width, rounding)
        self.tiling = _tiling(n_in, width, self.n_out, len(weights) - 2, rows, complex_first=forms[0].real_input)
        # The first form differs from the others in what its input is, and in no number.
        self.numbers, first_switches = numbers_and_switches(forms[0])
        self.switches = {
            "SWITCHES": replace(first_switches, real_input=False),
            "FIRST_SWITCHES": first_switches,
            "TILING": self.tiling,
            "PRECISION": rounding.backward,
            # Triton's decorator makes other objects for its interpreter.
            "INTERPRETED": not isinstance(forward_kernel, triton.JITFunction),
            "num_warps": warps,
            # A second stage would keep twice the weights in shared memory.
            "num_stages": 1,
            # Left alone, the assembler of CUDA 13.4 gives some of these kernels 32 registers and spills the rest.
            "maxnreg": min(_THREAD_REGISTERS, _REGISTERS // (32 * warps)),
            "enable_fp_fusion": True,
        }
        halves = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        one_type = rounding.forward == rounding.backward
        self.packed = self._pack(
            weights, biases, halves.get(rounding.forward, torch.float32) if one_type else torch.float32
        )

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


def _launch_shape(kind: _Kind, width: int, rounding: Rounding) -> tuple[int, int]:
    """Return rows of a tile and warps of a program."""
    return _SHAPE.get(
        (kind, width), (32 if kind != "forward" and width > 64 else 64, 8 if kind != "forward" or width > 64 else 4)
    )


def _tiling(n_in: int, width: int, n_out: int, hidden: int, rows: int, *, complex_first: bool) -> Tiling:
    """Tiles for any GPU since Ampere: 64 K registers a multiprocessor, and 99 KB of shared memory a block at least.

    Chunks of 64 make a block of weights 16 KB.
    """
    width = max(2 * _SMALLEST_SIDE, width) if complex_first else width
    outputs = _padded(n_out)
    return Tiling(
        rows=rows,
        inputs=max(_SMALLEST_SIDE, triton.next_power_of_2(n_in)),
        width=width,
        chunk=min(width, _LARGEST_CHUNK),
        outputs=outputs,
        output_chunk=min(outputs, _LARGEST_CHUNK),
        hidden=hidden,
        complex_first=complex_first,
    )
