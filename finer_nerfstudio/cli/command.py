"""Running a verb: options from the command line, errors as sentences, exit codes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from finer_nerfstudio.runs.command_line import exit_on_input_error, ignore_library_warnings

EXTRAS = {
    "igl": "sdf",
    "open3d": "sdf",
    "scipy": "sdf",
    "skimage": "sdf",
    "trimesh": "sdf",
    "gsplat": "nerf",
    "nerfacc": "nerf",
    "nerfstudio": "nerf",
    "plyfile": "nerf",
    "viser": "nerf",
    "yaml": "nerf",
    "ray": "cluster",
}
"""The extra of the package that brings a module."""


def run_command(
    run: Callable[[Any], None], options: Any, description: str | None, *, program: str, arguments: Sequence[str]
) -> None:
    """Read a verb's options from the command line, run it, and end with an exit code.

    Args:
        run: the verb, given its options. The text of a KeyboardInterrupt says how to go on.
        options: a dataclass or a union of some, whose fields' docstrings are the help texts.
        description: of the verb, for its help.
        program: what the verb is called by, such as "finer fit-image".
        arguments: what follows on the command line.
    """
    import tyro

    ignore_library_warnings()
    chosen = tyro.cli(options, prog=program, description=description, args=list(arguments))
    try:
        with exit_on_input_error():
            run(chosen)
    except KeyboardInterrupt as interruption:
        advice = str(interruption) or ("--resume goes on from what was saved" if hasattr(chosen, "resume") else "")
        _exit(f"interrupted{advice and '; '}{advice}.", 130)
    except (MemoryError, RuntimeError) as error:
        # torch has an error of its own for GPUs only.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        reason = (str(error).splitlines() or ["no more is known"])[0]
        _exit(f"error: not enough memory ({reason}): try smaller networks, batches or pictures.", 1)


@contextmanager
def exit_without_extra() -> Iterator[None]:
    """Say what to install where something is imported that an extra of the package brings."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        _exit(f"error: this needs {error.name}, which is not installed: pip install 'finer-nerfstudio[{extra}]'.", 1)


def unwind_on_termination() -> None:
    """Have a polite termination end the process as Ctrl-C does, which removes unfinished files."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)


def note_signals() -> Callable[[], None]:
    """Have Ctrl-C and a polite termination end the process, also where Python loses what they raise.

    That happens in finalizers, as while garbage is collected.

    Returns:
        A function that raises anew what was asked for before; call it between two pieces of work.
    """
    asked: list[int] = []

    def unwind(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        unwind_asked()

    def unwind_asked() -> None:
        if signal.SIGTERM in asked:
            sys.exit(128 + signal.SIGTERM)
        if asked:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, unwind)
    return unwind_asked


def _exit(sentence: str, code: int) -> NoReturn:
    print(sentence, file=sys.stderr)
    raise SystemExit(code) from None
