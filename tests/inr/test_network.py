"""The network against complex arithmetic, its initial statistics, and its presets."""

from __future__ import annotations

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn

from finer_nerfstudio import METHODS, CoordinateNetwork, Sine, Wavelet, positional_encoding, preset, variable_periodic
from finer_nerfstudio.inr import kernels
from finer_nerfstudio.inr.network import ComplexLinear


def network(method: str, width: int = 256, depth: int = 4, seed: int = 0) -> CoordinateNetwork:
    row = preset(method, "image")
    return CoordinateNetwork(
        2,
        3,
        width=width,
        depth=depth,
        activation=row.activation,
        bias_range=row.bias_range,
        encoding_frequencies=row.encoding_frequencies,
        generator=torch.Generator().manual_seed(seed),
    )


def test_complex_layer_agrees_with_cfloat_arithmetic() -> None:
    layer = ComplexLinear(17, 11)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-0.3, 0.3, generator=generator)
    packed = torch.randn(64, 34, generator=generator, requires_grad=True)
    upstream = torch.randn(64, 22, generator=generator)
    out = layer(packed)
    got = torch.autograd.grad(out, [packed, *layer.parameters()], upstream)

    z = torch.complex(*packed.detach().chunk(2, dim=-1)).requires_grad_()
    weight = torch.complex(layer.weight_real.detach(), layer.weight_imaginary.detach()).requires_grad_()
    bias = torch.complex(*layer.bias.detach().chunk(2)).requires_grad_()
    reference = z @ weight.T + bias
    assert z.dtype == torch.cfloat
    # PyTorch's complex gradient is that with respect to the real part plus j times that to the imaginary part.
    expected = torch.autograd.grad(reference, [z, weight, bias], torch.complex(*upstream.chunk(2, dim=-1)))
    assert (torch.complex(*out.chunk(2, dim=-1)) - reference).abs().max() <= 1e-6
    assert (torch.complex(*got[0].chunk(2, dim=-1)) - expected[0]).abs().max() <= 1e-6
    assert (torch.complex(got[1], got[2]) - expected[1]).abs().max() <= 1e-5
    assert (torch.complex(*got[3].chunk(2)) - expected[2]).abs().max() <= 1e-5


def test_wavelet_network_agrees_with_a_complex_one() -> None:
    net = network("finer-wavelet", width=64).double()
    x = torch.rand(200, 2, dtype=torch.float64) * 2 - 1
    z = torch.complex(x, torch.zeros_like(x))
    first = net.first
    z = z @ torch.complex(first.weight, torch.zeros_like(first.weight)).T + first.bias
    for layer in [*net.hidden, net.last]:
        assert isinstance(layer, ComplexLinear)
        stretched = torch.complex((z.real.abs() + 1) * z.real, (z.imag.abs() + 1) * z.imag)
        u = torch.sin(5 * stretched)
        z = torch.exp(4j * u) * torch.exp(-((2 * u).abs() ** 2))
        bias = layer.bias if layer.real_output else torch.complex(*layer.bias.chunk(2))
        z = z @ torch.complex(layer.weight_real, layer.weight_imaginary).T + bias
    torch.testing.assert_close(net(x), z.real)


@pytest.mark.parametrize("method", ["wire", "finer-wavelet"])
def test_complex_networks_hold_real_tensors_and_match_real_parameter_counts(method: str) -> None:
    net = network(method)
    assert not any(value.is_complex() for value in net.state_dict().values())
    assert net.units == int(256 / math.sqrt(2))
    real = sum(p.numel() for p in network("siren").parameters())
    packed = sum(p.numel() for p in net.parameters())
    assert abs(packed / real - 1) < 0.02


def assert_uniform(values: torch.Tensor, bound: float) -> None:
    """Inside U(-bound, bound), filling it, and with its variance."""
    values = values.detach()
    assert float(values.abs().max()) <= bound
    assert float(values.abs().max()) > bound * (1 - 5 / values.numel() - 1e-6) or values.numel() < 100
    if values.numel() >= 10_000:
        assert float(values.var()) == pytest.approx(bound**2 / 3, rel=0.05)


# spec table: method -> (first weight, hidden weight, first bias) half-widths for 2 inputs and 256 units
SINE_HIDDEN = {"siren": 30.0, "finer-sine": 30.0, "finer-gauss": 10.0, "finer-wavelet": 20.0}
BIAS_RANGE = {"finer-sine": 1 / math.sqrt(2), "finer-gauss": 1.0, "finer-wavelet": 1.0}


@pytest.mark.parametrize("method", METHODS)
def test_initial_statistics(method: str) -> None:
    net = network(method)
    units, n_in = net.units, net.first.in_features
    omega = SINE_HIDDEN.get(method)
    default_first, default_hidden = 1 / math.sqrt(n_in), 1 / math.sqrt(units)
    assert_uniform(net.first.weight, 1 / n_in if omega else default_first)
    assert_uniform(net.first.bias, BIAS_RANGE.get(method, default_first))
    for layer in [*net.hidden, net.last]:
        for name, parameter in layer.named_parameters():
            if name == "bias":
                assert_uniform(parameter, default_hidden)
            else:
                assert_uniform(parameter, math.sqrt(6 / units) / omega if omega else default_hidden)


