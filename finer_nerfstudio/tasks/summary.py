"""What a command says when it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def print_summary(
    results: Mapping[str, Mapping[str, Any]],
    columns: Mapping[str, str],
    *,
    notes: Sequence[str] = (),
    files: Sequence[Path] = (),
) -> None:
    """Print a table of results with a row per method, what there is to know about the input, and where files are.

    Args:
        results: numbers by method.
        columns: which of the numbers to show, and under what heading.
        notes: sentences.
        files: what to open next.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    for note in notes:
        console.print(f"note: {note}", markup=False)
    table = Table("method", *columns.values())
    for method, numbers in results.items():
        table.add_row(method, *(as_text(numbers.get(name)) for name in columns))
    console.print(table)
    for path in files:
        console.print(str(path), markup=False)


def as_text(value: int | float | None) -> str:
    """A number with four significant digits, or that it is not available."""
    if value is None:
        return "n/a"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
