"""A training step of each stage of a stream, beside what it is compared with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from finer_nerfstudio.benchmarks.measuring import seconds
from finer_nerfstudio.inr.growth import FrozenPart, GrowingNetwork, GrowthStage, bias_shells
from finer_nerfstudio.inr.methods import PROTOCOLS, preset
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.tasks.image.files import sample_image
from finer_nerfstudio.tasks.image.fit import signal_of
from finer_nerfstudio.tasks.signal.grid import sample_centers
from finer_nerfstudio.tasks.streaming.encode import WIDTHS as WIDTHS_OF_STREAM
from finer_nerfstudio.tasks.streaming.stage_training import grid_problem


def _stage_step(
    network: GrowingNetwork, stage: GrowthStage, before: FrozenPart, coords: Tensor, targets: Tensor, parts: list[slice]
) -> None:
    for rows in parts:
        _, output = stage(network.encoded(coords[rows]), before[rows], network.activation)
        (output - targets[rows]).square().mean().backward()


def _dense_step(network: CoordinateNetwork, coords: Tensor, targets: Tensor, parts: list[slice]) -> None:
    for rows in parts:
        (network(coords[rows]) - targets[rows]).square().mean().backward()


def growth(method: str, points: int, repeats: int, device: torch.device, seed: int) -> dict[str, dict[str, float]]:
    """A training step of every widening of a stream on an image of about so many pixels.

    Beside it the new units alone, reading constants instead of what old units give, and a dense network of all units.
    """
    signal = signal_of(sample_image(max(16, round(math.sqrt(points)))))
    row = preset(method, "image")
    network = GrowingNetwork(
        2,
        signal.channels,
        depth=PROTOCOLS["image"].depth,
        activation=row.activation,
        encoding_frequencies=row.encoding_frequencies,
    ).to(device)
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, dict[str, float]] = {}
    for width, shell in zip(WIDTHS_OF_STREAM, bias_shells(row.bias_range, len(WIDTHS_OF_STREAM)), strict=True):
        stage = network.grow(width, bias_shell=shell, generator=generator)
        if len(network.stages) == 1:
            continue
        problem = grid_problem(network, signal, "full", generator)
        coords = sample_centers(torch.arange(signal.samples), signal.shape).to(device)
        part = network.frozen_part(coords, stages=len(network.stages) - 1)
        constants = FrozenPart([torch.rand_like(layer) for layer in part.features], torch.rand_like(part.output))
        targets = signal.targets(slice(None)).to(device)
        dense = network.merged().requires_grad_(True)
        rows = 1 << 16
        parts = [slice(start, start + rows) for start in range(0, signal.samples, rows)]

        jobs: dict[str, Callable[[], Any]] = {
            "ours": partial(problem.backward, generator),
            "block": partial(_stage_step, network, stage, constants, coords, targets, parts),
            "dense": partial(_dense_step, dense, coords, targets, parts),
        }
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for job in jobs.values():
            job()
        for _ in range(repeats):
            for name, job in jobs.items():
                times[name].append(seconds(job, device))
        medians = {name: statistics.median(values) for name, values in times.items()}
        found[str(width)] = {
            **{f"{name}_seconds": value for name, value in medians.items()},
            "ours_over_block": medians["ours"] / medians["block"],
            "dense_over_ours": medians["dense"] / medians["ours"],
        }
    return found
