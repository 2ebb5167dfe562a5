"""A run in a folder of its own, and the numbers that it leaves: metrics.json, which marks it as finished, curve.csv."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from finer_nerfstudio._version import __version__
from finer_nerfstudio.errors import InputError, UsageError, argument
from finer_nerfstudio.files.atomic import write_json, write_text
from finer_nerfstudio.runs.folder import FOLDER, output_folder
from finer_nerfstudio.runs.options import FitOptions

METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Measured:
    """What a run gives.

    Attributes:
        numbers: by name.
        settings: everything that decided them.
        notes: sentences about the input.
    """

    numbers: dict[str, Any]
    settings: dict[str, Any]
    notes: Sequence[str]


def run_in_folder(
    folder: Path,
    request: dict[str, Any],
    work: Callable[[], Measured],
    *,
    resume: bool,
    overwrite: bool,
    may_be_finished: bool = True,
) -> dict[str, Any]:
    """Run in a folder that no other run uses meanwhile, unless it holds the finished run that is asked for.

    Args:
        folder: made if need be.
        request: from :func:`request_of`.
        work: trains, measures, and writes all files but the metrics, which mark the run as finished.
        resume: go on with the run in ``folder``, or give its results if it is finished.
        overwrite: replace the run in ``folder``.
        may_be_finished: whether a run that is gone on with may have nothing left to do.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        UsageError: for a folder that holds another run.
        InputError: where something cannot be read or written.
    """
    require_kind(folder, request)
    with output_folder(folder, resume=resume, overwrite=overwrite):
        if resume and may_be_finished and (finished := finished_run(folder, request)) is not None:
            return finished
        measured = work()
        metrics = {
            **measured.numbers,
            "versions": software_versions(),
            "configuration": measured.settings,
            "notes": list(measured.notes),
            "request": request,
        }
        write_json(folder / METRICS_FILE, metrics)
        return metrics


def numbers_of_training(network: nn.Module, *, steps: int, seconds: float, seed: int) -> dict[str, Any]:
    """Return what every run says of its training."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"steps": steps, "seconds": seconds, "parameters": parameters, "seed": seed}


def request_of(options: FitOptions, **inputs: Any) -> dict[str, Any]:
    """Return the request as JSON gives it back: the options, and what identifies the inputs."""
    return json.loads(json.dumps({"options": asdict(options), **inputs}))


def require_kind(folder: Path, request: dict[str, Any] | None) -> None:
    """Refuse a folder with results of another command, whose files would be mixed with new ones.

    Args:
        folder: of a run.
        request: of a run to be; None for a comparison of methods, the metrics of which have one for each.

    Raises:
        UsageError: there.
    """
    try:
        metrics = json.loads((folder / METRICS_FILE).read_text())
        before = metrics.get("request")
        compared = before is None and any("request" in numbers for numbers in metrics.values())
    except (OSError, ValueError, TypeError, AttributeError):  # there is none, or it is damaged
        return
    other = compared if request is not None and before is None else before and before.keys() != (request or {}).keys()
    if other:
        raise UsageError(f"{folder} holds the results of another command: choose another {FOLDER}.")


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
