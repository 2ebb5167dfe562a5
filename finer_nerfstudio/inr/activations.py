"""The activations of implicit neural representations and their variable-periodic versions.

FINER++ (Zhu, Liu et al.) composes an activation with an inner function of growing frequency,
``g(x) = alpha(x) x`` for periodic activations and ``g(x) = sin(omega_f alpha(x) x)`` for the others, with
``alpha(x) = |x| + 1``. Every activation here knows its value, as a plain differentiable tensor function, and its exact
vector-Jacobian product; calling one goes through the kernel dispatcher, which stores nothing but the pre-activation
for the backward pass.

A complex number is carried by real tensors: the last dimension holds all real parts, then all imaginary parts
(``[*batch, 2 * width]``, "packed").
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from finer_nerfstudio.inr import kernels
from finer_nerfstudio.inr.kernels.form import KernelForm

Features = Float[Tensor, "*batch features"]
Outputs = Float[Tensor, "*batch outputs"]  # as many as features, or twice that where real becomes complex

# |sin(a + jb)|^2 = sin(a)^2 + sinh(b)^2, so that beyond |b| = 15 (sinh > 1.6e6) the Gaussian envelope of any wavelet
# with s_0 / omega_f > 2e-5 is an exact zero in float64 already. Clamping there changes no value and no gradient, and
# keeps 0 * inf, which is NaN, from ever being formed.
_LARGEST_IMAGINARY_PHASE = 15.0

# An envelope below exp(-60) = 9e-27 is an exact zero. Left alone, its tail and the products that gradients make of it
# run into denormal numbers, which cost a CPU ten to fifteen times as much as others.
_LOWEST_EXPONENT = -60.0
# Less than a float32 step of the exponent above exp(-60), so that its own rounding does not matter.
_LOWEST_ENVELOPE = math.exp(_LOWEST_EXPONENT) * (1.0 + 1e-6)


@dataclass(frozen=True)
class Activation:
    """Base of all activations: ``value`` defines it, ``vjp`` is its first derivative, calling the object is fast.

    A class with a ``family`` of its own can be saved: files name it, and keep its scales omega_0 and s_0.
    """

    complex_valued: ClassVar[bool] = False
    family: ClassVar[str | None] = None
    families: ClassVar[dict[str, type[Activation]]] = {}

    def __init_subclass__(cls) -> None:
        if cls.__dict__.get("family") is not None:
            Activation.families[cls.__dict__["family"]] = cls

    @property
    def init_omega(self) -> float | None:
        """The omega of the sine-style weight initialisation, or None for PyTorch's default (paper, §4.3)."""
        return None

    def __call__(self, x: Features) -> Outputs:
        return kernels.activate(x, self)

    def value(self, x: Features) -> Outputs:
        """Return the activation of pre-activations ``x``; any real range. Autograd can differentiate it repeatedly."""
        raise NotImplementedError

    def vjp(self, x: Features, grad: Outputs) -> Features:
        """Return the gradient with respect to ``x`` when ``grad`` is the gradient with respect to ``value(x)``.

        A new tensor. Computed in place on temporaries, so that autograd cannot differentiate it once more.
        """
        raise NotImplementedError

    def kernel_form(self) -> KernelForm | None:
        """Return the numbers that fused kernels compute this activation from, or None where there is no such kernel."""
        return None

    def for_first_layer(self) -> Activation:
        """Return the same activation for a real pre-activation, as the first layer of a complex network has it."""
        return self

    def rescaled(self, factor: float) -> Activation:
        """Return the activation ``x -> value(factor * x)``, made by changing its scale parameters."""
        raise NotImplementedError

    def with_scale_gradient(self, scale_gradient: bool) -> Activation:
        """Return the same activation whose backward pass differentiates through alpha, or treats it as a constant."""
        return self


@dataclass(frozen=True)
class Sine(Activation):
    """``sin(omega_0 x)``, the activation of SIREN (Sitzmann et al. 2020)."""

    omega_0: float = 30.0

    family: ClassVar[str | None] = "sine"

    def __post_init__(self) -> None:
        _require_positive("Sine", omega_0=self.omega_0)

    @property
    def init_omega(self) -> float | None:
        return self.omega_0

    def kernel_form(self) -> KernelForm:
        return KernelForm("sine", omega=self.omega_0)

    def value(self, x: Features) -> Outputs:
        return torch.sin(self.omega_0 * x)

    def vjp(self, x: Features, grad: Outputs) -> Features:
        return torch.mul(x, self.omega_0).cos_().mul_(self.omega_0).mul_(grad)

    def rescaled(self, factor: float) -> Sine:
        return replace(self, omega_0=self.omega_0 * factor)


