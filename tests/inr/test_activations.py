"""Activations against formulas written out in float64, complex arithmetic, and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from finer_nerfstudio import Custom, Gauss, ReLU, Sine, VariablePeriodic, Wavelet, variable_periodic
from finer_nerfstudio.inr.activations import Activation, _envelope

BASES: dict[str, tuple[Activation | Callable[[Tensor], Tensor], float | None]] = {
    "sine": (Sine(3.0), None),
    "gauss": (Gauss(5.0), 2.5),
    "wavelet": (Wavelet(omega_0=4.0, s_0=2.0), 2.0),
    "tanh": (torch.tanh, 2.0),
    "softplus": (nn.functional.softplus, 3.0),
}


def family(name: str, scale_gradient: bool) -> VariablePeriodic:
    base, omega_f = BASES[name]
    return variable_periodic(base, omega_f=omega_f, scale_gradient=scale_gradient)


def points(activation: Activation, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    width = 6 if activation.complex_valued else 5
    x = torch.rand(4, width, dtype=torch.float64, generator=generator) * 2.4 - 1.2
    # Finite differences straddle the kink of |x| at zero only if a point lies on it.
    return torch.where(x.abs() < 1e-3, x + 0.01, x).requires_grad_()


@pytest.mark.parametrize("activation", [Sine(7.0), Gauss(3.0), Wavelet(5.0, 2.0), ReLU(), Custom(torch.tanh, 2.0)])
def test_base_gradients_match_finite_differences(activation: Activation) -> None:
    for layer_activation in {activation, activation.for_first_layer()}:
        assert torch.autograd.gradcheck(layer_activation, points(activation))
        assert torch.autograd.gradgradcheck(layer_activation, points(activation))


@pytest.mark.parametrize("name", BASES)
def test_variable_periodic_gradients_match_finite_differences(name: str) -> None:
    activation = family(name, scale_gradient=True)
    for layer_activation in {activation, activation.for_first_layer()}:
        assert torch.autograd.gradcheck(layer_activation, points(activation))
        assert torch.autograd.gradgradcheck(layer_activation, points(activation))


@pytest.mark.parametrize("name", BASES)
def test_constant_scale_gradient_matches_finite_differences_with_alpha_frozen(name: str) -> None:
    """With alpha held at its value at x, f(x + h) is a different function of h, whose derivative we approximate."""
    activation = family(name, scale_gradient=False)
    assert not activation.scale_gradient
    x = points(activation)
    for layer_activation in {activation, activation.for_first_layer()}:
        assert isinstance(layer_activation, VariablePeriodic)
        weights = torch.rand_like(layer_activation(x), generator=None).detach()
        (gradient,) = torch.autograd.grad((layer_activation(x) * weights).sum(), x)
        h = 1e-6
        for index in range(x.numel()):
            step = torch.zeros_like(x).view(-1)
            step[index] = h
            step = step.view_as(x)
            high = frozen_alpha(layer_activation, x.detach(), step)
            low = frozen_alpha(layer_activation, x.detach(), -step)
            expected = ((high - low) * weights).sum() / (2 * h)
            torch.testing.assert_close(gradient.view(-1)[index], expected, rtol=1e-5, atol=1e-6)


def frozen_alpha(activation: VariablePeriodic, x: Tensor, step: Tensor) -> Tensor:
    """The formula of the paper at x + step with alpha taken at x, by its own arithmetic."""
    stretched = (x.abs() + 1.0) * (x + step)
    omega_f = activation.omega_f
    if omega_f is None:
        return activation.base.value(stretched)
    if activation.base.complex_valued:
        re, im = stretched.chunk(2, dim=-1)
        inner = torch.sin(torch.complex(omega_f * re, omega_f * im))
        packed = torch.cat([inner.real, inner.imag], dim=-1)
    else:
        packed = torch.sin(omega_f * stretched)
    return activation.base.rescaled(1.0 / omega_f).value(packed)


def test_real_families_are_the_formulas() -> None:
    x = torch.linspace(-3, 3, 1001, dtype=torch.float64)[:, None]
    alpha = x.abs() + 1
    torch.testing.assert_close(Sine(30.0)(x), torch.sin(30 * x))
    torch.testing.assert_close(Gauss(4.0)(x), torch.exp(-((4 * x) ** 2)))
    torch.testing.assert_close(variable_periodic(Sine(30.0))(x), torch.sin(30 * alpha * x))
    torch.testing.assert_close(
        variable_periodic(Gauss(30.0), omega_f=10.0)(x), torch.exp(-((3 * torch.sin(10 * alpha * x)) ** 2))
    )
    torch.testing.assert_close(
        variable_periodic(torch.tanh, omega_f=4.0, scale=2.0)(x), torch.tanh(0.5 * torch.sin(4 * alpha * x))
    )
    torch.testing.assert_close(variable_periodic(torch.cos, periodic=True)(x), torch.cos(alpha * x))


def unpack(packed: Tensor) -> Tensor:
    return torch.complex(*packed.chunk(2, dim=-1))


def test_wavelets_are_complex_arithmetic() -> None:
    generator = torch.Generator().manual_seed(3)
    packed = torch.randn(500, 8, dtype=torch.float64, generator=generator) * 0.7
    x = unpack(packed)
    base = torch.exp(1j * 20.0 * x) * torch.exp(-((10.0 * x).abs() ** 2))
    torch.testing.assert_close(unpack(Wavelet(20.0, 10.0)(packed)), base)
    stretched = torch.complex((x.real.abs() + 1) * x.real, (x.imag.abs() + 1) * x.imag)
    u = torch.sin(5.0 * stretched)
    # |u| grows like sinh: what is beyond float64's exponent is an exact zero in both.
    expected = torch.exp(1j * 4.0 * u - (2.0 * u).abs() ** 2).nan_to_num(0.0)
    torch.testing.assert_close(unpack(variable_periodic(Wavelet(20.0, 10.0), omega_f=5.0)(packed)), expected)


def test_first_layer_wavelet_is_the_complex_one_on_real_numbers() -> None:
    x = torch.linspace(-2, 2, 401, dtype=torch.float64)[:, None]
    packed = torch.cat([x, torch.zeros_like(x)], dim=-1)
    for activation in (Wavelet(20.0, 10.0), variable_periodic(Wavelet(20.0, 10.0), omega_f=5.0)):
        torch.testing.assert_close(activation.for_first_layer()(x), activation(packed))


@pytest.mark.parametrize("name", BASES)
@given(scale=st.floats(1e-3, 1e4), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_values_and_gradients_stay_finite_in_float32(name: str, scale: float, seed: int) -> None:
    """However far pre-activations wander, the complex sine's growth included."""
    activation = family(name, scale_gradient=False)
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(16, 8, generator=generator) * scale).requires_grad_()
    y = activation(x)
    assert torch.isfinite(y).all()
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(gradient).all()


