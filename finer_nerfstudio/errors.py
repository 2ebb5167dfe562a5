"""Errors whose message is one sentence for the person who made the mistake, in the words of the place it was made."""

from __future__ import annotations

import re
from typing import Any

# Unicode keeps these code points free for marks within a program: they are in no text that a program is given.
_MARKED = re.compile("\ufdd0([^\ufdd0-\ufdd2]*)\ufdd1([^\ufdd0-\ufdd2]*)\ufdd2")


class InputError(ValueError):
    """Bad input: the message says what was wrong, where, and what to do.

    Where the message names arguments by :func:`argument`, ``str()`` words them for callers in Python.

    Attributes:
        exit_code: what a command ends with.
    """

    exit_code: int = 1

    @property
    def message(self) -> str:
        """Return the sentence with its arguments marked, for a part of another error's sentence."""
        return super().__str__()

    def __str__(self) -> str:
        return _MARKED.sub(r"\1", self.message)

    def on_command_line(self) -> str:
        """Return the sentence with options in the place of arguments: ``--steps`` for ``steps``."""
        return _MARKED.sub(r"\2", self.message)


class UsageError(InputError):
    """A command, an option or an argument that cannot mean anything."""

    exit_code: int = 2


def argument(name: str, value: Any = None, *, option: str | None = None) -> str:
    """Return an argument's name for the message of an :class:`InputError`, which words it for Python and for terminals.

    Args:
        name: in Python, such as "output_dir".
        value: to be named along with it: ``resume=True`` in Python is ``--resume`` on a command line, and
            ``sampler="proposal"`` is ``--sampler proposal``.
        option: the name on the command line, where it is another one than ``--output-dir``.
    """
    python = name if value is None else f"{name}={value!r}"
    flag = option or f"--{name.replace('_', '-')}"
    return f"\ufdd0{python}\ufdd1{flag if value is None or value is True else f'{flag} {value}'}\ufdd2"


def in_one_line(error: BaseException) -> str:
    """Return what a library's or the system's error says in one line, or else its kind.

    Errors of a parser may quote the file that they parse: 200 characters of it are enough. Errors of the system repeat
    the path, which the caller's sentence names already: their reason alone is returned.
    """
    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
