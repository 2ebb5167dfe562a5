"""Networks that grow: frozen prefixes to the bit, shells, merging, and equality with a dense network."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finer_nerfstudio import METHODS, GrowingNetwork, bias_shells, preset
from finer_nerfstudio.inr.growth import slim_output, units_of


def grown(
    method: str, widths: tuple[int, ...], *, depth: int = 3, dtype: torch.dtype = torch.float32
) -> GrowingNetwork:
    row = preset(method, "image")
    network = GrowingNetwork(
        2, 3, depth=depth, activation=row.activation, encoding_frequencies=row.encoding_frequencies
    ).to(dtype)
    generator = torch.Generator().manual_seed(0)
    for width, shell in zip(widths, bias_shells(row.bias_range, len(widths)), strict=True):
        network.grow(width, bias_shell=shell, generator=generator)
        disturb(network, generator)
    return network.to(dtype)


def disturb(network: GrowingNetwork, generator: torch.Generator) -> None:
    """Give the newest stage other numbers, also where a widening begins with zeros."""
    with torch.no_grad():
        for parameter in network.stages[-1].parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def coords(count: int = 301) -> torch.Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("method", METHODS)
def test_old_outputs_stay_to_the_bit(method: str) -> None:
    """Right after a widening, and after training it with momentum and weight decay."""
    network = grown(method, (10, 21))
    before, narrow = network(coords()).detach(), network(coords(), stages=1).detach()
    old = {name: value.clone() for name, value in network.state_dict().items()}
    network.grow(34, bias_shell=(0.5, 1.0), generator=torch.Generator().manual_seed(2))
    assert torch.equal(network(coords()), before)
    # All parameters are handed over, as somebody would who knows nothing of stages.
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        network(coords()).square().mean().backward()
        optimizer.step()
    assert not torch.equal(network(coords()), before)
    assert torch.equal(network(coords(), stages=2), before)
    assert torch.equal(network(coords(), stages=1), narrow)
    for name, value in old.items():
        assert torch.equal(network.state_dict()[name], value), name


@pytest.mark.parametrize("method", METHODS)
def test_everything_new_is_trained(method: str) -> None:
    network = grown(method, (10, 21))
    network(coords()).square().mean().backward()
    for parameter in network.stages[-1].parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("method", METHODS)
def test_the_merged_network_is_the_same_function(method: str) -> None:
    """Against one dense network with zero blocks, in double precision."""
    network = grown(method, (8, 17, 30), dtype=torch.float64)
    for stages in (1, 2, 3):
        merged = network.merged(stages)
        assert merged.width == (8, 17, 30)[stages - 1]
        torch.testing.assert_close(merged(coords().double()), network(coords().double(), stages=stages))


@pytest.mark.parametrize("method", ["finer-sine", "finer-gauss", "finer-wavelet"])
def test_gradients_of_a_stage(method: str) -> None:
    network = grown(method, (3, 6), depth=2, dtype=torch.float64)
    activation = network.activation.with_scale_gradient(True)
    stage, part = network.stages[-1], network.frozen_part(coords(4).double(), stages=1)
    names = [name for name, _ in stage.named_parameters()]

    def output(*values: torch.Tensor) -> torch.Tensor:
        parameters = dict(zip(names, values, strict=True))
        inputs = (coords(4).double(), part, activation)
        return torch.func.functional_call(stage, parameters, inputs)[1]

    values = [value.detach().clone().requires_grad_() for value in stage.parameters()]
    assert torch.autograd.gradcheck(output, values)


@given(low=st.floats(0.0, 5.0), more=st.floats(0.01, 5.0), seed=st.integers(0, 1 << 32))
@settings(max_examples=30, deadline=None)
def test_biases_come_from_their_shell(low: float, more: float, seed: int) -> None:
    network = grown("finer-sine", (4,), depth=1)
    generator = torch.Generator().manual_seed(seed)
    magnitudes = network.grow(304, bias_shell=(low, low + more), generator=generator).first.bias.detach()
    assert magnitudes.abs().min() >= low - 1e-6
    assert magnitudes.abs().max() <= low + more + 1e-6
    # Either side half of the time: 300 coins are within 8 standard deviations of that.
    assert abs(int((magnitudes > 0).sum()) - 150) < 70
    assert magnitudes.abs().mean() == pytest.approx(low + 0.5 * more, abs=0.2 * more)


def test_shells_of_the_stages() -> None:
    assert bias_shells(0.5, 3) == [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)]
    assert bias_shells(None, 2) == [None, None]


@pytest.mark.parametrize("method", ["siren", "finer-wavelet"])
def test_a_slimmable_network_is_a_slice(method: str) -> None:
    row = preset(method, "image")
    wide = row.network(2, 3, width=20, depth=3, generator=torch.Generator().manual_seed(0)).double()
    narrow = row.network(2, 3, width=9, depth=3).double()
    units = units_of(9, row.activation)
    with torch.no_grad():
        for name, target in narrow.named_parameters():
            source = wide.get_parameter(name)
            if name.startswith("hidden") and name.endswith("bias") and row.activation.complex_valued:
                source = source.view(2, -1)[:, :units].flatten()
            target.copy_(source[tuple(slice(0, size) for size in target.shape)])
    torch.testing.assert_close(slim_output(wide, coords().double(), 9), narrow(coords().double()))


def test_what_cannot_be_grown_is_refused() -> None:
    network = grown("finer-wavelet", (10,))
    with pytest.raises(ValueError, match="width must add a unit"):
        network.grow(10)
    with pytest.raises(ValueError, match="bias_shell"):
        network.grow(20, bias_shell=(1.0, 1.0))
    with pytest.raises(ValueError, match="bias_shell"):
        network.grow(20, bias_shell=(0.0, math.nan))
    with pytest.raises(ValueError, match="no units yet"):
        GrowingNetwork(2, 3, depth=3, activation=network.activation)(coords())
    with pytest.raises(ValueError, match="out_dim"):
        GrowingNetwork(2, 0, depth=3, activation=network.activation)


@pytest.mark.parametrize("method", METHODS)
def test_features_and_readout_are_the_output_in_two_halves(method: str) -> None:
    row = preset(method, "image")
    generator = torch.Generator().manual_seed(0)
    network = GrowingNetwork(
        2, 5, depth=3, activation=row.activation, encoding_frequencies=row.encoding_frequencies
    ).double()
    coords = torch.rand(3, 7, 2, dtype=torch.float64, generator=generator) * 2 - 1
    for width in (6, 10, 15):
        network.grow(width, generator=generator)
        for parameter in network.stages[-1].parameters():
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    for stages in (1, 2, 3):
        features, expected = network.hidden_features(coords, stages=stages), network(coords, stages=stages)
        torch.testing.assert_close(network.readout(features), expected)
        torch.testing.assert_close(network.readout(features, slice(1, 3)), expected[..., 1:3])
        network.active = stages
        assert torch.equal(network(coords), expected)
    with pytest.raises(ValueError, match="whole stages"):
        network.readout(features[..., 1:])
