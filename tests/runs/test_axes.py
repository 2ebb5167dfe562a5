"""Legends and logarithmic axes of every figure that is drawn."""

from __future__ import annotations

import importlib
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from finer_nerfstudio.analysis.outcome import panels, read_outcome
from finer_nerfstudio.runs.axes import legend_below, legend_of_figure, whole_decades

OUTCOMES = Path(__file__).parents[2] / "docs" / "results" / "analysis"
ONE_OF_EACH = (
    "activations-finer-wavelet",
    "initialization-finer-sine",
    "gap-wire",
    "ntk-finer-gauss",
    "robustness-sine",
    "neurons-wire",
    "frequencies-siren",
    "utilization-all",
)


def is_whole_decade(value: float) -> bool:
    return value == float(f"1e{round(math.log10(value))}")


def overlap(one: Bbox, other: Bbox) -> bool:
    """Whether two boxes have more than a pixel in common."""
    common = Bbox.intersection(one, other)
    return common is not None and common.width > 1 and common.height > 1


def assert_laid_out(figure: Figure) -> None:
    """Legends cover no panel, no label and no other legend, and logarithmic axes go from decade to decade."""
    figure.draw_without_rendering()
    legends = [*figure.legends, *(found for axes in figure.axes if (found := axes.get_legend()) is not None)]
    boxes = [legend.get_window_extent() for legend in legends]
    for box in boxes:
        assert figure.bbox.padded(1).containsx(box.x0)
        assert figure.bbox.padded(1).containsx(box.x1)
        assert figure.bbox.padded(1).containsy(box.y0)
        for axes in figure.axes:
            assert not overlap(box, axes.get_window_extent())
            for axis in (axes.xaxis, axes.yaxis):
                labels = axis.get_tightbbox() if axes.axison and axis.get_visible() else None
                assert labels is None or not overlap(box, labels)
    assert not any(overlap(one, other) for one, other in itertools.combinations(boxes, 2))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                assert all(is_whole_decade(end) for end in axis.get_view_interval()), axis.get_view_interval()


numbers = st.floats(1e-12, 1e12)
odd = st.sampled_from([0.0, -1.0, math.nan])


@settings(deadline=None, max_examples=60)
@given(st.lists(numbers, min_size=1, max_size=5), st.lists(odd, max_size=3), st.booleans())
def test_decades_enclose_what_is_drawn_and_no_more(values: list[float], others: list[float], bars: bool) -> None:
    figure = Figure()
    axes = figure.subplots()
    if bars:
        axes.bar(range(len(values)), values)
    else:
        axes.plot([*values, *others], ".")
    whole_decades(axes, "y")
    low, high = axes.get_ylim()
    assert is_whole_decade(low)
    assert is_whole_decade(high)
    assert low <= min(values) * (1 + 1e-12)
    assert high >= max(values) * (1 - 1e-12)
    if not bars:  # of which Matplotlib knows the sides only to within its own precision
        assert low * 10 >= min(values) * (1 - 1e-12)
    assert high / 10 <= max(values) or high / low == pytest.approx(10)
    assert axes.get_xscale() == "linear"


def test_axes_without_anything_stay_empty() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([], [])
    whole_decades(axes, "x", "y")
    legend_below(axes)
    assert axes.get_legend() is None
    figure.draw_without_rendering()


@pytest.mark.parametrize("entries", [1, 3, 7, 20])
def test_legends_of_any_size_stay_below(entries: int) -> None:
    figure, axes = panels(2, columns=2, width=4.0, height=3.0 + 0.4 * entries)
    for place in axes:
        for i in range(entries):
            place.plot([1, 1000], [i, i + 1], label=f"a method of a certain name {i}")
        place.set(xlabel="of one line\nor two", ylabel="dB", title="a title")
    legend_below(axes[0])
    whole_decades(axes[0], "x")
    legend_of_figure(figure, *axes)
    assert_laid_out(figure)
    (shared,) = figure.legends
    assert len(shared.get_texts()) == entries, "each name once"


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_figures_of_analyses(name: str) -> None:
    (path,) = (OUTCOMES / name).glob("*.json")
    outcome = read_outcome(path)
    figure = importlib.import_module(f"finer_nerfstudio.analysis.{outcome.analysis}").draw(outcome)
    assert_laid_out(figure)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that reports draw from now on."""
    found: list[Figure] = []

    def keep(drawing: Figure, **_: Any) -> bytes:
        found.append(drawing)
        return b""

    for module in ("tasks.image.report", "tasks.sdf.report", "tasks.streaming.report", "reproduction.table"):
        monkeypatch.setattr(f"finer_nerfstudio.{module}.drawing_png", keep)
    return found


def test_figures_of_reports(drawn: list[Figure]) -> None:
    from finer_nerfstudio.reproduction.table import Row, _bars
    from finer_nerfstudio.tasks.image import report as image
    from finer_nerfstudio.tasks.sdf import report as sdf
    from finer_nerfstudio.tasks.streaming import report as streaming

    generator = np.random.default_rng(0)
    steps = range(0, 500, 10)
    curve = [(step, float(loss)) for step, loss in zip(steps, 0.23 * 0.98 ** np.arange(50), strict=True)]
    ways = {f"finer-sine, {kind}": [(900 * i, 20.0 + i) for i in (1, 2, 5)] for kind in ("shells", "single networks")}
    codecs = {"JPEG": [{"bytes": 340 + 100 * i, "psnr": 18.0 + i} for i in range(20)], "WebP": []}
    streaming.rate_figure(ways, codecs)
    streaming._training([curve, curve, []])
    sdf._curve(curve)
    image._curves({f"method {i}": [(step, float(generator.normal(30))) for step in steps] for i in range(7)})
    rows = [
        Row(f"finer {i}", [{"psnr": 30.0 + i}], paper={"psnr": 32.0}) if i else Row("siren", [{"psnr": 29.0}])
        for i in range(4)
    ]
    _bars("Images", rows, "psnr", "PSNR (dB)")
    assert len(drawn) == 5
    for figure in drawn:
        assert_laid_out(figure)
    for figure, axis, ends in ((drawn[0], "x", (100.0, 10_000.0)), (drawn[1], "y", (0.01, 1.0))):
        assert getattr(figure.axes[0], f"get_{axis}lim")() == ends
