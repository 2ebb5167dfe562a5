"""What Nerfstudio's commands need around our errors and our machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.console import Console

from finer_nerfstudio.errors import InputError


@contextmanager
def sentence_instead_of_traceback() -> Iterator[None]:
    """Turn bad input into one sentence on standard error and an exit code: 2 for usage, 1 for the rest.

    Nerfstudio's commands catch nothing, so this stands where they call into the package.
    """
    try:
        yield
    except InputError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print("[bold red]error:[/bold red] ", end="")
        console.print(str(error), markup=False)
        sys.stderr.flush()
        raise SystemExit(error.exit_code) from None


def prepare_processor() -> None:
    """Treat denormal numbers as zero, which CPUs compute many times slower and no image can show."""
    torch.set_flush_denormal(True)
