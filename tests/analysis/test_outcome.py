"""Outcomes survive the disk, and equal figures are equal files."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from finer_nerfstudio.analysis.outcome import Outcome, Table, panels, read_outcome, write_outcome
from finer_nerfstudio.errors import InputError


def outcome() -> Outcome:
    table = Table({"k": [1.0, 5.0], "name": ["one", "five, or so"]})
    return Outcome("ntk", {"seed": 3}, {"best": 5.0, "nothing": math.nan}, {"counts": table})


def drawing():
    figure, (left, right) = panels(2, columns=2)
    left.plot([0, 1], [1, 0], label="a line")
    left.legend()
    right.set(title="nothing")
    return figure


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    files = write_outcome(tmp_path / "new" / "folder", outcome(), drawing())
    assert [file.name for file in files] == ["ntk.png", "ntk.svg", "ntk.json", "ntk-counts.csv"]
    found = read_outcome(files[2])
    assert found.tables == outcome().tables
    assert found.settings == {"seed": 3}
    assert found.numbers == {"best": 5.0, "nothing": None}
    with files[3].open(newline="") as file:
        assert list(csv.reader(file)) == [["k", "name"], ["1.0", "one"], ["5.0", "five, or so"]]
    assert json.loads(files[2].read_text())["versions"]["torch"]


def test_the_same_figure_is_the_same_file(tmp_path: Path) -> None:
    first = write_outcome(tmp_path / "a", outcome(), drawing())
    second = write_outcome(tmp_path / "b", outcome(), drawing())
    for one, other in zip(first[:2], second[:2], strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_tables_are_rectangular() -> None:
    assert Table({"a": [1, 2], "b": [3, 4]}).rows() == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    with pytest.raises(ValueError, match="different lengths"):
        Table({"a": [1, 2], "b": [3]})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"analysis": "ntk", "settings": {}, "numbers": {}, "tables": 3}'])
def test_something_else_gets_a_sentence(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(InputError, match="cannot be read as the outcome"):
        read_outcome(path)
    with pytest.raises(InputError, match="cannot be read as the outcome"):
        read_outcome(tmp_path / "missing.json")


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 4, 1), (5, 3, 2), (6, 3, 2)])
def test_panels_are_as_many_as_asked_for(count: int, columns: int, rows: int) -> None:
    figure, axes = panels(count, columns=columns, height=2.0)
    assert len(axes) == count
    assert figure.get_figheight() == pytest.approx(2.0 * rows)
