"""Fit any array, with any activation, from Python: sounds, images, volumes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files.checkpoint import load_model, save_model
from finer_nerfstudio.inr.activations import Activation, VariablePeriodic, as_activation
from finer_nerfstudio.inr.methods import Preset, preset
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.runs.metrics import decibels
from finer_nerfstudio.runs.options import device_named, require_seed, require_sizes
from finer_nerfstudio.runs.progress import training_progress
from finer_nerfstudio.runs.training import Schedule, Training, train
from finer_nerfstudio.tasks.signal.bias_range import bias_range_for
from finer_nerfstudio.tasks.signal.grid import (
    BatchSize,
    GridSignal,
    decode,
    points_per_step,
    psnr_of_loss,
    squared_error,
)


@dataclass(frozen=True, repr=False)
class FittedArray:
    """Result of :func:`fit_array`.

    Attributes:
        network: from coordinates ``[*batch, axes]`` (the longest axis spans [-1, 1]) to channels in [-1, 1].
        shape: samples along each axis of the array.
        low: the value that the network gives as -1.
        high: the value that the network gives as 1.
        training: steps, seconds and the mean squared errors on the way, of values in [-1, 1].
        psnr: in dB, over all samples, of the range between the lowest and the highest value.
    """

    network: CoordinateNetwork
    shape: tuple[int, ...]
    low: float
    high: float
    training: Training
    psnr: float

    def __repr__(self) -> str:
        samples = " x ".join(map(str, self.shape))
        return (
            f"FittedArray({samples} samples of {self.network.out_dim}, {self.network.activation}, "
            f"{self.training.step} steps, {self.psnr:.2f} dB)"
        )

    def decode(self, resolution: int | Sequence[int] | None = None) -> np.ndarray:
        """Return the array as the network has it, ``[*resolution, channels]`` float32, in the units of the original.

        Args:
            resolution: samples along each axis, a number for the only one; those of the original unless given.

        Raises:
            ValueError: for another number of axes, and for fewer than one sample along any.
        """
        shape = _grid_of(self.shape if resolution is None else resolution, axes=len(self.shape))
        return _decoded(self.network, self.shape, self.low, self.high, shape)

    def save(self, path: str | Path) -> None:
        """Write a file of safetensors that :meth:`load` reads: the network, and where its samples and values lie.

        Raises:
            InputError: where the file cannot be written.
            ValueError: for a network whose activation is a function of the user's own.
        """
        save_model(
            path,
            self.network,
            task="array",
            signal={"shape": list(self.shape), "low": self.low, "high": self.high},
            configuration={**asdict(self.training), "psnr": self.psnr if math.isfinite(self.psnr) else None},
        )

    @staticmethod
    def load(path: str | Path) -> FittedArray:
        """Read what :meth:`save` wrote; the network is on the CPU.

        Raises:
            InputError: for a missing or damaged file, and for one that holds something else.
        """
        saved = load_model(path, task="array")
        try:
            signal, about = saved.signal, saved.configuration
            shape = _grid_of(signal["shape"], axes=saved.network.in_dim)
            low, high = float(signal["low"]), float(signal["high"])
            curve = [(int(step), float(loss)) for step, loss in about["curve"]]
            training = Training(int(about["step"]), float(about["seconds"]), curve)
            psnr = math.inf if about["psnr"] is None else float(about["psnr"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is no fitted array of this package ({error}).") from error
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"{path} is no fitted array of this package: its values go from {low} to {high}.")
        return FittedArray(saved.network, shape, low, high, training, psnr)


def _grid_of(resolution: int | Sequence[int], *, axes: int) -> tuple[int, ...]:
    """``resolution`` as samples along each axis.

    Raises:
        ValueError: for another number of axes, and for fewer than one sample along any.
    """
    shape = (resolution,) if isinstance(resolution, (int, np.integer)) else tuple(resolution)
    if len(shape) != axes:
        raise ValueError(f"resolution must have {axes} axes, as the array has, not {len(shape)}")
    if not all(isinstance(size, (int, np.integer)) and not isinstance(size, bool) and size >= 1 for size in shape):
        raise ValueError(f"resolution must be at least 1 sample along each axis, in whole numbers, not {shape}")
    return tuple(int(size) for size in shape)


def _decoded(
    network: CoordinateNetwork, original: tuple[int, ...], low: float, high: float, shape: tuple[int, ...]
) -> np.ndarray:
    parts = decode(network.compile_for_inference(), original, device=network.device, resolution=shape)
    values = (torch.cat(list(parts)) + 1.0) * (0.5 * (high - low)) + low
    return values.reshape(*shape, network.out_dim).numpy()


def _psnr(network: CoordinateNetwork, signal: GridSignal) -> float:
    decoded = _decoded(network, signal.shape, signal.low, signal.high, signal.shape)
    error = float(np.square(decoded - np.asarray(signal.values, np.float64)).mean())
    return decibels(error, peak=signal.high - signal.low)


def fit_array(
    values: np.ndarray,
    *,
    activation: Activation | Callable[[Tensor], Tensor] | str = "finer-sine",
    channels_last: bool | None = None,
    bias_range: float | Literal["auto"] | None = None,
    steps: int = 1000,
    learning_rate: float | None = None,
    width: int = 256,
    depth: int = 4,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
) -> FittedArray:
    """Fit a coordinate network to an array.

    ``fit_array(sound, activation=variable_periodic(torch.tanh, omega_f=5.0), bias_range=1.0).decode((80_000,))``

    Args:
        values: ``[*grid]`` numbers, or ``[*grid, channels]`` with ``channels_last``.
        activation: one of this package's activations, any elementwise function of a tensor, or the name of a method,
            which also brings its published bias range and learning rate for images.
        channels_last: whether the last axis counts channels of one sample. It has to be said of arrays that look like
            pictures in colour, ``[rows, columns, 3 or 4]``; of others it does not unless said.
        bias_range: k of FINER++; None for that of the method, or PyTorch's default, and "auto" to choose it from the
            array.
        steps: training steps.
        learning_rate: Adam's at the first step; that of the method, or 5e-4, unless given.
        width: units of a hidden layer.
        depth: hidden layers.
        batch_size: samples per step: "full", "auto" (at most 262,144), or a number.
        seed: of all randomness.
        device: "auto" (a GPU if there is one), "cpu", "cuda", ...
        progress: show a bar on standard error.

    Raises:
        ValueError: for arrays that are empty or not of finite numbers, for one of which it is not clear whether its
            last axis counts channels, and for an unknown method or another argument that cannot mean anything.
        InputError: when training diverges.
    """
    values = np.asarray(values)
    if channels_last is None:
        if values.ndim == 3 and values.shape[2] in (3, 4) and min(values.shape[:2]) > 4:
            raise ValueError(
                f"values of the shape {values.shape} may be a picture in colour or a volume: say channels_last=True or "
                "channels_last=False"
            )
        channels_last = False
    if values.size == 0 or values.ndim < (2 if channels_last else 1):
        raise ValueError(f"values must hold at least one sample, and have the shape {values.shape}")
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values) or not np.isfinite(values).all():
        raise ValueError("values must be finite real numbers")
    if not channels_last:
        values = values[..., None]
    low, high = float(values.min()), float(values.max())
    signal = GridSignal(values, low, high if high > low else low + max(1.0, abs(low)))
    require_seed(seed)
    require_sizes(width, depth)
    points_per_step(batch_size, signal.samples)
    generator = torch.Generator().manual_seed(seed)
    chosen = (
        preset(activation, "image")
        if isinstance(activation, str)
        else Preset(as_activation(activation), learning_rate=5e-4)
    )
    place = device_named(device)
    if isinstance(bias_range, str):
        if bias_range != "auto":
            raise ValueError(f"bias_range must be a positive number or 'auto', not {bias_range!r}")
        if not isinstance(chosen.activation, VariablePeriodic):
            raise ValueError("bias_range='auto' is for variable-periodic activations; give a number or leave it out")
        look_around = replace(chosen, bias_range=1.0 if chosen.bias_range is None else chosen.bias_range)
        bias_range = bias_range_for(signal, look_around, width=width, depth=depth, device=place)
    chosen = chosen.overridden(bias_range=bias_range, learning_rate=learning_rate)
    network = chosen.network(len(signal.shape), signal.channels, width=width, depth=depth, generator=generator)
    network.to(place)
    schedule = Schedule(steps, chosen.learning_rate)
    with training_progress("fit_array", lambda loss: f"{psnr_of_loss(loss):.2f} dB", quiet=not progress) as report:
        error = squared_error(network, signal, batch_size)
        training = train(network, error, schedule, generator=generator, report=report)
    return FittedArray(network, signal.shape, signal.low, signal.high, training, _psnr(network, signal))
