"""Roles of reStructuredText in docstrings, such as ``:func:`preset```, as links of the reference page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object

_PAGE = Path(__file__).parent / "reference.md"


class Roles(Extension):
    """Turn roles into links where the page has the object or its method, and into code elsewhere."""

    def __init__(self) -> None:
        self.paths = re.findall(r"^::: (\S+)$", _PAGE.read_text(), flags=re.MULTILINE)

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = self.linked(obj.docstring.value)

    def linked(self, text: str) -> str:
        """Return a docstring without roles."""
        return re.sub(r":[a-z]+:`~?([^`]+)`", lambda match: self._link(match[1]), text)

    def _link(self, name: str) -> str:
        for path in self.paths:
            if name.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]:
                return f"[`{name}`][{path}]"
        return f"`{name}`"
