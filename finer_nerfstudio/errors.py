"""Errors whose message is one sentence for the person who made the mistake."""

from __future__ import annotations


class InputError(Exception):
    """Bad input: the message says what was wrong, where, and what to do."""

    exit_code: int = 1


class UsageError(InputError):
    """A command or an option that cannot mean anything."""

    exit_code: int = 2


def in_one_line(error: BaseException) -> str:
    """Return what a library's or the system's error says in one line, or else its kind.

    Errors of a parser may quote the file that they parse: 200 characters of it are enough. Errors of the system repeat
    the path, which the caller's sentence names already: their reason alone is returned.
    """
    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
