"""Chains of layers against PyTorch's own operations in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finer_nerfstudio import METHODS, CoordinateNetwork, Custom, Gauss, Sine, Wavelet, preset, variable_periodic
from finer_nerfstudio.inr import inference, kernels
from finer_nerfstudio.inr.activations import Activation
from finer_nerfstudio.inr.kernels import blocks, compiled, layers, plain
from finer_nerfstudio.inr.kernels.blocks import BlockProgram


@pytest.fixture(params=["compiled", "plain"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute activations; blocks so small that there are several, the last one not full."""
    if request.param == "plain":
        monkeypatch.setattr(kernels, "_program_for", lambda x, layers, rounding: BlockProgram(plain))
    elif compiled.unavailable_because("sine") is not None:
        pytest.skip(str(compiled.unavailable_because("sine")))
    monkeypatch.setattr(blocks, "_CACHE_BYTES", 1)
    monkeypatch.setattr(compiled, "_CACHE_BYTES", 1)
    return request.param


def network(method: str, in_dim: int = 2, depth: int = 3) -> CoordinateNetwork:
    row = preset(method, "image")
    return CoordinateNetwork(
        in_dim,
        3,
        width=24,
        depth=depth,
        activation=row.activation,
        bias_range=row.bias_range,
        encoding_frequencies=row.encoding_frequencies,
        generator=torch.Generator().manual_seed(4),
    )


def by_autograd(net: CoordinateNetwork, x: Tensor) -> Tensor:
    """The network by its definition: tensor functions in float64, every derivative by autograd."""
    return layers.plain_chain(net._encoded(x), net._layers(net.activation))


def gradients(out: Tensor, net: CoordinateNetwork, x: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(out.shape, generator=generator).to(out)
    return list(torch.autograd.grad((out * weights).sum(), [x, *net.parameters()]))


@pytest.mark.parametrize("in_dim", [2, 40])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_outputs_and_gradients_are_those_of_autograd(kernel: str, method: str, depth: int, in_dim: int) -> None:
    """Few inputs, whose first layer is computed anew in the backward pass, and many, where it is stored."""
    net = network(method, in_dim, depth)
    generator = torch.Generator().manual_seed(6)
    x = (torch.rand(7, 25, in_dim, generator=generator) * 2 - 1).requires_grad_()
    exact, exact_x = copy.deepcopy(net).double(), x.detach().double().requires_grad_()
    out, expected = net(x), by_autograd(exact, exact_x)
    scale = 1.0 if method in ("pemlp", "siren") else 30.0  # phases in float32 differ by more where bumps are narrow
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=2e-6 * scale)
    for found, wanted in zip(gradients(out, net, x), gradients(expected, exact, exact_x), strict=True):
        assert float((found - wanted).norm()) <= 3e-6 * scale * float(wanted.norm()) + 1e-6


GENTLE: list[Activation] = [
    Sine(3.0),
    Gauss(2.0),
    Wavelet(3.0, 1.5),
    variable_periodic(Sine(2.0), scale_gradient=True),
    variable_periodic(Gauss(3.0), omega_f=2.0, scale_gradient=True),
    variable_periodic(Wavelet(3.0, 1.5), omega_f=2.0, scale_gradient=True),
]