@dataclass(frozen=True)
class Gauss(Activation):
    """``exp(-(s_0 x)^2)`` (Ramasinghe and Lucey 2022)."""

    s_0: float = 30.0

    family: ClassVar[str | None] = "gauss"

    def __post_init__(self) -> None:
        _require_positive("Gauss", s_0=self.s_0)

    def kernel_form(self) -> KernelForm:
        return KernelForm("gauss", s=self.s_0)

    def value(self, x: Features) -> Outputs:
        return _envelope(torch.square(x).mul(-(self.s_0**2)))

    def vjp(self, x: Features, grad: Outputs) -> Features:
        return self.value(x).mul_(-2.0 * self.s_0**2).mul_(x).mul_(grad)

    def rescaled(self, factor: float) -> Gauss:
        return replace(self, s_0=self.s_0 * factor)


@dataclass(frozen=True)
class ReLU(Activation):
    """``max(x, 0)``; piecewise linear, so it has no variable-periodic version."""

    family: ClassVar[str | None] = "relu"

    def kernel_form(self) -> KernelForm:
        return KernelForm("relu")

    def value(self, x: Features) -> Outputs:
        return torch.relu(x)

    def vjp(self, x: Features, grad: Outputs) -> Features:
        return grad * (x > 0)


@dataclass(frozen=True)
class Wavelet(Activation):
    """``exp(j omega_0 x) exp(-|s_0 x|^2)``, the complex Gabor wavelet of WIRE (Saragadam et al. 2023).

    Takes and gives packed complex features. With ``x = p + jq`` the modulus is
    ``exp(-omega_0 q - s_0^2 (p^2 + q^2))`` and the phase is ``omega_0 p``.
    """

    omega_0: float = 20.0
    s_0: float = 10.0

    complex_valued: ClassVar[bool] = True
    family: ClassVar[str | None] = "wavelet"

    def __post_init__(self) -> None:
        _require_positive("Wavelet", omega_0=self.omega_0, s_0=self.s_0)

    def kernel_form(self) -> KernelForm:
        return KernelForm("wavelet", omega=self.omega_0, s=self.s_0)

    def value(self, x: Features) -> Outputs:
        p, q = x.chunk(2, dim=-1)
        return torch.cat(_gabor(p, q, self.omega_0, self.s_0), dim=-1)

    def vjp(self, x: Features, grad: Outputs) -> Features:
        p, q = x.chunk(2, dim=-1)
        grad_real, grad_imaginary = grad.chunk(2, dim=-1)
        return torch.cat(_gabor_vjp(p, q, grad_real, grad_imaginary, self.omega_0, self.s_0), dim=-1)

    def for_first_layer(self) -> Activation:
        return _RealInputWavelet(self.omega_0, self.s_0)

    def rescaled(self, factor: float) -> Wavelet:
        return replace(self, omega_0=self.omega_0 * factor, s_0=self.s_0 * factor)


@dataclass(frozen=True)
class _RealInputWavelet(Activation):
    """The wavelet of a real pre-activation: ``[*batch, width] -> [*batch, 2 * width]`` packed."""

    omega_0: float
    s_0: float

    def kernel_form(self) -> KernelForm:
        return KernelForm("wavelet", omega=self.omega_0, s=self.s_0, real_input=True)

    def value(self, x: Features) -> Outputs:
        modulus = _envelope(torch.square(x).mul(-(self.s_0**2)))
        phase = self.omega_0 * x
        return torch.cat([modulus * torch.cos(phase), modulus * torch.sin(phase)], dim=-1)

    def vjp(self, x: Features, grad: Outputs) -> Features:
        real, imaginary = self.value(x).chunk(2, dim=-1)
        along_modulus, along_phase = _polar_gradient(real, imaginary, *grad.chunk(2, dim=-1))
        return along_phase.mul_(self.omega_0).sub_(along_modulus.mul_(x).mul_(2.0 * self.s_0**2))

    def rescaled(self, factor: float) -> _RealInputWavelet:
        return replace(self, omega_0=self.omega_0 * factor, s_0=self.s_0 * factor)


