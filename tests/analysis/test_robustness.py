"""Robustness of known curves, and a sweep that goes on where it stopped."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finer_nerfstudio.analysis import robustness
from finer_nerfstudio.analysis.outcome import read_outcome, write_outcome
from finer_nerfstudio.analysis.robustness import (
    SWEEPS,
    Robustness,
    RobustnessOptions,
    draw,
    more_robust,
    psnr_of_constant,
    robustness_of,
    study,
)
from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.inr.methods import preset
from finer_nerfstudio.reproduction.published import FAMILIES
from finer_nerfstudio.tasks.image.files import SourceImage, sample_image
from finer_nerfstudio.tasks.image.fit import ImageOptions, fit_image, measure

PSNRS = st.lists(st.floats(5.0, 60.0), min_size=2, max_size=12)


def nothing(name: str, done: int, total: int) -> None:
    assert name
    assert 0 <= done <= total


def tiny(folder: Path, **options: Any) -> RobustnessOptions:
    return RobustnessOptions(
        **{"size": 16, "steps": 3, "width": 8, "depth": 2, "scales": (10.0, 40.0), "cells_dir": folder, **options}
    )


def octaves(count: int, first: float = 1.0) -> torch.Tensor:
    return first * 2.0 ** torch.arange(count, dtype=torch.float64)


def test_a_roof_is_as_wide_as_its_slopes_say() -> None:
    # 40 dB at 16, from where it falls by 2 dB per octave downwards and by 5 dB upwards.
    psnr = torch.tensor([32.0, 34.0, 36.0, 38.0, 40.0, 35.0, 30.0])
    found = robustness_of(octaves(7), psnr)
    assert (found.best_psnr, found.best_scale) == (40.0, 16.0)
    assert math.log2(found.lowest_scale) == pytest.approx(4.0 - 3.0 / 2.0)
    assert math.log2(found.highest_scale) == pytest.approx(4.0 + 3.0 / 5.0)
    assert found.octaves == pytest.approx(3.0 / 2.0 + 3.0 / 5.0)
    assert not found.open_ended
    # Trapezoids of one octave each.
    assert found.area == pytest.approx(sum((psnr[:-1] + psnr[1:]).tolist()) / 2.0)
    assert found.mean_psnr == pytest.approx(found.area / 6.0)


def test_a_fine_sweep_of_a_parabola() -> None:
    exponent = torch.linspace(-4.0, 4.0, 801, dtype=torch.float64)
    found = robustness_of(2.0**exponent, 30.0 - 3.0 * (exponent - 0.5) ** 2)
    assert found.octaves == pytest.approx(2.0, abs=1e-3)
    assert found.best_scale == pytest.approx(math.sqrt(2.0))
    # The integral of the parabola over its 8 octaves.
    assert found.area == pytest.approx(8.0 * 30.0 - (3.5**3 + 4.5**3), abs=1e-3)


def test_only_the_stretch_around_the_best_counts() -> None:
    found = robustness_of(octaves(5), torch.tensor([38.0, 20.0, 40.0, 34.0, 39.0]))
    assert found.octaves == pytest.approx(3.0 / 20.0 + 3.0 / 6.0)
    assert not found.open_ended


def test_the_ends_of_a_sweep_are_told() -> None:
    level = robustness_of(octaves(4), torch.full((4,), 25.0))
    assert (level.octaves, level.open_ended) == (3.0, True)
    rising = robustness_of(octaves(3), torch.tensor([10.0, 20.0, 30.0]))
    assert rising.open_ended
    assert rising.octaves == pytest.approx(0.3)
    assert rising.highest_scale == pytest.approx(4.0)


@given(PSNRS, st.floats(0.01, 100.0), st.floats(-5.0, 50.0))
def test_neither_the_unit_of_the_scale_nor_more_decibels_make_a_difference(
    psnr: list[float], factor: float, more: float
) -> None:
    values = torch.tensor(psnr, dtype=torch.float64)
    found = robustness_of(octaves(len(psnr)), values)
    other = robustness_of(octaves(len(psnr), factor), values)
    assert other.octaves == pytest.approx(found.octaves, abs=1e-9)
    assert other.area == pytest.approx(found.area)
    shifted = robustness_of(octaves(len(psnr)), values + more)
    assert shifted.mean_psnr == pytest.approx(found.mean_psnr + more)
    assert shifted.best_psnr == pytest.approx(found.best_psnr + more)
    assert 0.0 <= robustness_of(octaves(len(psnr)), values, within=1.0).octaves <= found.octaves
    assert found.lowest_scale <= found.best_scale * (1 + 1e-12)
    assert found.highest_scale >= found.best_scale * (1 - 1e-12)


def test_who_is_more_robust() -> None:
    def method(octaves: float, *, open_ended: bool) -> Robustness:
        return Robustness(40.0, 1.0, 1.0, 2.0**octaves, octaves, open_ended, 0.0, 0.0)

    wide, narrow = method(3.0, open_ended=False), method(1.0, open_ended=False)
    assert more_robust({"a": narrow, "b": wide}) == "b"
    assert more_robust({"a": narrow, "b": method(3.0, open_ended=True)}) == "b"
    # The narrower one may be wider than the sweep shows.
    assert more_robust({"a": method(1.0, open_ended=True), "b": wide}) is None
    assert more_robust({"a": wide, "b": wide}) is None


def test_psnr_of_one_colour() -> None:
    halves = np.zeros((4, 4, 3), np.uint8)
    halves[:2] = 255
    assert psnr_of_constant(SourceImage(halves)) == pytest.approx(10.0 * math.log10(4.0))
    # Of a colour, every channel has its own mean.
    assert psnr_of_constant(SourceImage(np.full((4, 4, 3), [0, 100, 255], np.uint8))) == pytest.approx(100.0)


def test_families_are_those_of_the_paper() -> None:
    for family, sweep in SWEEPS.items():
        assert sweep.finer == f"finer-{family}"
        assert sweep.base == FAMILIES[sweep.finer]
        assert getattr(preset(sweep.base, "image").activation, sweep.parameter) in sweep.scales


@pytest.mark.parametrize("family", ["sine", "gauss", "wavelet"])
def test_cells_are_fits_at_their_scales(family: Any, tmp_path: Path) -> None:
    outcome = study(tiny(tmp_path, family=family, scales=(40.0, 10.0), seed=5), nothing)
    sweep = SWEEPS[family]
    assert outcome.tables["curves"].columns["scale"] == [10.0, 40.0]
    options = ImageOptions(method=sweep.finer, steps=3, width=8, depth=2, seed=5)
    image = sample_image(16)
    for index, scale in enumerate((10.0, 40.0)):
        fitted = fit_image(image, replace(options, **{sweep.parameter: scale}))
        quality, _ = measure(fitted.network, image)
        found = outcome.tables["curves"].columns[sweep.finer][index]
        assert found == pytest.approx(quality["psnr"], abs=1e-3)
    published = preset(sweep.base, "image").learning_rate
    assert outcome.settings["learning_rates"][sweep.base] == published


def test_a_killed_sweep_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[tuple[str, float | None]] = []

    def counted(image: SourceImage, options: ImageOptions) -> Any:
        if len(fits) == 3 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        fits.append((options.method, options.omega_0))
        return fit_image(image, options)

    monkeypatch.setattr(robustness, "fit_image", counted)
    cells = tmp_path / "cells"
    with pytest.raises(KeyboardInterrupt):
        study(tiny(cells), nothing)
    assert len(list(cells.glob("*.json"))) == 3
    (tmp_path / "again").touch()
    seen: list[tuple[str, int, int]] = []
    first = study(tiny(cells), lambda *args: seen.append(args))
    assert fits == [("siren", 10.0), ("finer-sine", 10.0), ("siren", 40.0), ("finer-sine", 40.0)]
    assert [(done, total) for _, done, total in seen] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    # What is on disk counts: another PSNR there is that of the sweep.
    path = cells / "sample-siren-omega_0-40.0-seed0.json"
    stored = json.loads(path.read_text())
    stored["result"]["psnr"] = 77.0
    path.write_text(json.dumps(stored))
    second = study(tiny(cells), nothing)
    assert second.tables["curves"].columns["siren"] == [first.tables["curves"].columns["siren"][0], 77.0]
    assert second.numbers["methods"]["siren"]["best_scale"] == 40.0
    ahead = first.tables["curves"].columns["finer-sine"][0] > first.tables["curves"].columns["siren"][0]
    assert (second.numbers["finer_ahead_at"], second.numbers["scales"]) == (int(ahead), 2)
    assert len(fits) == 4
    # Other settings are other runs, and a new scale is the only one to be run.
    study(tiny(cells, scales=(10.0, 20.0, 40.0)), nothing)
    assert fits[4:] == [("siren", 20.0), ("finer-sine", 20.0)]
    study(tiny(cells, steps=4), nothing)
    assert len(fits) == 10


def test_seeds_are_averaged(tmp_path: Path) -> None:
    outcome = study(tiny(tmp_path, seeds=2, seed=3), nothing)
    runs = outcome.tables["runs"].rows()
    assert len(runs) == 8
    for method in ("siren", "finer-sine"):
        for scale, mean in zip((10.0, 40.0), outcome.tables["curves"].columns[method], strict=True):
            both = {run["seed"]: run["psnr"] for run in runs if (run["method"], run["scale"]) == (method, scale)}
            assert set(both) == {3, 4}
            assert both[3] != both[4]
            assert mean == pytest.approx(sum(both.values()) / 2)


def test_a_run_that_diverges_is_worth_one_colour(tmp_path: Path) -> None:
    outcome = study(tiny(tmp_path, family="gauss", learning_rate=1e38), nothing)
    found = outcome.numbers["methods"]["gauss"]
    diverged = [run["psnr"] for run in outcome.tables["runs"].rows() if run["method"] == "gauss"]
    assert found["diverged"] == diverged.count(None) > 0
    floor = psnr_of_constant(sample_image(16))
    assert outcome.tables["curves"].columns["gauss"].count(floor) == diverged.count(None)
    assert draw(outcome).axes


def test_the_figure_shows_the_outcome(tmp_path: Path) -> None:
    outcome = study(tiny(tmp_path / "cells"), nothing)
    write_outcome(tmp_path, outcome, draw(outcome))
    (place,) = draw(read_outcome(tmp_path / "robustness.json")).axes
    assert place.get_xscale() == "log"
    assert place.get_xlabel() == "omega_0"
    curves = outcome.tables["curves"].columns
    for method in ("siren", "finer-sine"):
        (line,) = [line for line in place.lines if str(line.get_label()).startswith(method)]
        np.testing.assert_allclose(np.asarray(line.get_xdata()), curves["scale"])
        np.testing.assert_allclose(np.asarray(line.get_ydata()), curves[method])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scales": (30.0,)}, "scales"),
        ({"scales": (30.0, 30.0)}, "scales"),
        ({"scales": (30.0, -1.0)}, "scales must be positive numbers, not -1"),
        ({"scales": (30.0, math.inf)}, "scales must be positive numbers, not inf"),
        ({"seeds": 0}, "seeds"),
        ({"seed": -1}, "seed"),
        ({"steps": 0}, "steps"),
        ({"size": 8}, "size"),
        ({"width": 0}, "width"),
        ({"workers": 0}, "workers"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"device": "nowhere"}, "device"),
    ],
)
def test_bad_options_get_a_sentence(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        study(tiny(tmp_path / "cells", **options), nothing)
    assert not (tmp_path / "cells").exists()


def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    study(tiny(tmp_path), nothing)
    next(tmp_path.glob("*siren*40.0*.json")).write_text("{")
    with pytest.raises(InputError, match="siren-omega_0-40"):
        study(tiny(tmp_path), nothing)
