"""Bias and activation in one pass over memory, and its derivative in another, as Triton kernels.

On a GPU an activation of FINER++ written with tensor operations is a dozen kernels, each of which fetches and stores
the whole batch. Here one kernel reads the matrix product, adds the bias, and writes the result; one more reads it
together with the incoming gradient and writes both the result and the outgoing gradient. All arithmetic is float32
whatever the type in memory, because phases grow to 1e4 and beyond.

The functions on tiles at the top are the formulas of :mod:`finer_nerfstudio.inr.activations`; the fused network of
:mod:`finer_nerfstudio.inr.kernels.triton_network` uses them too. This module needs Triton: import it where a CUDA
tensor has arrived, not before.
"""

from __future__ import annotations

from dataclasses import replace

# Kernels are no Python functions: what wraps those in tests, to check shapes, must leave them alone.
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.inr.kernels.form import KernelForm

# pi / 2 in four parts. The first three have eight bits each, so that their products with a number of quarter turns
# below 2^16, a phase below 1e5, are exact whether or not the hardware fuses multiplication and subtraction. Products
# that are not exact limit larger phases to the accuracy that their own float32 spacing leaves them.
_QUARTER_TURN_1: tl.constexpr = tl.constexpr(1.5703125)
_QUARTER_TURN_2: tl.constexpr = tl.constexpr(0.0004825592041015625)
_QUARTER_TURN_3: tl.constexpr = tl.constexpr(1.2665987014770508e-06)
_QUARTER_TURN_4: tl.constexpr = tl.constexpr(9.92093629470503e-10)
_QUARTER_TURNS_PER_RADIAN: tl.constexpr = tl.constexpr(0.6366197723675814)
# 1.5 * 2^23: a number below 2^22 that is added to it is rounded to an integer, found in the low bits of the sum.
_ROUNDING: tl.constexpr = tl.constexpr(12582912.0)

# Minimax polynomials in r^2 for |r| <= 0.8: (sin r - r) / r^3 and (cos r - 1 + r^2 / 2) / r^4, within 2^-27 of sin r
# and cos r in relative terms.
_SINE_3: tl.constexpr = tl.constexpr(-0.16666653752326965)
_SINE_5: tl.constexpr = tl.constexpr(0.008332070894539356)
_SINE_7: tl.constexpr = tl.constexpr(-0.0001950306905200705)
_COSINE_4: tl.constexpr = tl.constexpr(0.041666653007268906)
_COSINE_6: tl.constexpr = tl.constexpr(-0.0013887560926377773)
_COSINE_8: tl.constexpr = tl.constexpr(2.445124846417457e-05)

# These two are explained in finer_nerfstudio/inr/activations.py.
_LOWEST_EXPONENT: tl.constexpr = tl.constexpr(-60.0)
_LARGEST_IMAGINARY_PHASE: tl.constexpr = tl.constexpr(15.0)

# Fusing multiplications and additions was Triton's default once and will not be.
_COMPILER_OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
@no_type_check
def sine_cosine(x):
    """Sine and cosine of a float32 tile, within 2^-23 for ``|x| < 1e5``.

    Beyond that, the result stays within [-1, 1] and fades to that of a multiple of a quarter turn. NaN stays NaN, and
    infinities become NaN.
    """
    shifted = x * _QUARTER_TURNS_PER_RADIAN + _ROUNDING
    turns = shifted - _ROUNDING
    quadrant = shifted.to(tl.int32, bitcast=True)
    r = x - turns * _QUARTER_TURN_1
    r = r - turns * _QUARTER_TURN_2
    r = r - turns * _QUARTER_TURN_3
    r = r - turns * _QUARTER_TURN_4
    # Where x is so large that nothing is left of its phase; a polynomial far outside its range could be anything.
    r = tl.where(tl.abs(r) > 1.0, 0.0, r)
    square = r * r
    sine = r + r * square * (_SINE_3 + square * (_SINE_5 + square * _SINE_7))
    cosine = 1.0 - 0.5 * square + square * square * (_COSINE_4 + square * (_COSINE_6 + square * _COSINE_8))
    odd = (quadrant & 1) != 0
    x_sine = tl.where(odd, cosine, sine)
    x_cosine = tl.where(odd, sine, cosine)
    x_sine = tl.where((quadrant & 2) != 0, -x_sine, x_sine)
    x_cosine = tl.where(((quadrant + 1) & 2) != 0, -x_cosine, x_cosine)
    return x_sine, x_cosine


@triton.jit
@no_type_check
def _envelope(exponent):
    # Written so that NaN is not taken for small.
    return tl.where(exponent <= _LOWEST_EXPONENT, 0.0, tl.exp(exponent))


@triton.jit
@no_type_check
def _stretched(x, SWITCHES: tl.constexpr):
    """``g(x)`` and what stands for its derivative, both x and 1 for a base activation."""
    stretched = x
    slope = 1.0
    if SWITCHES.variable:
        magnitude = tl.abs(x)
        stretched = x + magnitude * x
        slope = 1.0 + (2.0 if SWITCHES.scale_gradient else 1.0) * magnitude
    return stretched, slope


