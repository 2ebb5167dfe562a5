"""Fill the numbers of the documentation in from the JSON files of measured results, and draw its figures from them.

    python scripts/make_results.py            # after a result was added or measured anew
    python scripts/make_results.py --check    # say whether a page is out of date

In README.md and docs/*.md, what stands between ``-->`` and ``<!-- end -->`` is made from the template in the comment
above it, in which ``results["NAME"]`` is the content of docs/results/NAME.json:

    <!-- results
    The best of them reached {{ results["nerf_lego_15_minutes"]["finer-sine"].test.psnr | decimals(2) }} dB.
    -->
    The best of them reached 27.41 dB.
    <!-- end -->

What finer analyze left in docs/results/analysis/NAME is drawn again beside its numbers. Figures are not checked:
another version of matplotlib draws the same one with other bytes.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from finer_nerfstudio.analysis.outcome import read_outcome, save_figure
from finer_nerfstudio.cli.command import run_command
from finer_nerfstudio.errors import InputError, in_one_line
from finer_nerfstudio.files.atomic import write_text

# Not across the beginning of another one, should the end of the first be missing.
_BLOCK = re.compile(r"(<!-- results\n(.*?)\n-->\n)((?:(?!<!-- results).)*?)(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class MakeResults:
    """Which pages, from which results."""

    check: bool = False
    """Change nothing; end with exit code 1 where a page is out of date."""
    root: Path = Path()
    """The folder with README.md and docs."""


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


def filled_in(text: str, results: Mapping[str, Any], page: Path) -> str:
    """The page's text with everything that stands under a template made anew.

    Args:
        text: of the page.
        results: what templates may ask for.
        page: its name, for errors.

    Raises:
        InputError: for a template that is wrong, or asks for what is not there.
    """
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"average": fmean, "decimals": decimals, "scientific": scientific}
    environment.globals |= {"results": results, "verdict": verdict}

    def made(match: re.Match[str]) -> str:
        line = text[: match.start()].count("\n") + 1
        try:
            content = environment.from_string(match[2]).render()
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, ZeroDivisionError) as error:
            raise InputError(f"{page}, line {line}: the template cannot be filled in ({error}).") from error
        lines = [line.rstrip() for line in content.strip().splitlines()]
        return "\n".join([match[1].rstrip(), *lines, match[4]])

    return _BLOCK.sub(made, text)


def decimals(value: float | None, places: int = 0) -> str:
    """A number with so many decimals and thousands set apart; "n/a" where there is none."""
    return "n/a" if value is None else f"{value:,.{places}f}"


def scientific(value: float | None, places: int = 2) -> str:
    """A number as 1.23e-4."""
    if value is None:
        return "n/a"
    mantissa, exponent = f"{value:.{places}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def verdict(*conditions: bool) -> str:
    """What is to be said of a claim, of whose parts some may hold."""
    held = sum(bool(condition) for condition in conditions)
    if held == len(conditions):
        return "holds"
    return "not reproduced" if held == 0 else f"in part ({held} of {len(conditions)})"


def redraw(path: Path) -> None:
    """Draw an analysis again from its stored numbers.

    Args:
        path: its JSON; the figure goes beside it.

    Raises:
        InputError: for a file that is none of an analysis.
    """
    outcome = read_outcome(path)
    try:
        analysis = importlib.import_module(f"finer_nerfstudio.analysis.{outcome.analysis}")
        figure = analysis.draw(outcome)
    except (ImportError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be drawn ({error!r}): was it written by this version?") from error
    save_figure(figure, path.with_suffix(".png"), dpi=100)


def main(command: MakeResults) -> None:
    pages = [command.root / "README.md", *sorted((command.root / "docs").glob("*.md"))]
    results = Results(command.root / "docs" / "results")
    outdated = []
    for page in pages:
        try:
            text = page.read_text()
        except OSError as error:
            raise InputError(
                f"{page} cannot be read ({in_one_line(error)}): is --root the project's folder?"
            ) from error
        new = filled_in(text, results, page)
        if new == text:
            continue
        outdated.append(str(page))
        if not command.check:
            write_text(page, new)
    if not command.check:
        for path in sorted((command.root / "docs" / "results" / "analysis").glob("*/*.json")):
            redraw(path)
    if command.check and outdated:
        raise InputError(f"out of date: {', '.join(outdated)}; run python scripts/make_results.py.")
    print("nothing to change" if not outdated else f"made anew: {', '.join(outdated)}", file=sys.stdout)


if __name__ == "__main__":
    run_command(main, MakeResults, __doc__, program="make_results.py", arguments=sys.argv[1:])
