"""The one training loop of all tasks outside Nerfstudio: Adam, exponential decay, progress, checkpoints, resuming.

On one machine the same seed gives the same result, also for a run that was killed and resumed any number of times:
a checkpoint holds the weights, Adam's moments and the state of the random generator.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finer_nerfstudio.errors import InputError, UsageError, argument, in_one_line
from finer_nerfstudio.files.checkpoint import load_training, save_training
from finer_nerfstudio.inr.growth import GrowthStage
from finer_nerfstudio.inr.kernels import memory
from finer_nerfstudio.inr.kernels.rounding import Rounding, rounded
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.runs.adam import Adam
from finer_nerfstudio.runs.folder import FOLDER

# A checkpoint costs milliseconds; what a crash or Ctrl-C may lose is as much training as there was before the last one,
# and never more than this. Nothing is saved on Ctrl-C itself, which may come in the middle of an update.
_SECONDS_BETWEEN_CHECKPOINTS = 20.0
# A loss that lives on a GPU is looked at this often, because looking waits for the GPU.
_STEPS_BETWEEN_LOOKS = 20
_POINTS_OF_CURVE = 200
# Settings that a run which goes on may have otherwise: another processor rounds other products.
_MAY_CHANGE = {"products"}
# What runs leave in their folders.
_WRITTEN = (
    "checkpoint.safetensors", "curve.csv", "mesh.ply", "metrics.json", "model.safetensors", "reconstruction.png",
)  # fmt: skip
_STEPS_OF_TIMED_CURVE = 10


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: number of training steps; not looked at where ``minutes`` is given.
        learning_rate: of the first step.
        minutes: train for this long instead. Runs that end by the clock are not reproducible to the bit.
        final_fraction: learning rate of the last step as a fraction of the first one's; exponential in between.
        max_gradient_norm: longer gradients are shortened to this norm; None for never.
    """

    steps: int
    learning_rate: float
    minutes: float | None = None
    final_fraction: float = 0.1
    max_gradient_norm: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"{argument('steps')} must be at least 1, not {self.steps}.")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UsageError(f"{argument('minutes')} must be a positive number, not {self.minutes}.")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"{argument('learning_rate')} must be a positive number, not {self.learning_rate}.")


@dataclass
class Training:
    """State of a run so far.

    Attributes:
        step: finished steps.
        seconds: time spent in them.
        curve: pairs of a step and the loss before it.
    """

    step: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)


Backward = Callable[[torch.Generator], Tensor]
"""Draws a batch with the generator, adds the loss's gradient to the parameters, and gives the loss (detached)."""

Report = Callable[[float, int, float], None]
"""Called as training goes on with the finished share in [0, 1], the step and the last loss."""


