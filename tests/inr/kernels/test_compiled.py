"""The C++ activations against the formulas in float64."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finer_nerfstudio import Gauss, ReLU, Sine, Wavelet, variable_periodic
from finer_nerfstudio.inr.activations import Activation
from finer_nerfstudio.inr.kernels import compiled

pytestmark = pytest.mark.skipif(
    compiled.unavailable_because("sine") is not None, reason=str(compiled.unavailable_because("sine"))
)

BASES = [ReLU(), Sine(30.0), Gauss(30.0), Wavelet(20.0, 10.0)]
VARIABLE = [
    variable_periodic(base, omega_f=omega_f, scale_gradient=scale_gradient)
    for base, omega_f in [(Sine(30.0), None), (Gauss(30.0), 10.0), (Wavelet(20.0, 10.0), 5.0)]
    for scale_gradient in (False, True)
]
ACTIVATIONS: list[Activation] = [
    layer_activation
    for activation in [*BASES, *VARIABLE]
    for layer_activation in ([activation, activation.for_first_layer()] if activation.complex_valued else [activation])
]


def evaluate(activation: Activation, x: Tensor, bias: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The value by itself, and value, gradient and its sums by the joint pass, in place where that is possible."""
    alone = torch.full_like(grad, torch.nan)
    compiled.forward(x, bias, activation, alone)
    value = torch.full_like(grad, torch.nan)
    sums = torch.zeros(torch.get_num_threads(), x.shape[1])
    dx = grad.clone() if grad.shape == x.shape else torch.full_like(x, torch.nan)
    compiled.backward(x, bias, dx if grad.shape == x.shape else grad, activation, value, dx, sums)
    return alone, value, dx, sums.sum(dim=0)


def sensitivity(activation: Activation, x: Tensor) -> float:
    """How much a rounding of the phase may move the result: the largest phase, which float32 resolves to 6e-8 of it."""
    form = activation.kernel_form()
    assert form is not None
    largest = float(x.detach().abs().max())
    stretched = largest * (largest + 1.0) if form.variable else largest
    return 1.0 + max(form.omega_f if form.omega_f else form.omega, form.s) * stretched


@pytest.mark.parametrize("scale", [0.05, 1.0, 20.0, 300.0])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_value_and_gradient_are_the_formulas(activation: Activation, scale: float) -> None:
    """Scales reach from the centre over several hundred bumps to phases that float32 barely resolves."""
    generator = torch.Generator().manual_seed(0)
    form = activation.kernel_form()
    assert form is not None
    for rows, features in [(1, 2), (37, 34), (130, 362)]:
        x = torch.randn(rows, features, generator=generator) * scale
        bias = torch.randn(features, generator=generator) * 0.3
        grad = torch.randn(rows, features * form.outputs_per_input, generator=generator)
        alone, value, dx, sums = evaluate(activation, x, bias, grad)
        exact = (x + bias).double().requires_grad_()
        expected = activation.value(exact)
        (expected_dx,) = torch.autograd.grad(expected, exact, grad.double())
        expected = expected.detach()
        tolerance = 4e-7 * sensitivity(activation, exact)
        if tolerance < 0.3:
            # Where a value can no longer be known, it still has to be one of the function's.
            assert float((value - expected).abs().max()) < tolerance * (2.8 if activation.complex_valued else 1.0)
            assert float((dx - expected_dx).abs().max()) < 3 * tolerance * (1e-2 + float(expected_dx.abs().max()))
        assert float(value.abs().max()) <= max(1.0, float(expected.abs().max())) * 1.00001
        assert torch.isfinite(dx).all()
        assert torch.equal(alone, value)
        torch.testing.assert_close(sums, dx.sum(dim=0), rtol=1e-4, atol=1e-4 * float(dx.abs().max()))


def test_large_phases_are_reduced_exactly() -> None:
    """Of the float32 phase itself, whatever its size: sin(1e8) is a definite number."""
    x = torch.cat([torch.logspace(-3, 12, 4001), -torch.logspace(-3, 12, 4001)])[:, None].contiguous()
    value = torch.empty_like(x)
    compiled.forward(x, torch.zeros(1), Sine(1.0), value)
    assert float((value - torch.sin(x.double())).abs().max()) < 2e-7


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_what_is_not_a_number_stays_so_and_infinity_does_no_harm(activation: Activation) -> None:
    x = torch.tensor([[torch.nan, 0.5, torch.inf, 0.5], [0.5, 0.5, 0.5, 0.5]])
    form = activation.kernel_form()
    assert form is not None
    grad = torch.ones(2, 4 * form.outputs_per_input)
    alone, value, dx, _ = evaluate(activation, x, torch.zeros(4), grad)
    assert torch.isnan(alone[0, 0])
    assert torch.isnan(value[0, 0])
    if not isinstance(activation, ReLU):
        assert torch.isnan(dx[0, 0])
    expected = activation.value(torch.full((1, 4), 0.5, dtype=torch.float64))
    torch.testing.assert_close(value[1:].double(), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=200)
