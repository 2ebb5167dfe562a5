"""JSON files say what they were given, and lists of numbers take one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from finer_nerfstudio.atomic_files import write_json

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
