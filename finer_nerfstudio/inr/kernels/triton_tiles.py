"""Kernels that take a tile of rows through a whole network, and gradients back; :mod:`triton_network` launches them.

Activations of a tile are tuples of register tiles, split along the features. Of wavelets, the real and the imaginary
part of a number are neighbours.

This module needs Triton: import it where a CUDA tensor has arrived, not before.
"""

# Tuples in kernels are joined by "+": Triton does not know "(*tuple, item)".
# ruff: noqa: RUF005
from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import triton
import triton.language as tl

from finer_nerfstudio.inr.kernels.triton_activation import complex_activation, real_activation


@dataclass(frozen=True)
class Tiling:
    """The sizes that a kernel is compiled for; rows, inputs and chunks are powers of two.

    Attributes:
        rows: of the batch in a tile.
        inputs: coordinates, with padding; only products of the backward pass have it.
        width: features of a hidden layer, with padding.
        chunk: features of a register tile.
        outputs: signal values, with padding.
        output_chunk: signal values of a register tile.
        hidden: matrices between the first and the last.
        complex_first: whether the first layer's units become two features each.
        inner: features of what a product takes from memory at a time.
    """

    rows: int
    inputs: int
    width: int
    chunk: int
    outputs: int
    output_chunk: int
    hidden: int
    complex_first: bool
    inner: int

    @property
    def chunks(self) -> int:
        return self.width // self.chunk

    @property
    def output_chunks(self) -> int:
        return self.outputs // self.output_chunk

    @property
    def first_chunk(self) -> int:
        """First-layer units of a register tile."""
        return self.chunk // 2 if self.complex_first else self.chunk

    @property
    def bias_stride(self) -> int:
        return max(self.width, self.outputs)


@triton.jit
@no_type_check
def _zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    # Triton 3.6 takes no plain numbers, such as those of a tiling, in a tuple.
    return tl.zeros((ROWS, COLUMNS), tl.float32)


@triton.jit
@no_type_check
def _operand(x, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """``x`` as products take it."""
    if PRECISION == "bfloat16":
        x = x.to(tl.bfloat16)
    if PRECISION == "float16":
        x = x.to(tl.float16)
    if INTERPRETED:
        # The same products of the same numbers: NumPy has no bfloat16 and would multiply the bits.
        x = x.to(tl.float32)
    return x


@triton.jit
@no_type_check
def _product(a, b, total, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """``total + a @ b``, summed in float32."""
    a = _operand(a, PRECISION, INTERPRETED)
    b = _operand(b, PRECISION, INTERPRETED)
    return tl.dot(a, b, total, input_precision="tf32" if PRECISION == "tf32" else "ieee")


@triton.jit
@no_type_check
def _block(matrix, first_row, first_column, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Addresses of a block of a row-major matrix."""
    row = first_row + tl.arange(0, ROWS)
    column = first_column + tl.arange(0, COLUMNS)
    return matrix + row[:, None] * stride + column[None, :]


@triton.jit
@no_type_check
def _through_weight(
    z, weight, n, CHUNK: tl.constexpr, TILING: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr
):
    """Chunk ``n``, of ``CHUNK`` features, of ``z @ weight.T`` for a tile's chunks ``z``."""
    chunks: tl.constexpr = TILING.chunks
    total = _zeros(TILING.rows, CHUNK)
    for k in tl.static_range(chunks):
        w = tl.load(_block(weight, n * CHUNK, k * TILING.chunk, TILING.width, CHUNK, TILING.chunk))
        total = _product(z[k], tl.trans(w), total, PRECISION, INTERPRETED)
    return total


@triton.jit
@no_type_check
def _bias(bias, n, CHUNK: tl.constexpr):
    return tl.load(bias + n * CHUNK + tl.arange(0, CHUNK))[None, :]


@triton.jit
@no_type_check
def _packed_columns(n, units, CHUNK: tl.constexpr, SWITCHES: tl.constexpr):
    """Columns of a packed matrix in memory where chunk ``n`` lies, and which of them there are."""
    place = n * CHUNK + tl.arange(0, CHUNK)
    column = place
    known = place < units
    if SWITCHES.family == "wavelet":
        column = place // 2 + (place % 2) * (units // 2)
    return column, known


@triton.jit
@no_type_check
def _first_affine(coords, row, inside, n_in, first, bias, n, TILING: tl.constexpr):
    """One chunk of the first layer's pre-activations.

    In exact float32 whatever the precision, because coordinates become phases here: rounded ones would blur the
    signal. Coordinates are too few for tensor cores anyway.
    """
    unit = n * TILING.first_chunk + tl.arange(0, TILING.first_chunk)
    pre = _zeros(TILING.rows, TILING.first_chunk) + tl.load(bias + unit)[None, :]
    units = TILING.chunks * TILING.first_chunk
    for k in range(n_in):
        x = tl.load(coords + row * n_in + k, mask=inside, other=0.0)
        w = tl.load(first + k * units + unit)
        pre += x[:, None] * w[None, :]
    return pre


@triton.jit
@no_type_check
def _parts(x):
    """Real and imaginary parts, which are neighbours."""
    return tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)))


