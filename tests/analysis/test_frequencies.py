"""The supported frequency set: the formula against responses of real neurons, and its growth with the bias range."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finer_nerfstudio import CoordinateNetwork, preset
from finer_nerfstudio.analysis.frequencies import (
    FrequenciesOptions,
    Repeats,
    draw,
    frequency_factor,
    mean_frequency_factor,
    measure_frequencies,
    repeats_of,
    study,
)
from finer_nerfstudio.analysis.outcome import read_outcome, write_outcome
from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.files.checkpoint import save_model
from finer_nerfstudio.inr.activations import Custom, Gauss, ReLU, Sine, Wavelet, variable_periodic

FAMILIES = ("finer-sine", "finer-gauss", "finer-wavelet")
PLACES = st.floats(-30.0, 30.0)


def nothing(name: str, done: int, total: int) -> None:
    assert name
    assert 0 <= done <= total


def neurons_of(method: str, k: float, *, width: int = 96) -> CoordinateNetwork:
    chosen = preset(method, "image").overridden(bias_range=k)
    return chosen.network(1, 1, width=width, depth=1, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("method", FAMILIES)
@pytest.mark.parametrize("k", [0.5, 1.0, 5.0, 20.0])
def test_responses_repeat_as_often_as_the_formula_says(method: str, k: float) -> None:
    net = neurons_of(method, k)
    # Beyond [-1, 1], so that slow neurons repeat too.
    local = measure_frequencies(net, repeats_of(net.activation), window=4.0)
    assert len(local.neuron) > 0.7 * net.units
    weight, bias = (tensor.detach().double()[local.neuron] for tensor in (net.first.weight[:, 0], net.first.bias))
    # Bumps of Gauss and of the wavelet's envelope come omega_f (2|u| + 1) / pi times per unit of u, waves of the
    # sine omega_0 (2|u| + 1) / 2 pi times.
    per_unit = {"finer-sine": 30.0 / (2 * math.pi), "finer-gauss": 10.0 / math.pi, "finer-wavelet": 5.0 / math.pi}
    middle = weight * (0.5 * (local.start + local.stop)) + bias
    expected = per_unit[method] * weight.abs() * (2.0 * middle.abs() + 1.0)
    # Where u changes its sign within a repeat, the factor in the middle is not its mean.
    one_sided = (weight * local.start + bias) * (weight * local.stop + bias) > 0
    assert int(one_sided.sum()) > 0.4 * net.units
    torch.testing.assert_close(local.measured[one_sided], expected[one_sided], rtol=0.01, atol=0.0)


@pytest.mark.parametrize("method", FAMILIES)
def test_the_highest_factor_grows_like_2k_plus_1(method: str) -> None:
    options = FrequenciesOptions(method=method, bias_ranges=(1.0, 5.0, 20.0))  # pyright: ignore[reportArgumentType]
    networks = study(options, nothing).numbers["networks"]
    for k, summary in zip((1.0, 5.0, 20.0), networks.values(), strict=True):
        # 256 biases come close to k; a repeat reaches a little beyond x = 0.
        assert summary["highest_factor"] == pytest.approx(2 * k + 1, rel=0.06)
        assert summary["factor_limit"] == 2 * k + 1
        assert summary["largest_deviation"] < 0.01
        assert summary["highest"] < 1.06 * summary["limit"]
        assert summary["highest"] == pytest.approx(summary["highest_analytic"], rel=0.05)
    highest = [summary["highest"] for summary in networks.values()]
    assert highest[1] / highest[0] == pytest.approx(11 / 3, rel=0.15)
    assert highest[2] / highest[0] == pytest.approx(41 / 3, rel=0.15)


def test_the_measurement_finds_known_frequencies() -> None:
    cycles = torch.tensor([1.3, 7.0, 90.0, 800.0, 0.2], dtype=torch.float64)
    net = preset("siren", "image").network(1, 1, width=5, depth=1).double()
    net.first.weight.data[:, 0] = cycles * (2 * math.pi / 30.0) * torch.tensor([1, -1, 1, -1, 1])
    local = measure_frequencies(net, repeats_of(net.activation))
    # A fifth of a cycle per unit does not repeat within two units.
    assert local.neuron.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(local.measured, cycles[:4], rtol=1e-4, atol=0.0)
    assert bool((local.start <= 0).all())
    assert bool((local.stop > 0).all())
    wider = measure_frequencies(net, repeats_of(net.activation), window=6.0)
    assert float(wider.measured[4]) == pytest.approx(0.2, rel=1e-4)


def test_a_sine_has_the_same_frequencies_for_any_k() -> None:
    wide = study(FrequenciesOptions(method="siren", bias_range=20.0), nothing).numbers["networks"]
    usual = study(FrequenciesOptions(method="siren"), nothing).numbers["networks"]
    for (summary,) in (wide.values(), usual.values()):
        assert summary["highest"] == pytest.approx(30.0 / (2 * math.pi), rel=0.03)
        assert summary["highest"] <= summary["limit"] * (1 + 1e-4)
        assert summary["highest_factor"] == pytest.approx(1.0, rel=1e-3)


@given(PLACES)
def test_the_factor_is_the_slope_of_the_inner_function(u: float) -> None:
    x = torch.tensor(u, dtype=torch.float64, requires_grad=True)
    ((x.abs() + 1.0) * x).backward()
    assert x.grad is not None
    assert float(frequency_factor(x.detach())) == pytest.approx(float(x.grad), rel=1e-12)


@given(PLACES, st.floats(1e-3, 10.0))
def test_the_mean_factor_is_the_mean(start: float, length: float) -> None:
    ends = torch.tensor([start, start + length], dtype=torch.float64)
    along = start + length * (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    expected = float(frequency_factor(along).mean())
    assert float(mean_frequency_factor(ends[0], ends[1])) == pytest.approx(expected, rel=1e-6)
    if start > 0:
        assert expected == pytest.approx(float(frequency_factor(ends.mean())), rel=1e-9)


def test_what_repeats_after_how_much_phase() -> None:
    assert repeats_of(Sine(7.0)) == Repeats(7.0, 2 * math.pi, 1, variable=False)
    assert repeats_of(variable_periodic(Sine(7.0))) == Repeats(7.0, 2 * math.pi, 1, variable=True)
    assert repeats_of(variable_periodic(Gauss(30.0), omega_f=10.0)) == Repeats(10.0, math.pi, 1, variable=True)
    assert repeats_of(variable_periodic(Wavelet(20.0, 10.0), omega_f=5.0)) == Repeats(5.0, math.pi, 1, variable=True)
    assert repeats_of(variable_periodic(torch.tanh, omega_f=4.0)) == Repeats(4.0, 2 * math.pi, 1, variable=True)
    assert repeats_of(variable_periodic(torch.sinc, omega_f=4.0)) == Repeats(4.0, math.pi, 1, variable=True)
    # cos(7 sin p) is highest at sin p = 0 and +-2 pi / 7: three times in half a turn.
    assert repeats_of(variable_periodic(torch.cos, scale=7.0, omega_f=1.0)) == Repeats(1.0, math.pi, 3, variable=True)


@pytest.mark.parametrize(
    "activation", [variable_periodic(torch.cos, scale=14.0, omega_f=2.0), variable_periodic(torch.tanh)]
)
def test_functions_of_ones_own_repeat_by_the_same_formula(activation: Any) -> None:
    net = CoordinateNetwork(
        1, 1, width=64, depth=1, activation=activation, bias_range=9.0, generator=torch.Generator().manual_seed(1)
    )
    repeats = repeats_of(activation)
    local = measure_frequencies(net, repeats)
    assert len(local.neuron) > 32
    weight, bias = (tensor.detach().double()[local.neuron] for tensor in (net.first.weight[:, 0], net.first.bias))
    ends = [weight * x + bias for x in (local.start, local.stop)]
    cycles = (ends[1] * (ends[1].abs() + 1) - ends[0] * (ends[0].abs() + 1)).abs() * (repeats.omega / repeats.period)
    torch.testing.assert_close(cycles, torch.ones_like(cycles), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("activation", [ReLU(), Gauss(3.0), Wavelet(3.0, 2.0), Custom(torch.tanh)])
def test_what_does_not_repeat_is_refused(activation: Any) -> None:
    with pytest.raises(ValueError, match="does not repeat"):
        repeats_of(activation)


def test_periods_of_ones_own_are_unknown() -> None:
    with pytest.raises(ValueError, match="period"):
        repeats_of(variable_periodic(torch.cos, periodic=True))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "gauss"}, "does not repeat"),
        ({"method": "wire"}, "does not repeat"),
        ({"method": "pemlp"}, "positional encoding"),
        ({"window": 0.0}, "window"),
        ({"bias_ranges": ()}, "bias_ranges"),
        ({"bias_range": 1e6}, "too fast"),
    ],
)
def test_bad_options_get_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        study(FrequenciesOptions(**options), nothing)


def test_a_saved_model_of_two_coordinates_is_drawn_from_its_files(tmp_path: Path) -> None:
    network = preset("finer-gauss", "image").network(
        2, 3, width=32, depth=2, generator=torch.Generator().manual_seed(5)
    )
    network.first.weight.data *= 3.0
    path = tmp_path / "model.safetensors"
    save_model(
        path,
        network,
        task="image",
        signal={"height": 16, "width": 16},
        configuration={"seed": 5, "method": "finer-gauss"},
    )
    outcome = study(FrequenciesOptions(model=path), nothing)
    initial, trained = outcome.numbers["networks"].values()
    # Weights three times as large, and nothing else.
    assert trained["highest_analytic"] == pytest.approx(3.0 * initial["highest_analytic"], rel=1e-6)
    assert trained["largest_deviation"] < 0.01
    assert initial["limit"] == pytest.approx(10.0 / math.pi * 3.0 / 2.0)
    assert trained["limit"] is None
    write_outcome(tmp_path, outcome, draw(outcome))
    again = draw(read_outcome(tmp_path / "frequencies.json"))
    assert [place.get_title() for place in again.axes] == [place.get_title() for place in draw(outcome).axes]


def test_nothing_to_measure_is_said_and_drawn() -> None:
    outcome = study(FrequenciesOptions(scales="small", bias_ranges=(0.01,), width=8), nothing)
    (summary,) = outcome.numbers["networks"].values()
    assert summary["neurons"] == 0
    assert summary["highest"] is None
    assert summary["highest_analytic"] < 1.02 / (2 * math.pi)
    assert len(draw(outcome).axes) == 3
