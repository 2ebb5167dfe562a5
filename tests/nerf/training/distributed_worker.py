"""One process of test_distributed.py, started by torchrun: trains by the real command, then tries what may go wrong.

Arguments: the folder for what it saw, then the command line of ``ns-train``.
"""

from __future__ import annotations

import copy
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils import comms
from torch import Tensor

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf import train_distributed
from finer_nerfstudio.nerf.configs import finer_sine_stream
from finer_nerfstudio.nerf.model import FinerModel
from finer_nerfstudio.nerf.sampling.importance import Amount
from finer_nerfstudio.nerf.sampling.sampler import OccupancyGrid
from finer_nerfstudio.nerf.sampling.unbounded_grid import UnboundedGrid
from finer_nerfstudio.nerf.streaming.growing_field import GrowingFieldConfig
from finer_nerfstudio.nerf.training.pipeline import FinerPipeline, FinerPipelineConfig
from finer_nerfstudio.nerf.training.trainer import FinerTrainer, FinerTrainerConfig, Stopwatch

seen: dict[str, Any] = {}
trainers: list[FinerTrainer] = []
rays: list[int] = []
losses: list[float] = []
start: dict[str, Tensor] = {}


def observe(trainer: type[FinerTrainer]) -> None:
    """Remember the trainers that are set up, where they start from, and the rays and the loss of every step."""
    setup, train_iteration = trainer.setup, trainer.train_iteration

    def observed_setup(self: FinerTrainer, *args: Any, **kwargs: Any) -> None:
        setup(self, *args, **kwargs)
        trainers.append(self)
        rays.clear()
        losses.clear()
        start.clear()
        start.update(state(self.pipeline.model))

    def observed_iteration(self: FinerTrainer, step: int) -> Any:
        rays.append(self.pipeline.datamanager.get_train_rays_per_batch())
        loss, loss_dict, metrics_dict = train_iteration(self, step)
        losses.append(float(loss))
        return loss, loss_dict, metrics_dict

    trainer.setup, trainer.train_iteration = observed_setup, observed_iteration


def training(name: str, config: TrainerConfig) -> FinerPipeline:
    """What a run that has just ended left in this process."""
    trainer = trainers[-1]
    pipeline = trainer.pipeline
    assert isinstance(pipeline, FinerPipeline)
    seen[name] = {
        "state": state(pipeline.model),
        "rays": list(rays),
        "losses": list(losses),
        "steps": trainer._trained_steps,
        "start": dict(start),
        "trained_rays": pipeline.trained_rays,
        "folder": str(config.get_base_dir()),
    }
    return pipeline


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def growing_by_the_clock(config: TrainerConfig) -> None:
    """A field that widens twice within a second, where the clock of one process runs three times as fast."""
    growing = copy.deepcopy(finer_sine_stream.config)
    assert isinstance(growing, FinerTrainerConfig)
    assert isinstance(growing.pipeline, FinerPipelineConfig)
    assert isinstance(growing.pipeline.model.field, GrowingFieldConfig)
    growing.vis, growing.max_minutes = "tensorboard", 1.0 / 60
    growing.output_dir, growing.machine = config.output_dir, config.machine
    growing.pipeline.datamanager.data = config.pipeline.datamanager.data
    growing.pipeline.model.field.widths = (6, 10, 14)
    growing.pipeline.model.grid_resolution = 16
    growing.pipeline.target_num_samples = 500
    growing.set_timestamp()
    if comms.get_rank() == 1:
        seconds = Stopwatch.seconds
        Stopwatch.seconds = lambda self: 3 * seconds(self)
    train_distributed.train.train_loop(comms.get_rank(), comms.get_world_size(), growing, comms.get_rank())
    training("growing", growing)


