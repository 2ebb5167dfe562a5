"""Errors and warnings on a terminal."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from finer_nerfstudio.errors import InputError


def ignore_library_warnings() -> None:
    """Keep warnings that only Nerfstudio or torch could do something about off the terminal, for this process."""
    for module in ("nerfstudio", "torch", "torchmetrics", "torchvision", "viser"):
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category, module=rf"{module}(\.|$)")
    # Nerfstudio's trainer, data manager and metrics call what torch will rename; torch blames the caller's caller.
    warnings.filterwarnings("ignore", message=r".*torch\.(cuda\.amp|jit)\.", category=FutureWarning)


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Turn bad input into one sentence on standard error and an exit code: 2 for usage, 1 for the rest.

    Nerfstudio's commands catch nothing, so this stands where they call into the package, and around every script.
    """
    try:
        yield
    except InputError as error:
        from rich.console import Console

        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print("[bold red]error:[/bold red] ", end="")
        console.print(printable(error.on_command_line()), markup=False)
        sys.stderr.flush()
        raise SystemExit(error.exit_code) from None


def came_from_interruption(error: BaseException | None) -> bool:
    """Return whether this is Ctrl-C, or what failed on the way out because of it: an import, the writer of a video."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def printable(text: str) -> str:
    """Return ``text`` with its control characters spelled out: files and servers must not steer a terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def value_on_command_line(option: str) -> str | None:
    """Return what the command line of this process gives as the value of ``option``, such as "--load-config"."""
    values = values_on_command_line(option, 1)
    return values[0] if values else None


def values_on_command_line(option: str, count: int) -> list[str]:
    """As :func:`value_on_command_line`, for an option of several values; fewer where the command line ends before.

    ``option=value`` gives one.
    """
    for i, word in enumerate(sys.argv):
        name, is_joined, value = word.partition("=")
        if name.replace("_", "-") == option:
            return [value] if is_joined else sys.argv[i + 1 : i + 1 + count]
    return []
