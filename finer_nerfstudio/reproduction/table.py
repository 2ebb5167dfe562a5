"""Our numbers beside the paper's: Markdown, CSV, JSON and a bar chart."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finer_nerfstudio.files.atomic import replacing, write_json, write_text
from finer_nerfstudio.reproduction.published import FAMILIES
from finer_nerfstudio.runs.axes import legend_below
from finer_nerfstudio.runs.report import drawing_png


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: the method, and what was changed about it.
        results: what was measured, one per item.
        paper: the paper's means, None where it has none.
        paper_results: the paper's numbers for each item, where it prints them.
    """

    name: str
    results: Sequence[Mapping[str, Any]]
    paper: Mapping[str, float] | None = None
    paper_results: Sequence[Mapping[str, float]] = ()

    def mean(self, quantity: str) -> float | None:
        """Mean over the items, None where one of them lacks the quantity."""
        values = [result.get(quantity) for result in self.results]
        known = [float(value) for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None


def write_table(
    folder: Path,
    *,
    title: str,
    protocol: str,
    rows: Sequence[Row],
    items: Sequence[str],
    columns: Mapping[str, str],
    higher_is_better: bool,
    own_columns: Mapping[str, str] | None = None,
    by_item: bool = False,
    notes: Sequence[str] = (),
) -> None:
    """Print a table and write ``table.md``, ``table.csv``, ``table.json`` and ``table.png``.

    Args:
        folder: made if need be.
        title: heading.
        protocol: how it was measured.
        rows: methods.
        items: names of the images or shapes.
        columns: quantities and their headings; the first one is drawn and decides about the order of methods.
        higher_is_better: what is good about the first quantity.
        own_columns: quantities that the paper has no numbers for, and their headings.
        by_item: follow the means by a table of every item for each quantity.
        notes: sentences below the table.
    """
    from rich.console import Console

    first = next(iter(columns))
    own_columns = own_columns or {}
    markdown = _markdown(title, protocol, rows, items, columns, own_columns)
    if by_item:
        markdown += "".join(_by_item(rows, items, quantity, heading) for quantity, heading in columns.items())
    markdown += "".join(f"\n{note}\n" for note in notes)
    verdicts = family_verdicts(rows, first, higher_is_better=higher_is_better)
    write_text(folder / "table.md", markdown + "\n" + "\n".join(f"- {verdict}" for verdict in verdicts) + "\n")
    write_text(folder / "table.csv", _csv(rows, items, [*columns, *own_columns]))
    write_json(
        folder / "table.json",
        {
            "title": title,
            "protocol": protocol,
            "notes": list(notes),
            "items": list(items),
            "rows": [
                {
                    "method": row.name,
                    "mean": {quantity: row.mean(quantity) for quantity in (*columns, *own_columns)},
                    "paper": row.paper,
                    "paper_results": list(row.paper_results),
                    "results": [
                        {key: value for key, value in result.items() if key != "curve"} for result in row.results
                    ],
                }
                for row in rows
            ],
        },
    )
    with replacing(folder / "table.png") as unfinished:
        unfinished.write_bytes(_bars(title, rows, first, columns[first]))
    console = Console(highlight=False, soft_wrap=True)
    console.print(markdown, markup=False)
    for verdict in verdicts:
        console.print(verdict, markup=False)
    console.print(
        f"next: look at {folder / 'table.png'}; beside it are table.md, table.csv and table.json", markup=False
    )


def family_verdicts(rows: Sequence[Row], quantity: str, *, higher_is_better: bool) -> list[str]:
    """For each FINER++ method whose base is in the table, which of the two has the better mean."""
    means = {row.name: row.mean(quantity) for row in rows}
    sentences = []
    for finer, base in FAMILIES.items():
        bases = {name: value for name, value in means.items() if name.split(" ")[0] == base and value is not None}
        value = means.get(finer)
        if value is None:
            continue
        for name, other in bases.items():
            better = value > other if higher_is_better else value < other
            sentences.append(
                f"{finer} {_number(value)} is {'better' if better else 'WORSE'} than {name} {_number(other)}"
            )
    return sentences


def _markdown(
    title: str,
    protocol: str,
    rows: Sequence[Row],
    items: Sequence[str],
    columns: Mapping[str, str],
    own_columns: Mapping[str, str],
) -> str:
    heads = [f"{heading}{whose}" for heading in columns.values() for whose in ("", " (paper)")]
    heads += own_columns.values()
    lines = [
        f"**{title}**, mean of {len(items)} ({', '.join(items)}); {protocol}",
        "",
        "| method | " + " | ".join(heads) + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for row in rows:
        cells = []
        for quantity in columns:
            cells += [_number(row.mean(quantity)), _number((row.paper or {}).get(quantity))]
        cells += [_number(row.mean(quantity)) for quantity in own_columns]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _by_item(rows: Sequence[Row], items: Sequence[str], quantity: str, heading: str) -> str:
    """A line per item; empty for a quantity that was not measured at all."""
    if all(result.get(quantity) is None for row in rows for result in row.results):
        return ""
    has_paper = any(quantity in values for row in rows for values in row.paper_results)
    lines = [
        f"\n**{heading}** of each{', the paper in brackets' if has_paper else ''}",
        "",
        "| | " + " | ".join(row.name for row in rows) + " |",
        "|---" * (len(rows) + 1) + "|",
    ]
    for index, item in enumerate(items):
        cells = []
        for row in rows:
            paper = row.paper_results[index].get(quantity) if row.paper_results else None
            ours = _number(row.results[index].get(quantity))
            cells.append(ours if paper is None else f"{ours} ({_number(paper)})")
        lines.append(f"| {item} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _csv(rows: Sequence[Row], items: Sequence[str], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("method", "item", *columns))
    for row in rows:
        for item, result in zip(items, row.results, strict=True):
            writer.writerow((row.name, item, *(result.get(quantity) for quantity in columns)))
    return text.getvalue()


def _bars(title: str, rows: Sequence[Row], quantity: str, heading: str) -> bytes:
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(1.2 * len(rows) + 2, 4), layout="constrained")
    axis = drawing.subplots()
    for offset, label, values in (
        (-0.2, "ours", [row.mean(quantity) for row in rows]),
        (0.2, "paper (its own protocol)", [(row.paper or {}).get(quantity) for row in rows]),
    ):
        heights = [math.nan if value is None else value for value in values]
        bars = axis.bar([index + offset for index in range(len(rows))], heights, 0.38, label=label)
        axis.bar_label(bars, ["" if value is None else _number(value) for value in values], fontsize=7)
    axis.set_xticks(range(len(rows)), [row.name.replace(" ", "\n") for row in rows], fontsize=8)
    axis.set(ylabel=heading, title=title, xlim=(-0.5, len(rows) - 0.5))
    legend_below(axis)
    return drawing_png(drawing)


def _number(value: float | None) -> str:
    if value is None:
        return "n/a"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 1:
        return f"{value:.2f}"
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3e}"
