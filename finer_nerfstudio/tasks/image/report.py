"""Report of a fitted image: error map, spectra, training curve, the worst places, the first layer's neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finer_nerfstudio.runs.axes import legend_below
from finer_nerfstudio.runs.report import Figure, Section, Table, drawing_png, flat_table, measured_table, write_report
from finer_nerfstudio.runs.summary import as_text, heading, measured_text

_CROPS = 3


@dataclass(frozen=True)
class FittedMethod:
    """One method's part of a comparison.

    Attributes:
        method: its name.
        reconstruction: ``[height, width, channels]`` float32 in [0, 1].
        curve: pairs of a step and the PSNR before it.
        metrics: numbers to show.
    """

    method: str
    reconstruction: np.ndarray
    curve: Sequence[tuple[int, float]]
    metrics: dict[str, Any]


def image_report(
    path: Path,
    *,
    truth: np.ndarray,
    reconstruction: np.ndarray,
    curve: Sequence[tuple[int, float]],
    neurons: np.ndarray,
    neuron_frequencies: np.ndarray,
    metrics: dict[str, Any],
    configuration: dict[str, Any],
    notes: Sequence[str] = (),
) -> None:
    """Write the report of one fit.

    Args:
        path: the HTML file.
        truth: ``[height, width, channels]`` float32 in [0, 1].
        reconstruction: the same of the network.
        curve: pairs of a step and the PSNR before it.
        neurons: ``[n, rows, columns]`` responses of first-layer neurons, by rising frequency.
        neuron_frequencies: ``[n]`` in cycles per longer side.
        metrics: numbers to show.
        configuration: the run's options.
        notes: sentences about the input.

    Raises:
        InputError: where the file cannot be written.
    """
    method = configuration["method"]
    sections = [
        Section("Result", notes, [_side_by_side(truth, reconstruction)], [measured_table(metrics)]),
        Section("Where it errs", (), [_error_map(truth, reconstruction), _worst_crops(truth, reconstruction)]),
        Section("Fourier spectrum", (), [_spectra(truth, reconstruction)]),
        Section("Training", (), [_curves({method: curve})]),
        Section("First-layer neurons", (), [_neurons(neurons, neuron_frequencies)]),
        Section("Configuration", (), (), [flat_table(configuration)]),
    ]
    write_report(path, f"{method}: {as_text(metrics['psnr'])} dB", sections)


def comparison_report(
    path: Path, *, truth: np.ndarray, rows: Sequence[FittedMethod], notes: Sequence[str] = ()
) -> None:
    """Write the report of several methods on one image; arguments as for :func:`image_report`.

    Raises:
        InputError: where the file cannot be written.
    """
    names = list(rows[0].metrics)
    table = Table(
        ("method", *map(heading, names)),
        [(row.method, *(measured_text(name, row.metrics[name]) for name in names)) for row in rows],
    )
    sections = [
        Section("Results", notes, (), [table]),
        Section("Pictures and errors", (), [comparison_figure(truth, rows)]),
        Section("Fourier spectrum", (), [_spectra(truth, row.reconstruction, row.method) for row in rows]),
        Section("Training", (), [_curves({row.method: row.curve for row in rows})]),
    ]
    write_report(path, "Methods side by side", sections)


def comparison_figure(truth: np.ndarray, rows: Sequence[FittedMethod]) -> Figure:
    """Truth and reconstructions above, errors on one scale below."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure as Drawing

    errors = [_error(truth, row.reconstruction) for row in rows]
    highest = _visible_maximum(errors)
    drawing = Drawing(
        figsize=(2.6 * (len(rows) + 1), 2.9 * 2 * truth.shape[0] / truth.shape[1] + 0.6), layout="constrained"
    )
    axes = drawing.subplots(2, len(rows) + 1, squeeze=False)
    axes[0, 0].imshow(_visible(truth))
    axes[0, 0].set_title("truth")
    for column, (row, error) in enumerate(zip(rows, errors, strict=True), start=1):
        axes[0, column].imshow(_visible(row.reconstruction))
        axes[0, column].set_title(f"{row.method}\n{as_text(row.metrics['psnr'])} dB")
        axes[1, column].imshow(error, cmap="magma", vmin=0, vmax=highest)
    for axis in axes.flat:
        axis.set_axis_off()
    colors = ScalarMappable(Normalize(0, highest), "magma")
    drawing.colorbar(colors, ax=axes[1, 0], location="left", label="error (of 255)")
    return Figure(drawing_png(drawing), "Reconstructions, and their mean absolute errors on one scale.")