@triton.jit
@no_type_check
def real_activation(x, numbers, SWITCHES: tl.constexpr):
    """Value and derivative of a relu, sine or Gaussian at the float32 tile ``x``; see :func:`numbers_and_switches`."""
    omega, s_squared, omega_f = numbers
    stretched, slope = _stretched(x, SWITCHES)
    if SWITCHES.family == "relu":
        value = tl.where(x <= 0.0, 0.0, x)
        derivative = tl.where(x <= 0.0, 0.0, 1.0)
    elif SWITCHES.family == "sine":
        value, cosine = sine_cosine(omega * stretched)
        derivative = omega * cosine * slope
    else:
        inner = stretched
        if SWITCHES.variable:
            inner, cosine = sine_cosine(omega_f * stretched)
            slope = omega_f * cosine * slope
        value = _envelope(-s_squared * (inner * inner))
        derivative = -2.0 * s_squared * inner * value * slope
    return value, derivative


@triton.jit
@no_type_check
def complex_activation(real, imaginary, numbers, SWITCHES: tl.constexpr, real_grad=0.0, imaginary_grad=0.0):
    """Real and imaginary part of a wavelet, and the gradients with respect to either part of its argument.

    A caller without gradients ignores the last two, and the compiler drops what only they need.
    """
    omega, s_squared, omega_f = numbers
    stretched_real, real_slope = _stretched(real, SWITCHES)
    stretched_imaginary, imaginary_slope = _stretched(imaginary, SWITCHES)
    p = stretched_real
    q = stretched_imaginary
    if SWITCHES.variable:
        sine, cosine = sine_cosine(omega_f * stretched_real)
        phase = omega_f * stretched_imaginary
        phase = tl.where(phase > _LARGEST_IMAGINARY_PHASE, _LARGEST_IMAGINARY_PHASE, phase)
        phase = tl.where(phase < -_LARGEST_IMAGINARY_PHASE, -_LARGEST_IMAGINARY_PHASE, phase)
        growing = tl.exp(phase)
        shrinking = 1.0 / growing
        # Twice the hyperbolic functions: the halves are in omega and s already.
        cosh = growing + shrinking
        sinh = growing - shrinking
        p = sine * cosh
        q = cosine * sinh
    # The exponent -omega q - s^2 (p^2 + q^2), factored so that large q cannot make it infinity minus infinity.
    modulus = _envelope(-s_squared * ((q + omega / s_squared) * q + p * p))
    phase_sine, phase_cosine = sine_cosine(omega * p)
    value_real = modulus * phase_cosine
    value_imaginary = modulus * phase_sine
    along_modulus = real_grad * value_real + imaginary_grad * value_imaginary
    along_phase = imaginary_grad * value_real - real_grad * value_imaginary
    p_grad = omega * along_phase - 2.0 * s_squared * along_modulus * p
    q_grad = -along_modulus * (2.0 * s_squared * q + omega)
    if SWITCHES.variable:
        along_real = p_grad * (cosine * cosh) - q_grad * (sine * sinh)
        q_grad = omega_f * (p_grad * (sine * sinh) + q_grad * (cosine * cosh))
        p_grad = omega_f * along_real
    return value_real, value_imaginary, p_grad * real_slope, q_grad * imaginary_slope


@triton.jit
@no_type_check
def _activation_kernel(
    x_ptr,  # [rows, units], or packed
    bias_ptr,  # [units], or packed; None for no bias
    grad_ptr,  # like the result; None where no derivative is wanted
    z_ptr,  # the result; None where it is not wanted
    x_grad_ptr,  # like x
    rows,
    units,
    omega,
    s_squared,
    omega_f,
    SWITCHES: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
):
    numbers = (omega, s_squared, omega_f)
    # 64-bit, because rows * features may pass 2^31.
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    unit = (tl.program_id(1) * UNITS + tl.arange(0, UNITS))[None, :]
    inside = (row < rows) & (unit < units)
    complex_valued: tl.constexpr = SWITCHES.family == "wavelet"
    x_width = units
    z_width = units
    if complex_valued:
        z_width = 2 * units
        if not SWITCHES.real_input:
            x_width = 2 * units
    x_index = row * x_width + unit
    z_index = row * z_width + unit

    x = tl.load(x_ptr + x_index, mask=inside, other=0.0).to(tl.float32)
    if bias_ptr is not None:
        x += tl.load(bias_ptr + unit, mask=unit < units, other=0.0).to(tl.float32)
    if complex_valued:
        # A real argument is a complex one: its zero imaginary part costs no memory traffic.
        imaginary = tl.zeros_like(x)
        if not SWITCHES.real_input:
            imaginary = tl.load(x_ptr + x_index + units, mask=inside, other=0.0).to(tl.float32)
            if bias_ptr is not None:
                imaginary += tl.load(bias_ptr + units + unit, mask=unit < units, other=0.0).to(tl.float32)
        real_grad = 0.0
        imaginary_grad = 0.0
        if grad_ptr is not None:
            real_grad = tl.load(grad_ptr + z_index, mask=inside, other=0.0).to(tl.float32)
            imaginary_grad = tl.load(grad_ptr + z_index + units, mask=inside, other=0.0).to(tl.float32)
        z, z_imaginary, x_grad, imaginary_x_grad = complex_activation(
            x, imaginary, numbers, SWITCHES, real_grad, imaginary_grad
        )
        if z_ptr is not None:
            tl.store(z_ptr + z_index + units, z_imaginary, mask=inside)
        if grad_ptr is not None and not SWITCHES.real_input:
            tl.store(x_grad_ptr + x_index + units, imaginary_x_grad, mask=inside)
    else:
        z, derivative = real_activation(x, numbers, SWITCHES)
        x_grad = derivative
        if grad_ptr is not None:
            x_grad = derivative * tl.load(grad_ptr + z_index, mask=inside, other=0.0).to(tl.float32)
    if z_ptr is not None:
        tl.store(z_ptr + z_index, z, mask=inside)
    if grad_ptr is not None:
        tl.store(x_grad_ptr + x_index, x_grad, mask=inside)


