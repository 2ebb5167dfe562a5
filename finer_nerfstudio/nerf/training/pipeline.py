"""Pipelines: one that takes as many rays per step as fill a sample budget, and one to compare with."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from nerfstudio.models.base_model import Model
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.pipelines.dynamic_batch import DynamicBatchPipeline, DynamicBatchPipelineConfig
from nerfstudio.utils import writer
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.nerf.data.alpha import over_white
from finer_nerfstudio.nerf.data.batches import SceneBatches
from finer_nerfstudio.nerf.data.images import SceneImages, counted_pixels
from finer_nerfstudio.nerf.data.notes import Notes
from finer_nerfstudio.nerf.data.views import evenly
from finer_nerfstudio.nerf.data.visibility import require_lenses, require_sight
from finer_nerfstudio.nerf.model import FinerModel, FinerModelConfig
from finer_nerfstudio.nerf.sampling.rays import SubpixelRays
from finer_nerfstudio.nerf.training import distributed, terminal
from finer_nerfstudio.nerf.training.afterwards import say_next_at_exit
from finer_nerfstudio.nerf.training.asked import (
    crop_of_command,
    exports_mesh,
    require_possible_command,
    require_possible_mesh,
)
from finer_nerfstudio.nerf.training.opaque_rays import OpaqueRays
from finer_nerfstudio.nerf.training.texturing import SurfaceColors
from finer_nerfstudio.nerf.training.uncaught import run_is_ours
from finer_nerfstudio.runs import metrics
from finer_nerfstudio.runs.command_line import exit_on_input_error, ignore_library_warnings
from finer_nerfstudio.runs.processor import prepare_processor

# Photographs have something to see on every ray, some fifty samples of it early on. The rays that are left of what
# does for a bounded scene are too few to learn from: with a hundred a step, the demo capture broke up into noise.
_MORE_WITHOUT_END = 2


@dataclass(frozen=True)
class Quality:
    """Mean quality of renderings of test views.

    Attributes:
        psnr: in dB.
        ssim: in [-1, 1]; NaN for views that are too small for it.
        measured: number of views that were rendered.
        views: number of views that there are.
    """

    psnr: float
    ssim: float
    measured: int
    views: int

    def __str__(self) -> str:
        which = f"all {self.views}" if self.measured == self.views else f"{self.measured} of {self.views}"
        ssim = "" if math.isnan(self.ssim) else f", SSIM {self.ssim:.3f}"
        return f"Test PSNR {self.psnr:.2f} dB{ssim} ({which} test views)."


@dataclass
class FinerPipelineConfig(DynamicBatchPipelineConfig):
    """Pipeline of a FINER++ radiance field."""

    _target: type = field(default_factory=lambda: FinerPipeline)
    model: FinerModelConfig = field(default_factory=FinerModelConfig)
    """specifies the model config"""
    target_num_samples: int = 12_288
    """Samples that a training step aims at (each process of a distributed run), twice as many in scenes without
    end; the number of rays follows from how empty the scene has become."""
    max_num_samples_per_ray: int = 192
    """The first step has target-num-samples divided by this many rays."""
    max_num_rays: int = 1 << 14
    """Upper bound of rays in a training step (of each process)."""


class FinerPipeline(DynamicBatchPipeline):
    """Nerfstudio's dynamic-batch pipeline with bounds on the number of rays, and readable errors.

    The processes of a distributed run draw the same number of rays each, and together take the gradient of the mean
    loss of all their rays.
    """

    config: FinerPipelineConfig

    def __init__(
        self,
        config: FinerPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: GradScaler | None = None,
    ) -> None:
        run_is_ours()
        ignore_library_warnings()
        with exit_on_input_error():
            prepare_processor()
            for name in ("target_num_samples", "max_num_samples_per_ray", "max_num_rays"):
                if getattr(config, name) < 1:
                    option = name.replace("_", "-")
                    raise UsageError(f"--pipeline.{option} must be at least 1, not {getattr(config, name)}.")
            radius = getattr(getattr(config.datamanager, "pixel_sampler", None), "fisheye_crop_radius", None)
            if radius is not None and not radius > 0:  # Nerfstudio would look for pixels within it forever
                option = "--pipeline.datamanager.pixel-sampler.fisheye-crop-radius"
                raise UsageError(f"{option} must be positive, not {radius}.")
            if test_mode != "val":
                require_possible_command()
                say_next_at_exit()
            # As if alone: Nerfstudio wraps the model of a distributed run in a way that only GPUs allow.
            with terminal.silence():
                super().__init__(config, device, test_mode, 1, local_rank, grad_scaler)
            self._look_at_the_scene(test_mode)
        if test_mode == "test":
            self.model.register_forward_hook(OpaqueRays(crop_of_command()))
            if exports_mesh():
                with exit_on_input_error():
                    require_possible_mesh(unbounded=self._finer_model.unbounded)
                # Not a method of the class: the viewer and evaluation render what they are asked for.
                self.model.get_outputs_for_camera_ray_bundle = SurfaceColors(self._finer_model)
                terminal.note(
                    "The mesh will be in the field's coordinates, with which the viewer works: centred, turned and "
                    "scaled. finer export mesh writes one in those of the capture."
                )
        # The bounds of the first batch are those of all others; Nerfstudio's division may give none at all.
        self.dynamic_num_rays_per_batch = self._bounded(self.dynamic_num_rays_per_batch)
        self._update_pixel_samplers()
        self.trained_rays = 0
        self.trained_samples = 0
        self.world_size = world_size
        self._averaged_gradients: list[bool] = []
        self._average_gradients()

    @property
    def _finer_model(self) -> FinerModel:
        return cast(FinerModel, self.model)

    def _look_at_the_scene(self, test_mode: Literal["test", "val", "inference"]) -> None:
        """Choose the rays that cost least, and see to it that they meet the scene before anything is trained."""
        datamanager = self.datamanager
        if datamanager.train_pixel_sampler is None:
            return
        cameras = datamanager.train_dataset.cameras.to(self.device)
        rays = SubpixelRays(cameras)
        datamanager.train_ray_generator = rays  # pyright: ignore[reportAttributeAccessIssue]
        if test_mode == "val" and isinstance(datamanager, SceneBatches):
            require_lenses(datamanager.train_dataparser_outputs, datamanager.train_ray_generator)
            if self.config.model.depth_loss_weight > 0:
                datamanager.read_depths()
            elif any(datamanager.train_dataparser_outputs.metadata.get("depths", [])):
                Notes().tell("There are depth maps: --pipeline.model.depth-loss-weight 0.1 trains on them too.")
            if not self.model.unbounded:
                pictures = datamanager.training_pictures()
                require_sight(datamanager.train_dataparser_outputs, pictures, datamanager.train_ray_generator)

    def _average_gradients(self) -> None:
        """Have the backward pass average the gradients of all processes, and start all with the same weights.

        The wrapper that does it keeps to the weights that were trained when it was made: others, such as those of a
        field that grew since, would silently go another way in every process.
        """
        if self.world_size == 1:
            return
        trained = [parameter.requires_grad for parameter in self.model.parameters()]
        if trained == self._averaged_gradients:
            return
        self._model = self.model
        gc.collect()  # the hooks of an earlier wrapper go with it
        wrapper = DistributedDataParallel(
            self._model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            find_unused_parameters=True,  # Nerfstudio's models have one that only says where they are
            broadcast_buffers=False,  # the grid sees to its own
        )
        self._model = cast(Model, wrapper)
        self._averaged_gradients = trained

    def get_train_loss_dict(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        self._average_gradients()
        self._supersample()
        outputs, loss_dict, metrics_dict = super().get_train_loss_dict(step)
        rays = outputs["rgb"].shape[0]
        all_rays = distributed.total(rays, self.device)
        if rays * self.world_size != all_rays:
            # Some process had to leave out rays: each counts with as many as it has in the mean of all.
            loss_dict = {name: loss * (rays * self.world_size / all_rays) for name, loss in loss_dict.items()}
        self.trained_rays += int(all_rays) * self._finer_model.rays_of_pixel
        return outputs, loss_dict, metrics_dict

    def _supersample(self) -> None:
        """Give pixels as many rays as the model now wants, and fewer pixels to a step that has more rays for each."""
        rays = self.datamanager.train_ray_generator
        if not isinstance(rays, SubpixelRays):
            return
        wanted = self._finer_model.training_supersampling
        if wanted != rays.across:
            self.dynamic_num_rays_per_batch = self._bounded(
                self.dynamic_num_rays_per_batch * rays.across**2 / wanted**2
            )
            self._update_pixel_samplers()
            rays.across = wanted

    def get_eval_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        outputs, loss_dict, metrics_dict = super().get_eval_loss_dict(step)
        # Nerfstudio's table on the terminal has a column for this, which nothing else fills.
        writer.put_scalar(writer.EventName.CURR_TEST_PSNR, metrics_dict["psnr"], step)  # pyright: ignore[reportArgumentType]
        return outputs, loss_dict, metrics_dict

    def _update_dynamic_num_rays_per_batch(self, num_samples_per_batch: int) -> None:
        all_samples = distributed.total(num_samples_per_batch, self.device)
        self.trained_samples += int(all_samples)
        samples = max(1.0, all_samples / self.world_size)
        target = self.config.target_num_samples * (_MORE_WITHOUT_END if self.model.unbounded else 1)
        rays = self.dynamic_num_rays_per_batch * target / samples
        # At most doubling a step keeps one batch of empty sky from asking for a flood of rays.
        self.dynamic_num_rays_per_batch = self._bounded(min(rays, 2 * self.dynamic_num_rays_per_batch))

    def _bounded(self, rays: float) -> int:
        """As many pixels as have so many rays, within bounds."""
        return int(max(16, min(rays, self.config.max_num_rays // self._finer_model.rays_of_pixel)))

    @torch.no_grad()
    def test_quality(self, *, seconds: float) -> Quality:
        """Measure on test views, evenly spread, as many as can be rendered in about this time; at least one.

        Args:
            seconds: that rendering may take.

        Raises:
            InputError: where the test views cannot be read.
        """
        datamanager = self.datamanager
        views = datamanager.dataset_type(
            dataparser_outputs=datamanager.dataparser.get_dataparser_outputs(split="test"),
            scale_factor=datamanager.config.camera_res_scale_factor,
        )
        counted = [index for index in range(len(views)) if not isinstance(views, SceneImages) or views.counts(index)]
        if not counted:
            raise InputError("the masks leave no pixel of any test view.")
        self.eval()
        start = time.perf_counter()
        measured = [self._view_quality(views, counted[0])]
        affordable = max(1, int(seconds / max(time.perf_counter() - start, 1e-3)))
        for number in evenly(len(counted), min(affordable, len(counted)))[1:]:
            measured.append(self._view_quality(views, counted[number]))
        self.train()
        means = {name: sum(view[name] for view in measured) / len(measured) for name in measured[0]}
        return Quality(means["psnr"], means["ssim"], len(measured), len(counted))

    def _view_quality(self, views: Any, index: int) -> dict[str, float]:
        rendered = self.model.get_outputs_for_camera(views.cameras[index : index + 1].to(self.device))["rgb"]
        data, rgb = views[index], rendered.clamp(0.0, 1.0)
        image, counted = over_white(data["image"].to(self.device)), counted_pixels(data, rgb)
        return {"psnr": float(metrics.psnr(rgb, image, counted)), "ssim": float(metrics.ssim(rgb, image, counted))}

    def get_average_eval_image_metrics(self, step: int | None = None, *args: Any, **kwargs: Any) -> dict[str, Any]:
        with exit_on_input_error():
            means = super().get_average_eval_image_metrics(step, *args, **kwargs)
            if step is None:  # ns-eval's call, which says where it saved the numbers, but not what they are
                views = len(self.datamanager.eval_dataset)
                terminal.say(str(Quality(means["psnr"], means["ssim"], views, views)))
        return means

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        with exit_on_input_error():
            broken = [
                name
                for name, value in loaded_state.items()
                if isinstance(value, Tensor) and not bool(torch.isfinite(value).all())
            ]
            if broken:
                raise InputError(
                    f"this checkpoint of step {step} holds NaN or infinite numbers ({broken[0]}): training had "
                    f"diverged. Take an earlier one, or train anew with a lower --optimizers.fields.optimizer.lr."
                )
            try:
                super().load_pipeline(loaded_state, step)
            except RuntimeError as error:
                first_line = str(error).strip().splitlines()[-1].strip().rstrip(".")
                raise InputError(
                    f"this checkpoint does not fit the configured model ({first_line}): it comes from other "
                    f"--pipeline.model options or another method than {self.config.model.field.method}."
                ) from error


@dataclass
class CountedPipelineConfig(VanillaPipelineConfig):
    """Pipeline of another method, with counts."""

    _target: type = field(default_factory=lambda: CountedPipeline)


class CountedPipeline(VanillaPipeline):
    """Nerfstudio's pipeline, which counts the rays that it trains and the samples of its field."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        prepare_processor()
        with exit_on_input_error():
            super().__init__(*args, **kwargs)
        self.trained_rays = 0
        self.trained_samples = 0

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
        outputs, losses, metrics = super().get_train_loss_dict(step)
        rays = outputs["rgb"].shape[0]
        self.trained_rays += rays
        self.trained_samples += rays * outputs["weights_list"][-1].shape[1]
        return outputs, losses, metrics
