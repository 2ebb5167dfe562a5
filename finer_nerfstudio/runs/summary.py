"""The last lines of a command that is done."""

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
    next_command: str | None = None,
) -> None:
    """Print a table of results with a row per method, what there is to know about the input, and where files are.

    Args:
        results: numbers by method.
        columns: which of the numbers to show, and under what heading.
        notes: sentences.
        files: what to open next.
        next_command: what to type next.
    """
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(highlight=False, soft_wrap=True)
    for note in notes:
        console.print(f"note: {note}", markup=False)
    table = Table(Column("method", no_wrap=True), *columns.values())
    for method, numbers in results.items():
        table.add_row(method, *(as_text(numbers.get(name)) for name in columns))
    console.print(table)
    for path in files:
        console.print(str(path), markup=False)
    if next_command is not None:
        console.print(f"next: {next_command}", markup=False)


def print_numbers(numbers: Mapping[str, Any]) -> None:
    """Print what was measured: single numbers in lines, numbers of several networks or methods in a table each.

    Args:
        numbers: by name; mappings of mappings become tables with a column for each, which leave out what is nested
            further.
    """
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(highlight=False, soft_wrap=True)
    for name, value in numbers.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            for item in value:
                console.print(f"{heading(name).removesuffix('s')}: {item}", markup=False)
        elif not isinstance(value, dict):
            console.print(f"{heading(name)}: {_plain(value)}", markup=False)
    for name, value in numbers.items():
        if not isinstance(value, dict):
            continue
        columns = {key: column if isinstance(column, dict) else {"": column} for key, column in value.items()}
        quantities = list(dict.fromkeys(quantity for column in columns.values() for quantity in column))
        table = Table(Column(heading(name), no_wrap=True), *(Column(str(key), overflow="fold") for key in columns))
        for quantity in quantities:
            cells = [column.get(quantity) for column in columns.values()]
            if not any(isinstance(cell, (dict, list)) for cell in cells):
                table.add_row(heading(quantity), *map(_plain, cells))
        console.print(table)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return as_text(value) if isinstance(value, (int, float)) or value is None else str(value)


# Heading and format of what runs measure; what is not here is shown by its name.
_QUANTITIES: dict[str, tuple[str, str]] = {
    "psnr": ("PSNR", "{:.2f} dB"),
    "ssim": ("SSIM", "{:.4f}"),
    "lpips": ("LPIPS", "{:.4g}"),
    "iou": ("IoU, around the shape", "{:.4f}"),
    "iou_paper": ("IoU, the paper's grid", "{:.4f}"),
    "chamfer": ("Chamfer, in units of the file", "{:.4g}"),
    "chamfer_paper": ("Chamfer, the paper's frame", "{:.4g}"),
    "chamfer_paper_of_truth_with_itself": ("Chamfer of two samples of the truth", "{:.4g}"),
    "normal_consistency": ("normal consistency", "{:.4f}"),
    "resolution": ("grid of the surface, points per axis", "{:,}"),
    "iou_resolution": ("grid of the IoU, points per axis", "{:,}"),
    "chamfer_samples": ("points of the Chamfer distance", "{:,}"),
    "mesh_origin": ("origin of mesh.ply", "{}"),
    "steps": ("training steps", "{:,}"),
    "seconds": ("training time", "{:,.1f} s"),
    "parameters": ("parameters", "{:,}"),
    "bits_per_pixel": ("bits per pixel, weights of 32 bits", "{:.1f}"),
    "seed": ("seed", "{}"),
}


# Hyper-parameters go by the names that options have.
_SYMBOLS = ("omega_0", "omega_f", "s_0")


def heading(name: str) -> str:
    """Return what a quantity is called in a table."""
    if name in _SYMBOLS:
        return name
    return _QUANTITIES.get(name, (name.replace("_", " "), ""))[0]


def measured_text(name: str, value: Any) -> str:
    """Return a quantity's value with its unit and as many digits as it deserves."""
    if value is None:
        return "n/a"
    if name in _QUANTITIES:
        return _QUANTITIES[name][1].format(value)
    return as_text(value) if isinstance(value, (int, float)) else str(value)


def as_text(value: int | float | None) -> str:
    """A number with four significant digits, or that it is not available."""
    if value is None:
        return "n/a"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