def test_large_batches_computed_in_blocks_equal_small_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    for activation in (variable_periodic(Sine(30.0)), variable_periodic(Wavelet(20.0, 10.0), omega_f=5.0)):
        x = torch.randn(9001, 128, generator=generator, requires_grad=True)
        y = activation(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        rows = torch.tensor([0, 1, 2047, 2048, 4096, 9000])
        few = x.detach()[rows].requires_grad_()
        (few_gradient,) = torch.autograd.grad(activation(few).sum(), few)
        torch.testing.assert_close(y[rows], activation(few))
        torch.testing.assert_close(gradient[rows], few_gradient)


def test_only_the_pre_activation_is_stored() -> None:
    stored: list[Tensor] = []
    x = torch.randn(8, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t) or t, lambda t: t):
        variable_periodic(Gauss(30.0), omega_f=10.0)(x)
    assert len(stored) == 1
    assert stored[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    "function",
    [
        torch.relu,
        nn.ReLU(),
        nn.LeakyReLU(0.2),
        nn.ReLU6(),
        nn.Hardtanh(),
        nn.PReLU(),
        nn.functional.hardsigmoid,
        torch.sign,
        ReLU(),
        nn.Identity(),
    ],
    ids=lambda f: getattr(f, "__name__", type(f).__name__),
)
def test_piecewise_linear_activations_are_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match="piecewise linear"):
        variable_periodic(function, omega_f=2.5)


@pytest.mark.parametrize("function", [torch.tanh, torch.sinc, nn.functional.softplus, nn.GELU(), nn.SiLU(), torch.erf])
def test_smooth_activations_are_accepted(function: Callable[[Tensor], Tensor]) -> None:
    activation = variable_periodic(function, omega_f=2.5)
    assert torch.isfinite(activation(torch.randn(3, 3))).all()


class Swish(nn.Module):
    """``x sigmoid(beta x)`` with a beta to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


@pytest.mark.parametrize("make", [lambda f: variable_periodic(f, omega_f=2.5), Custom])
def test_parameters_that_would_never_learn_are_refused(make: Callable[[nn.Module], Activation]) -> None:
    with pytest.raises(ValueError, match="Swish has parameters to learn"):
        make(Swish())
    x = torch.randn(3, 3, requires_grad=True)
    make(Swish().requires_grad_(False))(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Sine(0.0), ValueError, "omega_0"),
        (lambda: Gauss(math.nan), ValueError, "s_0"),
        (lambda: variable_periodic(Gauss(3.0), omega_f=-1.0), ValueError, "omega_f"),
        (lambda: variable_periodic(Sine(30.0), omega_f=2.0), ValueError, "periodic"),
        (lambda: variable_periodic(variable_periodic(Sine(30.0))), TypeError, "already"),
        (lambda: variable_periodic(lambda x: x.sum(), omega_f=2.0), TypeError, "elementwise"),
    ],
)
def test_mistakes_are_named(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_omega_f_defaults_to_the_papers_text() -> None:
    assert variable_periodic(Gauss(30.0)).omega_f == 2.5


class Exponents(TorchDispatchMode):
    """Remembers the lowest number that was exponentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.lowest = math.inf

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket._qualified_op_name in ("aten::exp", "aten::exp_"):
            self.lowest = min(self.lowest, float(args[0].min()))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("activation", [Gauss(30.0), variable_periodic(Gauss(30.0), omega_f=10.0)])
def test_nothing_is_exponentiated_whose_result_would_be_denormal(activation: Activation) -> None:
    x = torch.linspace(-3.0, 3.0, 10_001)[:, None]
    with Exponents() as seen:
        value = activation.value(x)
        activation.vjp(x, torch.ones_like(value))
    assert seen.lowest >= -60.0
    exact = activation.value(x.double())
    torch.testing.assert_close(value.double(), exact, atol=2e-5, rtol=1e-5)
    smallest_normal = torch.finfo(torch.float32).tiny
    assert bool(((value == 0) | (value.abs() >= smallest_normal)).all())


def test_the_tail_of_an_envelope_is_zero_from_where_it_always_was() -> None:
    exponents = torch.tensor([math.nan, 0.0, -59.99999, -60.0, -60.00001, -100.0, -1e30, -math.inf])
    expected = [math.nan, 1.0, math.exp(-59.99999), 0.0, 0.0, 0.0, 0.0, 0.0]
    torch.testing.assert_close(_envelope(exponents), torch.tensor(expected), equal_nan=True, rtol=1e-5, atol=0)
