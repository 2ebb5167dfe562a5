"""Train a network stage by stage, choose how precisely each stage is stored, and put the stream together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from finer_nerfstudio.errors import InputError, UsageError, argument
from finer_nerfstudio.files.checkpoint import load_training, save_training
from finer_nerfstudio.inr.activations import Activation
from finer_nerfstudio.inr.description import LARGEST_SIZES
from finer_nerfstudio.inr.growth import GrowingNetwork, bias_shells, units_of
from finer_nerfstudio.inr.methods import Preset, Protocol, Task
from finer_nerfstudio.runs.folder import FOLDER
from finer_nerfstudio.runs.options import FitOptions, device_named, preset_of, protocol_of, settings_of
from finer_nerfstudio.runs.training import Report, Schedule, Training, difference, train
from finer_nerfstudio.streams.header import Precision, StreamedStage, StreamHeader, describe_network, stage_bytes
from finer_nerfstudio.streams.payload import pack_stage, unpack_stage_
from finer_nerfstudio.streams.precision import coarsest
from finer_nerfstudio.streams.writer import write_stream
from finer_nerfstudio.tasks.signal.grid import BatchSize
from finer_nerfstudio.tasks.streaming.stage_training import StageProblem

WIDTHS = (30, 69, 110, 151)
"""Of the paper's image streams (FINER++ §5.4; Cho et al. 2022)."""

# What a header and the frames around payloads take at most, beyond a stage's own row.
_HEADER_BYTES = 512
_BYTES_PER_STAGE = 160


@dataclass(frozen=True)
class StreamOptions(FitOptions):
    """How to train and store a network that is sent stage by stage."""

    widths: tuple[int, ...] = WIDTHS
    """Width of all hidden layers after each stage; every prefix of the file that ends with a stage is such a
    network."""
    budget_kb: float | None = None
    """Choose the widths so that the whole file takes at most so many kilobytes (1,000 bytes); with as many stages, in
    the same proportions, as --widths."""
    shells: bool = True
    """Draw the first-layer biases of each widening from a shell of higher magnitudes (FINER++); without, all stages
    draw from U(-k, k)."""
    precision: Precision | Literal["auto"] = "auto"
    """How weights are stored; auto takes the coarsest for each stage that costs less than --allowed-loss."""
    allowed_loss: float = 0.1
    """Largest loss in dB that rounding a stage may cost."""
    batch_size: BatchSize = "auto"
    """Samples per step: full, auto (all up to 512x512, that many of larger images, 10,000 points of shapes), or a
    number. Memory is bounded in any case."""


@dataclass(frozen=True)
class Subject:
    """A signal to be streamed.

    Attributes:
        task: decides the protocol.
        in_dim: number of coordinates.
        out_dim: number of signal values.
        signal: for the header.
        description: identifies the input, for resuming.
        problem: the training problem of a network's newest stage.
        quality: measured with all stages so far; the first number is the one that is shown in progress.
    """

    task: Task
    in_dim: int
    out_dim: int
    signal: dict[str, Any]
    description: dict[str, Any]
    problem: Callable[[GrowingNetwork, torch.Generator], StageProblem]
    quality: Callable[[GrowingNetwork], dict[str, float | None]]


@dataclass(frozen=True)
class FinishedStage:
    """A stage as it is sent.

    Attributes:
        payload: its packed parameters.
        precision: of its matrices.
        step: of int8 numbers.
        quality: of the network with all stages so far.
        seconds: spent in training.
        steps: of training.
        curve: pairs of a step and the loss before it.
        decibels: on the samples that the precision was chosen by, before and after rounding.
    """

    payload: bytes
    precision: Precision
    step: float
    quality: dict[str, float | None]
    seconds: float
    steps: int
    curve: list[tuple[int, float]] = field(default_factory=list)
    decibels: tuple[float, float] = (math.nan, math.nan)


@dataclass(frozen=True)
class EncodedStream:
    """Result of :func:`encode`.

    Attributes:
        content: the file.
        network: with all stages, as they will be decoded.
        stages: from the first on.
        widths: after each stage.
        ends: where in the file each stage is complete, in bytes.
        settings: everything that decided the result.
    """

    content: bytes
    network: GrowingNetwork
    stages: list[FinishedStage]
    widths: tuple[int, ...]
    ends: list[int]
    settings: dict[str, Any]