@given(st.floats(0.0, 9.0), st.floats(-1e4, 1e4))
def test_elementary_functions_are_accurate(radius: float, phase: float) -> None:
    """exp through a Gaussian, sin and cos through a sine and its slope."""
    x = torch.full((1, 1), phase)
    value, dx, sums = torch.empty(1, 1), torch.empty(1, 1), torch.zeros(torch.get_num_threads(), 1)
    compiled.backward(x, torch.zeros(1), torch.ones(1, 1), Sine(1.0), value, dx, sums)
    assert abs(float(value) - float(torch.sin(x.double()))) < 1.5e-7
    assert abs(float(dx) - float(torch.cos(x.double()))) < 1.5e-7
    argument = torch.full((1, 1), radius)
    compiled.forward(argument, torch.zeros(1), Gauss(1.0), value)
    exponent = float(argument.double().square())
    expected = math.exp(-exponent)
    assert abs(float(value) - expected) <= 1e-7 * (2.0 + exponent) * expected or (exponent > 59.9 and value == 0.0)


def test_no_denormal_number_comes_out() -> None:
    """They would slow the matrix products down that follow."""
    x = torch.linspace(0, 1, 20_001)[:, None].contiguous()
    grad = torch.full_like(x, 1e-20)
    _, value, dx, _ = evaluate(Gauss(30.0), x, torch.zeros(1), grad)
    smallest = torch.finfo(torch.float32).smallest_normal
    for tensor in (value, dx):
        assert not ((tensor.abs() > 0) & (tensor.abs() < smallest)).any()
    assert float(dx.abs().max()) > 0


def test_loading_leaves_the_processors_settings_alone() -> None:
    """A library linked with -ffast-math would switch denormal numbers off for the whole process."""
    Gauss(30.0)(torch.randn(100, 4))
    assert float(torch.tensor(1e-40) * 0.5) > 0.0


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads_gives_the_same(threads: int) -> None:
    activation = variable_periodic(Gauss(30.0), omega_f=10.0)
    x, grad = torch.randn(101, 17), torch.randn(101, 17)
    before = torch.get_num_threads()
    expected = evaluate(activation, x, torch.zeros(17), grad)
    torch.set_num_threads(threads)
    try:
        value = evaluate(activation, x, torch.zeros(17), grad)
    finally:
        torch.set_num_threads(before)
    for found, wanted in zip(value[:3], expected[:3], strict=True):
        assert torch.equal(found, wanted)
    torch.testing.assert_close(value[3], expected[3], rtol=1e-4, atol=1e-4)


PROGRAM = """
import torch
from finer_nerfstudio import CoordinateNetwork, Sine, variable_periodic
from finer_nerfstudio.inr.kernels import compiled
net = CoordinateNetwork(2, 3, width=16, depth=2, activation=variable_periodic(Sine(30.0)), bias_range=1.0,
                        generator=torch.Generator().manual_seed(0))
out = net(torch.linspace(-1, 1, 100).reshape(50, 2))
out.square().mean().backward()
print(compiled.unavailable_because("sine"))
print(float(out.detach().double().sum()), float(net.first.weight.grad.double().abs().sum()))
"""


def run_with(tmp_path: Path, **environment: str) -> tuple[str, list[float]]:
    """What a process prints that has to build the kernels by itself."""
    settings_ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    for name in ("CXX", "FINER_COMPILED_KERNELS", "FINER_VECTORS"):
        settings_.pop(name, None)
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, env=settings_ | environment, capture_output=True, text=True, check=True)
    reason, numbers = result.stdout.strip().splitlines()
    return reason, [float(number) for number in numbers.split()]


def test_a_machine_without_a_compiler_computes_the_same(tmp_path: Path) -> None:
    reason, expected = run_with(tmp_path)
    assert reason == "None"
    cached = sorted((tmp_path / "cache" / "finer_nerfstudio" / "kernels").iterdir())
    assert [path.suffix for path in cached] == [".sha256", ".so"]
    for changes, why in [
        ({"FINER_COMPILED_KERNELS": "0"}, "switches them off"),
        ({"CXX": str(tmp_path / "missing")}, "No such file"),
        ({"CXX": "false"}, "cannot translate them"),
        ({"PATH": str(tmp_path)}, "no C++ compiler"),
    ]:
        reason, numbers = run_with(tmp_path, **changes)
        assert why in reason
        assert numbers == pytest.approx(expected, rel=1e-4)


def test_a_damaged_cache_is_built_anew_and_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    _, expected = run_with(tmp_path)
    (library,) = (tmp_path / "cache" / "finer_nerfstudio" / "kernels").glob("*.so")
    library.write_bytes(b"not a library")
    reason, numbers = run_with(tmp_path)
    assert (reason, numbers) == ("None", expected)
    (tmp_path / "file").write_text("where a folder should be")
    reason, numbers = run_with(tmp_path, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert (reason, numbers) == ("None", expected)