def _side_by_side(truth: np.ndarray, reconstruction: np.ndarray) -> Figure:
    return _row(
        [("truth", _visible(truth)), ("reconstruction", _visible(reconstruction))],
        "The image, and what the network makes of it.",
    )


def _error_map(truth: np.ndarray, reconstruction: np.ndarray) -> Figure:
    from matplotlib.figure import Figure as Drawing

    error = _error(truth, reconstruction)
    drawing = Drawing(figsize=(6, 5), layout="constrained")
    axis = drawing.subplots()
    shown = axis.imshow(error, cmap="magma", vmin=0, vmax=_visible_maximum([error]))
    axis.set_axis_off()
    drawing.colorbar(shown, ax=axis, label="8-bit levels")
    return Figure(drawing_png(drawing), "Mean absolute error over the channels.")


def worst_windows(truth: np.ndarray, reconstruction: np.ndarray, count: int = _CROPS) -> list[tuple[slice, slice]]:
    """Rows and columns of windows that do not overlap and have the largest mean squared error.

    A window's side is an eighth of the image's longer side, at least 16 pixels, and no more than the image has.
    """
    height, width, _ = truth.shape
    side = max(16, max(height, width) // 8)
    rows, columns = min(side, height), min(side, width)
    squared = np.square(truth - reconstruction).mean(axis=-1, dtype=np.float64)
    # Of each window by its first row and column, from sums of all that is above and left of a pixel.
    sums = np.pad(squared, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    upper, lower = sums[:-rows], sums[rows:]
    means = lower[:, columns:] - lower[:, :-columns] - upper[:, columns:] + upper[:, :-columns]
    windows = []
    while len(windows) < count and np.isfinite(means).any():
        top, left = np.unravel_index(np.argmax(means), means.shape)
        windows.append((slice(int(top), int(top) + rows), slice(int(left), int(left) + columns)))
        means[max(0, top - rows + 1) : top + rows, max(0, left - columns + 1) : left + columns] = -np.inf
    return windows


def _worst_crops(truth: np.ndarray, reconstruction: np.ndarray) -> Figure:
    from matplotlib.figure import Figure as Drawing
    from matplotlib.patches import Rectangle

    windows = worst_windows(truth, reconstruction)
    error = _error(truth, reconstruction)
    highest = _visible_maximum([error])
    drawing = Drawing(figsize=(10, 2.5 * len(windows)), layout="constrained")
    parts = drawing.subfigures(1, 2, squeeze=False, width_ratios=[1, 1.4])
    assert isinstance(parts, np.ndarray)
    overview, crops = parts[0]
    whole = overview.subplots()
    whole.imshow(_visible(truth))
    whole.set_axis_off()
    axes = crops.subplots(len(windows), 3, squeeze=False)
    for number, (rows, columns) in enumerate(windows):
        corner = (columns.start - 0.5, rows.start - 0.5)
        sides = (columns.stop - columns.start, rows.stop - rows.start)
        whole.add_patch(Rectangle(corner, *sides, fill=False, edgecolor="red", linewidth=1.5))
        label = {"facecolor": "red", "edgecolor": "none", "pad": 1.5}
        whole.text(*corner, str(number + 1), color="white", bbox=label, va="top", fontsize=8, fontweight="bold")
        pictures = (_visible(truth)[rows, columns], _visible(reconstruction)[rows, columns])
        for axis, picture in zip(axes[number], pictures, strict=False):
            axis.imshow(picture, interpolation="nearest")
        axes[number, 2].imshow(error[rows, columns], cmap="magma", vmin=0, vmax=highest, interpolation="nearest")
        axes[number, 0].set_ylabel(str(number + 1), rotation=0, labelpad=12)
        for axis in axes[number]:
            axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[0], ("truth", "reconstruction", "error"), strict=True):
        axis.set_title(title)
    return Figure(drawing_png(drawing), "The windows with the largest error.")


def _spectra(truth: np.ndarray, reconstruction: np.ndarray, name: str = "reconstruction") -> Figure:
    grey = [picture[..., : 3 if picture.shape[-1] > 2 else 1].mean(axis=-1) for picture in (truth, reconstruction)]
    planes = [("truth", grey[0]), (name, grey[1]), ("residual", grey[1] - grey[0])]
    # Decibels below the strongest component of the image itself, its mean left out.
    strongest = max(float(np.abs(np.fft.fft2(grey[0] - grey[0].mean())).max()), 1e-12)

    def decibels(plane: np.ndarray) -> np.ndarray:
        magnitude = np.abs(np.fft.fftshift(np.fft.fft2(plane - grey[0].mean())))
        return 20.0 * np.log10(np.maximum(magnitude / strongest, 1e-6))

    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(11, 3.8), layout="constrained")
    axes = drawing.subplots(1, 3)
    for axis, (title, plane) in zip(axes, planes, strict=True):
        axis.imshow(decibels(plane if title != "residual" else plane + grey[0].mean()), vmin=-100, vmax=0)
        axis.set_title(title)
        axis.set_axis_off()
    drawing.colorbar(ScalarMappable(Normalize(-100, 0)), ax=axes, label="dB")
    return Figure(drawing_png(drawing), "Magnitude of the Fourier transform; the lowest frequency is in the middle.")


