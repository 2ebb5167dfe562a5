"""The pipeline: as many rays per step as fill a sample budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nerfstudio.pipelines.dynamic_batch import DynamicBatchPipeline, DynamicBatchPipelineConfig
from nerfstudio.utils import writer
from PIL import UnidentifiedImageError
from torch import Tensor

from finer_nerfstudio.command_line import prepare_processor, sentence_instead_of_traceback
from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.nerf.model import FinerModelConfig


@dataclass
class FinerPipelineConfig(DynamicBatchPipelineConfig):
    """Pipeline of a FINER++ radiance field."""

    _target: type = field(default_factory=lambda: FinerPipeline)
    model: FinerModelConfig = field(default_factory=FinerModelConfig)
    """specifies the model config"""
    target_num_samples: int = 6_144
    """Samples that a training step aims at; the number of rays follows from how empty the scene has become."""
    max_num_samples_per_ray: int = 192
    """The first step has target-num-samples divided by this many rays."""
    max_num_rays: int = 1 << 14
    """Upper bound of rays in a training step."""


class FinerPipeline(DynamicBatchPipeline):
    """Nerfstudio's dynamic-batch pipeline with bounds on the number of rays, and readable errors."""

    config: FinerPipelineConfig

    def __init__(self, config: FinerPipelineConfig, *args: Any, **kwargs: Any) -> None:
        prepare_processor()
        with sentence_instead_of_traceback():
            for name in ("target_num_samples", "max_num_samples_per_ray", "max_num_rays"):
                if getattr(config, name) < 1:
                    option = name.replace("_", "-")
                    raise UsageError(f"--pipeline.{option} must be at least 1, not {getattr(config, name)}.")
            try:
                super().__init__(config, *args, **kwargs)
            except UnidentifiedImageError as error:  # from Nerfstudio's parsers, which look into the first image
                raise InputError(f"an image of the scene is damaged: {error}.") from error
        # The bounds of the first batch are those of all others; Nerfstudio's division may give none at all.
        self.dynamic_num_rays_per_batch = self._bounded(self.dynamic_num_rays_per_batch)
        self._update_pixel_samplers()
        self.trained_rays = 0
        self.trained_samples = 0

    def get_train_loss_dict(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        outputs, loss_dict, metrics_dict = super().get_train_loss_dict(step)
        self.trained_rays += outputs["rgb"].shape[0]
        self.trained_samples += metrics_dict["num_samples_per_batch"]
        return outputs, loss_dict, metrics_dict

    def get_eval_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        outputs, loss_dict, metrics_dict = super().get_eval_loss_dict(step)
        # Nerfstudio's table on the terminal has a column for this, which nothing else fills.
        writer.put_scalar(writer.EventName.CURR_TEST_PSNR, metrics_dict["psnr"], step)  # pyright: ignore[reportArgumentType]
        return outputs, loss_dict, metrics_dict

    def _update_dynamic_num_rays_per_batch(self, num_samples_per_batch: int) -> None:
        rays = self.dynamic_num_rays_per_batch * self.config.target_num_samples / max(1, num_samples_per_batch)
        # At most doubling a step keeps one batch of empty sky from asking for a flood of rays.
        self.dynamic_num_rays_per_batch = self._bounded(min(rays, 2 * self.dynamic_num_rays_per_batch))

    def _bounded(self, rays: float) -> int:
        return int(max(16, min(rays, self.config.max_num_rays)))

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        with sentence_instead_of_traceback():
            try:
                super().load_pipeline(loaded_state, step)
            except RuntimeError as error:
                first_line = str(error).strip().splitlines()[-1].strip().rstrip(".")
                raise InputError(
                    f"this checkpoint does not fit the configured model ({first_line}): it comes from other "
                    f"--pipeline.model options or another method than {self.config.model.field.method}."
                ) from error