@dataclass(frozen=True)
class Custom(Activation):
    """A user's own elementwise activation ``function(scale * x)``, differentiated by autograd.

    Attributes:
        function: any elementwise function of a tensor that autograd can differentiate.
        scale: the scale parameter p of sigma_p.
        periodic: whether ``function`` is periodic on the whole axis.

    Raises:
        ValueError: for a module with parameters to learn. The backward pass differentiates with respect to the
            pre-activation alone, and networks do not register their activations, so that they would never be trained.
    """

    function: Callable[[Tensor], Tensor]
    scale: float = 1.0
    periodic: bool = False

    def __post_init__(self) -> None:
        _require_positive("Custom", scale=self.scale)
        if isinstance(self.function, nn.Module) and any(p.requires_grad for p in self.function.parameters()):
            raise ValueError(
                f"{_name_of(self.function)} has parameters to learn, which an activation here cannot train: freeze "
                "them with requires_grad_(False)"
            )

    def value(self, x: Features) -> Outputs:
        return self.function(self.scale * x)

    def vjp(self, x: Features, grad: Outputs) -> Features:
        with torch.enable_grad():
            argument = x.detach().requires_grad_()
            value = self.function(self.scale * argument)
        return torch.autograd.grad(value, argument, grad)[0]

    def rescaled(self, factor: float) -> Custom:
        return replace(self, scale=self.scale * factor)