def require_possible(options: StreamOptions, subject: Subject) -> tuple[Preset, Protocol, tuple[int, ...]]:
    """Hyper-parameters, lengths and widths that the options stand for.

    Raises:
        UsageError: for options that cannot mean anything.
    """
    device_named(options.device)
    if options.width is not None:
        raise UsageError(f"{argument('width')}: a stream has {argument('widths')}.")
    chosen, protocol = preset_of(options, subject.task), protocol_of(options, subject.task)
    if options.bias_range == "auto":
        raise UsageError(f"{argument('bias_range', 'auto')} is for single networks; give a number.")
    Schedule(protocol.steps, chosen.learning_rate, minutes=options.minutes)
    if not options.widths:
        raise UsageError(f"{argument('widths')}: give at least one.")
    for width in options.widths:
        if not 1 <= width <= LARGEST_SIZES["width"]:
            raise UsageError(f"{argument('widths')} must be from 1 to {LARGEST_SIZES['width']:,}, not {width}.")
    units = [units_of(width, chosen.activation) for width in options.widths]
    if any(after <= before for before, after in itertools.pairwise(units)):
        raise UsageError(
            f"{argument('widths')} must increase, and each add a unit at least: {' '.join(map(str, options.widths))}."
        )
    if not 0 < options.allowed_loss < math.inf:
        raise UsageError(f"{argument('allowed_loss')} must be a positive number of dB, not {options.allowed_loss}.")
    widths = options.widths
    if options.budget_kb is not None:
        if not 0 < options.budget_kb < math.inf:
            raise UsageError(f"{argument('budget_kb')} must be a positive number, not {options.budget_kb}.")
        precision = "float16" if options.precision == "auto" else options.precision
        widths = widths_within(
            1000.0 * options.budget_kb,
            options.widths,
            lambda tried: stream_bytes(
                tried, subject.in_dim, subject.out_dim, protocol.depth, chosen.activation, precision,
                chosen.encoding_frequencies,
            ),
            chosen.activation,
        )  # fmt: skip
    return chosen, protocol, widths


def stream_bytes(
    widths: Sequence[int],
    in_dim: int,
    out_dim: int,
    depth: int,
    activation: Activation,
    precision: Precision,
    encoding_frequencies: int = 0,
) -> int:
    """The most bytes that a stream with these stages takes."""
    n_in = in_dim * (1 + 2 * encoding_frequencies)
    units = [units_of(width, activation) for width in widths]
    total = _HEADER_BYTES
    for before, after in zip([0, *units[:-1]], units, strict=True):
        raw = stage_bytes(
            before, after, n_in=n_in, out_dim=out_dim, depth=depth, activation=activation, precision=precision
        )
        # zstd stores what it cannot pack, with a few bytes for each block.
        total += raw + raw // 1000 + _BYTES_PER_STAGE
    return total


def widths_within(
    budget: float, proportions: Sequence[int], bytes_of: Callable[[Sequence[int]], int], activation: Activation
) -> tuple[int, ...]:
    """The largest widths in the given proportions whose stream fits into ``budget`` bytes.

    Raises:
        UsageError: where not even the narrowest do.
    """

    def scaled(last: int) -> tuple[int, ...] | None:
        widths = tuple(max(1, round(last * width / proportions[-1])) for width in proportions)
        units = [units_of(width, activation) for width in widths]
        increasing = all(after > before for before, after in itertools.pairwise(units))
        return widths if increasing else None

    best = None
    low, high = 1, LARGEST_SIZES["width"]
    while low <= high:
        middle = (low + high) // 2
        widths = scaled(middle)
        if widths is None:
            low = middle + 1
        elif bytes_of(widths) <= budget:
            best, low = widths, middle + 1
        else:
            high = middle - 1
    if best is None:
        raise UsageError(
            f"{argument('budget_kb')} {budget / 1000.0:g} is too little for {len(proportions)} stages: allow more, or "
            f"give fewer {argument('widths')}."
        )
    return best


