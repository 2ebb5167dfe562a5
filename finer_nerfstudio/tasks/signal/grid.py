"""Signals on regular grids: sounds, images, volumes. Where their samples lie, how they are fitted and read back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from finer_nerfstudio.errors import UsageError, argument
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.runs.metrics import decibels
from finer_nerfstudio.runs.options import BatchSize
from finer_nerfstudio.runs.training import Backward

# Points that go through the network at once. Fixed numbers, because sums in another order give another result.
_POINTS_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 19}
# "auto" takes every sample up to this many, which is a 512x512 image, and this many random ones of larger signals.
_AUTOMATIC_BATCH = 1 << 18
# Larger signals are read batch by batch from where they are, which may be a file.
_LARGEST_PRELOADED = 1 << 24


def coordinates(positions: Float[Tensor, "*batch dim"], shape: Sequence[int]) -> Float[Tensor, "*batch dim"]:
    """Network coordinates of positions on a grid.

    The longest axis spans [-1, 1] and the others the part of it that keeps the grid's proportions.

    Args:
        positions: in samples along each axis of the grid; sample ``i`` has its centre at ``i + 0.5``.
        shape: samples along each axis.
    """
    extent = positions.new_tensor([float(size) for size in shape])
    return (2.0 * positions - extent) / max(shape)


def positions(coords: Float[Tensor, "*batch dim"], shape: Sequence[int]) -> Float[Tensor, "*batch dim"]:
    """The inverse of :func:`coordinates`."""
    extent = coords.new_tensor([float(size) for size in shape])
    return 0.5 * (coords * max(shape) + extent)


def sample_centers(flat: Int[Tensor, " n"], shape: Sequence[int]) -> Float[Tensor, "n dim"]:
    """Network coordinates, float32, of the samples with these row-major numbers."""
    axes = torch.unravel_index(flat, tuple(shape))
    # float64 until the end: 2 i + 1 of a gigapixel's row is beyond what float32 tells apart.
    return coordinates(torch.stack(axes, dim=-1).double() + 0.5, shape).float()


@dataclass(frozen=True)
class GridSignal:
    """Samples on a regular grid.

    Attributes:
        values: ``[*grid, channels]`` numbers of any kind, in memory or memory-mapped.
        low: the value that the network learns as -1.
        high: the value that the network learns as 1.
    """

    values: np.ndarray
    low: float
    high: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples along each axis."""
        return self.values.shape[:-1]

    @property
    def channels(self) -> int:
        return self.values.shape[-1]

    @property
    def samples(self) -> int:
        return math.prod(self.shape)

    def targets(self, flat: Int[Tensor, " n"] | slice) -> Float[Tensor, "n channels"]:
        """Return the network's targets, in [-1, 1], at the samples with these row-major numbers."""
        rows = self.values.reshape(self.samples, self.channels)
        chosen = rows[flat if isinstance(flat, slice) else flat.numpy()]
        return torch.from_numpy((chosen.astype(np.float64) - self.low) * (2.0 / (self.high - self.low)) - 1.0).float()


def psnr_of_loss(loss: float) -> float:
    """PSNR in dB that belongs to a mean squared error of values in [-1, 1]."""
    return decibels(loss, peak=2.0)


def points_per_step(batch_size: BatchSize, samples: int) -> int:
    """How many samples a training step looks at.

    Raises:
        UsageError: for a batch below one.
    """
    if batch_size == "full":
        return samples
    if batch_size == "auto":
        return min(samples, _AUTOMATIC_BATCH)
    if isinstance(batch_size, str) or batch_size < 1:
        raise UsageError(f"{argument('batch_size')} must be at least 1, full or auto, not {batch_size}.")
    return min(samples, batch_size)


def squared_error(network: CoordinateNetwork, signal: GridSignal, batch_size: BatchSize) -> Backward:
    """The mean squared error over a batch of samples, as :func:`finer_nerfstudio.runs.training.train` wants it.

    All samples, or ``batch_size`` of them drawn with replacement. Memory is bounded for any batch: its gradient is
    summed over parts that go through the network one after the other.
    """
    device = network.device
    at_once = _POINTS_AT_ONCE.get(device.type, _POINTS_AT_ONCE["cpu"])
    count = points_per_step(batch_size, signal.samples)
    preloaded = None
    if signal.samples <= _LARGEST_PRELOADED:
        everywhere = torch.arange(signal.samples)
        preloaded = (
            sample_centers(everywhere, signal.shape).to(device),
            signal.targets(slice(None)).to(device),
        )

    def part(chosen: Tensor | slice) -> tuple[Tensor, Tensor]:
        if preloaded is not None:
            where = chosen if isinstance(chosen, slice) else chosen.to(device)
            return preloaded[0][where], preloaded[1][where]
        flat = torch.arange(chosen.start, chosen.stop) if isinstance(chosen, slice) else chosen
        return sample_centers(flat, signal.shape).to(device), signal.targets(chosen).to(device)

    def backward(generator: torch.Generator) -> Tensor:
        drawn = None if count == signal.samples else torch.randint(signal.samples, (count,), generator=generator)
        total = torch.zeros((), device=device)
        for start in range(0, count, at_once):
            stop = min(start + at_once, count)
            coords, target = part(slice(start, stop) if drawn is None else drawn[start:stop])
            loss = (network(coords) - target).square().sum() / (count * signal.channels)
            loss.backward()
            total += loss.detach()
        return total

    return backward


def decode(
    evaluate: Callable[[Tensor], Tensor],
    shape: Sequence[int],
    *,
    device: torch.device,
    resolution: Sequence[int] | None = None,
    region: Sequence[tuple[float, float]] | None = None,
) -> Iterator[Float[Tensor, "rows channels"]]:
    """A network's outputs on a grid, a bounded number of samples at a time, in row-major order, on the CPU.

    Args:
        evaluate: a network of as many coordinates as the grid has axes, or one of its methods.
        shape: samples along each axis of the signal that it was fitted to, which says where the borders are.
        device: where the network is.
        resolution: samples along each axis of the wanted grid; those of the signal unless given.
        region: from where to where the wanted grid reaches along each axis, in samples of the signal; all of it
            unless given.
    """
    resolution = tuple(shape) if resolution is None else tuple(resolution)
    region = [(0.0, float(size)) for size in shape] if region is None else region
    low = torch.tensor([start for start, _ in region], dtype=torch.float64)
    step = torch.tensor(
        [(stop - start) / count for (start, stop), count in zip(region, resolution, strict=True)], dtype=torch.float64
    )
    total = math.prod(resolution)
    at_once = _POINTS_AT_ONCE.get(device.type, _POINTS_AT_ONCE["cpu"])
    for start in range(0, total, at_once):
        axes = torch.unravel_index(torch.arange(start, min(start + at_once, total)), resolution)
        where = low + (torch.stack(axes, dim=-1).double() + 0.5) * step
        with torch.no_grad():
            yield evaluate(coordinates(where, shape).float().to(device)).cpu()