@dataclass(frozen=True)
class VariablePeriodic(Activation):
    """FINER++: a continuous activation composed with a variable-periodic inner function (paper, eq. of §4).

    Periodic base: ``sigma_p(alpha(x) x)``. Otherwise: ``sigma_{p / omega_f}(sin(omega_f alpha(x) x))``. Made by
    :func:`variable_periodic`.

    Attributes:
        base: the activation sigma_p.
        omega_f: frequency of the inner sine, None for a periodic base.
        scale_gradient: whether the backward pass differentiates through alpha (the formula) or treats it as a
            constant (the authors' code, from which the published numbers come).
    """

    base: Activation
    omega_f: float | None = None
    scale_gradient: bool = False

    @property
    def init_omega(self) -> float | None:
        # Sine and Wavelet carry their own frequency; the bumps of any other family repeat at omega_f.
        if isinstance(self.base, (Sine, Wavelet, _RealInputWavelet)):
            return self.base.omega_0
        return self.omega_f

    @property
    def complex_valued(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.complex_valued

    def for_first_layer(self) -> Activation:
        base = self.base.for_first_layer()
        return self if base is self.base else replace(self, base=base)

    def with_scale_gradient(self, scale_gradient: bool) -> VariablePeriodic:
        return replace(self, scale_gradient=scale_gradient)

    def kernel_form(self) -> KernelForm | None:
        return self._kernel_form

    @functools.cached_property
    def _kernel_form(self) -> KernelForm | None:  # asked for many times in a training step
        base = self.base.kernel_form()
        if base is None:
            return None
        return replace(base, variable=True, omega_f=self.omega_f or 0.0, scale_gradient=self.scale_gradient)

    def value(self, x: Features) -> Outputs:
        magnitude = x.abs() if self.scale_gradient else x.detach().abs()
        stretched = torch.addcmul(x, magnitude, x)  # alpha(x) x
        if self.omega_f is None:
            return self.base.value(stretched)
        phase = stretched.mul_(self.omega_f)
        if isinstance(self.base, Wavelet):
            half = 0.5 / self.omega_f
            p, q = _twice_complex_sine(*phase.chunk(2, dim=-1))
            return torch.cat(_gabor(p, q, self.base.omega_0 * half, self.base.s_0 * half), dim=-1)
        return self.base.rescaled(1.0 / self.omega_f).value(torch.sin(phase))

    def vjp(self, x: Features, grad: Outputs) -> Features:
        omega_f = 1.0 if self.omega_f is None else self.omega_f
        steepness = x.abs().mul_(omega_f).add_(omega_f)  # omega_f alpha(x)
        phase = torch.mul(steepness, x)
        if self.omega_f is None:
            phase_grad = self.base.vjp(phase, grad)
        elif isinstance(self.base, Wavelet):
            phase_grad = _wavelet_of_sine_vjp(phase, grad, self.base.rescaled(0.5 / omega_f))
        else:
            outer = self.base.rescaled(1.0 / omega_f)
            phase_grad = outer.vjp(torch.sin(phase), grad).mul_(phase.cos_())
        # d(alpha(x) x)/dx is 2|x| + 1 = 2 alpha(x) - 1 by the formula, and alpha(x) with alpha held constant.
        return phase_grad.mul_(steepness.mul_(2.0).sub_(omega_f) if self.scale_gradient else steepness)


def base_of(activation: Activation) -> Activation:
    """Return the activation that a variable-periodic one is made from; any other is its own base."""
    return activation.base if isinstance(activation, VariablePeriodic) else activation


def as_activation(activation: Activation | Callable[[Tensor], Tensor]) -> Activation:
    """Return ``activation``, a function of the user's own as :class:`Custom`.

    Args:
        activation: one of this module's activations, or any elementwise function of a tensor.

    Raises:
        TypeError: for what is neither.
        ValueError: for a module with parameters to learn.
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, type) or not callable(activation):
        raise TypeError(
            f"an activation is a function of a tensor, such as torch.tanh or Sine(30.0), not {activation!r}"
        )
    return Custom(activation)


def variable_periodic(
    activation: Activation | nn.Module | Callable[[Tensor], Tensor],
    *,
    omega_f: float | None = None,
    periodic: bool = False,
    scale: float = 1.0,
    scale_gradient: bool = False,
) -> VariablePeriodic:
    """Make any continuous activation variable-periodic (FINER++).

    ``variable_periodic(Sine(30.0))``, ``variable_periodic(Gauss(30.0), omega_f=10.0)`` and
    ``variable_periodic(torch.tanh, omega_f=5.0)`` are activations for :class:`CoordinateNetwork`.

    Args:
        activation: one of this module's activations, or any elementwise function of a tensor.
        omega_f: frequency of the inner sine; 2.5 (the paper's text) unless given. Refused for periodic activations.
        periodic: whether a function of your own is periodic on the whole axis.
        scale: the scale parameter p of a function of your own, sigma_p(x) = activation(p x).
        scale_gradient: differentiate through alpha(x) = |x| + 1 (True) or hold it constant in the backward pass, as
            the authors' code does (False).

    Raises:
        TypeError: for what cannot be called, and for what is variable-periodic already.
        ValueError: for piecewise-linear activations (the ReLU family), whose composition the paper excludes because
            they have no bumps to repeat, for modules with parameters to learn, and for parameters out of range.
    """
    if isinstance(activation, VariablePeriodic):
        raise TypeError("this activation is variable-periodic already; pass its base activation instead")
    if not callable(activation):
        raise TypeError(f"variable_periodic needs an activation or a function of a tensor, not {activation!r}")
    function = activation.function if isinstance(activation, Custom) else activation
    if isinstance(function, ReLU) or (not isinstance(function, Activation) and _is_piecewise_linear(function)):
        raise ValueError(
            f"{_name_of(activation)} is piecewise linear: it has no bumps for FINER++ to repeat; use a smooth "
            "activation such as Sine, Gauss, Wavelet, tanh or softplus"
        )
    base = activation if isinstance(activation, Activation) else Custom(activation, scale=scale, periodic=periodic)
    if isinstance(base, Sine) or (isinstance(base, Custom) and base.periodic):
        if omega_f is not None:
            raise ValueError(f"{_name_of(activation)} is periodic: it has no inner sine, so omega_f has no meaning")
        return VariablePeriodic(base, None, scale_gradient)
    omega_f = 2.5 if omega_f is None else omega_f
    _require_positive("variable_periodic", omega_f=omega_f)
    return VariablePeriodic(base, omega_f, scale_gradient)


def activation_of_form(form: KernelForm) -> Activation:
    """The activation whose :meth:`Activation.kernel_form` is ``form``."""
    bases: dict[str, Activation] = {
        "relu": ReLU(),
        "sine": Sine(form.omega or 1.0),
        "gauss": Gauss(form.s or 1.0),
        "wavelet": Wavelet(form.omega or 1.0, form.s or 1.0),
    }
    base = bases[form.family]
    if form.variable:
        base = VariablePeriodic(base, form.omega_f or None, form.scale_gradient)
    return base.for_first_layer() if form.real_input else base


def _envelope(exponent: Tensor) -> Tensor:
    # Bounded first: exp is slow wherever its result would be denormal or zero, and stays so with denormals flushed,
    # because torch switches that off around its vector functions.
    return F.threshold(torch.exp(exponent.clamp(min=_LOWEST_EXPONENT)), _LOWEST_ENVELOPE, 0.0)


def _gabor(p: Tensor, q: Tensor, omega: float, s: float) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of ``exp(j omega (p + jq)) exp(-s^2 |p + jq|^2)``."""
    # The exponent -omega q - s^2 (p^2 + q^2), factored for fewer passes over memory.
    modulus = _envelope(torch.addcmul((q + omega / s**2) * q, p, p).mul_(-(s**2)))
    phase = omega * p
    return modulus * torch.cos(phase), modulus * torch.sin(phase)


def _gabor_vjp(
    p: Tensor, q: Tensor, grad_real: Tensor, grad_imaginary: Tensor, omega: float, s: float
) -> tuple[Tensor, Tensor]:
    along_modulus, along_phase = _polar_gradient(*_gabor(p, q, omega, s), grad_real, grad_imaginary)
    p_grad = along_phase.mul_(omega).addcmul_(along_modulus, p, value=-2.0 * s**2)
    q_grad = along_modulus.mul_(torch.mul(q, -2.0 * s**2).sub_(omega))
    return p_grad, q_grad


def _polar_gradient(
    real: Tensor, imaginary: Tensor, grad_real: Tensor, grad_imaginary: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to the logarithm of the modulus and to the phase of ``real + j imaginary``."""
    along_modulus = torch.mul(grad_real, real).addcmul_(grad_imaginary, imaginary)
    along_phase = torch.mul(grad_imaginary, real).addcmul_(grad_real, imaginary, value=-1.0)
    return along_modulus, along_phase


def _twice_cosh_sinh(b: Tensor) -> tuple[Tensor, Tensor]:
    """``2 cosh b`` and ``2 sinh b`` from one exponential, clamped where nothing depends on them."""
    growing = torch.exp(b.clamp(-_LARGEST_IMAGINARY_PHASE, _LARGEST_IMAGINARY_PHASE))
    shrinking = growing.reciprocal()
    return growing + shrinking, growing - shrinking


def _twice_complex_sine(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of ``2 sin(a + jb) = 2 sin a cosh b + 2j cos a sinh b``."""
    cosh, sinh = _twice_cosh_sinh(b)
    return torch.sin(a) * cosh, torch.cos(a) * sinh


def _wavelet_of_sine_vjp(phase: Tensor, grad: Tensor, wavelet: Wavelet) -> Tensor:
    """Gradient with respect to packed ``phase`` of ``wavelet(2 sin(phase))``."""
    a, b = phase.chunk(2, dim=-1)
    cosh, sinh = _twice_cosh_sinh(b)
    sin, cos = torch.sin(a), torch.cos(a)
    grad_real, grad_imaginary = grad.chunk(2, dim=-1)
    p_grad, q_grad = _gabor_vjp(sin * cosh, cos * sinh, grad_real, grad_imaginary, wavelet.omega_0, wavelet.s_0)
    cos_cosh, sin_sinh = cos.mul_(cosh), sin.mul_(sinh)
    a_grad = torch.mul(p_grad, cos_cosh).addcmul_(q_grad, sin_sinh, value=-1.0)
    b_grad = p_grad.mul_(sin_sinh).addcmul_(q_grad, cos_cosh)
    return torch.cat([a_grad, b_grad], dim=-1)


def _is_piecewise_linear(function: Callable[[Tensor], Tensor]) -> bool:
    """Whether second differences of ``function`` vanish almost everywhere, seen on a fixed set of float64 points."""
    if isinstance(function, nn.Module):
        function = copy.deepcopy(function).double().cpu()
    x = torch.cat([torch.linspace(-s, s, 4001, dtype=torch.float64) for s in (0.37, 3.1, 23.0)])
    h = 1e-3
    try:
        with torch.no_grad():
            low, middle, high = function(x - h), function(x), function(x + h)
    except Exception as error:
        raise TypeError(f"{_name_of(function)} does not map a tensor to a tensor: {error}") from error
    if middle.shape != x.shape:
        raise TypeError(f"{_name_of(function)} is not elementwise: it maps shape {x.shape} to {middle.shape}")
    # The tolerance is a few hundred roundings of the values that were subtracted.
    bends = (low - 2.0 * middle + high).abs() > 1e-13 * (1.0 + middle.abs())
    return bool(bends.double().mean() < 0.02)


def _name_of(activation: object) -> str:
    return getattr(activation, "__name__", None) or type(activation).__name__


def _require_positive(owner: str, **parameters: float) -> None:
    for name, value in parameters.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{owner}: {name} must be a positive number, not {value}")
