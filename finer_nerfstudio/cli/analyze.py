"""See why it works: the analyses of the paper as numbers and figures, for any method, activation, image or saved model.

    finer analyze ntk --method finer-gauss
    finer analyze ntk --model outputs/image/sample-finer-sine/model.safetensors

Every analysis writes its figure (PNG and SVG), its numbers (JSON) and its tables (CSV) to outputs/analysis/VERB.
"""

from __future__ import annotations

import functools
import importlib
import operator
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from finer_nerfstudio.analysis.activations import ActivationsOptions
from finer_nerfstudio.analysis.frequencies import FrequenciesOptions
from finer_nerfstudio.analysis.gap import GapOptions
from finer_nerfstudio.analysis.initialization import InitializationOptions
from finer_nerfstudio.analysis.neurons import NeuronsOptions
from finer_nerfstudio.analysis.ntk import NtkOptions
from finer_nerfstudio.analysis.outcome import write_outcome
from finer_nerfstudio.analysis.robustness import RobustnessOptions
from finer_nerfstudio.analysis.utilization import UtilizationOptions
from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.files.atomic import require_folder
from finer_nerfstudio.runs.processor import prepare_processor
from finer_nerfstudio.runs.progress import stages
from finer_nerfstudio.runs.summary import print_numbers

# Each is a module of finer_nerfstudio.analysis with a study, which gives numbers, and a drawing of them.
ANALYSES: dict[str, type] = {
    "activations": ActivationsOptions,
    "initialization": InitializationOptions,
    "gap": GapOptions,
    "ntk": NtkOptions,
    "robustness": RobustnessOptions,
    "neurons": NeuronsOptions,
    "frequencies": FrequenciesOptions,
    "utilization": UtilizationOptions,
}


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where results go."""

    output_dir: Path | None = None
    """Folder for the results; outputs/analysis/VERB, or VERB-2 and so on beside earlier results, unless given."""
    overwrite: bool = False
    """Replace the results of an earlier analysis there."""


def _command(verb: str, options: type) -> type:
    """Return the class of a verb's options, with where its results go."""
    command = make_dataclass(f"{verb.title()}Command", [], bases=(options, Output), frozen=True, kw_only=True)
    command.__doc__ = options.__doc__
    return command


COMMANDS = {verb: _command(verb, options) for verb, options in ANALYSES.items()}


def run(command: Any) -> None:
    verb = next(verb for verb, options in COMMANDS.items() if isinstance(command, options))
    folder = command.output_dir or _free_folder(Path("outputs/analysis"), verb, overwrite=command.overwrite)
    if (folder / f"{verb}.json").exists() and not command.overwrite:
        raise UsageError(
            f"{folder} holds results already: replace them by --overwrite, or choose another --output-dir."
        )
    require_folder(folder, "--output-dir")  # now, and not after minutes of training
    prepare_processor()
    analysis = importlib.import_module(f"finer_nerfstudio.analysis.{verb}")
    with stages() as stage:
        outcome = analysis.study(command, stage)
    files = write_outcome(folder, outcome, analysis.draw(outcome))
    print_numbers(outcome.numbers)
    print(f"next: look at {files[0]}; beside it are {', '.join(file.name for file in files[1:])}")


def _free_folder(parent: Path, verb: str, *, overwrite: bool) -> Path:
    """The verb's folder, or the next one of its name that holds no results yet."""
    folder, number = parent / verb, 1
    while (folder / f"{verb}.json").exists() and not overwrite:
        number += 1
        folder = parent / f"{verb}-{number}"
    return folder


OPTIONS = functools.reduce(
    operator.or_,
    (Annotated[options, tyro.conf.subcommand(verb, prefix_name=False)] for verb, options in COMMANDS.items()),
)
