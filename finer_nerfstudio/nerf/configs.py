"""The methods that ``ns-train`` lists: the same model with each row of the registry."""

from __future__ import annotations

import torch
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.plugins.types import MethodSpecification

from finer_nerfstudio.inr.methods import METHODS, Method
from finer_nerfstudio.nerf.data.batches import SceneBatches
from finer_nerfstudio.nerf.data.dataparser import BlenderViewsDataParserConfig
from finer_nerfstudio.nerf.field import FinerFieldConfig
from finer_nerfstudio.nerf.model import FinerModelConfig
from finer_nerfstudio.nerf.streaming.growing_field import GrowingFieldConfig
from finer_nerfstudio.nerf.training.former_names import import_former_modules
from finer_nerfstudio.nerf.training.pipeline import FinerPipelineConfig
from finer_nerfstudio.nerf.training.trainer import AdamConfig, DecayOverTrainingConfig, FinerTrainerConfig
from finer_nerfstudio.nerf.training.uncaught import say_uncaught

# Every command of Nerfstudio loads the methods of plugins first.
say_uncaught()
import_former_modules()


def method_specification(
    method: Method,
    *,
    name: str | None = None,
    description: str | None = None,
    field: type[FinerFieldConfig] = FinerFieldConfig,
) -> MethodSpecification:
    """Return a Nerfstudio method.

    Args:
        method: whose row of the registry it takes.
        name: how ``ns-train`` calls it, unless like that.
        description: what ``ns-train`` says of it, unless that.
        field: kind of the field.
    """
    tuned = method.radiance
    config = FinerTrainerConfig(
        method_name=name or method.name,
        machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        max_num_iterations=37_500,
        steps_per_save=1000,
        steps_per_eval_batch=500,
        steps_per_eval_image=500,
        steps_per_eval_all_images=25_000,
        pipeline=FinerPipelineConfig(
            datamanager=VanillaDataManagerConfig(
                _target=SceneBatches,
                dataparser=BlenderViewsDataParserConfig(),
                train_num_rays_per_batch=4096,
                eval_num_rays_per_batch=1024,
            ),
            model=FinerModelConfig(
                field=field(method=method.name, omega_0=tuned.omega_0, s_0=tuned.s_0, omega_f=tuned.omega_f)
            ),
        ),
        optimizers={
            "fields": {
                "optimizer": AdamConfig(lr=tuned.learning_rate),
                "scheduler": DecayOverTrainingConfig(start_lr=tuned.start_learning_rate),
            },
            # Only in scenes without end, or with --pipeline.model.field.encoding grid.
            "feature_grid": {"optimizer": AdamConfig(lr=1e-2, eps=1e-7), "scheduler": DecayOverTrainingConfig()},
            # Only with --pipeline.model.camera-optimizer.mode and --pipeline.model.sampler proposal; nerfacto's.
            "camera_opt": {"optimizer": AdamConfig(lr=1e-3), "scheduler": DecayOverTrainingConfig()},
            "proposal_networks": {"optimizer": AdamConfig(lr=1e-2), "scheduler": DecayOverTrainingConfig()},
        },
        # Nerfstudio's default listens on every network interface of the machine.
        viewer=ViewerConfig(websocket_host="127.0.0.1", num_rays_per_chunk=1 << 14),
        vis="viewer",
    )
    return MethodSpecification(config=config, description=description or method.description)


def _specifications() -> dict[str, MethodSpecification]:
    found = {}
    for method in METHODS.values():
        found[method.name] = method_specification(method)
        if method.grows:
            name = f"{method.name}-stream"
            description = (
                f"{method.description.rstrip('.')}, growing in width to be sent in stages (finer stream pack)."
            )
            found[name] = method_specification(method, name=name, description=description, field=GrowingFieldConfig)
    return found


SPECIFICATIONS = _specifications()
"""Methods of this package that ``ns-train`` lists, by name."""


def __getattr__(name: str) -> MethodSpecification:
    """Return the method whose name is like that, with dashes: entry points are names of a module."""
    try:
        return SPECIFICATIONS[name.replace("_", "-")]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
