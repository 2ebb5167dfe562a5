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
from finer_nerfstudio.nerf.captured.adam import AdamRules, FlatAdam
from finer_nerfstudio.nerf.captured.grid import FixedGrid
from finer_nerfstudio.nerf.captured.march import Steps
from finer_nerfstudio.nerf.captured.quality import measure
from finer_nerfstudio.nerf.captured.repeated import Repeated
from finer_nerfstudio.nerf.captured.rooms import Rooms
from finer_nerfstudio.nerf.captured.step import Drawn, Record, Room, Sent, TrainingStep
from finer_nerfstudio.nerf.captured.views import PixelRays, Views
from finer_nerfstudio.nerf.radiance import Radiance, initial_networks
from finer_nerfstudio.runs import metrics
from finer_nerfstudio.runs.options import device_named

# Training steps between updates of the grid; the room of steps is chosen as often.
_BLOCK = 16
# Of the samples of a ray, those that are taken of the fog in the beginning.
_OF_FOG = 1 / 3
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


class Trainer:
    """A field, and all that its training needs, on one device.

    Args:
        views: to train on.
        options: how.
    """

    def __init__(self, views: Views, options: FieldOptions) -> None:
        options.require_possible()
        chosen = options.hyper_parameters()
        self.options, self.device = options, device_named(options.device)
        weights = torch.Generator().manual_seed(options.seed)
        networks = initial_networks(
            chosen, width=options.width, density_depth=options.depth, color_depth=options.depth, generator=weights
        )
        box = torch.tensor([[-1.0] * 3, [1.0] * 3])
        self.field: Radiance[Any] = Radiance(*networks, box).to(self.device)
        self.averaged = copy.deepcopy(self.field)
        self.optimizer = FlatAdam(self.field, self.averaged, AdamRules(chosen.learning_rate, options.steps))
        self.steps = Steps(options.samples_per_ray, options.grid_resolution, _NEAR_PLANE)
        self.grid = FixedGrid(options.grid_resolution, self.steps.length, self.device)
        self.generator = torch.Generator(self.device).manual_seed(options.seed)
        self.pixels = PixelRays(views, self.device)
        self.drawn = Drawn(options.rays, self.device)
        self.record = Record(self.device)
        self._pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        self._repeated: dict[Room, Repeated] = {}
        self._look = self._graph(lambda: self.grid.look(self.field.density_at))
        self._look_everywhere = self._graph(lambda: self.grid.look_everywhere(self.field.density_at))
        fog = max(1, round(_OF_FOG * options.samples_per_ray))
        self.rooms = Rooms(options.most_samples, options.samples_per_ray, fog, options.fog_steps)
        self.room = self.rooms.first()

    def block(self, start: int, count: int) -> Sent:
        """Update the grid and train some steps in the present room.

        Args:
            start: number of the first step.
            count: of steps.

        Returns:
            What they needed, on its way.
        """
        self.grid.draw(self.generator)
        # Cells that were never looked at are empty to the grid.
        everywhere = start == 0 or start < self.options.fog_steps
        (self._look_everywhere if everywhere else self._look)()
        step = self._step_in(self.room)
        for _ in range(count):
            self.drawn.draw(self.generator)
            step()
        return self.record.send()

    def _step_in(self, room: Room) -> Repeated:
        if room not in self._repeated:
            self._repeated[room] = self._graph(
                TrainingStep(
                    self.field,
                    self.optimizer,
                    self.grid,
                    self.pixels,
                    self.drawn,
                    self.record,
                    room=room,
                    near_plane=_NEAR_PLANE,
                    weight_threshold=_WEIGHT_THRESHOLD,
                )
            )
        return self._repeated[room]

    def _graph(self, function: Callable[[], None]) -> Repeated:
        return Repeated(function, self.device, self._pool)

    @property
    def graphs(self) -> int:
        """Return the number of steps of different size that were captured."""
        return sum(repeated.is_captured for repeated in self._repeated.values())


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
    trainer = Trainer(train, options)
    begin = time.perf_counter()
    rays = samples = 0.0
    on_their_way: list[Sent] = []
    for start in range(0, options.steps, _BLOCK):
        count = min(_BLOCK, options.steps - start)
        on_their_way.append(trainer.block(start, count))
        needs = None
        if len(on_their_way) > 1:  # of the block before, which is over or nearly so
            needs = on_their_way.pop(0).take()
            rays, samples = rays + needs.rays, samples + needs.trained_samples
            _require_finite(needs.loss, options, start)
            if report is not None:
                report(start, options.steps, metrics.decibels(needs.loss))
        trainer.room = trainer.rooms.next(trainer.room, needs, start + count)
    last = on_their_way.pop().take()
    _require_finite(last.loss, options, options.steps)
    seconds = time.perf_counter() - begin
    if not bool(trainer.grid.is_finite):
        raise InputError(_diverged(options, options.steps))
    if report is not None:
        report(options.steps, options.steps, metrics.decibels(last.loss))
    quality = measure(trainer.averaged, trainer.grid, trainer.steps, test)
    return {
        "psnr": quality.psnr,
        "ssim": quality.ssim,
        "views": quality.views,
        "seconds": seconds,
        "steps": options.steps,
        "rays_per_second": (rays + last.rays) / seconds,
        "samples_per_second": (samples + last.trained_samples) / seconds,
        "trained_rays": (rays + last.rays) / (options.steps * options.rays),
        "occupied_cells": float(trainer.grid.occupied.double().mean()),
        "parameters": trainer.optimizer.values.numel(),
        "graphs": trainer.graphs,
        "measuring_seconds": quality.seconds,
    }


def _require_finite(loss: float, options: FieldOptions, step: int) -> None:
    if not math.isfinite(loss):
        raise InputError(_diverged(options, step))


def _diverged(options: FieldOptions, step: int) -> str:
    return f"training of {options.method} diverged before step {step:,}: lower {argument('learning_rate')}."