@triton.jit
@no_type_check
def _neighbours(real, imaginary):
    # Adding nothing keeps the reshape away from a product, where Triton 3.9 gives up on it for Hopper
    # ("Illegal shared layout" in TritonGPUOptimizeDotOperands).
    return tl.reshape(tl.join(real, imaginary), (real.shape[0], 2 * real.shape[1])) + 0.0


@triton.jit
@no_type_check
def _activate(pre, numbers, SWITCHES: tl.constexpr):
    if SWITCHES.family == "wavelet":
        if SWITCHES.real_input:
            real = pre
            imaginary = tl.zeros_like(pre)
        else:
            real, imaginary = _parts(pre)
        real, imaginary, _, _ = complex_activation(real, imaginary, numbers, SWITCHES)
        z = _neighbours(real, imaginary)
    else:
        z, _ = real_activation(pre, numbers, SWITCHES)
    return z


@triton.jit
@no_type_check
def _activate_and_differentiate(pre, grad, numbers, SWITCHES: tl.constexpr):
    """The activation, and the gradient with respect to ``pre`` when ``grad`` is that with respect to the result."""
    if SWITCHES.family == "wavelet":
        real_grad, imaginary_grad = _parts(grad)
        if SWITCHES.real_input:
            z, z_imaginary, pre_grad, _ = complex_activation(
                pre, tl.zeros_like(pre), numbers, SWITCHES, real_grad, imaginary_grad
            )
        else:
            real, imaginary = _parts(pre)
            z, z_imaginary, real_grad, imaginary_grad = complex_activation(
                real, imaginary, numbers, SWITCHES, real_grad, imaginary_grad
            )
            pre_grad = _neighbours(real_grad, imaginary_grad)
        z = _neighbours(z, z_imaginary)
    else:
        z, derivative = real_activation(pre, numbers, SWITCHES)
        pre_grad = derivative * grad
    return z, pre_grad


