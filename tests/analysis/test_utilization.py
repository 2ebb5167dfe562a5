"""Pre-activations against independent evaluations, and shares against distributions whose shares are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finer_nerfstudio import METHODS, CoordinateNetwork, preset
from finer_nerfstudio.analysis.outcome import read_outcome, write_outcome
from finer_nerfstudio.analysis.points import grid_points
from finer_nerfstudio.analysis.utilization import (
    Utilization,
    UtilizationOptions,
    bin_shares,
    central_bump,
    draw,
    pre_activations,
    steepness_of,
    study,
    utilization_of,
)
from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.inr.activations import Custom, Gauss, ReLU, Sine, Wavelet, variable_periodic
from finer_nerfstudio.inr.network import ComplexLinear
from finer_nerfstudio.tasks.image.files import sample_image
from finer_nerfstudio.tasks.image.fit import ImageOptions
from finer_nerfstudio.tasks.image.run import run_image
from finer_nerfstudio.tasks.signal.grid import sample_centers

SCALES = st.floats(0.2, 60.0)


def nothing(name: str, done: int, total: int) -> None:
    assert name
    assert 0 <= done <= total


def network(method: str, *, width: int = 12, depth: int = 3) -> CoordinateNetwork:
    chosen = preset(method, "image")
    return chosen.network(2, 3, width=width, depth=depth, generator=torch.Generator().manual_seed(0)).double()


def counted(values: torch.Tensor, **options: Any) -> Utilization:
    return utilization_of(values, torch.ones_like(values), **options)


def square(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2.0 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1.0


@pytest.mark.parametrize("method", METHODS)
def test_pre_activations_are_those_of_the_network(method: str) -> None:
    net, coords = network(method), square(50)
    found = pre_activations(net, coords)
    assert len(found) == net.depth
    assert found[0].shape == (50, net.units)
    first = net.activation.for_first_layer().value(found[0])
    torch.testing.assert_close(first, net.first_layer(coords), rtol=1e-9, atol=1e-12)
    last = net.readout(net.activation.value(found[-1]))
    torch.testing.assert_close(last, net(coords), rtol=1e-9, atol=1e-12)


def test_complex_pre_activations_are_real_parts_and_then_imaginary_ones() -> None:
    net, coords = network("wire"), square(30)
    u = coords @ net.first.weight.T + net.first.bias
    z = torch.exp(20j * u - (10.0 * u) ** 2)
    for layer, found in zip(net.hidden, pre_activations(net, coords)[1:], strict=True):
        assert isinstance(layer, ComplexLinear)
        bias = torch.complex(*layer.bias.chunk(2))
        u = z @ torch.complex(layer.weight_real, layer.weight_imaginary).T + bias
        torch.testing.assert_close(found[:, : net.units], u.real, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found[:, net.units :], u.imag, rtol=1e-9, atol=1e-12)
        z = torch.exp(20j * u - (10.0 * u.abs()) ** 2)


@given(SCALES, SCALES)
def test_the_border_of_the_central_bump(scale: float, omega_f: float) -> None:
    def at_border(activation: Any, times: float = 1.0) -> float:
        u = torch.tensor([[times * central_bump(activation)]], dtype=torch.float64)
        return float(torch.linalg.vector_norm(activation.for_first_layer().value(u)))

    # The first extremum of sines, and 1 / e of bumps.
    assert at_border(Sine(scale)) == pytest.approx(1.0)
    assert at_border(variable_periodic(Sine(scale))) == pytest.approx(1.0)
    assert at_border(variable_periodic(Sine(scale)), 0.9) < 1.0
    bump = math.exp(-1.0)
    assert at_border(Gauss(scale)) == pytest.approx(bump)
    assert at_border(Wavelet(omega_f, scale)) == pytest.approx(bump)
    # No deeper than the trough, which a weak inner sine makes shallow.
    expected = math.exp(-(min(1.0, scale / omega_f) ** 2))
    for activation in (
        variable_periodic(Gauss(scale), omega_f=omega_f),
        variable_periodic(Wavelet(3.0, scale), omega_f=omega_f),
    ):
        assert at_border(activation) == pytest.approx(expected, rel=1e-6)
        assert at_border(activation, 0.5) > expected
    own = variable_periodic(torch.tanh, omega_f=omega_f)
    assert at_border(own) == pytest.approx(0.0, abs=1e-6)
    assert at_border(own, 0.5) > 0.0
    even = variable_periodic(torch.sinc, omega_f=omega_f)
    assert at_border(even) == pytest.approx(abs(math.sin(math.pi / omega_f) / (math.pi / omega_f)), rel=1e-6)


@pytest.mark.parametrize(
    ("activation", "sentence"),
    [
        (ReLU(), "no central bump"),
        (Custom(torch.tanh), "no central bump"),
        (variable_periodic(torch.cos, periodic=True), "period"),
    ],
)
def test_activations_without_a_bump_say_so(activation: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        central_bump(activation)


def test_shares_of_known_distributions() -> None:
    even = torch.linspace(-1.0, 1.0, 100_001, dtype=torch.float64)[:, None]
    found = counted(even * torch.tensor([1.0, 1.0]), bump=0.25, reference=4.0, bins=16)
    assert found.visited_bins == pytest.approx(4 / 16)
    assert found.outside_bump == pytest.approx(0.75, abs=1e-4)
    assert found.visited_width == pytest.approx(2.0)
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(200_000, 1, generator=generator, dtype=torch.float64)
    found = counted(normal, bump=1.5, reference=3.0, bins=6, least=0.1)
    assert found.outside_bump == pytest.approx(math.erfc(1.5 / math.sqrt(2.0)), abs=0.003)
    # 0.34, 0.14 and 0.02 on either side.
    assert found.visited_bins == pytest.approx(4 / 6)
    # Two constant neurons, one of them outside the window.
    still = torch.tensor([[0.1, 9.0]]).expand(7, 2)
    found = counted(still, bump=1.0, reference=3.0, bins=30, least=0.5)
    assert (found.visited_bins, found.outside_bump, found.visited_width) == (pytest.approx(1 / 30), 0.5, 0.0)
    assert counted(still, bump=1.0, bins=30, least=0.51).visited_bins == 0.0


@given(
    st.lists(st.floats(-10.0, 10.0), min_size=1, max_size=60),
    st.floats(0.1, 12.0),
    st.integers(1, 50),
)
def test_bins_hold_what_is_inside_the_window_and_nothing_else(values: list[float], reference: float, bins: int) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)[:, None]
    shares = bin_shares(tensor, reference, bins)
    assert shares.shape == (bins,)
    # A value within rounding of a border may fall on either side of it.
    surely = int((tensor.abs() < reference * (1 - 1e-12)).sum())
    possibly = int((tensor.abs() <= reference * (1 + 1e-12)).sum())
    assert surely - 1e-9 <= float(shares.sum()) * len(values) <= possibly + 1e-9
    for value in values:
        if abs(value) < 0.999 * reference:
            number = (value + reference) / (2 * reference) * bins
            near = shares[max(0, math.floor(number - 1e-6)) : math.floor(number + 1e-6) + 1]
            assert float(near.sum()) > 0


def test_the_flat_share_is_that_of_small_slopes() -> None:
    steep = torch.tensor([[0.0, 0.009, 0.011, 1.0]])
    assert utilization_of(torch.zeros(1, 4), steep, bump=1.0).flat == 0.5


@pytest.mark.parametrize("method", list(METHODS)[1:])
def test_steepness_is_the_derivative(method: str) -> None:
    net, coords = network(method), square(20)
    activation = net.activation.with_scale_gradient(True)
    for layer, values in enumerate(pre_activations(net, coords)):
        own = activation.for_first_layer() if layer == 0 else activation
        found = steepness_of(own, values, net.units)
        assert len(found) == (2 if layer and net.activation.complex_valued else 1)
        for part, steep in enumerate(found):
            tangent = torch.zeros_like(values)
            tangent[:, part * net.units : (part + 1) * net.units] = 1.0
            change = torch.func.jvp(own.value, (values,), (tangent,))[1]
            if net.activation.complex_valued:
                change = torch.hypot(*change.chunk(2, dim=-1))
            # The same up to a number that is the same for all.
            ratio = float(change.abs().max()) / float(steep.max())
            torch.testing.assert_close(steep * ratio, change.abs(), rtol=1e-4, atol=1e-4 * float(change.abs().max()))


def test_the_central_bump_is_as_steep_as_its_steepest() -> None:
    u = torch.linspace(-0.6, 0.6, 501, dtype=torch.float64)[:, None]
    (steep,) = steepness_of(Sine(5.0), u, 1)
    torch.testing.assert_close(steep, torch.cos(5.0 * u).abs(), rtol=0.0, atol=1e-6)
    (steep,) = steepness_of(Gauss(5.0), u, 1)
    expected = 10.0 * u.abs() * torch.exp(-25.0 * u.square()) / math.sqrt(2.0 / math.e)
    torch.testing.assert_close(steep, expected, rtol=1e-3, atol=1e-5)


def test_points_are_the_pixels_or_fewer() -> None:
    everything = sample_centers(torch.arange(20 * 30), (20, 30))
    torch.testing.assert_close(grid_points((20, 30), 1000), everything)
    fewer = grid_points((400, 100), 1000)
    assert 800 < len(fewer) <= 1000
    assert float(fewer[:, 0].abs().max()) > 0.95
    assert 0.2 < float(fewer[:, 1].abs().max()) < 0.25


def test_deeper_layers_of_siren_are_where_its_theory_puts_them() -> None:
    net = network("siren", width=256)
    found = pre_activations(net, square(2_000))[1]
    share = counted(found, bump=central_bump(net.activation)).outside_bump
    # 30 u is a normal variable plus 30 times a bias from U(-1/16, 1/16) (Sitzmann et al. 2020, theorem 1.8).
    bias = 30.0 / 16.0 * torch.linspace(-1.0, 1.0, 4001, dtype=torch.float64)
    half, root = 0.5 * math.pi, math.sqrt(2.0)
    expected = 0.5 * (torch.erfc((half - bias) / root) + torch.erfc((half + bias) / root)).mean()
    assert share == pytest.approx(float(expected), abs=0.03)


def test_a_study_counts_before_and_after(tmp_path: Path) -> None:
    methods = ("gauss", "finer-wavelet")
    options = UtilizationOptions(methods=methods, activation="tanh", size=16, steps=4, width=10, depth=2, seed=3)
    outcome = study(options, nothing)
    found = outcome.numbers["methods"]
    assert list(found) == ["gauss", "finer-wavelet", "tanh"]
    assert found["gauss"]["layers"] == ["1", "2"]
    assert found["finer-wavelet"]["layers"] == ["1 real", "2 real", "2 imaginary"]
    assert len(found["finer-wavelet"]["trained"]["visited_bins"]) == 3
    # Before training it is the network of the seed.
    fresh = preset("gauss", "image").network(2, 3, width=10, depth=2, generator=torch.Generator().manual_seed(3))
    values = pre_activations(fresh, grid_points((16, 16), 256))
    for layer, share in zip(values, found["gauss"]["initial"]["outside_bump"], strict=True):
        assert share == pytest.approx(float((layer.abs() > 1 / 30).double().mean()), abs=1e-4)
    assert found["gauss"]["initial"] != found["gauss"]["trained"]
    for row in outcome.tables["histograms finer-wavelet"].rows():
        assert row["initial"] >= 0
        assert row["trained"] >= 0
    write_outcome(tmp_path, outcome, draw(outcome))
    titles = [place.get_title() for place in draw(read_outcome(tmp_path / "utilization.json")).axes]
    assert titles.count("shares") == 3
    assert "finer-wavelet, layer 2" in titles


def test_histograms_are_densities() -> None:
    outcome = study(UtilizationOptions(methods=("finer-sine",), size=16, steps=2, width=16, depth=2), nothing)
    rows = outcome.tables["histograms finer-sine"].rows()
    for layer in (1, 2):
        own = [row for row in rows if row["layer"] == layer]
        width = own[1]["pre_activation"] - own[0]["pre_activation"]
        for state in ("initial", "trained"):
            assert 0.99 < width * sum(row[state] for row in own) <= 1.0 + 1e-9


def test_a_saved_model_is_looked_at_where_its_image_is(tmp_path: Path) -> None:
    run_image(sample_image(16), ImageOptions(method="siren", steps=3, width=8, depth=2, seed=7), tmp_path)
    outcome = study(UtilizationOptions(model=tmp_path / "model.safetensors"), nothing)
    ((name, found),) = outcome.numbers["methods"].items()
    assert name == tmp_path.name
    assert "psnr" not in found
    fresh = preset("siren", "image").network(2, 3, width=8, depth=2, generator=torch.Generator().manual_seed(7))
    values = pre_activations(fresh, grid_points((16, 16), 256))
    widths = [float((layer.amax(0) - layer.amin(0)).double().mean()) for layer in values]
    assert found["initial"]["visited_width"] == pytest.approx(widths, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"methods": ("pemlp",)}, "no central bump"),
        ({"methods": ()}, "methods"),
        ({"reference": 0.0}, "reference"),
        ({"bins": 0}, "bins"),
        ({"least": 1.0}, "least"),
        ({"steps": 0}, "steps"),
        ({"size": 2}, "size"),
        ({"width": 0}, "width"),
        ({"activation": "relu"}, "piecewise linear"),
    ],
)
def test_bad_options_get_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        study(UtilizationOptions(**options), nothing)
