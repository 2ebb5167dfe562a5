"""How the axes of every figure are laid out: legends off the data, logarithmic axes from decade to decade."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

_POINTS_PER_INCH = 72.0
_GAP_IN_POINTS = 4.0
_STYLE: dict[str, Any] = {"frameon": False, "fontsize": "small"}
# Decades that have labels within them, and ends between which numbers are written out.
_FEW_DECADES = 2
_SMALLEST_WRITTEN_OUT, _LARGEST_WRITTEN_OUT = 1e-3, 1e5


def whole_decades(axes: Axes, *which: Literal["x", "y"]) -> None:
    """Make axes logarithmic, from the power of ten below what is drawn to the one above it.

    An axis along which nothing positive is drawn stays linear.

    Args:
        axes: with everything drawn that is to be seen; what is not positive does not count.
        which: of its two.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    for name in which:
        axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
        low, high = axis.get_data_interval()
        low = low if low > 0 else axis.get_minpos()
        if not 0 < low <= high < math.inf:
            continue  # there is nothing that could be seen
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        last = max(last, first + 1)
        axes.set(**{f"{name}scale": "log"})
        axes.set(**{f"{name}lim": (10.0**first, 10.0**last)})
        if last - first <= _FEW_DECADES:
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_minor_formatter(NullFormatter())
        if 10.0**first >= _SMALLEST_WRITTEN_OUT and 10.0**last <= _LARGEST_WRITTEN_OUT:
            axis.set_major_formatter("{x:,g}")


def legend_below(axes: Axes, *, marker_scale: float = 1.0) -> None:
    """Put the legend under an axes' labels, in as many columns as it is wide.

    Args:
        axes: with everything drawn and labelled; one without labelled data gets no legend.
        marker_scale: how much larger markers are shown than they are drawn.
    """
    from matplotlib.transforms import offset_copy

    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure(root=True)
    if not handles or figure is None:
        return
    labelled = axes.xaxis.get_tightbbox()
    depth = 0.0 if labelled is None else max(0.0, axes.bbox.y0 - labelled.y0) * _POINTS_PER_INCH / figure.dpi
    # The labels keep their size whatever room the layout gives to the axes.
    under = offset_copy(axes.transAxes, figure, y=-depth - _GAP_IN_POINTS, units="points")
    for columns in _columns(len(labels)):
        place: dict[str, Any] = {"bbox_to_anchor": (0.5, 0.0), "bbox_transform": under, "borderaxespad": 0.0}
        place["markerscale"] = marker_scale
        legend = axes.legend(handles, labels, loc="upper center", ncols=columns, **place, **_STYLE)
        if _fits(legend, axes.bbox.width):
            return


def legend_of_figure(figure: Figure, *axes: Axes) -> None:
    """Put one legend for all panels under a figure.

    Args:
        figure: with a constrained layout.
        axes: whose entries there are, each name once.
    """
    found = [axis.get_legend_handles_labels() for axis in axes]
    entries = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
    for columns in _columns(len(entries)):
        legend = figure.legend(
            list(entries.values()), list(entries), loc="outside lower center", ncols=columns, **_STYLE
        )
        if columns == 1 or _fits(legend, figure.bbox.width):
            return
        legend.remove()


def _columns(entries: int) -> list[int]:
    """Numbers of columns for rows that are equally long, from one row on."""
    return list(dict.fromkeys(-(-entries // rows) for rows in range(1, entries + 1)))


def _fits(legend: Legend, width: float) -> bool:
    return bool(legend.get_window_extent().width <= width)
