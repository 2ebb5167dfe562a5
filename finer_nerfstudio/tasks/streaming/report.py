"""Report of a stream: its stages side by side, and what they cost beside JPEG and WebP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finer_nerfstudio.runs.axes import legend_below, whole_decades
from finer_nerfstudio.runs.report import Figure, Section, Table, drawing_png, flat_table, write_report
from finer_nerfstudio.runs.stage_report import stage_pictures, stage_table
from finer_nerfstudio.runs.summary import as_text


def stream_report(
    path: Path,
    *,
    truth: np.ndarray | None,
    pictures: Sequence[np.ndarray],
    numbers: dict[str, Any],
    curves: Sequence[Sequence[tuple[int, float]]],
    configuration: dict[str, Any],
    notes: Sequence[str] = (),
) -> None:
    """Write the report of one stream.

    Args:
        path: the HTML file.
        truth: ``[height, width, channels]`` uint8 or uint16; None for shapes.
        pictures: the same of each stage.
        numbers: what ``metrics.json`` holds.
        curves: pairs of a step and the loss before it, for each stage.
        configuration: everything that decided the result.
        notes: sentences about the input.

    Raises:
        InputError: where the file cannot be written.
    """
    rows, codecs = numbers["stages"], numbers["codecs"]
    sections = [Section("Stages", notes, stage_pictures(truth, pictures, rows), [stage_table(rows)])]
    if any(codecs.values()):
        streams = {str(configuration["method"]): [(row["bytes"], row["psnr"]) for row in rows]}
        sentence = (
            "JPEG and WebP files begin anew for each quality; the stream's stages are prefixes of one file. The "
            "networks were trained for this image alone."
        )
        sections.append(Section("Rate and distortion", [sentence], [rate_figure(streams, codecs)]))
    sections.append(Section("Training", (), [_training(curves)]))
    sections.append(Section("Configuration", (), (), [flat_table(configuration)]))
    write_report(path, f"{configuration['method']}: {numbers['bytes']:,} bytes in {len(rows)} stages", sections)


def comparison_report(
    path: Path, *, numbers: dict[str, Any], configuration: dict[str, Any], notes: Sequence[str] = ()
) -> None:
    """Write the report of several ways to send an image.

    Args:
        path: the HTML file.
        numbers: what ``metrics.json`` holds.
        configuration: of the stream.
        notes: sentences about the input.

    Raises:
        InputError: where the file cannot be written.
    """
    ways: dict[str, list[dict[str, Any]]] = numbers["ways"]
    sentences = [
        *notes,
        "Single networks and the slimmable one are not prefixes of one stream: each single network is sent whole, and "
        "a slimmable one was trained for all widths at once, with as many steps as all stages together.",
    ]
    sections = [
        Section("PSNR in dB", sentences, (), [comparison_table(ways)]),
        Section(
            "Rate and distortion",
            (),
            [
                rate_figure(
                    {name: [(row["bytes"], row["psnr"]) for row in rows] for name, rows in ways.items()},
                    numbers["codecs"],
                )
            ],
        ),
        *(Section(name, (), (), [stage_table(rows)]) for name, rows in ways.items()),
        Section("Configuration", (), (), [flat_table(configuration)]),
    ]
    write_report(path, f"Ways to send an image: {configuration['method']}", sections)


def comparison_table(ways: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """PSNR of each way at each width."""
    widths = [str(row["width"]) for row in next(iter(ways.values()))]
    rows = [[name, *(as_text(row["psnr"]) for row in found)] for name, found in ways.items()]
    return Table(["", *(f"width {width}" for width in widths)], rows)


def rate_figure(
    streams: Mapping[str, Sequence[tuple[int, float]]], codecs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Figure:
    """PSNR over bytes.

    Args:
        streams: bytes and PSNR of every stage, by name.
        codecs: the points of each codec.
    """
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(8, 4.2), layout="constrained")
    axis = drawing.subplots()
    for name, points in streams.items():
        axis.plot(*zip(*points, strict=True), marker="o", label=name)
    for name, curve in codecs.items():
        if curve:
            axis.plot([p["bytes"] for p in curve], [p["psnr"] for p in curve], linestyle="--", label=name)
    axis.set(xlabel="bytes", ylabel="PSNR (dB)")
    axis.grid(alpha=0.3, which="both")
    whole_decades(axis, "x")
    legend_below(axis)
    return Figure(drawing_png(drawing), "Quality of what has arrived, over the bytes that have.")


def _training(curves: Sequence[Sequence[tuple[int, float]]]) -> Figure:
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(8, 3.4), layout="constrained")
    axis = drawing.subplots()
    start = 0
    for i, curve in enumerate(curves):
        if curve:
            axis.plot([start + step for step, _ in curve], [loss for _, loss in curve], label=f"stage {i}")
            start += curve[-1][0] + 1
    axis.set(xlabel="step", ylabel="loss")
    axis.grid(alpha=0.3)
    whole_decades(axis, "y")
    legend_below(axis)
    return Figure(drawing_png(drawing), "Loss of each step's batch before the step, stage after stage.")
