"""Steps of ``ns-train`` that a GPU repeats as a graph, for the scenes and options that allow it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.data.pixel_samplers import PixelSamplerConfig
from torch import Tensor

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.captured.adam import AdamRules
from finer_nerfstudio.nerf.captured.grid import FINEST, FixedGrid
from finer_nerfstudio.nerf.captured.march import Steps
from finer_nerfstudio.nerf.captured.repeated import NotCaptured
from finer_nerfstudio.nerf.captured.rooms import Rooms
from finer_nerfstudio.nerf.captured.training import CapturedTraining
from finer_nerfstudio.nerf.captured.views import PixelRays
from finer_nerfstudio.nerf.field import FinerField
from finer_nerfstudio.nerf.model import FinerModel
from finer_nerfstudio.nerf.sampling.rays import are_pinholes
from finer_nerfstudio.nerf.sampling.rules import GridRules, columns_in_fog
from finer_nerfstudio.runs.metrics import decibels

if TYPE_CHECKING:
    from finer_nerfstudio.nerf.training.trainer import FinerTrainer


def reason_against(trainer: FinerTrainer) -> str | None:
    """Return why a run cannot be trained in steps of one shape, or None where it can.

    Args:
        trainer: that is set up.
    """
    pipeline, config = trainer.pipeline, trainer.config
    model: Any = pipeline.model
    if not isinstance(model, FinerModel) or not isinstance(model.field, FinerField):
        return "the field grows"
    if model.unbounded or model.grid is None:
        return "the scene has no end" if model.unbounded else "proposal networks sample it"
    if model.config.appearance_dim or model.config.camera_optimizer.mode != "off":
        return "pictures have codes, or their poses are refined"
    if model.config.depth_loss_weight > 0:
        return "depth maps are trained on"
    if model.supersampling > 1:
        return "a pixel has several rays"
    if model.field.grid is not None:
        return "the network reads a grid of features"
    if model.grid.resolution > FINEST:
        return f"the grid has more than {FINEST} cells per axis"
    if trainer.world_size > 1:
        return "several processes train together"
    accumulated = any(count > 1 for count in config.gradient_accumulation_steps.values())
    if config.mixed_precision or config.log_gradients or accumulated:
        return "mixed precision, logged or accumulated gradients are asked for"
    adam = config.optimizers["fields"]["optimizer"]
    if adam.weight_decay or adam.max_norm is not None:
        return "weights decay or gradients are shortened"
    return _reason_in_data(pipeline)


def _reason_in_data(pipeline: Any) -> str | None:
    datamanager: Any = pipeline.datamanager
    sampler = datamanager.config.pixel_sampler
    is_special = type(sampler) is not PixelSamplerConfig or sampler.is_equirectangular
    if datamanager.config.patch_size > 1 or is_special or sampler.fisheye_crop_radius is not None:
        return "pixels are drawn in a way of their own"
    if datamanager.config.train_num_images_to_sample_from != -1:
        return "some of the pictures are trained at a time"
    if not are_pinholes(datamanager.train_dataset.cameras):
        return "lenses distort"
    pictures = datamanager.training_pictures()
    if not isinstance(pictures["image"], Tensor):
        return "pictures have several sizes"
    return "masks leave out pixels" if "mask" in pictures else None


class CapturedSteps:
    """Trains a model in place of Nerfstudio's loop body: weights, average, grid and optimizer are the run's own.

    Args:
        trainer: that is set up, and for which there is no :func:`reason_against`.
    """

    def __init__(self, trainer: FinerTrainer) -> None:
        self._pipeline: Any = trainer.pipeline
        self._optimizers = trainer.optimizers
        model = self._pipeline.model
        assert isinstance(model, FinerModel)
        assert isinstance(model.field, FinerField)
        assert model.grid is not None
        self._model, config = model, model.config
        self._adam = self._optimizers.optimizers["fields"]
        rules: Any = trainer.config.optimizers["fields"]["optimizer"]
        grid = model.grid
        steps = Steps(config.samples_per_ray, grid.resolution, grid.step_length, config.near_plane)
        self.training = CapturedTraining(
            model.field,
            model.averaged_field.module,  # pyright: ignore[reportArgumentType]
            _pixels_of(self._pipeline.datamanager, model.device),
            FixedGrid(
                grid.thickness,
                grid.occupied,
                grid.aabb,
                steps,
                GridRules(grid.decay, grid.early_decay, grid.threshold),
            ),
            adam=AdamRules(rules.betas, rules.eps, config.ema_decay),
            rooms=Rooms(
                config.max_samples_per_batch,
                self._pipeline.config.max_num_rays,
                config.samples_per_ray,
                columns_in_fog(config.samples_per_ray),
                config.grid_warmup_steps,
                self._pipeline.config.target_num_samples,
            ),
            weight_threshold=config.color_weight_threshold,
            update_every=config.grid_update_every,
            generator=model.generator(model.device),
        )
        model.steps_are_captured = True
        self._share_moments()
        # Nerfstudio's schedulers complain of an optimizer that was never asked for a step.
        self._adam._opt_called = True  # pyright: ignore[reportAttributeAccessIssue]

    def step(self, number: int) -> tuple[Tensor, dict[str, Tensor], dict[str, Any]]:
        """Train one step.

        Args:
            number: of the step.

        Returns:
            Loss, losses and metrics as Nerfstudio's loop body gives them, of the last step that is known of.

        Raises:
            Diverged: once it is known that an earlier step gave no numbers.
            InputError: where the GPU refuses to capture a step.
        """
        try:
            self.training.step(number, self._adam.param_groups[0]["lr"])
        except NotCaptured as error:
            raise InputError(f"{error}, or give --captured-steps no.") from error
        self._optimizers.scheduler_step_all(number)
        totals = self.training.totals
        self._pipeline.trained_rays = int(totals.rays)
        self._pipeline.trained_samples = int(totals.samples)
        loss = torch.tensor(totals.loss)
        metrics = {} if math.isnan(totals.loss) else {"psnr": torch.tensor(decibels(totals.loss))}
        return loss, {"rgb_loss": loss}, metrics

    def settle(self) -> None:
        """Wait for all steps, and bring up to date what checkpoints hold.

        Raises:
            Diverged: where a step gave no numbers.
        """
        totals = self.training.finish()
        self._pipeline.trained_rays = int(totals.rays)
        self._pipeline.trained_samples = int(totals.samples)
        steps = float(self.training.optimizer.step)
        for state in self._adam.state.values():
            state["step"].fill_(steps)
        self._model.averaged_field.n_averaged.fill_(int(steps))  # pyright: ignore[reportCallIssue]

    def _share_moments(self) -> None:
        """Have both optimizers keep their moments in one place: checkpoints hold those of Nerfstudio's."""
        optimizer = self.training.optimizer
        for parameter, (first, second) in zip(optimizer.parameters, optimizer.moments(), strict=True):
            state = self._adam.state[parameter]
            if state:  # of a run that goes on
                first.copy_(state["exp_avg"])
                second.copy_(state["exp_avg_sq"])
                optimizer.step.copy_(state["step"])
            step = torch.zeros((), device=first.device)
            self._adam.state[parameter] = {"step": step, "exp_avg": first, "exp_avg_sq": second}


def _pixels_of(datamanager: Any, device: torch.device) -> PixelRays:
    """Return the pixels that a data manager draws from."""
    pictures = datamanager.training_pictures()
    cameras = datamanager.train_dataset.cameras
    chosen = pictures["image_idx"].to(cameras.camera_to_worlds.device)
    poses = cameras.camera_to_worlds[chosen, :3, :4].float().to(device)
    focal, center = (
        torch.cat(pair, dim=1)[chosen].float().to(device)
        for pair in ((cameras.fx, cameras.fy), (cameras.cx, cameras.cy))
    )
    return PixelRays(pictures["image"].to(device), poses, focal, center)
