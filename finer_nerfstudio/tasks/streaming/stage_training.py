"""One stage's training problem: only new units learn, and what old ones give is computed once where it fits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from finer_nerfstudio.inr.growth import FrozenPart, GrowingNetwork
from finer_nerfstudio.runs.metrics import decibels as decibels_of
from finer_nerfstudio.runs.training import Backward
from finer_nerfstudio.tasks.sdf.distance import SignedDistance
from finer_nerfstudio.tasks.sdf.loss import DistanceLoss
from finer_nerfstudio.tasks.sdf.sampling import SurfaceSampler
from finer_nerfstudio.tasks.signal.grid import BatchSize, GridSignal, points_per_step, sample_centers

# Activations of frozen units that are kept; beyond this they are computed anew for every batch.
_LARGEST_CACHE_BYTES = 1 << 30
# Points that go through the network at once. Fixed, because sums in another order give another result.
_ROWS_AT_ONCE = 1 << 16
# Samples that the choice of a precision looks at.
_JUDGED_SAMPLES = 1 << 17


@dataclass(frozen=True)
class StageProblem:
    """Training problem of the newest stage of a network.

    Attributes:
        backward: one batch's loss and gradient.
        decibels: quality with the stage as it is, on fixed samples; for choosing a precision.
    """

    backward: Backward
    decibels: Callable[[], float]


def grid_problem(
    network: GrowingNetwork,
    signal: GridSignal,
    batch_size: BatchSize,
    generator: torch.Generator,
    *,
    largest_cache_bytes: int = _LARGEST_CACHE_BYTES,
) -> StageProblem:
    """Return the mean squared error of a signal on a grid.

    Where the old units' activations at all samples fit into memory they are computed once. Samples are then in an
    order drawn once, and a batch is a run of neighbours in it, which is read without gathering. Otherwise batches are
    drawn with replacement and the old units evaluated for each.

    Args:
        network: its newest stage is to be trained.
        signal: the target.
        batch_size: samples per step.
        generator: draws the order.
        largest_cache_bytes: of old units' activations.
    """
    earlier = network.stages[:-1]
    old = sum(stage.units for stage in earlier) * (2 if network.activation.complex_valued else 1)
    numbers = network.in_dim + 2 * network.out_dim + old * (network.depth - 1)
    kind = _CachedSamples if 4 * numbers * signal.samples <= largest_cache_bytes else _DrawnSamples
    samples = kind(network, signal, points_per_step(batch_size, signal.samples), generator)
    return StageProblem(samples.backward, samples.decibels)


@dataclass
class _Batch:
    """Encoded coordinates, targets, and what the old units give there."""

    inputs: Tensor
    targets: Tensor
    old: FrozenPart | None


class _GridSamples:
    """Loss of the newest stage at some samples of a grid, a few rows at a time.

    Args:
        network: its newest stage is to be trained.
        signal: the target.
        count: samples per step.
        generator: draws what stays the same for the whole training.
    """

    judged: int
    """Samples that :meth:`decibels` looks at."""

    def __init__(self, network: GrowingNetwork, signal: GridSignal, count: int, generator: torch.Generator) -> None:
        self._network = network
        self._signal = signal
        self._count = count
        self.judged = min(signal.samples, _JUDGED_SAMPLES)

    def draw(self, draws: torch.Generator) -> Callable[[int, int], _Batch]:
        """Return a batch by the first row and the one after the last."""
        raise NotImplementedError

    def judge(self, start: int, stop: int) -> _Batch:
        """Return rows of the samples that decide about a precision."""
        raise NotImplementedError

    def evaluated(self, flat: Tensor) -> _Batch:
        """Return the samples of these numbers."""
        network, device = self._network, self._network.device
        coords = sample_centers(flat, self._signal.shape).to(device)
        old = None
        if len(network.stages) > 1:
            with torch.no_grad():
                old = network.frozen_part(coords, stages=len(network.stages) - 1)
        return _Batch(network.encoded(coords), self._signal.targets(flat).to(device), old)

    def squared(self, batch: _Batch) -> Tensor:
        """Return the sum of squared errors."""
        _, output = self._network.stages[-1](batch.inputs, batch.old, self._network.activation)
        return (output - batch.targets).square().sum()

    def backward(self, draws: torch.Generator) -> Tensor:
        """Add the gradient of a batch's mean squared error, and return the error."""
        batch = self.draw(draws)
        total = torch.zeros((), device=self._network.device)
        for start in range(0, self._count, _ROWS_AT_ONCE):
            rows = batch(start, min(start + _ROWS_AT_ONCE, self._count))
            loss = self.squared(rows) / (self._count * self._signal.channels)
            loss.backward()
            total += loss.detach()
        return total

    def decibels(self) -> float:
        """Return the PSNR of the judged samples."""
        error = 0.0
        with torch.no_grad():
            for start in range(0, self.judged, _ROWS_AT_ONCE):
                rows = self.judge(start, min(start + _ROWS_AT_ONCE, self.judged))
                # float64: it is compared with itself to a hundredth of a decibel.
                error += float(self.squared(rows).double())
        return decibels_of(error / (self.judged * self._signal.channels), peak=2.0)


