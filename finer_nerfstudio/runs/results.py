"""The numbers that a run leaves behind: metrics.json, which marks it as finished, and curve.csv."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finer_nerfstudio._version import __version__
from finer_nerfstudio.errors import InputError, UsageError, argument
from finer_nerfstudio.files.atomic import write_json, write_text
from finer_nerfstudio.runs.folder import FOLDER
from finer_nerfstudio.runs.options import FitOptions

METRICS_FILE = "metrics.json"


def request_of(options: FitOptions, **inputs: Any) -> dict[str, Any]:
    """Return the request as JSON gives it back: the options, and what identifies the inputs."""
    return json.loads(json.dumps({"options": asdict(options), **inputs}))


def finished_run(folder: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """The metrics of the run in ``folder`` if it is finished and the one that is asked for.

    Raises:
        InputError: for a metrics file that this package did not write.
        UsageError: for the metrics of another run.
    """
    path = folder / METRICS_FILE
    if not path.exists():
        return None
    try:
        metrics = json.loads(path.read_text())
        if metrics["request"] == request:
            return metrics
        if (folder / "checkpoint.safetensors").exists():  # which knows what may be gone on with
            return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} was not written by this command: move it away.") from error
    raise UsageError(
        f"{path} belongs to a finished run with other options or another input: give the same ones, choose another "
        f"{FOLDER}, or replace it by {argument('overwrite', True)}."
    )


def finish_run(
    folder: Path, numbers: dict[str, Any], *, settings: dict[str, Any], notes: Sequence[str], request: dict[str, Any]
) -> dict[str, Any]:
    """Write the metrics of a finished run.

    Args:
        folder: of the run.
        numbers: what was measured.
        settings: everything that decided the result.
        notes: sentences about the input.
        request: from :func:`request_of`.

    Returns:
        What was written.

    Raises:
        InputError: where the file cannot be written.
    """
    metrics = {
        **numbers,
        "versions": software_versions(),
        "configuration": settings,
        "notes": list(notes),
        "request": request,
    }
    write_json(folder / METRICS_FILE, metrics)
    return metrics


def software_versions() -> dict[str, str]:
    """Return the versions of the software that made the numbers."""
    return {
        "finer_nerfstudio": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def write_curve(path: Path, quantity: str, curve: Sequence[tuple[int, float]]) -> None:
    """Write a training curve as CSV with the columns ``step`` and ``quantity``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("step", quantity))
    writer.writerows(curve)
    write_text(path, text.getvalue())


def read_curve(path: Path) -> list[tuple[int, float]]:
    """Read what :func:`write_curve` wrote."""
    with path.open(newline="") as file:
        return [(int(step), float(value)) for step, value in list(csv.reader(file))[1:]]