def test_pytorchs_default_is_what_is_claimed() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(256, 256)
    assert_uniform(layer.weight, 1 / 16)
    assert_uniform(layer.bias, 1 / 16)


def test_same_seed_same_network() -> None:
    first, second, other = network("finer-wavelet", seed=5), network("finer-wavelet", seed=5), network("finer-wavelet")
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.first.weight, other.first.weight)


def test_positional_encoding() -> None:
    x = torch.tensor([[0.25, -0.5]])
    expected = [0.25, -0.5]
    for function in (math.sin, math.cos):
        for i in range(3):
            expected += [function(2**i * 0.25), function(2**i * -0.5)]
    torch.testing.assert_close(positional_encoding(x, 3), torch.tensor([expected]))
    assert positional_encoding(torch.rand(4, 5, 3), 10).shape == (4, 5, 63)
    with pytest.raises(ValueError, match="must not be negative"):
        positional_encoding(x, -1)


@pytest.mark.parametrize("method", METHODS)
def test_any_batch_shape_and_partial_readout(method: str) -> None:
    net = network(method, width=16, depth=2)
    x = torch.rand(3, 4, 2) * 2 - 1
    out = net(x)
    assert out.shape == (3, 4, 3)
    hidden = net.hidden_features(x)
    torch.testing.assert_close(net.readout(hidden, slice(1, None)), out[..., 1:])


@pytest.mark.parametrize("method", ["finer-sine", "finer-wavelet"])
def test_masked_neurons_do_not_reach_the_output(method: str) -> None:
    net = network(method, width=16, depth=2)
    x = torch.rand(50, 2) * 2 - 1
    mask = torch.ones(net.units)
    mask[3] = 0.0
    masked = net(x, neuron_mask=mask)
    assert not torch.allclose(masked, net(x))
    with torch.no_grad():
        net.first.bias[3] += 0.7
        net.first.weight[3] *= -2.0
    torch.testing.assert_close(net(x, neuron_mask=mask), masked)


def test_true_gradient_with_respect_to_coordinates_on_request() -> None:
    net = network("finer-sine", width=32, depth=2).double()
    x = (torch.rand(5, 2, dtype=torch.float64) - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: net(x, scale_gradient=True), x)
    assert not torch.autograd.gradcheck(net, x, raise_exception=False)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_runs_under_autocast(method: str) -> None:
    net = network(method, width=32, depth=3)
    x = torch.rand(64, 2) * 2 - 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(x)
        out.float().square().mean().backward()
    # Sanity, not quality: bfloat16 has 8 bits, and the phases that need more stay in float32.
    assert (out.float() - net(x)).abs().max() < 0.15 * (1 + net(x).abs().max())
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"width": 0}, "width"), ({"depth": 0}, "depth"), ({"bias_range": -1.0}, "bias_range")],
)
def test_sizes_are_checked(arguments: dict, message: str) -> None:
    defaults = {"width": 8, "depth": 2, "activation": Sine(30.0)}
    with pytest.raises(ValueError, match=message):
        CoordinateNetwork(2, 3, **{**defaults, **arguments})


def test_presets_are_the_published_ones() -> None:
    assert preset("finer-gauss", "image").activation.base.s_0 == 30.0  # type: ignore[attr-defined]
    assert preset("finer-gauss", "image").activation.omega_f == 10.0  # type: ignore[attr-defined]
    assert preset("finer-gauss", "image", "text").activation.omega_f == 2.5  # type: ignore[attr-defined]
    assert preset("finer-wavelet", "image").activation == variable_periodic(Wavelet(20.0, 10.0), omega_f=5.0)
    assert [preset(m, "image").learning_rate for m in METHODS] == [5e-4, 5e-4, 5e-3, 5e-3, 5e-4, 1e-3, 1e-3]
    assert preset("finer-wavelet", "sdf").bias_range == pytest.approx(1 / math.sqrt(3))
    assert preset("finer-wavelet", "sdf", "text").bias_range == pytest.approx(1 / math.sqrt(2))
    assert preset("finer-wavelet", "nerf").bias_range == 1.0
    assert preset("finer-sine", "nerf").bias_range == pytest.approx(1 / math.sqrt(3))
    assert all(preset(m, "nerf").learning_rate == 2e-4 for m in METHODS)
    assert preset("siren", "nerf").bias_range is None
    with pytest.raises(ValueError, match="known are pemlp, siren"):
        preset("relu", "image")