class _CachedSamples(_GridSamples):
    """All samples in an order drawn once, with what the old units give at each."""

    def __init__(self, network: GrowingNetwork, signal: GridSignal, count: int, generator: torch.Generator) -> None:
        super().__init__(network, signal, count, generator)
        order = torch.randperm(signal.samples, generator=generator)
        parts = [
            self.evaluated(order[start : start + _ROWS_AT_ONCE]) for start in range(0, signal.samples, _ROWS_AT_ONCE)
        ]
        self._all = _concatenated(parts)

    def draw(self, draws: torch.Generator) -> Callable[[int, int], _Batch]:
        first = 0
        if self._count < self._signal.samples:
            runs = math.ceil(self._signal.samples / self._count)
            run = int(torch.randint(runs, (1,), generator=draws))
            first = min(run * self._count, self._signal.samples - self._count)
        return lambda start, stop: self.judge(first + start, first + stop)

    def judge(self, start: int, stop: int) -> _Batch:
        everything, rows = self._all, slice(start, stop)
        old = None if everything.old is None else everything.old[rows]
        return _Batch(everything.inputs[rows], everything.targets[rows], old)


class _DrawnSamples(_GridSamples):
    """Samples drawn with replacement, at which the old units are evaluated anew."""

    def __init__(self, network: GrowingNetwork, signal: GridSignal, count: int, generator: torch.Generator) -> None:
        super().__init__(network, signal, count, generator)
        self._judged = torch.randint(signal.samples, (self.judged,), generator=generator)

    def draw(self, draws: torch.Generator) -> Callable[[int, int], _Batch]:
        flat = torch.randint(self._signal.samples, (self._count,), generator=draws)
        return lambda start, stop: self.evaluated(flat[start:stop])

    def judge(self, start: int, stop: int) -> _Batch:
        return self.evaluated(self._judged[start:stop])


def shape_problem(
    network: GrowingNetwork,
    surface: SurfaceSampler,
    distance: SignedDistance,
    batch_size: int,
    generator: torch.Generator,
) -> StageProblem:
    """Return the problem of a shape's newest stage.

    Points differ in every step, so the old units are evaluated at all of them.
    """
    distances = DistanceLoss(surface, distance, batch_size, network.device)
    earlier = len(network.stages) - 1

    def field(points: Tensor) -> Tensor:
        part = None
        if earlier:
            with torch.no_grad():
                part = network.frozen_part(points, stages=earlier)
        return network.stages[-1](network.encoded(points), part, network.activation)[1][:, 0]

    def backward(draws: torch.Generator) -> Tensor:
        loss = distances.weighted(field, *distances.draw(draws)).sum()
        loss.backward()
        return loss.detach()

    judged = [distances.draw(generator) for _ in range(max(1, (_ROWS_AT_ONCE // 2) // batch_size))]

    def decibels() -> float:
        with torch.no_grad():
            means = [float(distances.weighted(field, *drawn).double().mean()) for drawn in judged]
        return decibels_of(sum(means) / len(means))

    return StageProblem(backward, decibels)


def _concatenated(parts: list[_Batch]) -> _Batch:
    inputs, targets = torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts])
    frozen = [part.old for part in parts if part.old is not None]
    if not frozen:
        return _Batch(inputs, targets, None)
    layers = [torch.cat(layer) for layer in zip(*(part.features for part in frozen), strict=True)]
    return _Batch(inputs, targets, FrozenPart(layers, torch.cat([part.output for part in frozen])))