@triton.jit
@no_type_check
def forward_kernel(
    coords,  # [rows, n_in]
    first,  # [n_in, units]
    hidden,  # [TILING.hidden, width, width]
    last,  # [outputs, width]
    biases,  # [TILING.hidden + 2, bias_stride]
    y,  # [rows, n_out]
    rows,
    n_in,
    n_out,
    omega,
    s_squared,
    omega_f,
    SWITCHES: tl.constexpr,
    FIRST_SWITCHES: tl.constexpr,
    TILING: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    numbers = (omega, s_squared, omega_f)
    chunks: tl.constexpr = TILING.chunks
    output_chunks: tl.constexpr = TILING.output_chunks
    row = tl.program_id(0).to(tl.int64) * TILING.rows + tl.arange(0, TILING.rows)
    inside = row < rows
    z = ()
    for n in tl.static_range(chunks):
        pre = _first_affine(coords, row, inside, n_in, first, biases, n, TILING)
        z = z + (_operand(_activate(pre, numbers, FIRST_SWITCHES), PRECISION, INTERPRETED),)
    for layer in range(TILING.hidden):
        weight = hidden + layer * TILING.width * TILING.width
        bias = biases + (layer + 1) * TILING.bias_stride
        results = ()
        for n in tl.static_range(chunks):
            affine = _through_weight(z, weight, n, TILING.chunk, TILING, PRECISION, INTERPRETED)
            value = _activate(affine + _bias(bias, n, TILING.chunk), numbers, SWITCHES)
            results = results + (_operand(value, PRECISION, INTERPRETED),)
        z = results
    bias = biases + (TILING.hidden + 1) * TILING.bias_stride
    for n in tl.static_range(output_chunks):
        values = _through_weight(z, last, n, TILING.output_chunk, TILING, PRECISION, INTERPRETED)
        values += _bias(bias, n, TILING.output_chunk)
        column = n * TILING.output_chunk + tl.arange(0, TILING.output_chunk)
        mask = inside[:, None] & (column < n_out)[None, :]
        tl.store(y + row[:, None] * n_out + column[None, :], values, mask=mask)


@triton.jit
@no_type_check
def _stored(x, addresses):
    """``x`` in the type of the memory that it goes to."""
    return x.to(addresses.dtype.element_ty)


@triton.jit
@no_type_check
def _rows(matrix, row, first_column, stride, COLUMNS: tl.constexpr):
    """Addresses of columns of some rows of a row-major matrix."""
    column = first_column + tl.arange(0, COLUMNS)
    return matrix + row[:, None] * stride + column[None, :]


@triton.jit
@no_type_check
def _through_cached(
    z, weight, n, CHUNK: tl.constexpr, TILING: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr
):
    """Chunk ``n``, of ``CHUNK`` features, of ``z @ weight.T`` for a tile ``z`` ``[rows, width]`` in memory."""
    inner: tl.constexpr = TILING.width // TILING.inner
    total = _zeros(TILING.rows, CHUNK)
    for k in range(inner):
        a = tl.load(_block(z, 0, k * TILING.inner, TILING.width, TILING.rows, TILING.inner))
        w = tl.load(_block(weight, n * CHUNK, k * TILING.inner, TILING.width, CHUNK, TILING.inner))
        total = _product(a, tl.trans(w), total, PRECISION, INTERPRETED)
    return total


@triton.jit
@no_type_check
def wide_forward_kernel(
    coords,  # as for forward_kernel, as are the next five
    first,
    hidden,
    last,
    biases,
    y,
    stored,  # [TILING.hidden, rows, features]: receives products of hidden layers, packed; or None
    scratch,  # [programs, 2, TILING.rows, width]
    rows,
    n_in,
    n_out,
    features,
    omega,
    s_squared,
    omega_f,
    SWITCHES: tl.constexpr,
    FIRST_SWITCHES: tl.constexpr,
    TILING: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    numbers = (omega, s_squared, omega_f)
    chunks: tl.constexpr = TILING.chunks
    output_chunks: tl.constexpr = TILING.output_chunks
    size: tl.constexpr = TILING.rows * TILING.width
    scratch += tl.program_id(0).to(tl.int64) * 2 * size
    for tile in range(tl.program_id(0), tl.cdiv(rows, TILING.rows), tl.num_programs(0)):
        row = tile * TILING.rows + tl.arange(0, TILING.rows).to(tl.int64)
        inside = row < rows
        for n in range(chunks):
            first_pre = _first_affine(coords, row, inside, n_in, first, biases, n, TILING)
            first_value = _stored(_activate(first_pre, numbers, FIRST_SWITCHES), scratch)
            tl.store(_block(scratch, 0, n * TILING.chunk, TILING.width, TILING.rows, TILING.chunk), first_value)
        # A thread may read what another one wrote.
        tl.debug_barrier()
        for layer in range(TILING.hidden):
            z = scratch + (layer % 2) * size
            result = scratch + ((layer + 1) % 2) * size
            weight = hidden + layer * TILING.width * TILING.width
            bias = biases + (layer + 1) * TILING.bias_stride
            for n in range(chunks):
                affine = _through_cached(z, weight, n, TILING.chunk, TILING, PRECISION, INTERPRETED)
                if stored is not None:
                    column, known = _packed_columns(n, features, TILING.chunk, SWITCHES)
                    address = stored + (layer * rows + row)[:, None] * features + column[None, :]
                    tl.store(address, affine, mask=inside[:, None] & known[None, :])
                value = _stored(_activate(affine + _bias(bias, n, TILING.chunk), numbers, SWITCHES), scratch)
                tl.store(_block(result, 0, n * TILING.chunk, TILING.width, TILING.rows, TILING.chunk), value)
            tl.debug_barrier()
        top = scratch + (TILING.hidden % 2) * size
        last_bias = biases + (TILING.hidden + 1) * TILING.bias_stride
        for n in range(output_chunks):
            values = _through_cached(top, last, n, TILING.output_chunk, TILING, PRECISION, INTERPRETED)
            values += _bias(last_bias, n, TILING.output_chunk)
            output = n * TILING.output_chunk + tl.arange(0, TILING.output_chunk)
            mask = inside[:, None] & (output < n_out)[None, :]
            tl.store(y + row[:, None] * n_out + output[None, :], values, mask=mask)
        # The next tile overwrites the scratch.
        tl.debug_barrier()


@triton.jit
@no_type_check
def _chain_through(
    grads,  # [rows, stride] in memory
    stride,
    known_columns,  # of ``grads``
    weight,
    pres,  # pre-activations of the layer below without bias, [rows, features], packed; not those of the first layer
    bias,
    values,  # receives activations of the layer below, [rows, width]
    pre_grads,  # receives gradients of its pre-activations, [rows, width], or [rows, units] of the first layer
    sums,  # receives their sums over the tile
    coords,
    n_in,
    first,
    row,
    inside,
    features,
    numbers,
    OUTER: tl.constexpr,
    INNER: tl.constexpr,
    SWITCHES: tl.constexpr,
    IS_FIRST: tl.constexpr,
    TILING: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """From gradients of ``weight @ activation(pre + bias)``, of which there are ``OUTER``, to those of ``pre``."""
    chunks: tl.constexpr = TILING.chunks
    steps: tl.constexpr = OUTER // INNER
    pre_chunk: tl.constexpr = TILING.first_chunk if IS_FIRST else TILING.chunk
    pre_width: tl.constexpr = TILING.chunks * pre_chunk
    for n in range(chunks):
        z_grad = _zeros(TILING.rows, TILING.chunk)
        for m in range(steps):
            known = (m * INNER + tl.arange(0, INNER) < known_columns)[None, :] & inside[:, None]
            g = tl.load(_rows(grads, row, m * INNER, stride, INNER), mask=known, other=0.0)
            w = tl.load(_block(weight, m * INNER, n * TILING.chunk, TILING.width, INNER, TILING.chunk))
            z_grad = _product(g, w, z_grad, PRECISION, INTERPRETED)
        if IS_FIRST:
            pre = _first_affine(coords, row, inside, n_in, first, bias, n, TILING)
        else:
            column, there = _packed_columns(n, features, pre_chunk, SWITCHES)
            address = pres + row[:, None] * features + column[None, :]
            pre = tl.load(address, mask=inside[:, None] & there[None, :], other=0.0) + _bias(bias, n, pre_chunk)
        z, pre_grad = _activate_and_differentiate(pre, z_grad, numbers, SWITCHES)
        place = _rows(values, row, n * TILING.chunk, TILING.width, TILING.chunk)
        tl.store(place, _stored(z, values), mask=inside[:, None])
        place = _rows(pre_grads, row, n * pre_chunk, pre_width, pre_chunk)
        tl.store(place, _stored(pre_grad, pre_grads), mask=inside[:, None])
        # Rows beyond the batch have no gradient.
        tl.store(sums + n * pre_chunk + tl.arange(0, pre_chunk), tl.sum(pre_grad, axis=0))
    # The layer below reads what other threads wrote.
    tl.debug_barrier()


@triton.jit
@no_type_check
def wide_backward_kernel(
    coords,
    first,
    hidden,
    last,
    biases,
    y_grad,  # [rows, n_out]
    pres,  # [TILING.hidden, rows, features], packed, without bias
    values,  # [TILING.hidden + 1, rows, width]: receives activations
    grads,  # [TILING.hidden, rows, width]: receives gradients of pre-activations of hidden layers
    first_grads,  # [rows, units]: and of the first one, in float32
    sums,  # [tiles, TILING.hidden + 1, width]: receives sums of either over the rows of a tile
    rows,
    n_in,
    n_out,
    features,
    omega,
    s_squared,
    omega_f,
    SWITCHES: tl.constexpr,
    FIRST_SWITCHES: tl.constexpr,
    TILING: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    numbers = (omega, s_squared, omega_f)
    matrix: tl.constexpr = TILING.width * TILING.width
    output_inner: tl.constexpr = min(TILING.inner, TILING.output_chunk)
    program = tl.program_id(0).to(tl.int64)
    row = program * TILING.rows + tl.arange(0, TILING.rows)
    inside = row < rows
    pre_size = tl.full((), rows, tl.int64) * features
    size = tl.full((), rows, tl.int64) * TILING.width
    sums += program * (TILING.hidden + 1) * TILING.width
    if TILING.hidden > 0:
        top = TILING.hidden
        _chain_through(
            y_grad, n_out, n_out, last, pres + (top - 1) * pre_size, biases + top * TILING.bias_stride,
            values + top * size, grads + (top - 1) * size, sums + top * TILING.width, coords, n_in, first, row, inside,
            features, numbers, TILING.outputs, output_inner, SWITCHES, False, TILING, PRECISION, INTERPRETED,
        )  # fmt: skip
        for step in range(TILING.hidden - 1):
            below = TILING.hidden - 1 - step
            _chain_through(
                grads + below * size, TILING.width, TILING.width, hidden + below * matrix,
                pres + (below - 1) * pre_size, biases + below * TILING.bias_stride, values + below * size,
                grads + (below - 1) * size, sums + below * TILING.width, coords, n_in, first, row, inside, features,
                numbers, TILING.width, TILING.inner, SWITCHES, False, TILING, PRECISION, INTERPRETED,
            )  # fmt: skip
        _chain_through(
            grads, TILING.width, TILING.width, hidden, pres, biases, values, first_grads, sums, coords, n_in, first,
            row, inside, features, numbers, TILING.width, TILING.inner, FIRST_SWITCHES, True, TILING, PRECISION,
            INTERPRETED,
        )  # fmt: skip
    else:
        _chain_through(
            y_grad, n_out, n_out, last, pres, biases, values, first_grads, sums, coords, n_in, first, row, inside,
            features, numbers, TILING.outputs, output_inner, FIRST_SWITCHES, True, TILING, PRECISION, INTERPRETED,
        )  # fmt: skip


@triton.jit
@no_type_check
def _add(addresses, amount, is_first):
    """Add to this program's own sums; its first tile begins them."""
    # What is there before the first tile is no number yet: select, do not multiply.
    old = tl.where(is_first, 0.0, tl.load(addresses))
    tl.store(addresses, old + amount)


@triton.jit
@no_type_check
def _backward_through(
    grads,
    weight,
    weight_grad,
    bias_grad,
    pre,
    is_first,
    numbers,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    SWITCHES: tl.constexpr,
    TILING: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """From gradients of ``weight @ activation(pre) + bias`` to those of ``pre``, adding the weight's and the bias's.

    ``grads`` are ``CHUNKS`` chunks of ``CHUNK`` features; ``pre`` is the address of a tile of pre-activations.
    """
    chunks: tl.constexpr = TILING.chunks
    pre_chunk: tl.constexpr = TILING.first_chunk if SWITCHES.real_input else TILING.chunk
    results = ()
    for n in tl.static_range(chunks):
        z_grad = _zeros(TILING.rows, TILING.chunk)
        for m in tl.static_range(CHUNKS):
            w = tl.load(_block(weight, m * CHUNK, n * TILING.chunk, TILING.width, CHUNK, TILING.chunk))
            z_grad = _product(grads[m], w, z_grad, PRECISION, INTERPRETED)
        x = tl.load(_block(pre, 0, n * pre_chunk, TILING.width, TILING.rows, pre_chunk))
        z, pre_grad = _activate_and_differentiate(x, z_grad, numbers, SWITCHES)
        for m in tl.static_range(CHUNKS):
            amount = _zeros(CHUNK, TILING.chunk)
            amount = _product(tl.trans(grads[m]), z, amount, PRECISION, INTERPRETED)
            sums = _block(weight_grad, m * CHUNK, n * TILING.chunk, TILING.width, CHUNK, TILING.chunk)
            _add(sums, amount, is_first)
        results = results + (pre_grad,)
    for m in tl.static_range(CHUNKS):
        _add(bias_grad + m * CHUNK + tl.arange(0, CHUNK), tl.sum(grads[m], axis=0), is_first)
    return results


@triton.jit
@no_type_check
def recomputing_kernel(
    coords,
    first,
    hidden,
    last,
    biases,
    y_grad,  # [rows, n_out]
    coords_grad,  # [rows, n_in], or None
    first_grad,  # this and the next three: like the weights, for each program
    hidden_grad,
    last_grad,
    biases_grad,
    scratch,  # [programs, TILING.hidden + 1, TILING.rows, width]
    rows,
    n_in,
    n_out,
    omega,
    s_squared,
    omega_f,
    SWITCHES: tl.constexpr,
    FIRST_SWITCHES: tl.constexpr,
    TILING: tl.constexpr,
    FORWARD: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    numbers = (omega, s_squared, omega_f)
    chunks: tl.constexpr = TILING.chunks
    output_chunks: tl.constexpr = TILING.output_chunks
    program = tl.program_id(0).to(tl.int64)
    matrix: tl.constexpr = TILING.width * TILING.width
    tile_size: tl.constexpr = TILING.rows * TILING.width
    units: tl.constexpr = TILING.chunks * TILING.first_chunk
    scratch += program * (TILING.hidden + 1) * tile_size
    first_grad += program * n_in * units
    hidden_grad += program * TILING.hidden * matrix
    last_grad += program * TILING.outputs * TILING.width
    biases_grad += program * (TILING.hidden + 2) * TILING.bias_stride

    for tile in range(tl.program_id(0), tl.cdiv(rows, TILING.rows), tl.num_programs(0)):
        is_first = tile == tl.program_id(0)
        row = tile * TILING.rows + tl.arange(0, TILING.rows).to(tl.int64)
        inside = row < rows
        z = ()
        for n in tl.static_range(chunks):
            pre = _first_affine(coords, row, inside, n_in, first, biases, n, TILING)
            tl.store(_block(scratch, 0, n * TILING.first_chunk, TILING.width, TILING.rows, TILING.first_chunk), pre)
            z = z + (_operand(_activate(pre, numbers, FIRST_SWITCHES), FORWARD, INTERPRETED),)
        for layer in range(TILING.hidden):
            weight = hidden + layer * matrix
            bias = biases + (layer + 1) * TILING.bias_stride
            spilled = scratch + (layer + 1) * tile_size
            results = ()
            for n in tl.static_range(chunks):
                total = _through_weight(z, weight, n, TILING.chunk, TILING, FORWARD, INTERPRETED)
                total += _bias(bias, n, TILING.chunk)
                tl.store(_block(spilled, 0, n * TILING.chunk, TILING.width, TILING.rows, TILING.chunk), total)
                results = results + (_operand(_activate(total, numbers, SWITCHES), FORWARD, INTERPRETED),)
            z = results
        # A thread may read what another one spilled.
        tl.debug_barrier()

        grads = ()
        for n in tl.static_range(output_chunks):
            column = n * TILING.output_chunk + tl.arange(0, TILING.output_chunk)
            mask = inside[:, None] & (column < n_out)[None, :]
            grads = grads + (tl.load(y_grad + row[:, None] * n_out + column[None, :], mask=mask, other=0.0),)
        bias_grad = biases_grad + (TILING.hidden + 1) * TILING.bias_stride
        spilled = scratch + TILING.hidden * tile_size
        if TILING.hidden > 0:
            grads = _backward_through(
                grads, last, last_grad, bias_grad, spilled, is_first, numbers,
                TILING.output_chunk, TILING.output_chunks, SWITCHES, TILING, PRECISION, INTERPRETED,
            )  # fmt: skip
            for step in range(TILING.hidden - 1):
                layer = TILING.hidden - 1 - step
                grads = _backward_through(
                    grads, hidden + layer * matrix, hidden_grad + layer * matrix,
                    biases_grad + (layer + 1) * TILING.bias_stride, scratch + layer * tile_size, is_first, numbers,
                    TILING.chunk, TILING.chunks, SWITCHES, TILING, PRECISION, INTERPRETED,
                )  # fmt: skip
            grads = _backward_through(
                grads, hidden, hidden_grad, biases_grad + TILING.bias_stride, scratch, is_first, numbers,
                TILING.chunk, TILING.chunks, FIRST_SWITCHES, TILING, PRECISION, INTERPRETED,
            )  # fmt: skip
        else:
            grads = _backward_through(
                grads, last, last_grad, bias_grad, scratch, is_first, numbers,
                TILING.output_chunk, TILING.output_chunks, FIRST_SWITCHES, TILING, PRECISION, INTERPRETED,
            )  # fmt: skip

        column = tl.arange(0, TILING.inputs)
        coordinates = row[:, None] * n_in + column[None, :]
        mask = inside[:, None] & (column < n_in)[None, :]
        x = tl.load(coords + coordinates, mask=mask, other=0.0)
        x_grad = _zeros(TILING.rows, TILING.inputs)
        for n in tl.static_range(chunks):
            amount = _zeros(TILING.inputs, TILING.first_chunk)
            amount = _product(tl.trans(x), grads[n], amount, "float32", INTERPRETED)
            unit = n * TILING.first_chunk + tl.arange(0, TILING.first_chunk)
            weights = column[:, None] * units + unit[None, :]
            known = (column < n_in)[:, None] & (unit < units)[None, :]
            old = tl.where(is_first, 0.0, tl.load(first_grad + weights, mask=known, other=0.0))
            tl.store(first_grad + weights, old + amount, mask=known)
            _add(biases_grad + unit, tl.sum(grads[n], axis=0), is_first)
            if coords_grad is not None:
                w = tl.load(first + weights, mask=known, other=0.0)
                x_grad = _product(grads[n], tl.trans(w), x_grad, "float32", INTERPRETED)
        if coords_grad is not None:
            tl.store(coords_grad + coordinates, x_grad, mask=mask)
        # The next tile reads this one's sums and overwrites its scratch, again by other threads.
        tl.debug_barrier()
