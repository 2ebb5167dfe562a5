"""JSON files say what they were given, lists of numbers take one line, and names are given to whole files only."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finer_nerfstudio.files.atomic import write_json, write_text

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
CONTENT = st.recursive(
    NUMBERS | st.text('[] \n,1\\"{}a'), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(CONTENT)
def test_what_is_written_is_read_again(tmp_path_factory: Any, content: Any) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "content.json"
    write_json(path, content)
    assert json.loads(path.read_text()) == content


def test_lists_of_numbers_take_one_line_and_what_json_lacks_is_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"numbers": [1, 2.5, float("nan")], "deep": [[1], [float("inf")]], "texts": ["a"]})
    text = (tmp_path / "a.json").read_text()
    assert '"numbers": [1, 2.5, null],\n' in text
    assert "    [1],\n    [null]\n" in text


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_content_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power failure after the rename must not find the new name with half of the content."""
    events: list[tuple[str, str]] = []
    sync, replace = os.fsync, os.replace

    def named(handle: int) -> str:
        return Path(f"/proc/self/fd/{handle}").resolve().name

    monkeypatch.setattr(os, "fsync", lambda handle: (events.append(("sync", named(handle))), sync(handle)))
    monkeypatch.setattr(
        os, "replace", lambda source, target: (events.append(("name", Path(target).name)), replace(source, target))
    )
    write_text(tmp_path / "metrics.json", "{}")
    assert [kind for kind, _ in events] == ["sync", "name", "sync"]
    assert events[1:] == [("name", "metrics.json"), ("sync", tmp_path.name)]
