"""Bumps, widths, slopes and ranges of activations against what can be worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from finer_nerfstudio import METHODS, preset
from finer_nerfstudio.analysis.activations import (
    ActivationsOptions,
    ActivationSummary,
    bumps_by_formula,
    curve_of,
    draw,
    maxima_of,
    study,
    summary_of,
)
from finer_nerfstudio.analysis.outcome import Outcome, read_outcome, write_outcome
from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.inr.activations import Activation, Custom, Gauss, ReLU, Sine, Wavelet, base_of, variable_periodic
from finer_nerfstudio.tasks.image.files import sample_image
from finer_nerfstudio.tasks.image.fit import ImageOptions
from finer_nerfstudio.tasks.image.run import run_image

SCALES = st.floats(1.0, 40.0)
OMEGAS = st.floats(0.5, 25.0)
REACHES = st.floats(0.4, 2.5)


def nothing(name: str, done: int, total: int) -> None:
    assert name
    assert 0 <= done <= total


def studied(**options: Any) -> Outcome:
    return study(ActivationsOptions(**options), nothing)


def summarised(activation: Activation, reach: float = 1.0, intervals: int = 30_000) -> ActivationSummary:
    base = None if base_of(activation) is activation else curve_of(base_of(activation), reach, intervals)
    return summary_of(activation, curve_of(activation, reach, intervals), base)


def unstretched(g: float) -> float:
    """The positive x with ``(x + 1) x = g``."""
    return 0.5 * (math.sqrt(1.0 + 4.0 * g) - 1.0)


def off_border(phase: float, period: float) -> bool:
    """Whether a bump at the border is neither just inside nor just outside."""
    share = phase / period % 1.0
    return 0.01 < share < 0.99


@given(SCALES, OMEGAS, REACHES)
def test_bumps_of_a_gaussian_and_of_a_wavelet_are_where_the_inner_sine_is_zero(s: float, f: float, r: float) -> None:
    phase = f * r * (r + 1.0)
    assume(off_border(phase, math.pi))
    expected = 2 * math.floor(phase / math.pi) + 1
    for base in (Gauss(s), Wavelet(2.0 * s, s)):
        activation = variable_periodic(base, omega_f=f)
        found = summarised(activation, r)
        assert found.bumps == found.bumps_by_formula == expected
        assert bumps_by_formula(base, r) == summarised(base, r).bumps == 1
        if expected > 1:
            # Bumps come closer to each other as the pre-activation grows.
            last = expected // 2
            closest = unstretched(last * math.pi / f) - unstretched((last - 1) * math.pi / f)
            assert found.narrowest_bump == pytest.approx(closest, abs=4 * r / 30_000)


@given(SCALES, REACHES)
def test_bumps_of_a_sine_are_its_maxima(omega_0: float, r: float) -> None:
    for activation, phase in ((Sine(omega_0), omega_0 * r), (variable_periodic(Sine(omega_0)), omega_0 * r * (r + 1))):
        assume(off_border(phase - 0.5 * math.pi, math.pi))
        # At pi / 2, 5 pi / 2, ... and at -3 pi / 2, -7 pi / 2, ...
        expected = math.floor((phase + 1.5 * math.pi) / (2 * math.pi)) + math.floor(
            (phase + 0.5 * math.pi) / (2 * math.pi)
        )
        found = summarised(activation, r)
        assert found.bumps == found.bumps_by_formula == expected


@given(st.floats(0.75, 25.0), REACHES)
def test_bumps_of_functions_of_ones_own(f: float, r: float) -> None:
    phase = f * r * (r + 1.0)
    assume(off_border(phase, 0.5 * math.pi))
    # An odd monotonic one has the maxima of the inner sine, an even one those of a Gaussian.
    monotonic, even = (summarised(variable_periodic(own, omega_f=f), r) for own in (torch.tanh, torch.sinc))
    assert monotonic.bumps == monotonic.bumps_by_formula
    assert monotonic.bumps == summarised(variable_periodic(Sine(f)), r).bumps
    assert even.bumps == even.bumps_by_formula == 2 * math.floor(phase / math.pi) + 1


def test_where_the_inner_sine_turns_back_may_be_a_bump() -> None:
    # It goes to 2 and back, and sinc rises from its first trough, at 1.43, to there.
    found = summarised(variable_periodic(torch.sinc, omega_f=0.5), 2.0)
    assert found.bumps == found.bumps_by_formula == 3


def test_what_has_no_bumps() -> None:
    for activation in (ReLU(), Custom(torch.tanh), Custom(torch.exp)):
        found = summarised(activation)
        assert (found.bumps, found.bumps_by_formula, found.narrowest_bump) == (0, None, None)
    assert summarised(ReLU()).largest_slope == 1.0
    level = summarised(Custom(lambda x: 0.0 * x + 3.0))
    assert (level.bumps, level.central_width, level.range, level.highest) == (0, None, 0.0, 3.0)


def test_maxima_of_plateaus_and_borders() -> None:
    values = torch.tensor([3.0, 1.0, 2.0, 2.0, 0.0, 0.0, 1.0, 1.0, 2.0, 1.5, 4.0], dtype=torch.float64)
    assert maxima_of(values).tolist() == [2, 8]
    assert maxima_of(torch.zeros(5)).tolist() == []
    # What rounding made of a constant is no bump.
    assert maxima_of(1.0 + 2e-16 * torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)).tolist() == []


@given(SCALES, OMEGAS)
def test_widths_of_central_bumps(s: float, f: float) -> None:
    reach = 4.0 / s
    assert summarised(Gauss(s), reach).central_width == pytest.approx(2.0 * math.sqrt(math.log(2.0)) / s, rel=1e-4)
    # A sine goes half the way to its extremum in a third of the way.
    assert summarised(Sine(s), reach).central_width == pytest.approx(math.pi / (3.0 * s), rel=1e-4)
    stretched_sine = summarised(variable_periodic(Sine(s)), reach)
    assert stretched_sine.central_width == pytest.approx(2.0 * unstretched(math.pi / (6.0 * s)), rel=1e-4)
    reach = 1.1 * unstretched(0.5 * math.pi / f)
    trough = math.exp(-((s / f) ** 2))
    phase = math.asin(f / s * math.sqrt(-math.log(0.5 + 0.5 * trough)))
    expected = 2.0 * unstretched(phase / f)
    for base in (Gauss(s), Wavelet(3.0, s)):
        found = summarised(variable_periodic(base, omega_f=f), reach)
        assert found.central_width == pytest.approx(expected, rel=1e-3)
        assert found.range == pytest.approx(1.0 - trough, abs=1e-6)
        assert found.highest == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_slopes_are_derivatives(method: str) -> None:
    activation = preset(method, "image").activation
    curve = curve_of(activation, 0.7, 40_000)
    parts = [values for name, values in curve.parts.items() if name != "modulus"]
    step = curve.x[2:] - curve.x[:-2]
    differences = torch.stack([(part[2:] - part[:-2]) / step for part in parts])
    expected = torch.linalg.vector_norm(differences, dim=0)
    largest = float(expected.max())
    # A kink is no place for differences.
    smooth = curve.x[1:-1].abs() > 1e-3
    torch.testing.assert_close(curve.slope[1:-1][smooth], expected[smooth], rtol=1e-3, atol=1e-4 * largest)
    assert summary_of(activation, curve, None).largest_slope == pytest.approx(largest, rel=1e-3)


def test_largest_slopes_of_bases() -> None:
    assert summarised(Sine(7.0)).largest_slope == pytest.approx(7.0)
    assert summarised(Gauss(7.0)).largest_slope == pytest.approx(7.0 * math.sqrt(2.0 / math.e), rel=1e-6)
    assert summarised(Wavelet(20.0, 5.0)).largest_slope == pytest.approx(20.0)
    # At phases that are multiples of pi, and the further out the steeper: omega_0 (2 |x| + 1).
    reach = unstretched(6 * math.pi / 9.0)
    assert summarised(variable_periodic(Sine(9.0)), reach).largest_slope == pytest.approx(9.0 * (2.0 * reach + 1.0))


@pytest.mark.parametrize("base", [Gauss(4.0), Wavelet(8.0, 4.0), Custom(torch.tanh), Custom(torch.sinc)])
def test_a_small_omega_f_degenerates_and_a_large_one_flattens(base: Activation) -> None:
    small, large = (variable_periodic(base, omega_f=f) for f in (0.01, 1e3))
    curve = curve_of(small, 1.0, 2000)
    assert summary_of(small, curve, curve_of(base, 1.0, 2000)).verdict == "degenerate"
    # The limit is the base on a stretched axis.
    limit = base.for_first_layer().value(((curve.x.abs() + 1.0) * curve.x)[:, None])
    found = torch.stack([values for name, values in curve.parts.items() if name != "modulus"], dim=1)
    torch.testing.assert_close(found, limit, rtol=0.0, atol=1e-3)
    found = summarised(large, 1.0, 200_000)
    assert found.verdict == "flat"
    assert found.bumps == found.bumps_by_formula
    assert found.bumps > 600
    assert found.range < 3e-3
    assert summarised(variable_periodic(base, omega_f=3.0)).verdict in ("repeats", "flat")


def test_ranges_shrink_as_omega_f_grows() -> None:
    numbers = studied(method="finer-gauss", scales="small").numbers["activations"]
    rows = [numbers[f"omega_f = {f:g}"] for f in (2.5, 5.0, 10.0, 20.0)]
    for row, ratio in zip(rows, (1.0, 0.5, 0.25, 0.125), strict=True):
        assert row["range"] == pytest.approx(1.0 - math.exp(-(ratio**2)), abs=1e-6)
    assert [row["verdict"] for row in rows] == ["repeats", "flat", "flat", "flat"]
    assert numbers["omega_f = 0.5"]["verdict"] == numbers["omega_f = 1"]["verdict"] == "degenerate"


@pytest.mark.parametrize("method", METHODS)
def test_a_study_of_each_method(method: str, tmp_path: Path) -> None:
    outcome = studied(method=method, omega_fs=(1.0, 3.0), reach=0.5)
    activation = preset(method, "image").activation
    numbers = outcome.numbers["activations"]
    assert len(numbers) == (4 if method.startswith("finer") else 1)
    assert outcome.tables["summary"].columns["bumps"] == [row["bumps"] for row in numbers.values()]
    assert all(row["bumps"] == row["bumps_by_formula"] for row in numbers.values() if method != "pemlp")
    # What is drawn are the activations' values.
    curves = outcome.tables["curves"].columns
    x = torch.tensor(curves["x"], dtype=torch.float64)
    shown = {"base": base_of(activation)}
    if method.startswith("finer"):
        shown["variable-periodic"] = activation
        frequency = "omega_0" if method == "finer-sine" else "omega_f"
        shown[f"{frequency} = 3"] = preset(method, "image").overridden(**{frequency: 3.0}).activation  # pyright: ignore[reportArgumentType]
    for name, kind in shown.items():
        expected = kind.for_first_layer().value(x[:, None])
        names = [name] if expected.shape[1] == 1 else [f"{name}, real", f"{name}, imaginary"]
        found = torch.tensor([curves[part] for part in names], dtype=torch.float64).T
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    write_outcome(tmp_path, outcome, draw(outcome))
    axes = draw(read_outcome(tmp_path / "activations.json")).axes[: len(numbers)]
    complex_valued = method in ("wire", "finer-wavelet")
    assert [len(place.lines) for place in axes] == [3 if complex_valued else 1] * len(numbers)
    for place, row in zip(axes, numbers.values(), strict=True):
        assert f"{row['bumps']} bump" in place.get_xlabel()


def test_moduli_are_those_of_the_parts() -> None:
    curves = studied(method="finer-wavelet", omega_fs=()).tables["curves"].columns
    parts = (torch.tensor(curves[f"variable-periodic, {part}"]) for part in ("real", "imaginary", "modulus"))
    real, imaginary, modulus = parts
    torch.testing.assert_close(real.square() + imaginary.square(), modulus.square())
    # |psi| = exp(-((s_0 / omega_f) sin(omega_f g))^2)
    x = torch.tensor(curves["x"])
    expected = torch.exp(-((10.0 / 5.0 * torch.sin(5.0 * (x.abs() + 1.0) * x)) ** 2))
    torch.testing.assert_close(modulus, expected, rtol=1e-4, atol=1e-6)


def test_a_function_of_ones_own_and_a_saved_model(tmp_path: Path) -> None:
    outcome = studied(activation="tanh", omega_fs=(4.0,))
    assert outcome.numbers["method"] == "tanh"
    assert outcome.numbers["activations"]["omega_f = 4"]["range"] == pytest.approx(2.0 * math.tanh(0.25), abs=1e-6)
    run_image(sample_image(16), ImageOptions(method="finer-gauss", omega_f=7.0, steps=2, width=8, depth=2), tmp_path)
    outcome = studied(model=tmp_path / "model.safetensors", omega_fs=(2.0,))
    found = outcome.numbers["activations"]["variable-periodic"]
    assert (found["omega_f"], found["s_0"]) == (7.0, 30.0)
    assert found["bumps"] == 2 * math.floor(7.0 * 2.0 / math.pi) + 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"reach": 0.0}, "reach"),
        ({"reach": math.nan}, "reach"),
        ({"reach": 1e9}, "smaller reach"),
        ({"reach": 1e308}, "smaller reach"),
        ({"omega_fs": (1.0, -2.0)}, "omega_fs"),
        ({"omega_fs": (1e7,)}, "smaller reach"),
        ({"omega_f": 2.0}, "periodic"),
        ({"activation": "relu"}, "piecewise linear"),
        ({"activation": "lgamma"}, "not finite"),
    ],
)
def test_bad_options_get_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        studied(**options)