def train(
    network: CoordinateNetwork | GrowthStage,
    backward: Backward,
    schedule: Schedule,
    *,
    generator: torch.Generator,
    checkpoint: Path | None = None,
    resume: bool = False,
    settings: dict[str, Any] | None = None,
    rounding: Rounding | None = None,
    report: Report | None = None,
) -> Training:
    """Train ``network`` in place.

    Args:
        network: what to train; its parameters may live on any device.
        backward: one batch's loss and gradient.
        schedule: length and learning rate.
        generator: the source of all randomness in ``backward``.
        checkpoint: file that keeps the state of the run, written every 20 seconds, more often at first, and at the end.
        resume: go on from ``checkpoint`` if it exists.
        settings: JSON values that decide the result; a checkpoint made with other ones is refused.
        rounding: of operands of matrix products; see :func:`finer_nerfstudio.inr.methods.training_rounding`.
        report: progress callback.

    Raises:
        InputError: when the loss stops being a finite number, or the checkpoint cannot be read or written.
        UsageError: when the checkpoint belongs to a run with other settings.
    """
    optimizer = Adam(network.parameters(), schedule.learning_rate)
    training = Training()
    if checkpoint is not None and resume and checkpoint.exists():
        training = _restore(checkpoint, network, optimizer, generator, settings or {})
    on_processor = network.device.type == "cpu"
    record_every = _STEPS_OF_TIMED_CURVE if schedule.minutes else max(1, schedule.steps // _POINTS_OF_CURVE)
    loss_value = math.nan
    started = time.perf_counter() - training.seconds
    saved = time.perf_counter()

    def save() -> None:
        training.seconds = time.perf_counter() - started
        if checkpoint is not None:
            save_training(checkpoint, *_state(network, optimizer, generator, training, settings or {}))

    try:
        while (progress := _progress(schedule, training.step, time.perf_counter() - started)) < 1.0:
            optimizer.learning_rate = schedule.learning_rate * schedule.final_fraction**progress
            optimizer.zero_grad()
            with rounded(rounding):
                loss = backward(generator)
            recorded = training.step % record_every == 0
            if on_processor or recorded or training.step % _STEPS_BETWEEN_LOOKS == 0:
                loss_value = float(loss)
                _require_finite(loss_value, training.step, schedule)
            if schedule.max_gradient_norm is not None:
                torch.nn.utils.clip_grad_norm_(network.parameters(), schedule.max_gradient_norm)
            optimizer.step()
            if recorded:
                training.curve.append((training.step, loss_value))
            training.step += 1
            if report is not None:
                report(_progress(schedule, training.step, time.perf_counter() - started), training.step, loss_value)
            if time.perf_counter() - saved > min(_SECONDS_BETWEEN_CHECKPOINTS, max(1.0, saved - started)):
                save()
                saved = time.perf_counter()
    finally:
        memory.release()
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        raise InputError(_diverged(f"the weights after step {training.step} are not finite", schedule))
    save()
    return training


def _progress(schedule: Schedule, step: int, seconds: float) -> float:
    if schedule.minutes is not None:
        return min(1.0, seconds / (60.0 * schedule.minutes))
    return step / schedule.steps


def _require_finite(loss: float, step: int, schedule: Schedule) -> None:
    if not math.isfinite(loss):
        raise InputError(_diverged(f"the loss of step {step} is {loss}", schedule))


def _diverged(what: str, schedule: Schedule) -> str:
    return (
        f"training diverged: {what}. Try a {argument('learning_rate')} below {schedule.learning_rate:g}, or smaller "
        f"scales ({argument('omega_0')}, {argument('s_0')})."
    )


def _state(
    network: CoordinateNetwork | GrowthStage,
    optimizer: Adam,
    generator: torch.Generator,
    training: Training,
    settings: dict[str, Any],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for index, moments in optimizer.state.items():
        tensors |= {f"adam.{index}.{name}": value for name, value in moments.items()}
    tensors["generator"] = generator.get_state()
    progress = {
        "step": training.step,
        "seconds": training.seconds,
        "curve": training.curve,
        "settings": settings,
    }
    return tensors, progress


def _restore(
    checkpoint: Path,
    network: CoordinateNetwork | GrowthStage,
    optimizer: Adam,
    generator: torch.Generator,
    settings: dict[str, Any],
) -> Training:
    tensors, progress = load_training(checkpoint)
    try:
        before = progress["settings"]
        decisive = (before.keys() | settings.keys()) - _MAY_CHANGE
        different = sorted(key for key in decisive if before.get(key) != settings.get(key))
        words = difference(before, settings, different) if different else None
    except (KeyError, TypeError, AttributeError) as error:
        raise _no_checkpoint(checkpoint, error) from error
    if words is not None:
        raise UsageError(f"{checkpoint} belongs to a run with {words}: give the same, or another {FOLDER}.")
    try:
        network.load_state_dict(
            {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
        )
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        optimizer.load(moments)
        generator.set_state(tensors["generator"])
        curve = [(int(step), float(loss)) for step, loss in progress["curve"]]
        return Training(int(progress["step"]), float(progress["seconds"]), curve)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise _no_checkpoint(checkpoint, error) from error


def _no_checkpoint(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is no checkpoint of this run ({in_one_line(error)}).")


def difference(before: dict[str, Any], now: dict[str, Any], keys: Sequence[str]) -> str:
    """Return in words how the settings of a checkpoint differ from those at hand.

    Args:
        before: of the checkpoint.
        now: those at hand.
        keys: where they differ, at least one.
    """
    signals = [key for key in keys if isinstance(before.get(key), dict) and "blake2" in before[key]]
    words = [f"another {key}" for key in signals]
    # A method brings its activation and rates along.
    others = ["method"] if "method" in keys else [key for key in keys if key not in signals]
    options = [change for key in others for change in _changes(key, before.get(key), now.get(key))]
    return " and ".join([*words, *([f"other options ({'; '.join(options)})"] if options else [])])


def _changes(name: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        return [change for key in keys for change in _changes(f"{name} {key}", before.get(key), now.get(key))]
    return [f"{name} was {before}, is {now}"]


def require_not_written(source: Path | None, folder: Path) -> None:
    """Refuse to replace the very file that is to be fitted.

    Raises:
        UsageError: where a run in ``folder`` would write a file of that name.
    """
    if source is not None and source.name in _WRITTEN and source.resolve().parent == folder.resolve():
        raise UsageError(f"{source} would be overwritten by the results: choose another {FOLDER}.")
