"""Verdicts on the paper's claims follow the numbers they are given, in both directions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finer_nerfstudio.inr.methods import METHODS
from finer_nerfstudio.reproduction import claims
from finer_nerfstudio.reproduction.published import FAMILIES


def networks(key: str, *values: float, **others: Any) -> dict[str, Any]:
    """Return what an analysis has of networks with k of 1, 5, 10 and 20."""
    return {
        "networks": {
            f"k = {k}": {key: value, **{name: row[i] for name, row in others.items()}}
            for i, (k, value) in enumerate(zip((1, 5, 10, 20), values, strict=True))
        }
    }


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_a_verdict_counts(conditions: list[bool]) -> None:
    held = sum(conditions)
    expected = f"in part ({held} of {len(conditions)})"
    assert claims.verdict(*conditions) == {0: "not reproduced", len(conditions): "holds"}.get(held, expected)


@pytest.mark.parametrize(
    ("value", "places", "written", "power"),
    [(1234.5678, 2, "1,234.57", "1.23e3"), (7.1103e-6, 1, "0.0", "7.1e-6"), (None, 2, "n/a", "n/a")],
)
def test_numbers_are_written_for_readers(value: float | None, places: int, written: str, power: str) -> None:
    assert claims.decimals(value, places) == written
    assert claims.scientific(value, places) == power


@pytest.mark.parametrize(
    ("large", "verdict"), [("flat", "holds"), ("repeats", "in part (3 of 4)")], ids=("as claimed", "not flat")
)
def test_bumps(large: str, verdict: str) -> None:
    found = {
        "base": {"bumps": 1},
        "variable-periodic": {"bumps": 13},
        "omega_f = 0.5": {"bumps": 1, "verdict": "degenerate"},
        "omega_f = 40": {"relative_range": 0.426, "verdict": large},
    }
    claim = claims.bumps_repeat({"Gaussian": {"activations": found}})
    assert claim.verdict == verdict
    assert "Gaussian: 1 and 13 bumps; 1 with ωf = 0.5" in claim.measured
    assert "43 % of the base's range" in claim.measured


def test_wider_biases() -> None:
    good = networks("psnr", 16.0, 19.0, 20.0, 19.5, psnr_high=(20.0, 20.2, 20.4, 20.1)) | {"best": "k = 10"}
    flat = networks("psnr", 16.0, 16.1, 16.2, 16.4, psnr_high=(20.0, 20.2, 20.6, 20.1)) | {"best": "k = 20"}
    claim = claims.wider_biases_fit_more({"finer-sine": good, "finer-gauss": flat})
    assert (
        claim.verdict
        == "the best k beats k = 1 by half a dB: in part (1 of 2); at high frequencies alone: not reproduced"
    )
    assert (
        "finer-sine: 16.0 / 19.0 / 20.0 / 19.5 dB, high frequencies alone 20.0 / 20.2 / 20.4 / 20.1." in claim.measured
    )
    assert "the PSNR falls in 1 of 2" in claim.measured


@pytest.mark.parametrize(("gap", "verdict"), [(2.0, "holds"), (0.4, "not reproduced")])
def test_wider_weights(gap: float, verdict: str) -> None:
    published = {"psnr_scale": 31.2, "psnr_weights": 31.2 - gap, "difference_at_start": 2.6e-5, "gap": gap}
    small = {**published, "gap": 9.0}
    numbers = {"parameter": "omega_0", "scale_parameters": {"5": small, "30": published}}
    claim = claims.wider_weights_train_worse({"siren": numbers})
    assert claim.verdict.endswith(f": {verdict}"), "the published scale counts, which is the last"
    assert f"siren with omega_0 = 30: 31.2 dB, with weights 30 times wider {31.2 - gap:.1f}." in claim.measured
    assert "outputs differ by 3e-5 at most" in claim.measured


@pytest.mark.parametrize(
    ("counts", "verdict"), [((29, 70, 122, 227), "holds"), ((29, 70, 60, 227), "in part (2 of 3)")]
)
def test_spectra(counts: tuple[int, ...], verdict: str) -> None:
    kernel = networks("above_one", *counts, effective_rank=(7.2, 22, 34, 62))
    claim = claims.spectrum_grows({"finer-sine": kernel}, points=1024)
    assert claim.verdict == f"from each k to the next: {verdict}"
    assert claim.measured.startswith("Of 1,024, for k")
    assert "29 / 70" in claim.measured
    assert "effective rank 7 / 22 / 34 / 62." in claim.measured


def test_scales() -> None:
    def sweep(base: str, ours: str, better: str, ahead: int) -> dict[str, Any]:
        row = {"octaves": 2.5, "best_psnr": 26.0}
        methods = {base: {**row, "open_ended": True}, ours: {**row, "open_ended": False}}
        return {
            "methods": methods,
            "more_robust": better,
            "finer_ahead_at": ahead,
            "scales": 7,
            "psnr_of_constant": 12.1,
        }

    sweeps = [sweep("siren", "finer-sine", "finer-sine", 4), sweep("wire", "finer-wavelet", "wire", 3)]
    claim = claims.scale_matters_less(sweeps)
    assert claim.verdict == "wider stretch: in part (1 of 2); better at most scales: in part (1 of 2)"
    assert "siren: at least 2.5 octaves, best 26.0 dB; finer-sine: 2.5 octaves" in claim.measured
    assert "finer-wavelet is ahead at 3 of 7 scales. An image of one colour has 12.1 dB." in claim.measured


@pytest.mark.parametrize(("highest", "verdict"), [(15.6, "holds"), (6.0, "not reproduced")])
def test_neurons(highest: float, verdict: str) -> None:
    def row(value: float) -> dict[str, Any]:
        reach = {"lowest": 0.6, "highest": value, "responding": 210, "neurons": 256}
        return {"cycles_per_longer_side": {"initial": reach}}

    claim = claims.neurons_reach_higher({"siren": row(6.6), "finer-sine": row(highest)})
    assert claim.verdict == f"the fastest neuron of FINER++ is faster than its base's: {verdict}"
    assert "siren 0.6 to 6.6 (210 of 256 neurons), finer-sine" in claim.measured


def test_utilization() -> None:
    def row(outside: float, flat: float) -> dict[str, Any]:
        return {"trained": {"outside_bump": [outside - 0.1, outside + 0.1], "flat": [flat, flat]}}

    methods = {
        "siren": row(0.3, 0.1),
        "finer-sine": row(0.6, 0.1),
        "gauss": row(0.9, 0.75),
        "finer-gauss": row(0.8, 0.3),
    }
    claim = claims.whole_axis_is_used({"methods": methods})
    assert claim.verdict.count("in part (1 of 2)") == 3
    assert "gauss: 0.90 outside, 0.75 flat. finer-gauss: 0.80 outside, 0.30 flat." in claim.measured


@pytest.mark.parametrize(("of_base", "verdict"), [(1.0, "holds"), (1.5, "in part (9 of 10)")])
def test_frequencies(of_base: float, verdict: str) -> None:
    limits = (3.0, 11.0, 21.0, 41.0)
    method = networks("highest_factor", 3.0, 10.9, 21.4, 41.0, factor_limit=limits, largest_deviation=[1.4e-6] * 4)
    found = {"siren": {"networks": {"initial": {"highest_factor": of_base}}}, **dict.fromkeys(FAMILIES, method)}
    claim = claims.bias_range_tunes_frequencies(found)
    assert claim.verdict.endswith(f": {verdict}")
    assert f"siren {of_base}; gauss and wire do not repeat." in claim.measured
    assert "finer-gauss 3.0 / 10.9 / 21.4 / 41.0." in claim.measured
    formula = claims.frequencies_follow_the_formula(found)
    assert formula.verdict == "formula to a thousandth: holds; highest factors within 5 % of 2k + 1: holds"
    assert "within 1.4e-6" in formula.measured
    assert "is 0.99 to 1.02 times 2k + 1" in formula.measured
    method["networks"]["k = 20"] |= {"largest_deviation": 0.01, "highest_factor": 30.0}
    formula = claims.frequencies_follow_the_formula(found)
    assert (
        formula.verdict
        == "formula to a thousandth: not reproduced; highest factors within 5 % of 2k + 1: in part (1 of 2)"
    )


def test_images() -> None:
    values = dict.fromkeys(METHODS, 30.0) | {"finer-sine": 40.0, "finer-gauss": 35.0, "wire (lr 0.0005)": 50.0}
    table = {"rows": [{"method": name, "mean": {"psnr": value}} for name, value in values.items()], "items": [1, 2]}
    claim = claims.ahead_on_images(table)
    assert "published rates: in part (2 of 3); of WIRE at a tenth of its rate: not reproduced" in claim.verdict
    assert claim.verdict.endswith("FINER++ Sine best at published rates: holds"), "WIRE's other rate does not count"
    assert "mean of 2 images" in claim.measured
    assert "finer-sine 40.0, finer-gauss 35.0" in claim.measured


def test_shapes() -> None:
    claim = claims.near_on_shapes({"steps": 4000, "iou_paper": 0.97291, "chamfer_paper": 7.11e-6})
    assert claim.measured.endswith("2.0 % of the paper's steps: 0.9729 and 7.11e-6.")
    assert claim.verdict.startswith("not measured")


def test_radiance_fields() -> None:
    values = {"siren": 28.0, "finer-sine": 28.1, "gauss": 27.0, "finer-gauss": 27.5, "wire": 26.0}
    runs = {method: {"psnr": psnr, "views": 25} for method, psnr in values.items()}
    claim = claims.ahead_on_radiance_fields(runs, luck=0.12)
    assert "in part (1 of 2); wire and finer-wavelet: not measured;" in claim.verdict
    assert "25 of 200 test views. siren 28.00, finer-sine 28.10. gauss 27.00, finer-gauss 27.50." in claim.measured
