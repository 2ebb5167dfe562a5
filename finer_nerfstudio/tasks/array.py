"""Fit any array, with any activation, from Python: sounds, images, volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from finer_nerfstudio.inr.activations import Activation, VariablePeriodic
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.inr.presets import Preset, preset
from finer_nerfstudio.tasks.bias_range import bias_range_for
from finer_nerfstudio.tasks.grid import BatchSize, GridSignal, decode, squared_error
from finer_nerfstudio.tasks.options import device_named
from finer_nerfstudio.tasks.training import Schedule, Training, train


@dataclass(frozen=True)
class FittedArray:
    """What :func:`fit_array` gives.

    Attributes:
        network: from coordinates ``[*batch, axes]`` (the longest axis spans [-1, 1]) to channels in [-1, 1].
        signal: the samples that it was fitted to.
        training: steps, seconds and the mean squared errors on the way, of values in [-1, 1].
    """

    network: CoordinateNetwork
    signal: GridSignal
    training: Training

    def decode(self, resolution: Sequence[int] | None = None) -> np.ndarray:
        """The array as the network has it, ``[*resolution, channels]`` float32, in the units of the original.

        Args:
            resolution: samples along each axis; those of the original unless given.
        """
        shape = self.signal.shape if resolution is None else tuple(resolution)
        evaluate = self.network.compile_for_inference()
        parts = decode(evaluate, self.signal.shape, device=self.network.device, resolution=shape)
        values = self.signal.from_network(torch.cat(list(parts)))
        return values.reshape(*shape, self.signal.channels).numpy()

    @property
    def psnr(self) -> float:
        """In dB, over all samples, of the range between the lowest and the highest value."""
        error = float(np.square(self.decode() - np.asarray(self.signal.values, np.float64)).mean())
        return 10.0 * math.log10((self.signal.high - self.signal.low) ** 2 / error) if error > 0 else math.inf


def fit_array(
    values: np.ndarray,
    *,
    activation: Activation | str = "finer-sine",
    channels_last: bool = False,
    bias_range: float | Literal["auto"] | None = None,
    steps: int = 1000,
    learning_rate: float | None = None,
    width: int = 256,
    depth: int = 4,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    device: str = "auto",
) -> FittedArray:
    """Fit a coordinate network to an array.

    ``fit_array(sound, activation=variable_periodic(torch.tanh, omega_f=5.0), bias_range=1.0).decode((80_000,))``

    Args:
        values: ``[*grid]`` numbers, or ``[*grid, channels]`` with ``channels_last``.
        activation: one of this package's activations, or the name of a method, which also brings its published bias
            range and learning rate for images.
        channels_last: whether the last axis counts channels of one sample.
        bias_range: k of FINER++; None for that of the method, or PyTorch's default, and "auto" to choose it from the
            array.
        steps: training steps.
        learning_rate: Adam's at the first step; that of the method, or 5e-4, unless given.
        width: units of a hidden layer.
        depth: hidden layers.
        batch_size: samples per step: "full", "auto" (at most 262,144), or a number.
        seed: of all randomness.
        device: "auto" (a GPU if there is one), "cpu", "cuda", ...

    Raises:
        ValueError: for arrays that are empty or not of finite numbers, and for an unknown method.
        InputError: when training diverges.
    """
    values = np.asarray(values)
    if values.size == 0 or values.ndim < (2 if channels_last else 1):
        raise ValueError(f"fit_array needs at least one sample, and got an array of shape {values.shape}")
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values) or not np.isfinite(values).all():
        raise ValueError("fit_array needs an array of finite real numbers")
    if not channels_last:
        values = values[..., None]
    low, high = float(values.min()), float(values.max())
    signal = GridSignal(values, low, high if high > low else low + max(1.0, abs(low)))
    generator = torch.Generator().manual_seed(seed)
    chosen = preset(activation, "image") if isinstance(activation, str) else Preset(activation, learning_rate=5e-4)
    place = device_named(device)
    if bias_range == "auto":
        if not isinstance(chosen.activation, VariablePeriodic):
            raise ValueError("fit_array: a bias range is chosen automatically for variable-periodic activations only")
        look_around = replace(chosen, bias_range=1.0 if chosen.bias_range is None else chosen.bias_range)
        bias_range = bias_range_for(signal, look_around, width=width, depth=depth, device=place)
    chosen = chosen.overridden(bias_range=bias_range, learning_rate=learning_rate)
    network = chosen.network(len(signal.shape), signal.channels, width=width, depth=depth, generator=generator)
    network.to(place)
    schedule = Schedule(steps, chosen.learning_rate)
    training = train(network, squared_error(network, signal, batch_size), schedule, generator=generator)
    return FittedArray(network, signal, training)