def _curves(curves: dict[str, Sequence[tuple[int, float]]]) -> Figure:
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(8, 3.6), layout="constrained")
    axis = drawing.subplots()
    for method, curve in curves.items():
        finite = [(step, value) for step, value in curve if np.isfinite(value)]
        axis.plot(*zip(*finite, strict=True), label=method) if finite else None
    axis.set(xlabel="step", ylabel="PSNR (dB)")
    axis.grid(alpha=0.3)
    if len(curves) > 1:
        legend_below(axis)
    return Figure(drawing_png(drawing), "PSNR of each step's batch before the step.")


def _neurons(neurons: np.ndarray, frequencies: np.ndarray) -> Figure:
    from matplotlib.figure import Figure as Drawing

    columns = max(1, -(-len(neurons) // 2))
    rows = -(-len(neurons) // columns)
    drawing = Drawing(figsize=(2.2 * columns, 2.4 * rows), layout="constrained")
    axes = drawing.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, neuron, frequency in zip(axes.flat, neurons, frequencies, strict=False):
        axis.imshow(neuron, cmap="gray")
        axis.set_title(f"{frequency:.1f} cycles", fontsize=9)
    return Figure(
        drawing_png(drawing),
        "Responses of the first layer's neurons of lowest (above) and highest (below) mean frequency, in cycles per "
        "longer side of the image.",
    )


def _row(pictures: Sequence[tuple[str, np.ndarray]], caption: str) -> Figure:
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(5.2 * len(pictures), 5.2), layout="constrained")
    for axis, (title, picture) in zip(drawing.subplots(1, len(pictures)), pictures, strict=True):
        axis.imshow(picture)
        axis.set_title(title)
        axis.set_axis_off()
    return Figure(drawing_png(drawing), caption)


def _visible(picture: np.ndarray) -> np.ndarray:
    """``[height, width, 3]``; alpha is shown over a checkerboard."""
    channels = picture.shape[-1]
    color = np.repeat(picture[..., :1], 3, axis=-1) if channels < 3 else picture[..., :3]
    if channels in (1, 3):
        return np.clip(color, 0.0, 1.0)
    rows, columns = np.indices(picture.shape[:2]) // 8
    board = np.where((rows + columns) % 2 == 0, 0.75, 0.95)[..., None]
    alpha = picture[..., -1:]
    return np.clip(color * alpha + board * (1.0 - alpha), 0.0, 1.0)


def _error(truth: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    return 255.0 * np.abs(truth - reconstruction).mean(axis=-1)


def _visible_maximum(errors: Sequence[np.ndarray]) -> float:
    """An upper end of the colour scale that a few outliers do not set."""
    return max(1.0, max(float(np.percentile(error, 99.5)) for error in errors))