def numbers_and_switches(form: KernelForm) -> tuple[tuple[float, float, float], KernelForm]:
    """Return a kernel's numbers at run time, ``(omega, s^2, omega_f)``, and the switches that it is compiled for.

    The switches are the form without its numbers, so that a sweep over scales compiles one kernel. The inner sine's
    ``1 / omega_f`` is in omega and s, and the half of the complex sine too, which is computed doubled.
    """
    omega, s = form.omega, form.s
    if form.omega_f:
        inner = (0.5 if form.family == "wavelet" else 1.0) / form.omega_f
        omega, s = omega * inner, s * inner
    return (omega, s * s, form.omega_f), replace(form, omega=0.0, s=0.0, omega_f=0.0)


def forward(
    x: Float[Tensor, "*batch features"],
    bias: Float[Tensor, " features"] | None,
    form: KernelForm,
    *,
    out_dtype: torch.dtype | None = None,
) -> Float[Tensor, "*batch outputs"]:
    """``activation(x + bias)``, computed in float32.

    Args:
        x: float32, bfloat16 or float16 of any real range; packed for a wavelet unless its input is real.
        bias: added before the activation.
        form: the activation.
        out_dtype: type of the result; that of ``x`` unless given.

    Returns:
        As many features as ``x`` has, twice that where real becomes complex.
    """
    z = x.new_empty(*x.shape[:-1], x.shape[-1] * form.outputs_per_input, dtype=out_dtype or x.dtype)
    launch(x, bias, None, z, None, form)
    return z


def backward(
    x: Float[Tensor, "*batch features"],
    bias: Float[Tensor, " features"] | None,
    grad: Float[Tensor, "*batch outputs"],
    form: KernelForm,
    *,
    want_value: bool = True,
) -> tuple[Float[Tensor, "*batch outputs"] | None, Float[Tensor, "*batch features"]]:
    """Everything that a layer's backward pass needs of its activation, in one pass over memory.

    Args:
        x: what :func:`forward` was given.
        bias: what :func:`forward` was given.
        grad: gradient with respect to the result of :func:`forward`.
        form: the activation.
        want_value: whether to recompute the result too, for the next layer's weight gradient.

    Returns:
        The result of :func:`forward` again, in the type of ``grad``, or None; and the gradient with respect to
        ``x + bias``, in the type of ``x``.
    """
    z = torch.empty_like(grad, memory_format=torch.contiguous_format) if want_value else None
    x_grad = torch.empty_like(x, memory_format=torch.contiguous_format)
    launch(x, bias, grad, z, x_grad, form)
    return z, x_grad


def launch(
    x: Tensor, bias: Tensor | None, grad: Tensor | None, z: Tensor | None, x_grad: Tensor | None, form: KernelForm
) -> None:
    """The kernel itself: fills contiguous ``z`` and, where there is a ``grad``, ``x_grad``, which may be ``grad``."""
    if x.dtype == torch.float64:
        raise TypeError("the fused activations compute in float32, which is not what float64 features are for")
    units = x.shape[-1]
    if form.family == "wavelet" and not form.real_input:
        units //= 2
    if x.numel() == 0:
        return
    rows = x.numel() // x.shape[-1]
    numbers, switches = numbers_and_switches(form)
    # 1024 elements for 128 threads. Rows of 64 neighbours are whole cache lines in any type, and waste less on widths
    # like 181 than wider ones.
    tile_units = min(64, triton.next_power_of_2(units))
    tile_rows = 1024 // tile_units
    with torch.cuda.device_of(x):
        _activation_kernel[(triton.cdiv(rows, tile_rows), triton.cdiv(units, tile_units))](
            x.contiguous(),
            None if bias is None else bias.contiguous(),
            None if grad is None else grad.contiguous(),
            z,
            x_grad,
            rows,
            units,
            *numbers,
            SWITCHES=switches,
            ROWS=tile_rows,
            UNITS=tile_units,
            **_COMPILER_OPTIONS,
        )
