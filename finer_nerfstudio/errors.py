"""Errors whose message is one sentence for the person who made the mistake."""

from __future__ import annotations


class InputError(Exception):
    """Bad input: the message says what was wrong, where, and what to do."""

    exit_code: int = 1


class UsageError(InputError):
    """A command or an option that cannot mean anything."""

    exit_code: int = 2


def in_one_line(error: BaseException) -> str:
    """Return what a library's error says in one line of at most 200 characters, or else its kind."""
    return " ".join(str(error).split())[:200] or type(error).__name__
