"""The fused network against its layers one after the other, differentiated by autograd in float64.

On a GPU, or in Triton's interpreter where there is none (see test_triton_interpreter.py).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from finer_nerfstudio import CoordinateNetwork, Gauss, ReLU, Sine, Wavelet, variable_periodic
from finer_nerfstudio.inr.activations import Activation
from finer_nerfstudio.inr.kernels.form import KernelForm
from finer_nerfstudio.inr.kernels.rounding import Rounding

pytest.importorskip("triton", reason="the fused kernels need Triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("without a GPU, test_triton_interpreter.py runs these tests", allow_module_level=True)

triton_network = pytest.importorskip("finer_nerfstudio.inr.kernels.triton_network")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

ACTIVATIONS: dict[str, Activation] = {
    "relu": ReLU(),
    "sine": Sine(5.0),
    "gauss": Gauss(3.0),
    "wavelet": Wavelet(5.0, 4.0),
    "variable-sine": variable_periodic(Sine(5.0)),
    "variable-gauss": variable_periodic(Gauss(6.0), omega_f=2.0),
    "variable-wavelet": variable_periodic(Wavelet(5.0, 4.0), omega_f=2.0),
    "variable-sine-true-gradient": variable_periodic(Sine(5.0), scale_gradient=True),
    "variable-gauss-true-gradient": variable_periodic(Gauss(6.0), omega_f=2.0, scale_gradient=True),
    "variable-wavelet-true-gradient": variable_periodic(Wavelet(5.0, 4.0), omega_f=2.0, scale_gradient=True),
}


@dataclass(frozen=True)
class Layers:
    """A network as the kernels take it, and its activations as functions."""

    weights: list[Tensor]
    biases: list[Tensor]
    forms: list[KernelForm]
    activations: list[Activation]

    def value(self, coords: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        z = coords
        for weight, bias, activation in zip(weights, biases, self.activations, strict=False):
            z = activation.value(z @ weight.T + bias)
        return z @ weights[-1].T + biases[-1]


def layers_of(name: str, *, width: int, depth: int, n_in: int = 2, n_out: int = 3, real_first: bool = True) -> Layers:
    activation = ACTIVATIONS[name]
    generator = torch.Generator().manual_seed(depth + width)
    net = CoordinateNetwork(
        n_in, n_out, width=width, depth=depth, activation=activation, bias_range=0.7, generator=generator
    )
    linears: list[Any] = [net.first, *net.hidden, net.last]
    weights = [layer.weight.detach() for layer in linears]
    biases = [layer.bias.detach() for layer in linears]
    activations = [activation.for_first_layer() if real_first else activation, *[activation] * (depth - 1)]
    if activation.complex_valued and not real_first:
        weights[0] = torch.randn(2 * net.units, n_in, generator=generator) / n_in
        biases[0] = torch.randn(2 * net.units, generator=generator) / 2
    forms = [a.kernel_form() for a in activations]
    return Layers(
        [weight.to(DEVICE) for weight in weights],
        [bias.to(DEVICE) for bias in biases],
        [form for form in forms if form is not None],
        activations,
    )


def coordinates(rows: int, n_in: int = 2) -> Tensor:
    return (torch.rand(rows, n_in, generator=torch.Generator().manual_seed(rows)) * 2.0 - 1.0).to(DEVICE)


def gradients(
    layers: Layers, coords: Tensor, y_grad: Tensor, rounding: Rounding, *, stored: bool, want_input_grad: bool = True
) -> tuple[Tensor, Any]:
    """Value, and what either backward pass gives."""
    arguments = (coords, layers.weights, layers.biases, layers.forms)
    if not stored:
        y = triton_network.forward(*arguments, precision=rounding.forward)
        return y, triton_network.backward(*arguments, y_grad, want_input_grad=want_input_grad, rounding=rounding)
    features = layers.weights[-1].shape[1]
    memory = coords.new_full((len(layers.weights) - 2, coords.shape[:-1].numel(), features), math.nan)
    y = triton_network.forward(*arguments, precision=rounding.forward, stored=memory)
    return y, triton_network.backward_stored(
        *arguments, y_grad, memory, want_input_grad=want_input_grad, precision=rounding.backward
    )


def assert_network_is_right(layers: Layers, coords: Tensor, rounding: Rounding, tolerance: float) -> None:
    """Value and all gradients of both backward passes within ``tolerance`` of the largest number in each."""
    widths = [weight.shape[1] for weight in layers.weights[1:]]
    y_grad = torch.randn(len(coords), len(layers.weights[-1]), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    leaves = [t.double().requires_grad_() for t in (coords, *layers.weights, *layers.biases)]
    exact, parameters = leaves[0], leaves[1:]
    half = len(parameters) // 2
    expected = layers.value(exact, parameters[:half], parameters[half:])
    expected_grads = torch.autograd.grad(expected, leaves, y_grad.double())
    ways = [False] * triton_network.recomputes(widths) + [True] * (len(set(widths)) == 1)
    assert ways
    for stored in ways:
        y, (coords_grad, weight_grads, bias_grads) = gradients(layers, coords, y_grad, rounding, stored=stored)
        for actual, wanted in zip(
            chain([y, coords_grad], weight_grads, bias_grads), [expected, *expected_grads], strict=True
        ):
            assert actual.shape == wanted.shape
            assert actual.dtype == torch.float32
            largest = wanted.abs().max().item()
            assert largest > 0.0
            torch.testing.assert_close(actual.double() / largest, wanted.detach() / largest, rtol=0.0, atol=tolerance)


EXACT = Rounding()


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 3])
def test_value_and_gradients_are_those_of_the_layers(name: str, depth: int) -> None:
    layers = layers_of(name, width=24, depth=depth)
    assert_network_is_right(layers, coordinates(140), EXACT, 3e-5)


@pytest.mark.parametrize(
    ("name", "width", "n_in", "n_out", "rows"),
    [
        ("variable-sine", 16, 1, 1, 1),
        ("variable-sine", 33, 3, 5, 37),
        ("relu", 20, 42, 20, 65),
        ("variable-gauss", 1, 2, 3, 20),
        ("variable-sine", 100, 128, 16, 70),
        ("sine", 256, 2, 256, 70),
        ("variable-wavelet", 181, 3, 4, 70),
        ("variable-gauss", 182, 2, 3, 33),
        ("variable-wavelet", 256, 2, 3, 33),
        ("variable-wavelet", 3, 2, 1, 20),
    ],
)
def test_sizes_that_tiles_do_not_divide(name: str, width: int, n_in: int, n_out: int, rows: int) -> None:
    layers = layers_of(name, width=width, depth=2, n_in=n_in, n_out=n_out)
    assert_network_is_right(layers, coordinates(rows, n_in), EXACT, 3e-5)


def test_hidden_layers_may_differ_in_width() -> None:
    activation = ACTIVATIONS["variable-gauss"]
    generator = torch.Generator().manual_seed(0)
    sizes = [2, 17, 40, 9, 3]
    weights = [torch.randn(b, a, generator=generator).to(DEVICE) / a for a, b in pairwise(sizes)]
    biases = [torch.rand(b, generator=generator).to(DEVICE) for b in sizes[1:]]
    form = activation.kernel_form()
    assert form is not None
    layers = Layers(weights, biases, [form] * 3, [activation] * 3)
    assert_network_is_right(layers, coordinates(100), EXACT, 3e-5)


def test_a_complex_first_layer() -> None:
    layers = layers_of("variable-wavelet", width=20, depth=2, real_first=False)
    assert_network_is_right(layers, coordinates(100), EXACT, 3e-5)


@pytest.mark.parametrize("name", ["variable-sine", "variable-wavelet"])
@pytest.mark.parametrize(
    ("rounding", "tolerance"),
    [
        (Rounding("tf32", "tf32"), 1e-2),
        (Rounding("bfloat16", "bfloat16"), 8e-2),
        (Rounding("float16", "float16"), 1e-2),
        (Rounding("float32", "bfloat16"), 8e-2),
        (Rounding("tf32", "float16"), 1e-2),
    ],
    ids=str,
)
def test_rounded_operands_give_rounded_results(name: str, rounding: Rounding, tolerance: float) -> None:
    """The interpreter knows half precision, where it cuts bfloat16 off, but not tf32."""
    layers = layers_of(name, width=32, depth=2)
    coords = coordinates(100)
    assert_network_is_right(layers, coords, rounding, tolerance)
    y_grad = torch.ones(100, 3, device=DEVICE)
    (exact, exact_grads), (y, grads) = (
        gradients(layers, coords, y_grad, each, stored=True) for each in (EXACT, rounding)
    )
    for precision, found, wanted in (
        (rounding.forward, y, exact),
        (rounding.backward, grads[1][1], exact_grads[1][1]),
        (rounding.backward, grads[2][0], exact_grads[2][0]),
    ):
        if precision in ("bfloat16", "float16"):
            assert (found - wanted).abs().max() > 1e-5 * wanted.abs().max()
        if precision == "float32":
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16", "float16"])
def test_coordinates_are_not_rounded(precision: str) -> None:
    """A step of 2^-12 is lost in tf32 and in bfloat16, and is a quarter of a wave at a frequency of 6,434."""
    frequency = 1024.0 * 2.0 * math.pi
    weights = [torch.full((1, 1), frequency, device=DEVICE), torch.ones(1, 1, device=DEVICE)]
    biases = [torch.zeros(1, device=DEVICE), torch.zeros(1, device=DEVICE)]
    coords = (0.5 + torch.arange(8, device=DEVICE)[:, None] / 4096.0).float()
    y = triton_network.forward(coords, weights, biases, [KernelForm("sine", omega=1.0)], precision=precision)
    expected = torch.sin(coords.double() * weights[0].double())
    # The largest tile of phase, 3,217 + 11, has a spacing of 2.4e-4; bfloat16 rounds the values by up to 2^-9.
    torch.testing.assert_close(y.double(), expected, rtol=0.0, atol=3e-3)


@pytest.mark.parametrize("stored", [False, True])
def test_leading_dimensions_and_memory_order_do_not_matter(stored: bool) -> None:
    layers = layers_of("variable-sine", width=16, depth=2)
    coords = coordinates(60)
    y, grads = gradients(layers, coords, torch.ones(60, 3, device=DEVICE), EXACT, stored=stored)
    arguments = (layers.weights, layers.biases, layers.forms)
    strided = coords.T.contiguous().T
    assert torch.equal(triton_network.forward(strided, *arguments, precision="float32"), y)
    batch = coords.unflatten(0, (5, 12))
    expanded = torch.ones(1, 1, 1, device=DEVICE).expand(5, 12, 3)
    other, others = gradients(layers, batch, expanded, EXACT, stored=stored)
    assert torch.equal(other, y.unflatten(0, (5, 12)))
    assert torch.equal(others[0].flatten(0, 1), grads[0])
    for one, other in zip(chain(*grads[1:]), chain(*others[1:]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("stored", [False, True])
def test_gradients_are_the_same_each_time_and_nothing_is_made_that_nobody_wants(stored: bool) -> None:
    layers = layers_of("variable-wavelet", width=16, depth=2)
    arguments = (layers, coordinates(300), torch.ones(300, 3, device=DEVICE), EXACT)
    _, (coords_grad, *first) = gradients(*arguments, stored=stored, want_input_grad=False)
    assert coords_grad is None
    _, (_, *second) = gradients(*arguments, stored=stored)
    for one, other in zip(chain(*first), chain(*second), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("width", [16, 70])
def test_not_a_number_stays_in_its_row(width: int) -> None:
    layers = layers_of("variable-gauss", width=width, depth=2)
    coords = coordinates(70)
    coords[3, 0] = math.nan
    y = triton_network.forward(coords, layers.weights, layers.biases, layers.forms)
    is_nan = y.isnan().any(dim=-1)
    assert is_nan[3]
    assert is_nan.sum() == 1


@pytest.mark.parametrize("stored", [False, True])
def test_nothing_in_nothing_out(stored: bool) -> None:
    layers = layers_of("variable-wavelet", width=16, depth=2)
    y, (coords_grad, weight_grads, bias_grads) = gradients(
        layers, coordinates(0), torch.ones(0, 3, device=DEVICE), EXACT, stored=stored
    )
    assert y.shape == (0, 3)
    assert coords_grad.shape == (0, 2)
    for grad, parameter in zip(weight_grads + bias_grads, layers.weights + layers.biases, strict=True):
        assert torch.equal(grad, torch.zeros_like(parameter))


SINE = KernelForm("sine", omega=30.0)
WAVELET = KernelForm("wavelet", omega=20.0, s=10.0)
FIRST_WAVELET = KernelForm("wavelet", omega=20.0, s=10.0, real_input=True)


@pytest.mark.parametrize(
    ("expected", "n_in", "widths", "n_out", "forms"),
    [
        (True, 2, [256, 256], 3, [SINE, SINE]),
        (True, 128, [16], 256, [SINE]),
        (True, 3, [256, 256], 1, [FIRST_WAVELET, WAVELET]),
        (True, 3, [22, 22], 1, [WAVELET, WAVELET]),
        (False, 2, [257], 3, [SINE]),
        (False, 129, [16], 3, [SINE]),
        (False, 2, [16], 257, [SINE]),
        (True, 2, [362, 362], 3, [FIRST_WAVELET, WAVELET]),
        (False, 2, [514, 514], 3, [FIRST_WAVELET, WAVELET]),
        (False, 2, [23, 22], 3, [FIRST_WAVELET, WAVELET]),
        (False, 2, [22, 22], 3, [FIRST_WAVELET, FIRST_WAVELET]),
        (False, 2, [16, 16], 3, [SINE, KernelForm("sine", omega=1.0)]),
        (False, 2, [16], 3, [None]),
        (False, 2, [16, 16], 3, [SINE]),
        (False, 2, [], 3, []),
    ],
)
def test_supported_networks(
    expected: bool, n_in: int, widths: list[int], n_out: int, forms: list[KernelForm | None]
) -> None:
    assert triton_network.supports(n_in, widths, n_out, forms) is expected


def test_other_networks_are_refused() -> None:
    layers = layers_of("wavelet", width=400, depth=2)
    with pytest.raises(ValueError, match="2 -> 564 -> 564 -> 3 with the activations wavelet, wavelet"):
        triton_network.forward(coordinates(4), layers.weights, layers.biases, layers.forms)


def test_layers_of_several_widths_are_not_stored() -> None:
    weights = [torch.zeros(size, device=DEVICE) for size in ((16, 2), (20, 16), (1, 20))]
    biases = [torch.zeros(size, device=DEVICE) for size in (16, 20, 1)]
    with pytest.raises(ValueError, match="layers of 16, 20 features"):
        triton_network.forward(coordinates(4), weights, biases, [SINE, SINE], stored=torch.zeros(1, 4, 20))


def test_wide_networks_are_not_computed_anew() -> None:
    layers = layers_of("sine", width=65, depth=2)
    arguments = (coordinates(4), layers.weights, layers.biases, layers.forms)
    with pytest.raises(ValueError, match="65 features"):
        triton_network.backward(*arguments, torch.ones(4, 3, device=DEVICE), want_input_grad=False)