@pytest.mark.parametrize("activation", GENTLE, ids=str)
def test_finite_differences_agree(activation: Activation) -> None:
    """Of coordinates, weights and biases, first and second order, in double precision."""
    generator = torch.Generator().manual_seed(1)
    packed = 2 if activation.complex_valued else 1

    def chain(x: Tensor, *parameters: Tensor) -> Tensor:
        activations = [activation.for_first_layer(), activation, None]
        pairs = zip(parameters[::2], parameters[1::2], activations, strict=True)
        return kernels.evaluate_layers(x, [kernels.Layer(weight, bias, each) for weight, bias, each in pairs])

    shapes = [(2, 2), (3, 2), (3,), (3 * packed, 3 * packed), (3 * packed,), (2, 3 * packed), (2,)]
    inputs = [(torch.rand(shape, dtype=torch.float64, generator=generator) - 0.5).requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(chain, inputs)
    assert torch.autograd.gradgradcheck(chain, inputs)


@settings(max_examples=30)
@given(st.integers(0, 70), st.integers(1, 20), st.integers(1, 33), st.booleans())
def test_any_shape(rows: int, in_dim: int, width: int, strided: bool) -> None:
    """Blocks of any size give what one block gives, from memory in any order."""
    generator = torch.Generator().manual_seed(0)
    row = preset("finer-gauss", "image")
    net = CoordinateNetwork(in_dim, 2, width=width, depth=2, activation=row.activation, generator=generator)
    x = torch.rand(in_dim, rows, generator=generator).t() if strided else torch.rand(rows, in_dim, generator=generator)
    whole = net(x)
    assert whole.shape == (rows, 2)
    if rows:
        torch.testing.assert_close(torch.cat([net(part) for part in x.split(7)]), whole, rtol=1e-4, atol=1e-4)


def test_frozen_weights_and_unwanted_gradients(kernel: str) -> None:
    net = network("finer-sine")
    x = torch.rand(40, 2)
    net(x).sum().backward()
    expected = [parameter.grad for parameter in net.parameters()]
    assert x.grad is None
    net.zero_grad()
    net.hidden[0].requires_grad_(False)
    net(x).sum().backward()
    for (name, parameter), wanted in zip(net.named_parameters(), expected, strict=True):
        if name.startswith("hidden.0"):
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, wanted)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_rounds_operands_and_nothing_else(kernel: str, dtype: torch.dtype) -> None:
    """Against the same rounding written out: phases and sums stay in float32, as does the whole first layer."""
    net = network("finer-sine")
    x = torch.rand(300, 2)
    with torch.autocast("cpu", dtype=dtype):
        out = net(x)
    z = net.first_layer(x)
    for layer in net.hidden:
        z = net.activation.value(z.to(dtype).float() @ layer.weight.to(dtype).float().t() + layer.bias)  # pyright: ignore
    expected = z.to(dtype).float() @ net.last.weight.to(dtype).float().t() + net.last.bias
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(out, net(x), rtol=1e-6, atol=1e-6)


def test_an_activation_of_ones_own(kernel: str) -> None:
    activation = variable_periodic(Custom(torch.tanh, scale=3.0), omega_f=5.0, scale_gradient=True)
    net = CoordinateNetwork(2, 1, width=8, depth=2, activation=activation, generator=torch.Generator().manual_seed(0))
    x = torch.rand(50, 2, requires_grad=True)
    exact, exact_x = copy.deepcopy(net).double(), x.detach().double().requires_grad_()
    for found, wanted in zip(
        gradients(net(x), net, x), gradients(by_autograd(exact, exact_x), exact, exact_x), strict=True
    ):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["finer-sine", "finer-gauss", "finer-wavelet"])
def test_one_tensor_is_kept_for_each_hidden_layer(method: str) -> None:
    """And none for a first layer of few inputs."""
    net = network(method, depth=4)
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = torch.rand(500, 2)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        net(x)
    assert sum(tensor.shape[0] == 500 and tensor.shape[-1] > 2 for tensor in kept) == len(net.hidden)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_for_inference_is_the_network_as_it_was(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_ROWS_ON_PROCESSORS", 64)
    net = network(method)
    coords = torch.rand(10, 31, 2)
    expected = net(coords).detach()
    render = net.compile_for_inference()
    with torch.no_grad():
        net.first.weight.mul_(2.0)
    out = render(coords)
    assert not out.requires_grad
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    assert render(torch.empty(0, 2)).shape == (0, 3)
    out.add_(1.0).requires_grad_().sum().backward()  # an ordinary tensor


def test_without_gradients_nothing_is_kept(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of parameters that could be trained, and with the same outputs."""
    kept: list[bool] = []
    storage = layers._storage

    def spy(rows: Tensor, chain: Sequence[layers.Layer]) -> list[Tensor | None]:
        kept.append(True)
        return storage(rows, chain)

    monkeypatch.setattr(layers, "_storage", spy)
    net, x = network("finer-sine"), torch.rand(50, 2)
    with torch.no_grad():
        out = net(x)
    assert kept == []
    assert torch.equal(out, net(x))
    assert kept == [True]
