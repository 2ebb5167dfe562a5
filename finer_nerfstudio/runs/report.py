"""Reports: one self-contained HTML page of pictures, tables and sentences."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from finer_nerfstudio.files.atomic import write_text
from finer_nerfstudio.runs.summary import heading, measured_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Figure:
    """A PNG picture with the sentence under it."""

    png: bytes
    caption: str


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of a report."""

    title: str
    sentences: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = field(default=())


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; opacity: .8; }
img { max-width: 100%; height: auto; background: white; border-radius: 4px; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #8884; }
div.wide { overflow-x: auto; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for section in sections %}
<section>
<h2>{{ section.title }}</h2>
{% for sentence in section.sentences %}<p>{{ sentence }}</p>
{% endfor %}
{% for table in section.tables %}
<div class="wide"><table>
<thead><tr>{% for cell in table.header %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% endfor %}
{% for figure in section.figures %}
<figure><img src="data:image/png;base64,{{ encode(figure.png) }}" alt="{{ figure.caption }}">
<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
</section>
{% endfor %}
</body>
</html>
"""


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write a page that needs nothing but itself.

    Raises:
        InputError: where the file cannot be written.
    """
    from jinja2 import Environment

    page = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)
    write_text(path, page.render(title=title, sections=sections, encode=_base64))


def drawing_png(drawing: Drawing, *, dots_per_inch: int = 110) -> bytes:
    """A matplotlib figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    FigureCanvasAgg(drawing).print_figure(content, dpi=dots_per_inch, bbox_inches="tight", facecolor="white")
    return content.getvalue()


def measured_table(values: Mapping[str, object]) -> Table:
    """Return the measurements of a run with headings, units and digits for people."""
    return Table(("", ""), [(heading(name), measured_text(name, value)) for name, value in values.items()])


def flat_table(values: dict[str, object]) -> Table:
    """Names and values, nested names joined by dots."""

    def rows(prefix: str, content: dict[str, object]) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for name, value in content.items():
            if isinstance(value, dict):
                found += rows(f"{prefix}{name}.", value)
            else:
                found.append((prefix + name, "n/a" if value is None else _as_text(value)))
        return found

    return Table(("", ""), rows("", values))


def _as_text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