@pytest.mark.parametrize("method", ["siren", "gauss", "finer-sine", "finer-gauss", "wire", "finer-wavelet"])
def test_a_seed_gives_the_network_of_the_plain_construction(method: str) -> None:
    chosen = preset(method, "image")
    complex_valued = chosen.activation.complex_valued
    units = int(32 / math.sqrt(2)) if complex_valued else 32
    omega = {"siren": 30.0, "finer-sine": 30.0, "finer-gauss": 10.0, "finer-wavelet": 20.0}.get(method)
    torch.manual_seed(7)
    layers = [torch.nn.Linear(2, units)]
    if omega is not None:
        torch.nn.init.uniform_(layers[0].weight, -0.5, 0.5)
    if chosen.bias_range is not None:
        torch.nn.init.uniform_(layers[0].bias, -chosen.bias_range, chosen.bias_range)
    for outputs in (units, units, 3):
        layer = torch.nn.Linear(units, outputs, dtype=torch.cfloat if complex_valued else torch.float32)
        if omega is not None:
            with torch.no_grad():
                layer.weight.uniform_(-math.sqrt(6 / units) / omega, math.sqrt(6 / units) / omega)
        layers.append(layer)
    network = chosen.network(2, 3, width=32, depth=3, generator=torch.Generator().manual_seed(7))
    for ours, plain in zip((network.first, *network.hidden, network.last), layers, strict=True):
        if isinstance(ours, ComplexLinear):
            assert torch.equal(torch.complex(ours.weight_real, ours.weight_imaginary), plain.weight)
            expected = plain.bias.real if ours.real_output else torch.cat([plain.bias.real, plain.bias.imag])
            assert torch.equal(ours.bias, expected)
        else:
            assert isinstance(ours, torch.nn.Linear)
            assert torch.equal(ours.weight, plain.weight)
            assert torch.equal(ours.bias, plain.bias)


@pytest.mark.parametrize("wrong", [(5, 3), (5, 1), (0, 3), (3,), ()])
@pytest.mark.parametrize("method", ["siren", "finer-wavelet", "pemlp"])
def test_coordinates_of_another_dimension_are_refused(method: str, wrong: tuple[int, ...]) -> None:
    network = preset(method, "image").network(2, 3, width=8, depth=3)
    with pytest.raises((ValueError, TypeCheckError), match=r"coordinates must be|coords"):
        network(torch.zeros(wrong))


def test_layers_that_do_not_fit_are_refused() -> None:
    """Kernels take numbers of features on trust."""
    layers = [
        kernels.Layer(torch.zeros(4, 2), torch.zeros(4), Sine(30.0)),
        kernels.Layer(torch.zeros(3, 5), torch.zeros(3), None),
    ]
    with pytest.raises(ValueError, match="reads 5 features, and its input has 4"):
        kernels.evaluate_layers(torch.zeros(6, 2), layers)
    with pytest.raises(ValueError, match="reads 2 features, and its input has 3"):
        kernels.evaluate_layers(torch.zeros(6, 3), layers)


@pytest.mark.parametrize("method", METHODS)
def test_transforms_of_torch_func(method: str) -> None:
    """Per-point Jacobians with respect to the weights, against autograd point by point."""
    row = preset(method, "image")
    network = row.network(2, 1, width=6, depth=3, generator=torch.Generator().manual_seed(0)).double()
    coords = torch.rand(5, 2, dtype=torch.float64) * 2 - 1
    parameters = dict(network.named_parameters())

    def value(parameters: dict[str, torch.Tensor], point: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(network, parameters, (point,))[0]

    jacobian = torch.func.vmap(torch.func.jacrev(value), in_dims=(None, 0))(parameters, coords)
    for index, point in enumerate(coords):
        expected = torch.autograd.grad(network(point)[0], list(parameters.values()))
        for name, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(jacobian[name][index], gradient)
    torch.testing.assert_close(torch.func.vmap(network)(coords), network(coords))


@pytest.mark.parametrize("method", METHODS)
def test_a_network_behind_an_affine_map_is_both_one_after_the_other(method: str) -> None:
    row = preset(method, "nerf")
    generator = torch.Generator().manual_seed(3)
    net = CoordinateNetwork(
        9 + 3, 3, width=24, depth=2, activation=row.activation, bias_range=row.bias_range, generator=generator
    ).double()
    inner = torch.randn(50, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    rest = torch.randn(50, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = (0.2 * torch.randn(9, 16, generator=generator, dtype=torch.float64)).requires_grad_()
    bias = (0.2 * torch.randn(9, generator=generator, dtype=torch.float64)).requires_grad_()
    upstream = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    tensors = [inner, rest, weight, bias, *net.parameters()]
    apart = net(torch.cat([inner @ weight.T + bias, rest], dim=-1))
    together = net.forward_fused_input(weight, bias, inner, rest)
    torch.testing.assert_close(together, apart)
    torch.testing.assert_close(
        torch.autograd.grad(together, tensors, upstream), torch.autograd.grad(apart, tensors, upstream)
    )


def test_an_encoding_stands_between_a_network_and_an_affine_map() -> None:
    net = network("pemlp")
    with pytest.raises(ValueError, match="encodes its input"):
        net.forward_fused_input(torch.zeros(1, 4), torch.zeros(1), torch.zeros(5, 4), torch.zeros(5, 1))