def encode(
    subject: Subject,
    options: StreamOptions,
    *,
    folder: Path | None = None,
    resume: bool = False,
    report: Callable[[int], Report] | None = None,
    finished: Callable[[int, FinishedStage, GrowingNetwork], None] | None = None,
) -> EncodedStream:
    """Train all stages of ``subject`` one after the other.

    A stage is rounded to what is sent before the next one is trained, which so makes up for what rounding cost.

    Args:
        subject: the signal.
        options: method, widths, length and hyper-parameters.
        folder: where finished stages and the state of the unfinished one are kept.
        resume: take up what is there.
        report: gives for a stage's number who is told about its progress.
        finished: told about each stage once it is.

    Raises:
        UsageError: for options that cannot mean anything, and for a folder that holds another run.
        InputError: when training diverges or a file cannot be read or written.
    """
    chosen, protocol, widths = require_possible(options, subject)
    device = device_named(options.device)
    shells = bias_shells(chosen.bias_range, len(widths))
    if not options.shells:
        shells = [shells[0]] * len(widths)
    network = GrowingNetwork(
        subject.in_dim,
        subject.out_dim,
        depth=protocol.depth,
        activation=chosen.activation,
        encoding_frequencies=chosen.encoding_frequencies,
    ).to(device)
    minutes = None if options.minutes is None else options.minutes / len(widths)
    schedule = Schedule(
        protocol.steps, chosen.learning_rate, minutes=minutes, max_gradient_norm=protocol.max_gradient_norm
    )
    settings = {**settings_of(options, chosen, protocol), "widths": list(widths), "input": subject.description}
    # What comes later does not decide what an earlier stage is: a finished stream can be taken further.
    del settings["width"], settings["budget_kb"]
    stages: list[FinishedStage] = []
    for i, width in enumerate(widths):
        generator = torch.Generator().manual_seed((options.seed + 0x9E3779B97F4A7C15 * i) % (1 << 63))
        network.grow(width, bias_shell=shells[i], generator=generator)
        network.to(device)
        mine = {**settings, "widths": list(widths[: i + 1])}
        kept = None if folder is None else folder / f"stage-{i}.safetensors"
        if kept is not None and resume and kept.exists():
            stages.append(_take_up(kept, mine, network))
            continue
        checkpoint = None if folder is None else folder / "checkpoint.safetensors"
        problem = subject.problem(network, generator)
        training = train(
            network.stages[-1],
            problem.backward,
            schedule,
            generator=generator,
            checkpoint=checkpoint,
            resume=resume,
            settings=mine,
            report=None if report is None else report(i),
        )
        done = _rounded(network, subject, problem, training, options)
        stages.append(done)
        if kept is not None and checkpoint is not None:
            _write_stage(kept, done, mine)
            # It belongs to this stage, and the next one begins with none.
            checkpoint.unlink(missing_ok=True)
        if finished is not None:
            finished(i, done, network)
    return _put_together(subject, network, stages, widths, shells, settings)


def _take_up(kept: Path, settings: dict[str, Any], network: GrowingNetwork) -> FinishedStage:
    """Give the newest stage the weights that an earlier run sent."""
    finished = _read_stage(kept, settings)
    try:
        unpack_stage_([network.stages[-1]], finished.payload, finished.precision)
    except ValueError as error:
        raise InputError(
            f"{kept} is damaged ({error}): remove it, and {argument('resume', True)} trains the stage again."
        ) from None
    return finished


def _rounded(
    network: GrowingNetwork, subject: Subject, problem: StageProblem, training: Training, options: StreamOptions
) -> FinishedStage:
    """Choose how precisely the newest stage is sent, and round it to that."""
    newest = [network.stages[-1]]
    precision, step = options.precision, 1.0
    exact = problem.decibels()
    if precision == "auto":
        precision, step = coarsest(
            newest, problem.decibels, allowed_loss=options.allowed_loss, float32=options.budget_kb is None
        )
    payload = pack_stage(newest, precision, step)
    unpack_stage_(newest, payload, precision)
    quality, seconds, steps = subject.quality(network), training.seconds, training.step
    return FinishedStage(payload, precision, step, quality, seconds, steps, training.curve, (exact, problem.decibels()))


def _put_together(
    subject: Subject,
    network: GrowingNetwork,
    stages: list[FinishedStage],
    widths: tuple[int, ...],
    shells: Sequence[tuple[float, float] | None],
    settings: dict[str, Any],
) -> EncodedStream:
    rows = [
        StreamedStage(
            [width],
            0,
            stage.precision,
            {name: value for name, value in stage.quality.items() if value is not None and math.isfinite(value)},
            None if shell is None else list(shell),
        )
        for width, stage, shell in zip(widths, stages, shells, strict=True)
    ]
    header = StreamHeader([describe_network(subject.task, network)], subject.task, subject.signal, rows)
    content, ends = write_stream(header, [stage.payload for stage in stages])
    return EncodedStream(content, network, stages, widths, ends, settings)


def _write_stage(path: Path, stage: FinishedStage, settings: dict[str, Any]) -> None:
    described = {name: value for name, value in asdict(stage).items() if name != "payload"}
    payload = torch.frombuffer(bytearray(stage.payload), dtype=torch.uint8)
    save_training(path, {"payload": payload}, {"stage": described, "settings": settings})


def _read_stage(path: Path, settings: dict[str, Any]) -> FinishedStage:
    tensors, progress = load_training(path)
    try:
        before = progress["settings"]
        different = sorted(key for key in before.keys() | settings.keys() if _json(before, key) != _json(settings, key))
        words = difference(before, settings, different) if different else None
        stage = progress["stage"]
        stage["curve"] = [(int(step), float(loss)) for step, loss in stage["curve"]]
        stage["decibels"] = tuple(stage["decibels"])
        finished = FinishedStage(tensors["payload"].numpy().tobytes(), **stage)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is no finished stage of a stream ({error}).") from error
    if words is not None:
        raise UsageError(f"{path} belongs to a run with {words}: give the same, or another {FOLDER}.")
    return finished


def _json(values: dict[str, Any], key: str) -> Any:
    value = values.get(key)
    return list(value) if isinstance(value, tuple) else value
