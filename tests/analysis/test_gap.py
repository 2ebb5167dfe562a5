"""A scale parameter and wider weights: one function, whose gradients and whose training differ as they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finer_nerfstudio import CoordinateNetwork
from finer_nerfstudio.analysis.gap import FAMILIES, GapOptions, draw, study, with_wider_weights
from finer_nerfstudio.analysis.initialization import intensities_of, psnr_of
from finer_nerfstudio.analysis.outcome import read_outcome, write_outcome
from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.tasks.image.files import sample_image
from finer_nerfstudio.tasks.image.fit import signal_of

SMALL: dict[str, Any] = {"size": 16, "steps": 6, "width": 16, "depth": 2}


def nothing(name: str, done: int, total: int) -> None:
    assert name
    assert 0 <= done <= total


def pair(method: str, p: float, seed: int = 0) -> tuple[CoordinateNetwork, CoordinateNetwork]:
    unit = FAMILIES[method].unit
    generator = torch.Generator().manual_seed(seed)
    scaled = CoordinateNetwork(2, 3, width=12, depth=3, activation=unit.rescaled(p), generator=generator)
    return scaled, with_wider_weights(scaled, unit, p)


def square(n: int, seed: int = 1) -> torch.Tensor:
    return 2.0 * torch.rand(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1.0


@pytest.mark.parametrize("method", FAMILIES)
@given(p=st.floats(0.5, 40.0), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_both_forms_are_the_same_function(method: str, p: float, seed: int) -> None:
    scaled = pair(method, p, seed)[0].double()
    wider = with_wider_weights(scaled, FAMILIES[method].unit, p)
    assert wider.activation == FAMILIES[method].unit
    coords = square(40, seed)
    with torch.no_grad():
        outputs = scaled(coords)
        assert float(outputs.std()) > 0
        torch.testing.assert_close(wider(coords), outputs, rtol=0.0, atol=1e-9 * max(1.0, float(outputs.abs().max())))


@pytest.mark.parametrize(("method", "p"), [(name, p) for name in FAMILIES for p in FAMILIES[name].scale_parameters])
def test_single_precision_tells_both_forms_apart_by_its_rounding_alone(method: str, p: float) -> None:
    scaled, wider = pair(method, p)
    coords = square(200).float()
    with torch.no_grad():
        torch.testing.assert_close(wider(coords), scaled(coords), rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("method", FAMILIES)
@pytest.mark.parametrize("p", [2.0, 16.0])
def test_gradients_differ_by_the_scale_parameter(method: str, p: float) -> None:
    # Powers of two, so that single precision's weights are p times as large to the bit.
    scaled, wider = (network.double() for network in pair(method, p))
    coords = square(30)
    for network in (scaled, wider):
        network(coords).square().sum().backward()
    layers = [*zip((scaled.first, *scaled.hidden), (wider.first, *wider.hidden), strict=True)]
    assert len(layers) == 3
    for one, other in layers:
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
            assert mine.grad is not None
            assert theirs.grad is not None
            assert float(mine.grad.abs().max()) > 0
            torch.testing.assert_close(theirs.data, p * mine.data, rtol=0.0, atol=0.0)
            torch.testing.assert_close(mine.grad, p * theirs.grad, rtol=1e-8, atol=1e-10 * float(mine.grad.abs().max()))
    for mine, theirs in zip(scaled.last.parameters(), wider.last.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("method", FAMILIES)
def test_to_adam_the_gap_is_a_learning_rate(method: str) -> None:
    p, rate = 8.0, 1e-4
    scaled, wider = (network.double() for network in pair(method, p))
    coords = square(50)
    start = scaled(coords).detach()

    def trained(network: CoordinateNetwork, in_front: float) -> torch.Tensor:
        layers = [parameter for layer in (network.first, *network.hidden) for parameter in layer.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": layers, "lr": in_front},
            {"params": list(network.last.parameters()), "lr": rate},
        ]
        adam = torch.optim.Adam(groups, eps=1e-30)
        for _ in range(10):
            adam.zero_grad()
            (network(coords) - coords[:, :1]).square().mean().backward()
            adam.step()
        return network(coords).detach()

    reached = trained(scaled, rate)
    assert float((reached - start).abs().max()) > 1e-3
    torch.testing.assert_close(trained(wider, p * rate), reached, rtol=1e-6, atol=1e-6)
    _, again = pair(method, p)
    assert float((trained(again.double(), rate) - reached).abs().max()) > 1e-4


def test_a_network_is_left_as_it_was() -> None:
    scaled, wider = pair("siren", 30.0)
    before = [parameter.clone() for parameter in scaled.parameters()]
    with torch.no_grad():
        wider.first.weight.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, scaled.parameters(), strict=True))
    assert scaled.activation == FAMILIES["siren"].unit.rescaled(30.0)


def test_the_gap_opens_with_the_scale_parameter() -> None:
    options = GapOptions(size=32, steps=60, width=32, depth=3, scale_parameters=(2.0, 30.0))
    found = study(options, nothing).numbers["scale_parameters"]
    assert found["30"]["gap"] > 2.0
    assert found["30"]["gap"] > found["2"]["gap"]
    # The larger capacity is there from the start, in either form.
    assert found["30"]["centroid_at_start"] > found["2"]["centroid_at_start"]


@pytest.mark.parametrize("method", FAMILIES)
def test_numbers_tables_and_figure_agree(method: str, tmp_path: Path) -> None:
    seen: list[str] = []

    def stage(name: str, done: int, total: int) -> None:
        nothing(name, done, total)
        seen.append(name)

    options = GapOptions(method=method, **SMALL)  # pyright: ignore[reportArgumentType]
    outcome = study(options, stage)
    assert len(set(seen)) == 6
    parameters = FAMILIES[method].scale_parameters
    assert outcome.tables["gaps"].columns["p"] == list(parameters)
    curves = outcome.tables["curves"].columns
    assert curves["step"] == [0, 1, 2, 3, 4, 5, 6]
    for p in parameters:
        found = outcome.numbers["scale_parameters"][f"{p:g}"]
        assert found["gap"] == pytest.approx(found["psnr_scale"] - found["psnr_weights"])
        assert found["difference_at_start"] < 1e-4
        # Before the first step both are the same function, and clipping can only do good.
        assert curves[f"scale {p:g}"][0] == pytest.approx(curves[f"weights {p:g}"][0], abs=1e-3)
        assert found["psnr_scale"] >= curves[f"scale {p:g}"][-1] - 1e-4
        assert found["psnr_weights"] >= curves[f"weights {p:g}"][-1] - 1e-4
    write_outcome(tmp_path, outcome, draw(outcome))
    again = read_outcome(tmp_path / "gap.json")
    assert again.tables["curves"].columns == curves
    figure = draw(again)
    assert len(figure.axes) == 4
    (line,) = (line for line in figure.axes[-1].lines if np.size(line.get_xdata()) == 3)
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx(outcome.tables["gaps"].columns["gap"])


def test_the_same_seed_gives_the_same_numbers() -> None:
    options = GapOptions(scale_parameters=(10.0,), **SMALL)
    assert study(options, nothing).numbers == study(options, nothing).numbers


def test_the_first_point_of_a_curve_is_the_fresh_network() -> None:
    outcome = study(GapOptions(scale_parameters=(10.0,), **SMALL), nothing)
    signal = signal_of(sample_image(16))
    fresh = CoordinateNetwork(
        2,
        3,
        width=16,
        depth=2,
        activation=FAMILIES["siren"].unit.rescaled(10.0),
        generator=torch.Generator().manual_seed(0),
    )
    axis = (torch.arange(16) + 0.5) / 8 - 1
    with torch.no_grad():
        outputs = fresh(torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1))
    error = float((0.5 * outputs + 0.5 - intensities_of(signal)).square().mean())
    assert outcome.tables["curves"].columns["scale 10"][0] == pytest.approx(psnr_of(error), abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "finer-sine"}, "siren, gauss or wire"),
        ({"method": "pemlp"}, "siren, gauss or wire"),
        ({"scale_parameters": ()}, "scale_parameters"),
        ({"scale_parameters": (5.0, -1.0)}, "positive"),
        ({"scale_parameters": (5.0, float("nan"))}, "positive"),
        ({"scale_parameters": (5.0, 5.0)}, "twice"),
        ({"width": 0}, "width"),
        ({"depth": 0}, "depth"),
        ({"steps": 0}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"seed": -1}, "seed"),
        ({"size": 8}, "size"),
    ],
)
def test_what_means_nothing_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        study(GapOptions(**{**SMALL, **changes}), nothing)


def test_a_missing_image_is_said() -> None:
    with pytest.raises(InputError, match="no image"):
        study(GapOptions(image=Path("nowhere.png"), **SMALL), nothing)
