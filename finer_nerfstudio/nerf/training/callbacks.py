"""What happens before and after a training step: the average follows, the sampler looks at the field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation

from finer_nerfstudio.nerf.radiance import Diverged
from finer_nerfstudio.nerf.sampling.proposal import ProposalSampler
from finer_nerfstudio.nerf.sampling.rules import columns_in_fog
from finer_nerfstudio.nerf.sampling.sampler import OccupancyGrid

if TYPE_CHECKING:
    from finer_nerfstudio.nerf.model import FinerModel

_BEFORE, _AFTER = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION
# Training steps between looks at whether the weights are still numbers.
_LOOK_EVERY = 16


def training_callbacks(model: FinerModel) -> list[TrainingCallback]:
    """Return what a model has done around its training steps."""

    def update_average(step: int) -> None:
        if not model.steps_are_captured:
            model.averaged_field.follow(model.field)

    def supersample(step: int) -> None:
        model.training_supersampling = model.supersampling if step >= model.config.supersampling_from else 1

    callbacks = [TrainingCallback([_BEFORE], supersample), TrainingCallback([_AFTER], update_average)]
    if model.grid is not None:
        callbacks += _of_grid(model, model.grid)
    if model.proposals is not None:
        callbacks += _of_proposals(model, model.proposals)
    return callbacks


def _of_grid(model: FinerModel, grid: OccupancyGrid) -> list[TrainingCallback]:
    config = model.config

    def sample_fog(step: int) -> None:
        # A grid without end has its own number of samples for fog.
        is_fog = step < config.grid_warmup_steps and not model.unbounded
        model.training_steps = columns_in_fog(config.samples_per_ray) if is_fog else None

    def update_grid(step: int) -> None:
        if model.steps_are_captured:
            return
        everywhere = step < config.grid_warmup_steps
        grid.update(model.field.density_at, everywhere=everywhere, generator=model.generator(model.device))

    return [
        TrainingCallback([_BEFORE], sample_fog),
        TrainingCallback([_BEFORE], update_grid, update_every_num_iters=config.grid_update_every),
    ]


def _of_proposals(model: FinerModel, proposals: ProposalSampler) -> list[TrainingCallback]:
    def require_finite(step: int) -> None:
        # As a grid sees when it looks at the field; all processes of a distributed run have the same weights.
        if not all(bool(torch.isfinite(parameter).all()) for parameter in model.field.parameters()):
            raise Diverged("weights are NaN or infinite")

    return [
        TrainingCallback([_BEFORE], proposals.before_step),
        TrainingCallback([_AFTER], proposals.after_step),
        TrainingCallback([_BEFORE], require_finite, update_every_num_iters=_LOOK_EVERY),
    ]
