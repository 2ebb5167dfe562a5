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
    """The mean squared error of a signal on a grid.

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
    count = points_per_step(batch_size, signal.samples)
    earlier = network.stages[:-1]
    old = sum(stage.units for stage in earlier) * (2 if network.activation.complex_valued else 1)
    numbers = network.in_dim + 2 * network.out_dim + old * (network.depth - 1)
    cached = 4 * numbers * signal.samples <= largest_cache_bytes
    device = network.device

    def data_of(flat: Tensor) -> tuple[Tensor, Tensor, FrozenPart | None]:
        coords = sample_centers(flat, signal.shape).to(device)
        part = None
        if earlier:
            with torch.no_grad():
                part = network.frozen_part(coords, stages=len(earlier))
        return network.encoded(coords), signal.targets(flat).to(device), part

    if cached:
        order = torch.randperm(signal.samples, generator=generator)
        inputs, targets, before = _concatenated(
            [data_of(order[start : start + _ROWS_AT_ONCE]) for start in range(0, signal.samples, _ROWS_AT_ONCE)]
        )

    def batch(start: int, stop: int, flat: Tensor | None) -> tuple[Tensor, Tensor, FrozenPart | None]:
        if flat is None:
            rows = slice(start, stop)
            return inputs[rows], targets[rows], None if before is None else before[rows]
        return data_of(flat[start:stop])

    def squared(start: int, stop: int, flat: Tensor | None) -> Tensor:
        rows, target, part = batch(start, stop, flat)
        _, output = network.stages[-1](rows, part, network.activation)
        return (output - target).square().sum()

    def backward(draws: torch.Generator) -> Tensor:
        first, flat = 0, None
        if not cached:
            flat = torch.randint(signal.samples, (count,), generator=draws)
        elif count < signal.samples:
            runs = math.ceil(signal.samples / count)
            run = int(torch.randint(runs, (1,), generator=draws))
            first = min(run * count, signal.samples - count)
        total = torch.zeros((), device=device)
        for start in range(0, count, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, count)
            loss = squared(first + start, first + stop, flat) / (count * signal.channels)
            loss.backward()
            total += loss.detach()
        return total

    # float64: it is compared with itself to a hundredth of a decibel.
    judged = min(signal.samples, _JUDGED_SAMPLES)
    chosen = None if cached else torch.randint(signal.samples, (judged,), generator=generator)

    def decibels() -> float:
        error = 0.0
        with torch.no_grad():
            for start in range(0, judged, _ROWS_AT_ONCE):
                error += float(squared(start, min(start + _ROWS_AT_ONCE, judged), chosen).double())
        error /= judged * signal.channels
        return decibels_of(error, peak=2.0)

    return StageProblem(backward, decibels)


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


def _concatenated(
    parts: list[tuple[Tensor, Tensor, FrozenPart | None]],
) -> tuple[Tensor, Tensor, FrozenPart | None]:
    inputs, targets = (torch.cat([part[i] for part in parts]) for i in range(2))  # pyright: ignore
    frozen = [part[2] for part in parts if part[2] is not None]
    if not frozen:
        return inputs, targets, None
    layers = [torch.cat(layer) for layer in zip(*(part.features for part in frozen), strict=True)]
    return inputs, targets, FrozenPart(layers, torch.cat([part.output for part in frozen]))
