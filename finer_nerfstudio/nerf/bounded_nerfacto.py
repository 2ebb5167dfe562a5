"""Nerfstudio's ``nerfacto`` for synthetic scenes, with this package's data, clock and counts: what to compare with.

Not among the methods that ``ns-train`` lists; ``NERFSTUDIO_METHOD_CONFIGS`` puts it there (see
``finer compare``).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.configs.method_configs import method_configs
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.model_components.scene_colliders import NearFarCollider
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from nerfstudio.plugins.types import MethodSpecification
from nerfstudio.utils import colormaps
from torch import Tensor, nn

from finer_nerfstudio.nerf.data.alpha import over_white
from finer_nerfstudio.nerf.data.batches import SceneBatches
from finer_nerfstudio.nerf.data.dataparser import BlenderViewsDataParserConfig
from finer_nerfstudio.nerf.data.images import counted_pixels
from finer_nerfstudio.nerf.training.pipeline import CountedPipelineConfig
from finer_nerfstudio.nerf.training.trainer import FinerTrainerConfig
from finer_nerfstudio.runs.metrics import view_metrics


@dataclass
class BoundedNerfactoConfig(NerfactoModelConfig):
    """Nerfacto, measured as this package's fields are."""

    _target: type = field(default_factory=lambda: BoundedNerfacto)


class BoundedNerfacto(NerfactoModel):
    """Nerfacto, measured as this package's fields are."""

    def populate_modules(self) -> None:
        # It would fetch weights from the network for a metric of its own.
        with mock.patch("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", return_value=nn.Identity()):
            super().populate_modules()
        # Trained from the near plane on, it has learned nothing nearer, where evaluation would begin.
        self.collider = NearFarCollider(self.config.near_plane, self.config.far_plane, reset_near_plane=False)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        image = over_white(batch["image"].to(self.device))
        rgb = outputs["rgb"].clamp(0.0, 1.0)
        images = {
            "img": torch.cat([image, rgb], dim=1),
            "accumulation": colormaps.apply_colormap(outputs["accumulation"]),
            "depth": colormaps.apply_depth_colormap(outputs["depth"], accumulation=outputs["accumulation"]),
        }
        return view_metrics(rgb, image, counted_pixels(batch, rgb)), images


def specification() -> MethodSpecification:
    """``nerfacto`` as of Nerfstudio, for what has bounds and a white background.

    Its hash grids and networks, its losses and its optimisers are its own. Without surroundings there is nothing to
    contract; the cameras of synthetic scenes are exact and their exposure is one, so that poses and appearances are not
    learned. Batches are of 1,024 rays: with 4,096, a processor would not reach 200 steps in fifteen minutes.
    """
    own = copy.deepcopy(method_configs["nerfacto"])
    assert isinstance(own, TrainerConfig)
    scale = BlenderViewsDataParserConfig().scale_factor
    cuda = torch.cuda.is_available()
    config = FinerTrainerConfig(
        method_name="bounded-nerfacto",
        machine=MachineConfig(device_type="cuda" if cuda else "cpu"),
        mixed_precision=cuda,
        max_num_iterations=own.max_num_iterations,
        pipeline=CountedPipelineConfig(
            datamanager=VanillaDataManagerConfig(
                _target=SceneBatches,
                dataparser=BlenderViewsDataParserConfig(),
                train_num_rays_per_batch=4096 if cuda else 1024,
                eval_num_rays_per_batch=1024,
            ),
            model=BoundedNerfactoConfig(
                implementation="torch",
                near_plane=2.0 * scale,  # cameras of Blender-format scenes stand four units from the middle
                far_plane=6.0 * scale,
                disable_scene_contraction=True,
                proposal_initial_sampler="uniform",
                background_color="white",
                use_appearance_embedding=False,
                camera_optimizer=CameraOptimizerConfig(mode="off"),
                average_init_density=0.01,
                eval_num_rays_per_chunk=1 << 12,
            ),
        ),
        optimizers={name: parts for name, parts in own.optimizers.items() if name != "camera_opt"},
        viewer=ViewerConfig(websocket_host="127.0.0.1", num_rays_per_chunk=1 << 12),
        vis="viewer",
    )
    return MethodSpecification(
        config=config, description="Nerfstudio's nerfacto (torch) for bounded scenes over white: a baseline."
    )
