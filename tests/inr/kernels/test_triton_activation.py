"""Fused activations against their definitions, differentiated by autograd in float64.

On a GPU, or in Triton's interpreter where there is none (see test_triton_interpreter.py).
"""

from __future__ import annotations

import math
import os

import pytest
import torch
from torch import Tensor

from finer_nerfstudio import Gauss, ReLU, Sine, Wavelet, variable_periodic
from finer_nerfstudio.inr.activations import Activation

triton = pytest.importorskip("triton", reason="the fused kernels need Triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("without a GPU, test_triton_interpreter.py runs these tests", allow_module_level=True)

tl = pytest.importorskip("triton.language")
triton_activation = pytest.importorskip("finer_nerfstudio.inr.kernels.triton_activation")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF_TYPES = [torch.bfloat16, torch.float16]
# In units of the result's own scale: what float32 phases of a few hundred leave.
TOLERANCE = 2e-4


def activations() -> dict[str, Activation]:
    found: dict[str, Activation] = {
        "relu": ReLU(),
        "sine": Sine(30.0),
        "gauss": Gauss(10.0),
        "wavelet": Wavelet(20.0, 10.0),
    }
    for scale_gradient in (False, True):
        suffix = "-true-gradient" if scale_gradient else ""
        for name, base, omega_f in (
            ("sine", Sine(30.0), None),
            ("gauss", Gauss(30.0), 10.0),
            ("wavelet", Wavelet(20.0, 10.0), 5.0),
        ):
            found[f"variable-{name}{suffix}"] = variable_periodic(base, omega_f=omega_f, scale_gradient=scale_gradient)
    found |= {f"{name}-of-real": a.for_first_layer() for name, a in found.items() if a.complex_valued}
    return found


ACTIVATIONS = activations()
every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


def sample(
    rows: int, units: int, activation: Activation, *, scale: float = 1.0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Pre-activations in U(-scale, scale) and a bias; ``units`` are complex where the argument is."""
    form = activation.kernel_form()
    assert form is not None
    features = 2 * units if form.family == "wavelet" and not form.real_input else units
    generator = torch.Generator().manual_seed(rows + features)
    x = (torch.rand(rows, features, generator=generator) * 2.0 - 1.0) * scale
    bias = torch.rand(features, generator=generator) - 0.5
    return x.to(DEVICE, dtype), bias.to(DEVICE)


def reference(x: Tensor, bias: Tensor | None, activation: Activation, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient by autograd in float64, at the float32 sum of ``x`` and ``bias``."""
    pre = x.float() if bias is None else x.float() + bias
    pre = pre.double().requires_grad_()
    value = activation.value(pre)
    (pre_grad,) = torch.autograd.grad(value, pre, grad.double())
    return value.detach(), pre_grad


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within ``tolerance`` of the largest expected magnitude, or of 1 where that is smaller."""
    assert actual.shape == expected.shape
    largest = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(actual.double() / largest, expected / largest, rtol=0.0, atol=tolerance)


def gradient_like(outputs: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(outputs.shape, generator=generator).to(outputs)


@every_activation
@pytest.mark.parametrize(("rows", "units"), [(1, 5), (37, 33), (300, 5), (37, 181)])
def test_value_and_gradient_are_those_of_the_definition(name: str, rows: int, units: int) -> None:
    activation = ACTIVATIONS[name]
    form = activation.kernel_form()
    x, bias = sample(rows, units, activation)
    z = triton_activation.forward(x, bias, form)
    grad = gradient_like(z)
    value, x_grad = triton_activation.backward(x, bias, grad, form)
    expected, expected_grad = reference(x, bias, activation, grad)
    assert_close(z, expected, TOLERANCE)
    assert_close(value, expected, TOLERANCE)
    assert_close(x_grad, expected_grad, TOLERANCE)


@every_activation
def test_large_pre_activations_keep_the_accuracy_of_float32_phases(name: str) -> None:
    """A phase of 12,600 is known to 1e-3 in float32, whoever computes it: we allow twice what plain tensors err."""
    activation = ACTIVATIONS[name]
    form = activation.kernel_form()
    x, _ = sample(200, 33, activation, scale=20.0)
    grad = gradient_like(activation.value(x))
    value, x_grad = triton_activation.backward(x, None, grad, form)
    expected, expected_grad = reference(x, None, activation, grad)
    plain_error = (activation.value(x) - expected).abs().max().item()
    assert plain_error < 2e-3
    assert_close(value, expected, 1e-6 + 2.0 * plain_error)
    plain_grad_error = (activation.vjp(x, grad) - expected_grad).abs().max().item()
    assert (x_grad - expected_grad).abs().max().item() < 1e-5 + 4.0 * plain_grad_error


@triton.jit
def _sine_cosine_kernel(x, sine, cosine, size: tl.constexpr):  # pyright: ignore[reportInvalidTypeForm]
    index = tl.arange(0, size)
    x_sine, x_cosine = triton_activation.sine_cosine(tl.load(x + index))
    tl.store(sine + index, x_sine)
    tl.store(cosine + index, x_cosine)


def sine_cosine(x: Tensor) -> tuple[Tensor, Tensor]:
    sine, cosine = torch.empty_like(x), torch.empty_like(x)
    _sine_cosine_kernel[(1,)](x, sine, cosine, x.numel())
    return sine, cosine


@pytest.mark.parametrize("largest", [1e-3, 1.0, 100.0, 1e4, 1e5])
def test_sine_and_cosine_of_large_phases(largest: float) -> None:
    x = torch.linspace(-largest, largest, 1 << 14, device=DEVICE)
    # Floats next to multiples of a quarter turn, where most of a phase cancels.
    quarters = torch.arange(1 << 10, device=DEVICE, dtype=torch.float64) * max(1, int(largest / 2000)) * (math.pi / 2)
    x[: 1 << 10] = torch.where(quarters < largest, quarters, 0.0).float()
    sine, cosine = sine_cosine(x)
    torch.testing.assert_close(sine.double(), x.double().sin(), rtol=0.0, atol=1.3e-7)
    torch.testing.assert_close(cosine.double(), x.double().cos(), rtol=0.0, atol=1.3e-7)


def test_sine_and_cosine_of_anything_stay_in_range() -> None:
    x = torch.logspace(5, 38, 1 << 10, device=DEVICE)
    for values in sine_cosine(x):
        assert (values.abs() <= 1.0 + 1e-6).all()
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0], device=DEVICE)
    sine, cosine = sine_cosine(x)
    assert torch.equal(sine.isnan(), torch.tensor([True, True, True, False], device=DEVICE))
    assert torch.equal(cosine.isnan(), sine.isnan())
    assert (sine[3], cosine[3]) == (0.0, 1.0)


@every_activation
@pytest.mark.parametrize("scale", [1e3, 1e10, 1e18])
def test_values_and_gradients_stay_finite(name: str, scale: float) -> None:
    """As far as float32 can hold x^2, and with it the phase of a variable-periodic activation."""
    activation = ACTIVATIONS[name]
    x, bias = sample(64, 8, activation, scale=scale)
    ones = torch.ones_like(activation.value(x))
    value, x_grad = triton_activation.backward(x, bias, ones, activation.kernel_form())
    assert value.isfinite().all()
    assert x_grad.isfinite().all()


@pytest.mark.parametrize("name", ["gauss", "variable-gauss", "wavelet", "wavelet-of-real", "variable-wavelet"])
def test_tails_of_envelopes_are_exact_zeros(name: str) -> None:
    """Where the exponent is below -60, and a normal number where it is not."""
    activation = ACTIVATIONS[name]
    x = torch.linspace(-3.0, 3.0, 4000, device=DEVICE)[:, None].expand(-1, 2).contiguous()
    value, x_grad = triton_activation.backward(x, None, torch.ones_like(activation.value(x)), activation.kernel_form())
    expected = activation.value(x.double())
    # The variable Gaussian's exponent never goes below -9.
    assert (value == 0.0).any() or name == "variable-gauss"
    assert (value[expected.abs() > 1e-20] != 0.0).all()
    assert (value[expected.abs() < 1e-27] == 0.0).all()
    assert (x_grad[(expected == 0.0).all(dim=-1)].abs() < 1e-20).all()


@every_activation
def test_not_a_number_stays_that(name: str) -> None:
    activation = ACTIVATIONS[name]
    x, bias = sample(3, 5, activation)
    x[1, 2] = math.nan
    z = triton_activation.forward(x, bias, activation.kernel_form())
    assert torch.equal(z.isnan(), activation.value(x + bias).isnan())
    assert z[1].isnan().any()
    assert not z[[0, 2]].isnan().any()


@every_activation
@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    activation = ACTIVATIONS[name]
    form = activation.kernel_form()
    x, bias = sample(37, 33, activation, dtype=dtype)
    z = triton_activation.forward(x, bias, form)
    grad = gradient_like(z)
    value, x_grad = triton_activation.backward(x, bias, grad, form)
    expected, expected_grad = reference(x, bias, activation, grad)
    assert (z.dtype, value.dtype, x_grad.dtype) == (dtype, dtype, dtype)
    # Half a unit in the last place; the interpreter cuts bfloat16 off instead.
    rounding = torch.finfo(dtype).eps * (1.0 if DEVICE == "cpu" and dtype == torch.bfloat16 else 0.5)
    assert_close(z, expected, TOLERANCE + rounding)
    assert_close(value, expected, TOLERANCE + rounding)
    assert_close(x_grad, expected_grad, TOLERANCE + rounding)
    # Nothing is rounded between the input and the output.
    full = triton_activation.forward(x, bias, form, out_dtype=torch.float32)
    assert full.dtype == torch.float32
    assert_close(full, expected, TOLERANCE)


@every_activation
def test_leading_dimensions_and_memory_order_do_not_matter(name: str) -> None:
    activation = ACTIVATIONS[name]
    form = activation.kernel_form()
    x, bias = sample(24, 6, activation)
    expected = triton_activation.forward(x, bias, form)
    grad = gradient_like(expected)
    _, expected_grad = triton_activation.backward(x, bias, grad, form)
    strided_x, strided_grad = (t.T.contiguous().T for t in (x, grad))
    assert not strided_x.is_contiguous()
    every_other = torch.stack([bias, bias], dim=-1)[:, 0]
    assert torch.equal(triton_activation.forward(strided_x, every_other, form), expected)
    value, x_grad = triton_activation.backward(strided_x, every_other, strided_grad, form)
    assert torch.equal(value, expected)
    assert torch.equal(x_grad, expected_grad)
    assert torch.equal(triton_activation.forward(x.unflatten(0, (4, 6)), bias, form), expected.unflatten(0, (4, 6)))


def test_the_value_is_left_out_where_nobody_wants_it() -> None:
    activation = ACTIVATIONS["variable-wavelet"]
    x, bias = sample(8, 4, activation)
    grad = gradient_like(x)
    value, x_grad = triton_activation.backward(x, bias, grad, activation.kernel_form(), want_value=False)
    assert value is None
    assert torch.equal(x_grad, triton_activation.backward(x, bias, grad, activation.kernel_form())[1])


@every_activation
def test_nothing_in_nothing_out(name: str) -> None:
    activation = ACTIVATIONS[name]
    form = activation.kernel_form()
    x, bias = sample(0, 6, activation)
    z = triton_activation.forward(x, bias, form)
    assert z.shape == activation.value(x).shape
    value, x_grad = triton_activation.backward(x, bias, z, form)
    assert value.shape == z.shape
    assert x_grad.shape == x.shape


def test_double_precision_is_refused() -> None:
    with pytest.raises(TypeError, match="float32"):
        triton_activation.forward(torch.zeros(2, 2, dtype=torch.float64, device=DEVICE), None, ReLU().kernel_form())
