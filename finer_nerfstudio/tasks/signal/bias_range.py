"""The bias range k that suits a signal on a grid, found by short trials on a small piece of it.

How quickly a network learns the detail between neighbouring samples depends on k, on the signal and on how densely the
signal is sampled. A few dozen steps on a piece of a few hundred neighbouring samples show that already: of the
published k and its multiples, the one that fits such a piece best is, or is close to, the one that fits the whole
signal best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.inr.methods import Preset
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.runs.metrics import decibels
from finer_nerfstudio.runs.training import Backward, Schedule, train
from finer_nerfstudio.tasks.signal.grid import GridSignal, sample_centers

MULTIPLES: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Of the published bias range, which are tried for signals along one axis. Sounds go through hundreds of periods in
the time of a picture's few edges, and have more samples along their axis than a picture along both of its own."""
_MULTIPLES_OF_IMAGES = MULTIPLES[:3]
_TRIAL_STEPS = 24
_PIECE = 576
# A larger k has to fit better by this many decibels than the best one before it. So short a trial tells no finer: on
# natural images, gains of less were as often losses at the end of the whole run. And a larger k means more detail
# between the samples than anybody has seen.
_GAIN_DB = 1.0


def bias_range_for(signal: GridSignal, preset: Preset, *, width: int, depth: int, device: torch.device) -> float:
    """The multiple of the preset's bias range that fits a piece of the signal best.

    The trials cost 0.8 per cent of 300 full-batch steps on a 128x128 image in evaluated points, and less of longer or
    larger runs. They take no randomness from the run's seed.

    Args:
        signal: what will be fitted.
        preset: with what; its bias range is the smallest that is tried, and the answer for a signal of one sample.
        width: of the network.
        depth: of the network.
        device: where to try.
    """
    assert preset.bias_range is not None
    piece = central_piece(signal.shape, _PIECE)
    if len(piece) < 2:
        return preset.bias_range
    chosen, best = preset.bias_range, -math.inf
    for multiple in MULTIPLES if len(signal.shape) == 1 else _MULTIPLES_OF_IMAGES:
        bias_range = multiple * preset.bias_range
        trial = replace(preset, bias_range=bias_range)
        quality = _quality_of_trial(signal, piece, trial, width=width, depth=depth, device=device)
        if quality > best + _GAIN_DB:
            chosen, best = bias_range, quality
    return chosen


def central_piece(shape: Sequence[int], samples: int) -> Int[Tensor, " n"]:
    """Row-major numbers of a block of about so many samples in the middle of a grid, as cubic as the grid allows."""
    sides: dict[int, int] = {}
    left = samples
    # Short axes first: what they cannot have, the longer ones may.
    for taken, axis in enumerate(sorted(range(len(shape)), key=lambda axis: shape[axis])):
        side = round(left ** (1.0 / (len(shape) - taken)))
        sides[axis] = max(1, min(shape[axis], side))
        left = max(1, left // sides[axis])
    block = [torch.arange(sides[axis]) + (size - sides[axis]) // 2 for axis, size in enumerate(shape)]
    flat = torch.zeros((), dtype=torch.int64)
    for size, index in zip(shape, block, strict=True):
        flat = flat[..., None] * size + index
    return flat.flatten()


def _quality_of_trial(
    signal: GridSignal, piece: Tensor, preset: Preset, *, width: int, depth: int, device: torch.device
) -> float:
    """PSNR in dB of the piece after a few steps."""
    network = preset.network(
        len(signal.shape), signal.channels, width=width, depth=depth, generator=torch.Generator().manual_seed(0)
    ).to(device)
    backward = _piece_error(network, signal, piece)
    schedule = Schedule(_TRIAL_STEPS, preset.learning_rate)
    try:
        train(network, backward, schedule, generator=torch.Generator())
    except InputError:  # it diverged
        return -math.inf
    error = float(backward(torch.Generator()))
    return decibels(error, peak=2.0)


def _piece_error(network: CoordinateNetwork, signal: GridSignal, piece: Tensor) -> Backward:
    coords = sample_centers(piece, signal.shape).to(network.device)
    targets = signal.targets(piece).to(network.device)

    def backward(_generator: torch.Generator) -> Tensor:
        loss = (network(coords) - targets).square().mean()
        loss.backward()
        return loss.detach()

    return backward