def gradients(pipeline: FinerPipeline, name: str) -> None:
    """The gradient that this process's rays have by themselves, and the one that the wrapper makes of all."""
    model, datamanager = pipeline.model, pipeline.datamanager
    assert isinstance(model, FinerModel)
    model.config.precision = "float32"  # operands that are rounded may not be scaled
    generator = model.generator(model.device)
    batch = datamanager.next_train(0)
    if name == "miss" and comms.get_rank() == 1:
        batch[0].directions = -batch[0].directions  # away from the scene
    datamanager.next_train = lambda step: batch
    before = generator.get_state()
    outputs = model(batch[0])
    own_loss = torch.stack(list(model.get_loss_dict(outputs, batch[1]).values())).sum()
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    own = torch.autograd.grad(own_loss, list(trained.values()), allow_unused=True)
    generator.set_state(before)
    model.zero_grad(set_to_none=True)
    _, loss_dict, _ = pipeline.get_train_loss_dict(1)
    torch.stack(list(loss_dict.values())).sum().backward()
    seen[name] = {
        "rays": outputs["rgb"].shape[0],
        "samples": outputs["num_samples_per_batch"],
        "own": dict(zip(trained, own, strict=True)),
        "averaged": {name: weight.grad for name, weight in trained.items()},
    }
    del datamanager.next_train


def grid_updates() -> None:
    """Densities that are the same anywhere in a cell, first in all cells and then in those found occupied."""
    grid = OccupancyGrid(torch.tensor([[-1.0] * 3, [1.0] * 3]), resolution=7, steps=20)
    generator = torch.Generator().manual_seed(comms.get_rank())
    values = torch.rand(7**3, generator=torch.Generator().manual_seed(5))
    values[values < 0.5] = 0
    grids: dict[str, Any] = {"values": values}
    for name, factor in (("everywhere", 1.0), ("occupied", 2.0)):
        grid.update(
            lambda positions, factor=factor: factor * values[grid.cell_of(positions)],
            everywhere=name == "everywhere",
            generator=generator,
        )
        grids[name] = state(grid)
    seen["grid"] = grids


def unbounded_grid_updates() -> None:
    """The same for a grid of means, of which the processes think differently before the second update."""
    grid = UnboundedGrid(torch.tensor([[-1.0] * 3, [1.0] * 3]), amount=Amount(0.25), resolution=7, steps=20)
    generator = torch.Generator().manual_seed(comms.get_rank())
    values = torch.rand(7**3, generator=torch.Generator().manual_seed(5))
    grids: dict[str, Any] = {"values": values, "step": grid.step_length}
    for name, factor in (("first", 1.0), ("later", 2.0)):
        grid.update(
            lambda positions, factor=factor: factor * values[grid.cell_of(positions)],
            everywhere=False,
            generator=generator,
        )
        grids[name] = state(grid)
        grid.thickness *= 1 + comms.get_rank()
    seen["unbounded grid"] = grids


def divergence(grid: OccupancyGrid) -> None:
    try:
        grid.update(
            lambda positions: torch.full(positions.shape[:-1], torch.nan if comms.get_rank() else 1.0), everywhere=True
        )
    except InputError as error:
        seen["divergence"] = str(error)


def train_and_try(config: TrainerConfig) -> None:
    ns_train(config)
    pipeline = training("run", config)
    pipeline.dynamic_num_rays_per_batch = 64
    pipeline._update_pixel_samplers()
    gradients(pipeline, "all")
    model = pipeline.model
    assert isinstance(model, FinerModel)
    model.config.max_samples_per_batch = 300 + 300 * comms.get_rank()
    gradients(pipeline, "cut")
    gradients(pipeline, "miss")
    grid_updates()
    unbounded_grid_updates()
    assert model.grid is not None
    divergence(model.grid)
    growing_by_the_clock(config)


observe(FinerTrainer)
# Processes that wait for each other are to fail soon.
train_distributed.train.DEFAULT_TIMEOUT = timedelta(seconds=90)
output = Path(sys.argv.pop(1))
ns_train = train_distributed.train.main
train_distributed.train.main = train_and_try
train_distributed.main()
torch.save(seen, output / f"rank-{trainers[0].local_rank}.pt")
