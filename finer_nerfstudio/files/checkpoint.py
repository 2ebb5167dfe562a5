"""Trained networks and unfinished training runs on disk: safetensors for numbers, JSON in its header for the rest.

Loading never executes code. Files are written beside the old one and then moved into its place.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finer_nerfstudio._version import __version__
from finer_nerfstudio.errors import InputError, in_one_line
from finer_nerfstudio.files.atomic import replacing
from finer_nerfstudio.inr.description import describe, network_of
from finer_nerfstudio.inr.network import CoordinateNetwork

FORMAT = 1
MODEL_FILE = "model.safetensors"
"""Name of a fit's network file."""
_KEY = "finer_nerfstudio"


@dataclass(frozen=True)
class SavedModel:
    """A trained network with what it was trained on.

    Attributes:
        network: ready to evaluate, on the CPU.
        task: "image", "sdf" or "array".
        signal: what the task needs to know about its signal, such as an image's height and width.
        configuration: the options of the run.
        version: version of the package that wrote the file.
    """

    network: CoordinateNetwork
    task: str
    signal: dict[str, Any]
    configuration: dict[str, Any]
    version: str


def save_model(
    path: str | Path,
    network: CoordinateNetwork,
    *,
    task: str,
    signal: dict[str, Any],
    configuration: dict[str, Any],
) -> None:
    """Write a network that :func:`load_model` gives back.

    Args:
        path: the file, in a folder that is made as needed.
        network: to keep.
        task: "image", "sdf" or "array".
        signal: JSON values that the task needs to know about its signal.
        configuration: JSON values that the network was trained with.

    Raises:
        InputError: where the file cannot be written.
        ValueError: for a network whose activation a file cannot carry.
    """
    header = {"task": task, "network": describe(network), "signal": signal, "configuration": configuration}
    _save_tensors(Path(path), network.state_dict(), header)


def load_model(path: str | Path, *, task: str | None = None) -> SavedModel:
    """Read what :func:`save_model` wrote.

    Args:
        path: the file, or the folder of a fit, which holds it.
        task: which task's model is expected, None for any.

    Raises:
        InputError: for a missing or damaged file, and for one that holds something else.
    """
    path = Path(path)
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"there is no file {file}: name the {MODEL_FILE} that a fit wrote, or the folder of the fit.")
    tensors, header = _load_tensors(file)
    if task is not None and header.get("task") != task:
        raise InputError(
            f"{path} holds a model of the task {header.get('task')!r:.40}, and {task!r} is needed here. "
            f"Name the model of another fit."
        )
    try:
        for name, kind in (("task", str), ("signal", dict), ("configuration", dict), ("version", str)):
            if not isinstance(header[name], kind):
                raise ValueError(f"its {name} is of another type")
        network = network_of(header["network"])
        _require_shapes(tensors, network)
        network.load_state_dict(tensors, assign=True)
        return SavedModel(network, header["task"], header["signal"], header["configuration"], header["version"])
    except KeyError as error:
        raise InputError(f"{path} is not a complete model of this package: it lacks {error}.") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"the model in {path} cannot be rebuilt: {error}.") from error


def save_training(path: Path, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
    """Write the state of an unfinished training run; ``progress`` holds JSON values."""
    _save_tensors(path, tensors, progress)


def load_training(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_training` wrote.

    Raises:
        InputError: for a missing or damaged file.
    """
    return _load_tensors(path)


def _save_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    from safetensors.torch import save

    header = {"format": FORMAT, "version": __version__, **header}
    # safetensors wants contiguous tensors that share no memory.
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(contiguous, metadata={_KEY: json.dumps(header)})
    # Written by Python and not by safetensors, whose errors would not say that the disk is full.
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def _load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"there is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            written_here = _KEY in metadata
            header = json.loads(metadata.get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        advice = "a stream is decoded by finer stream decode" if path.suffix == ".finer" else "name one that fits write"
        raise InputError(
            f"{path} cannot be read, it may be cut short or no safetensors file ({in_one_line(error)}): {advice}."
        ) from error
    if not written_here:
        raise InputError(f"{path} is a safetensors file, but this package did not write it.")
    if not isinstance(header, dict) or not isinstance(header.get("format"), int):
        raise InputError(f"{path} has a header that this package does not understand.")
    if header["format"] > FORMAT:
        raise InputError(f"{path} was written by a newer version ({header.get('version')!s:.40}): update this package.")
    return tensors, header


def _require_shapes(tensors: dict[str, Tensor], network: CoordinateNetwork) -> None:
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items()}
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    if expected != found:
        different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ValueError(f"its weights do not fit its description ({', '.join(different[:4])})")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"its weights {name} are not all finite numbers")
