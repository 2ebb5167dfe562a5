"""Fill the numbers of the documentation in from the JSON files of measured results, and draw its figures from them.

    python scripts/make_results.py            # after a result was added or measured anew, or a template edited
    python scripts/make_results.py --check    # say whether a page is out of date

Every docs/templates/PAGE.md is a template of jinja, and docs/PAGE.md what it gives. In it, ``results["NAME"]`` is the
content of docs/results/NAME.json, ``numbers(verb, name)`` what an analysis found, ``published`` the paper's numbers,
``methods`` the registry, ``gpu_tables()`` what ``finer gpu-queue`` measured, and ``claims``, ``allowed_precisions`` and
``changes_beyond_chance`` the functions that judge:

    The best of them reached {{ results["nerf_lego_15_minutes"]["finer-sine"].psnr | decimals(2) }} dB.

What finer analyze left in docs/results/analysis/NAME is thinned to what its figure shows, and drawn again beside its
numbers. Figures are not checked: another version of matplotlib draws the same one with other bytes.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from finer_nerfstudio.analysis.outcome import Outcome, Table, read_outcome, save_figure
from finer_nerfstudio.benchmarks.fits import LARGEST_CHANGE, allowed_precisions, changes_beyond_chance
from finer_nerfstudio.benchmarks.gpu.page import tables
from finer_nerfstudio.cli.command import run_command
from finer_nerfstudio.errors import InputError, in_one_line
from finer_nerfstudio.files.atomic import replacing, write_text
from finer_nerfstudio.inr.methods import METHODS
from finer_nerfstudio.reproduction import claims, published

_NOTE = "<!-- Made by scripts/make_results.py from templates/{name}: edit that. -->\n"
# Digits of a stored number: more than a picture shows.
_DIGITS = 4


@dataclass(frozen=True)
class MakeResults:
    """Which pages, from which results."""

    check: bool = False
    """Change nothing; end with exit code 1 where a page is out of date."""
    root: Path = Path()
    """The folder with docs."""


class Results(Mapping[str, Any]):
    """Contents of the JSON files under a folder, by their paths without ending; read when they are asked for.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._read:
            path = self._folder / f"{name}.json"
            try:
                self._read[name] = json.loads(path.read_text())
            except (OSError, ValueError) as error:
                raise InputError(f"{path} cannot be read ({error}).") from error
        return self._read[name]

    def __iter__(self) -> Any:
        return (str(path.relative_to(self._folder).with_suffix("")) for path in sorted(self._folder.rglob("*.json")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def numbers(self, verb: str, name: str) -> dict[str, Any]:
        """Return what an analysis of a method or a family found, in few numbers."""
        return self[f"analysis/{verb}-{name}/{verb}"]["numbers"]

    def below(self, folder: str) -> dict[str, Any]:
        """Return the contents of the files of a folder, by their names without it."""
        return {name.removeprefix(f"{folder}/"): self[name] for name in self if name.startswith(f"{folder}/")}

    def by_method(self, verb: str, names: list[str]) -> dict[str, dict[str, Any]]:
        """Return the same of several."""
        return {name: self.numbers(verb, name) for name in names}


def rendered(template: Path, results: Results) -> str:
    """Return the page that a template gives.

    Args:
        template: its file.
        results: what it may ask for.

    Raises:
        InputError: for a template that cannot be read, is wrong, or asks for what is not there.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"decimals": claims.decimals, "scientific": claims.scientific}
    environment.globals |= {
        "results": results,
        "numbers": results.numbers,
        "by_method": results.by_method,
        "allowed_precisions": allowed_precisions,
        "changes_beyond_chance": changes_beyond_chance,
        "largest_change": LARGEST_CHANGE,
        "claims": claims,
        "published": published,
        "methods": METHODS,
        "gpu_tables": lambda: tables(results.below("gpu"), published),
    }
    try:
        text = environment.get_template(template.name).render()
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        if isinstance(error, InputError):
            raise
        frames = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(template)
        ]
        line = error.lineno if isinstance(error, jinja2.TemplateSyntaxError) else [*frames, "?"][0]
        raise InputError(f"{template}, line {line}: the template cannot be filled in ({error}).") from error
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return _NOTE.format(name=template.name) + "\n".join([*lines, ""])


def thinned(outcome: Outcome) -> Outcome:
    """Return an analysis with no more in its tables than its figure shows; thinning again changes nothing."""
    thin = _THINNERS.get(outcome.analysis, lambda _name, columns: columns)
    tables = {
        title: Table({name: [_short(value) for value in values] for name, values in thin(title, table.columns).items()})
        for title, table in outcome.tables.items()
    }
    return Outcome(outcome.analysis, outcome.settings, outcome.numbers, tables)


Columns = dict[str, list[Any]]


def _short(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _as_colors(columns: Columns) -> Columns:
    """Return the columns of a picture, or of several, in steps of about a hundredth of the largest number of each."""
    rounded = {}
    for name, values in columns.items():
        largest = max(map(abs, values))
        places = round(2 - math.log10(largest)) if largest > 0 else 0
        rounded[name] = [round(value, places) for value in values]
    return rounded


def _at_most(most: int, columns: Columns) -> Columns:
    """Return every n-th row, the first among them, with the smallest n that leaves at most ``most``."""
    rows = len(next(iter(columns.values())))
    return {name: values[:: max(1, -(-rows // most))] for name, values in columns.items()}


def _where(keep: Callable[[dict[str, Any]], bool], columns: Columns) -> Columns:
    rows = [row for row in Table(columns).rows() if keep(row)]
    return {name: [row[name] for row in rows] for name in columns}


def _thin_activations(title: str, columns: Columns) -> Columns:
    # Bumps that are narrow take more than 200 points.
    return _at_most(501, columns) if title == "curves" else columns


def _thin_frequencies(title: str, columns: Columns) -> Columns:
    shown = ("network", "neuron", "measured", "analytic")
    return {name: columns[name] for name in shown} if title == "neurons" else columns


def _thin_gap(title: str, columns: Columns) -> Columns:
    return _at_most(200, columns) if title == "curves" else columns


def _thin_ntk(title: str, columns: Columns) -> Columns:
    if title == "eigenvalues":
        return _at_most(210, columns)
    # Rows and columns of a matrix, the same ones.
    step = -(-len(columns) // 64)
    return _as_colors({name: columns[name][::step] for name in list(columns)[::step]})


def _thin_maps(title: str, columns: Columns) -> Columns:
    return _as_colors(columns) if title.startswith(("errors", "responses")) else columns


def _thin_utilization(title: str, columns: Columns) -> Columns:
    if title == "layers":
        return columns
    # Of complex layers the figure has the real parts alone.
    columns = _where(lambda row: row["part"] == "real", columns)
    layers = [_at_most(260, _where(lambda row, n=n: row["layer"] == n, columns)) for n in sorted(set(columns["layer"]))]
    return {name: [value for layer in layers for value in layer[name]] for name in columns}


_THINNERS: dict[str, Callable[[str, Columns], Columns]] = {
    "activations": _thin_activations,
    "frequencies": _thin_frequencies,
    "gap": _thin_gap,
    "initialization": _thin_maps,
    "neurons": _thin_maps,
    "ntk": _thin_ntk,
    "utilization": _thin_utilization,
}


def redraw(path: Path) -> None:
    """Thin a stored analysis, and draw it again.

    Args:
        path: its JSON; the figure goes beside it.

    Raises:
        InputError: for a file that is none of an analysis.
    """
    found = read_outcome(path)
    try:
        outcome = thinned(found)
        figure = importlib.import_module(f"finer_nerfstudio.analysis.{outcome.analysis}").draw(outcome)
    except (ImportError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be drawn ({error!r}): was it written by this version?") from error
    tables = {title: table.columns for title, table in outcome.tables.items()}
    content = json.loads(path.read_text())
    if tables != content["tables"]:
        write_text(path, json.dumps({**content, "tables": tables}, separators=(",", ":")) + "\n")
    picture = path.with_suffix(".png")
    save_figure(figure, picture, dpi=110)
    with Image.open(picture) as full, replacing(picture) as unfinished:
        # Other methods give away colours that are rare: those of thin lines.
        colors = full.convert("RGB").quantize(
            256, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE
        )
        colors.save(unfinished, format="png", optimize=True)


def main(command: MakeResults) -> None:
    docs = command.root / "docs"
    templates = sorted((docs / "templates").glob("*.md"))
    if not templates:
        raise InputError(f"{docs / 'templates'} has no templates: is --root the project's folder?")
    results = Results(docs / "results")
    outdated = []
    for template in templates:
        page = docs / template.name
        text = rendered(template, results)
        try:
            found = page.read_text() if page.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{page} cannot be read ({in_one_line(error)}).") from error
        if text == found:
            continue
        outdated.append(str(page))
        if not command.check:
            write_text(page, text)
    if not command.check:
        for path in sorted((docs / "results" / "analysis").glob("*/*.json")):
            redraw(path)
    if command.check and outdated:
        raise InputError(f"out of date: {', '.join(outdated)}; run python scripts/make_results.py.")
    print("nothing to change" if not outdated else f"made anew: {', '.join(outdated)}", file=sys.stdout)


if __name__ == "__main__":
    run_command(main, MakeResults, __doc__, program="make_results.py", arguments=sys.argv[1:])
