"""The methods that ``ns-train`` lists. Every method is the same model with another row of the preset table."""

from __future__ import annotations

import torch
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.plugins.types import MethodSpecification

from finer_nerfstudio.inr.methods import RADIANCE_TUNING
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
    method: str, description: str, *, name: str | None = None, field: type[FinerFieldConfig] = FinerFieldConfig
) -> MethodSpecification:
    """A Nerfstudio method for ``method``, one of :data:`finer_nerfstudio.METHODS`.

    Args:
        method: whose row of the preset table it takes.
        description: what ``ns-train`` says of it.
        name: how ``ns-train`` calls it, unless just like that.
        field: kind of the field.
    """
    tuned = RADIANCE_TUNING[method]
    config = FinerTrainerConfig(
        method_name=name or method,
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
                field=field(method=method, omega_0=tuned.omega_0, s_0=tuned.s_0, omega_f=tuned.omega_f)
            ),
        ),
        optimizers={
            "fields": {
                "optimizer": AdamConfig(lr=tuned.learning_rate),
                "scheduler": DecayOverTrainingConfig(start_lr=tuned.start_learning_rate),
            },
            # Only with --pipeline.model.sampler proposal; nerfacto's.
            "proposal_networks": {"optimizer": AdamConfig(lr=1e-2), "scheduler": DecayOverTrainingConfig()},
        },
        # Nerfstudio's default listens on every network interface of the machine.
        viewer=ViewerConfig(websocket_host="127.0.0.1", num_rays_per_chunk=1 << 14),
        vis="viewer",
    )
    return MethodSpecification(config=config, description=description)


finer_sine = method_specification("finer-sine", "FINER++ Sine: variable-periodic sine radiance field; the fastest.")
finer_gauss = method_specification("finer-gauss", "FINER++ Gauss: variable-periodic Gaussian radiance field.")
finer_wavelet = method_specification(
    "finer-wavelet", "FINER++ Wavelet: variable-periodic complex Gabor wavelet radiance field."
)
siren = method_specification("siren", "Baseline: SIREN, sine activations with one frequency.")
gauss = method_specification("gauss", "Baseline: Gaussian activations.")
wire = method_specification("wire", "Baseline: WIRE, complex Gabor wavelet activations.")
pemlp = method_specification("pemlp", "Baseline: ReLU network with positional encoding (PEMLP).")
finer_sine_stream = method_specification(
    "finer-sine",
    "FINER++ Sine that grows in width while it trains, to be sent stage by stage (finer stream pack).",
    name="finer-sine-stream",
    field=GrowingFieldConfig,
)
finer_wavelet_stream = method_specification(
    "finer-wavelet",
    "FINER++ Wavelet that grows in width while it trains, to be sent stage by stage (finer stream pack).",
    name="finer-wavelet-stream",
    field=GrowingFieldConfig,
)
