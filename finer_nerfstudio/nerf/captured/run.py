"""Train a radiance field by the paper's protocol in captured steps, and measure it on test views.

The same mathematics as ``ns-train``'s, without Nerfstudio: one bounded scene, pinhole views, a fixed number of rays a
step. On a GPU a step is one graph, and nobody waits for it.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from finer_nerfstudio.errors import InputError, UsageError, argument
from finer_nerfstudio.inr.description import scales_of
from finer_nerfstudio.inr.methods import METHODS, PROTOCOLS, Preset, preset
from finer_nerfstudio.nerf.captured.adam import AdamRules
from finer_nerfstudio.nerf.captured.grid import FINEST, FixedGrid
from finer_nerfstudio.nerf.captured.march import Steps
from finer_nerfstudio.nerf.captured.quality import measure
from finer_nerfstudio.nerf.captured.rooms import Rooms
from finer_nerfstudio.nerf.captured.training import CapturedTraining
from finer_nerfstudio.nerf.captured.views import PixelRays, Views
from finer_nerfstudio.nerf.radiance import Diverged, Radiance, initial_networks
from finer_nerfstudio.nerf.sampling.rules import columns_in_fog
from finer_nerfstudio.runs import metrics
from finer_nerfstudio.runs.options import device_named

_UPDATE_EVERY = 16
_REPORT_EVERY = 100
_FINAL_FRACTION = 0.1
_NEAR_PLANE = 0.05
_WEIGHT_THRESHOLD = 1e-4

Report = Callable[[int, int, float], None]
"""Progress callback: (finished steps, all steps, PSNR of the last step's rays in dB)."""


@dataclass(frozen=True)
class FieldOptions:
    """How to train; the defaults are the paper's protocol."""

    method: str = "finer-sine"
    """Activation family with its published hyper-parameters; Gauss and WIRE, whose scales were published for images
    only, have this package's."""
    steps: int = PROTOCOLS["nerf"].steps
    """Training steps."""
    rays: int = PROTOCOLS["nerf"].batch_size or 4096
    """Rays in a step."""
    width: int = PROTOCOLS["nerf"].width
    """Units of every hidden layer."""
    depth: int = PROTOCOLS["nerf"].depth
    """Hidden layers of both networks."""
    learning_rate: float | None = None
    """Of the first step, falling to a tenth; the published one unless given."""
    samples_per_ray: int = 1024
    """Steps along the diagonal of the scene's box, of which only those in occupied cells are evaluated."""
    most_samples: int = 1 << 19
    """Samples in a step; rays beyond it are left out of the step, so that memory is bounded."""
    grid_resolution: int = 128
    """Cells per axis of the occupancy grid."""
    fog_steps: int = 256
    """Training steps in which the grid looks into all cells, and rays are sampled a third as often."""
    seed: int = 0
    """Seed of all randomness; the same seed on the same machine gives the same result."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, ..."""

    def require_possible(self) -> None:
        """Check the numbers.

        Raises:
            UsageError: for one that is out of range.
        """
        for name in ("steps", "rays", "width", "depth", "samples_per_ray", "grid_resolution"):
            if getattr(self, name) < 1:
                raise UsageError(f"{argument(name)} must be at least 1, not {getattr(self, name)}.")
        if self.grid_resolution > FINEST:
            raise UsageError(f"{argument('grid_resolution')} must be at most {FINEST}, not {self.grid_resolution}.")
        if self.most_samples < 2 * self.samples_per_ray:
            raise UsageError(f"{argument('most_samples')} must be at least twice {argument('samples_per_ray')}.")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UsageError(f"{argument('learning_rate')} must be a positive number, not {self.learning_rate}.")

    def hyper_parameters(self) -> Preset:
        """Return the method's for a radiance field.

        Raises:
            UsageError: for an unknown method.
        """
        if self.method not in METHODS:
            raise UsageError(f"{argument('method')} {self.method}: known are {', '.join(METHODS)}.")
        chosen, row = preset(self.method, "nerf"), METHODS[self.method]
        if not row.published_for_radiance:
            tuned = {name: getattr(row.radiance, name) for name in scales_of(chosen.activation)}
            chosen = chosen.overridden(**{name: value for name, value in tuned.items() if value is not None})
        return chosen if self.learning_rate is None else chosen.overridden(learning_rate=self.learning_rate)


def training_of(views: Views, options: FieldOptions) -> CapturedTraining:
    """Return a fresh field in training on views of the box [-1, 1]^3.

    Args:
        views: to train on.
        options: how.

    Raises:
        UsageError: for options out of range.
    """
    options.require_possible()
    chosen, device = options.hyper_parameters(), device_named(options.device)
    weights = torch.Generator().manual_seed(options.seed)
    networks = initial_networks(
        chosen, width=options.width, density_depth=options.depth, color_depth=options.depth, generator=weights
    )
    box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    field: Radiance[Any] = Radiance(*networks, box).to(device)
    columns = options.samples_per_ray
    steps = Steps(columns, options.grid_resolution, float((box[1] - box[0]).norm()) / columns, _NEAR_PLANE)
    return CapturedTraining(
        field,
        copy.deepcopy(field),
        PixelRays.of_views(views, device),
        FixedGrid.empty(box.to(device), steps),
        adam=AdamRules(),
        rooms=Rooms(options.most_samples, options.rays, columns, columns_in_fog(columns), options.fog_steps),
        weight_threshold=_WEIGHT_THRESHOLD,
        update_every=_UPDATE_EVERY,
        generator=torch.Generator(device).manual_seed(options.seed),
    )


def fit_views(
    train: Views, test: Views, options: FieldOptions, *, report: Report | None = None
) -> dict[str, float | int | bool]:
    """Train a field on views, and measure it on others.

    Args:
        train: views to train on.
        test: views to measure on.
        options: how.
        report: progress callback.

    Returns:
        Mean ``psnr`` (dB) and ``ssim`` of ``views`` test views over white, ``seconds`` of training, ``steps``, trained
        rays and samples per second, weights, and how many step sizes ran as graphs.

    Raises:
        UsageError: for options out of range.
        InputError: when training diverges.
    """
    training = training_of(train, options)
    learning_rate = options.hyper_parameters().learning_rate
    begin = time.perf_counter()
    try:
        for step in range(options.steps):
            training.step(step, learning_rate * _FINAL_FRACTION ** (step / options.steps))
            if report is not None and step % _REPORT_EVERY == 0 and not math.isnan(training.totals.loss):
                report(step, options.steps, metrics.decibels(training.totals.loss))
        totals = training.finish()
    except Diverged as error:
        raise InputError(
            f"training of {options.method} diverged ({error}): lower {argument('learning_rate')}."
        ) from None
    seconds = time.perf_counter() - begin
    if report is not None:
        report(options.steps, options.steps, metrics.decibels(totals.loss))
    quality = measure(training.averaged, training.grid, test)
    return {
        "psnr": quality.psnr,
        "ssim": quality.ssim,
        "views": quality.views,
        "seconds": seconds,
        "steps": options.steps,
        "rays_per_second": totals.rays / seconds,
        "samples_per_second": totals.samples / seconds,
        "trained_rays": totals.rays / (options.steps * options.rays),
        "occupied_cells": float(training.grid.occupied.double().mean()),
        "parameters": training.optimizer.count,
        "graphs": training.graphs,
        "measuring_seconds": quality.seconds,
    }
