"""The outcome of an analysis and its files: JSON with all of it, a CSV per table, and the figure as PNG and SVG."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files.atomic import replacing, write_json, write_text
from finer_nerfstudio.runs.results import software_versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """Numbers by column.

    Attributes:
        columns: name to values, all of the same length; texts and numbers.
    """

    columns: dict[str, list[Any]]

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of a table have different lengths: {lengths}")

    def rows(self) -> list[dict[str, Any]]:
        """The same, row by row."""
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]


@dataclass(frozen=True)
class Outcome:
    """The numbers and tables of an analysis; everything its figure shows is in here.

    Attributes:
        analysis: name of the verb that made it.
        settings: all that decides it, seeds included, as JSON values.
        numbers: what is to be said in few numbers, as JSON values.
        tables: what the figure is drawn from.
    """

    analysis: str
    settings: dict[str, Any]
    numbers: dict[str, Any]
    tables: dict[str, Table] = field(default_factory=dict)


def write_outcome(folder: Path, outcome: Outcome, figure: Figure) -> list[Path]:
    """Write an outcome and its figure.

    Tables of an earlier outcome in the same place that the new one does not have are removed, so that all files there
    belong together.

    Args:
        folder: gets ``ANALYSIS.json``, ``ANALYSIS.png``, ``ANALYSIS.svg`` and ``ANALYSIS-TABLE.csv`` of each table.
        outcome: what was found.
        figure: drawn from it.

    Returns:
        The files.

    Raises:
        InputError: where a file cannot be written.
    """
    name = outcome.analysis
    files = [folder / f"{name}.{ending}" for ending in ("png", "svg", "json")]
    for title in _tables_of_earlier(files[2]) - outcome.tables.keys():
        (folder / f"{name}-{title}.csv").unlink(missing_ok=True)
    save_figure(figure, files[0])
    save_figure(figure, files[1])
    for title, table in outcome.tables.items():
        path = folder / f"{name}-{title}.csv"
        write_text(path, _csv(table))
        files.append(path)
    # Last, so that it says that the others are there.
    write_json(
        files[2],
        {
            "analysis": name,
            "settings": outcome.settings,
            "numbers": outcome.numbers,
            "tables": {title: table.columns for title, table in outcome.tables.items()},
            "versions": software_versions(),
        },
    )
    return files


def _tables_of_earlier(path: Path) -> set[str]:
    try:
        return set(read_outcome(path).tables)
    except InputError:
        return set()


def read_outcome(path: Path) -> Outcome:
    """Read what :func:`write_outcome` wrote.

    Raises:
        InputError: for a file that it did not write.
    """
    try:
        content = json.loads(path.read_text())
        tables = {title: Table(columns) for title, columns in content["tables"].items()}
        return Outcome(content["analysis"], content["settings"], content["numbers"], tables)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as the outcome of an analysis ({error}).") from error


def rounded(values: Iterable[float]) -> list[float]:
    """Five digits of each number: more than a picture shows, and a third of the file."""
    return [float(f"{value:.5g}") for value in values]


def save_figure(figure: Figure, path: Path, *, dpi: int = 150) -> None:
    """Write a figure, the same bytes for the same figure.

    Args:
        figure: what to write.
        path: a .png or .svg file.
        dpi: pixels per inch of a .png.
    """
    import matplotlib as mpl

    ending = path.suffix.removeprefix(".")
    # Else an SVG has the date and random names in it.
    metadata = {"Date": None} if ending == "svg" else {"Software": None}
    with replacing(path) as unfinished, mpl.rc_context({"svg.hashsalt": "finer_nerfstudio", "svg.fonttype": "none"}):
        figure.savefig(unfinished, format=ending, dpi=dpi, metadata=metadata)


def panels(count: int, *, columns: int, width: float = 4.0, height: float = 3.0) -> tuple[Figure, Sequence[Any]]:
    """A figure with ``count`` axes in rows of at most ``columns``, without a window system.

    Args:
        count: axes.
        columns: at most so many beside each other.
        width: of each, inches.
        height: of each, inches.
    """
    from matplotlib.figure import Figure

    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(zip(*table.columns.values(), strict=True))
    return text.getvalue()
