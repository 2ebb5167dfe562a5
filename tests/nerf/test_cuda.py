"""The same scene on a GPU and on the processor."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.scene_box import SceneBox
from torch.nn import functional as F

from finer_nerfstudio import METHODS
from finer_nerfstudio.nerf.configs import finer_sine
from finer_nerfstudio.nerf.data.batches import SceneBatches
from finer_nerfstudio.nerf.data.dataparser import BlenderViewsDataParserConfig
from finer_nerfstudio.nerf.field import FinerFieldConfig
from finer_nerfstudio.nerf.model import FinerModel, FinerModelConfig
from finer_nerfstudio.nerf.sampling.rays import PinholeRays
from finer_nerfstudio.reproduction.radiance.programs import train, training_summary

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def make_model(method: str) -> FinerModel:
    torch.manual_seed(0)
    config = FinerModelConfig(
        field=FinerFieldConfig(method=method, width=48, omega_0=None), samples_per_ray=128, grid_resolution=32
    )
    return FinerModel(config, scene_box=SceneBox(aabb=BOX), num_train_data=4)


def rays(device: str, count: int = 512) -> RayBundle:
    generator = torch.Generator().manual_seed(1)
    directions = F.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    targets = 0.6 * (torch.rand(count, 3, generator=generator) * 2 - 1)
    return RayBundle(
        origins=(targets - 3.0 * directions).to(device),
        directions=directions.to(device),
        pixel_area=torch.ones(count, 1, device=device),
        metadata={},
    )


def with_some_empty_cells(model: FinerModel) -> FinerModel:
    assert model.grid is not None
    model.grid.occupied = torch.rand(model.grid.occupied.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    return model


@pytest.mark.parametrize("method", METHODS)
def test_pictures_agree(method: str) -> None:
    on_processor = with_some_empty_cells(make_model(method)).eval()
    on_gpu = copy.deepcopy(on_processor).to("cuda").eval()
    with torch.no_grad():
        expected, got = on_processor.get_outputs(rays("cpu")), on_gpu.get_outputs(rays("cuda"))
    for name in ("rgb", "depth", "accumulation", "occupancy"):
        difference = (got[name].cpu() - expected[name]).abs()
        # A sample on the border of a cell may fall to either side, which few rays notice.
        assert float(difference.median()) < 1e-4, name
        assert float((difference > 1e-2).float().mean()) < 0.02, name


@pytest.mark.parametrize("method", METHODS)
def test_gradients_agree(method: str) -> None:
    gradients = []
    for device in ("cpu", "cuda"):
        model = make_model(method).to(device)
        bundle = rays(device)
        positions = bundle.origins + 3.0 * bundle.directions
        hidden = model.field.hidden_features(positions)
        loss = model.field.density(hidden).mean() + model.field.color(hidden, bundle.directions).square().mean()
        parameters = [parameter for parameter in model.field.parameters() if parameter.requires_grad]
        gradients.append([gradient.cpu() for gradient in torch.autograd.grad(loss, parameters, allow_unused=True)])
    for got, expected in zip(gradients[1], gradients[0], strict=True):
        assert float((got - expected).norm()) <= 2e-3 * float(expected.norm()) + 1e-7


def test_pixels_may_be_drawn_on_the_processor() -> None:
    cameras = Cameras(torch.eye(4)[None, :3].repeat(2, 1, 1), fx=50.0, fy=50.0, cx=16.0, cy=16.0, width=32, height=32)
    pixels = torch.tensor([[0, 3, 4], [1, 30, 2]])
    expected, got = PinholeRays(cameras)(pixels), PinholeRays(cameras).to("cuda")(pixels)
    torch.testing.assert_close(got.directions.cpu(), expected.directions)
    assert got.origins.is_cuda


def test_batches_are_sent_and_trained_without_waiting_but_for_three_counts(lego: Path, tmp_path: Path) -> None:
    """See the test of the model's own part, which needs no GPU."""
    config: Any = copy.deepcopy(finer_sine.config)
    config.output_dir, config.vis, config.captured_steps = tmp_path, "tensorboard", "no"
    config.pipeline.datamanager = VanillaDataManagerConfig(
        _target=SceneBatches, data=lego, dataparser=BlenderViewsDataParserConfig(train_view_stride=25)
    )
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    for step in range(20):  # kernels are compiled, and checked, in the first ones
        trainer.train_iteration(step)
        trainer.pipeline.model.averaged_field.follow(trainer.pipeline.model.field)
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.train_iteration(20)
            trainer.pipeline.model.averaged_field.follow(trainer.pipeline.model.field)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert 1 <= len([wait for wait in waits if "synchroniz" in str(wait.message)]) <= 3


@pytest.mark.parametrize("sampler", ["occupancy", "proposal"])
def test_training_goes_through(sampler: str, lego: Path, tmp_path: Path) -> None:
    config = train(
        "finer-sine",
        lego,
        tmp_path,
        options=[
            *("--max-num-iterations", "60", "--vis", "tensorboard", "--pipeline.model.sampler", sampler),
            *("--steps-per-eval-batch", "50", "--steps-per-eval-image", "0"),
        ],
        parser_options=["--train-view-stride", "25"],
    )
    summary = training_summary(config)
    assert summary is not None
    assert summary["device"].startswith("cuda")
    assert summary["steps"] == 60
