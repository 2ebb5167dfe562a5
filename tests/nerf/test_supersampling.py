"""Pixels that are the mean of several rays, in training and in pictures."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox

from finer_nerfstudio.demo.capture import DemoCapture, make_demo_capture
from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.nerf.configs import SPECIFICATIONS
from finer_nerfstudio.nerf.field import FinerFieldConfig
from finer_nerfstudio.nerf.model import FinerModel, FinerModelConfig
from finer_nerfstudio.nerf.sampling import rays
from finer_nerfstudio.nerf.sampling.rays import SubpixelRays
from finer_nerfstudio.nerf.training.pipeline import FinerPipeline, FinerPipelineConfig

BOX = torch.tensor([[-1.0] * 3, [1.0] * 3])
CAMERA = Cameras(
    camera_to_worlds=torch.eye(4)[None, :3],
    fx=14.0,
    fy=15.0,
    cx=8.3,
    cy=5.9,
    width=16,
    height=12,
    distortion_params=torch.tensor([[-0.1, 0.02, 0.0, 0.0, 1e-3, -2e-3]]),
)


def make_model(**options: object) -> FinerModel:
    torch.manual_seed(0)
    config = FinerModelConfig(
        field=FinerFieldConfig(method="finer-sine", width=16), samples_per_ray=32, grid_resolution=8, unbounded="yes"
    )
    for name, value in options.items():
        setattr(config, name, value)
    return FinerModel(config, scene_box=SceneBox(aabb=BOX), num_train_data=2)


def bundle(count: int) -> RayBundle:
    directions = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return RayBundle(
        origins=torch.zeros(count, 3),
        directions=torch.nn.functional.normalize(directions, dim=-1),
        pixel_area=torch.ones(count, 1),
        camera_indices=torch.zeros(count, 1, dtype=torch.long),
        metadata={},
    )


@pytest.mark.parametrize("across", [2, 3])
def test_rays_of_a_pixel_divide_it_equally(across: int) -> None:
    """The distortion of each ray puts it where it belongs, in double precision."""
    rays = SubpixelRays(CAMERA)
    rays.across = across
    indices = torch.cartesian_prod(torch.tensor([0]), torch.arange(12), torch.arange(16))
    seen = rays(indices)
    assert len(seen) == len(indices) * across**2
    local = seen.directions.double().numpy()
    x, y = local[:, 0] / -local[:, 2], local[:, 1] / local[:, 2]
    square = x * x + y * y
    radial = 1 + square * (-0.1 + 0.02 * square)
    column = 14.0 * (x * radial + 2 * 1e-3 * x * y - 2e-3 * (square + 2 * x * x)) + 8.3
    row = 15.0 * (y * radial + 1e-3 * (square + 2 * y * y) - 2 * 2e-3 * x * y) + 5.9
    within = (np.arange(across) + 0.5) / across
    pixels = indices.double().numpy()
    expected_rows = (pixels[:, 1, None, None] + within[:, None] + 0 * within).ravel()
    expected_columns = (pixels[:, 2, None, None] + 0 * within[:, None] + within).ravel()
    np.testing.assert_allclose(row, expected_rows, atol=2e-3)
    np.testing.assert_allclose(column, expected_columns, atol=2e-3)
    rays.across = 1
    np.testing.assert_allclose(
        rays(indices).directions.numpy(), SubpixelRays(CAMERA)(indices).directions.numpy(), atol=1e-6
    )


def test_a_pixel_of_training_is_the_mean_of_its_rays() -> None:
    model = make_model().train()
    alone = model.get_outputs(bundle(40))["rgb"]
    model._generators.clear()  # the same random samples again
    model.training_supersampling = 2
    together = model.get_outputs(bundle(40))
    torch.testing.assert_close(together["rgb"], alone.unflatten(0, (10, 4)).mean(dim=1), rtol=1e-3, atol=1e-4)
    loss = model.get_loss_dict(together, {"image": torch.rand(10, 3)})["rgb_loss"]
    assert torch.isfinite(loss)


@pytest.mark.parametrize("sampler", ["occupancy", "proposal"])
def test_a_budget_leaves_out_whole_pixels(sampler: str) -> None:
    model = make_model(max_samples_per_batch=500, sampler=sampler).train()
    model.training_supersampling = 2
    outputs = model.get_outputs(bundle(200))
    kept = len(outputs["rgb"])
    assert 0 < kept < 50
    assert outputs["num_samples_per_batch"] <= 500


def test_a_picture_is_the_mean_of_one_with_more_pixels() -> None:
    model = make_model().eval()
    finer = Cameras(
        camera_to_worlds=CAMERA.camera_to_worlds,
        fx=28.0,
        fy=30.0,
        cx=16.6,
        cy=11.8,
        width=32,
        height=24,
        distortion_params=CAMERA.distortion_params,
    )
    picture = model.get_outputs_for_camera(CAMERA)
    model.supersampling = 1
    large = model.get_outputs_for_camera(finer)
    for name in ("rgb", "depth", "accumulation"):
        blocks = large[name].view(12, 2, 16, 2, -1).mean(dim=(1, 3))
        torch.testing.assert_close(picture[name], blocks, rtol=1e-4, atol=1e-4)
    assert picture["rgb"].shape == (12, 16, 3)


def test_a_picture_in_bands_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model().eval()
    whole = model.get_outputs_for_camera(CAMERA)
    monkeypatch.setattr(rays, "_RAYS_OF_BAND", 5 * 32)
    for name, values in model.get_outputs_for_camera(CAMERA).items():
        torch.testing.assert_close(values, whole[name])


def test_pixels_get_their_rays_when_the_field_has_shape(tmp_path: Path) -> None:
    """The step that begins to supersample has fewer pixels, and as many rays."""
    small_capture = tmp_path / "capture"
    make_demo_capture(DemoCapture(output_dir=small_capture, width=24, views=9, supersampling=1))
    config = copy.deepcopy(cast(FinerPipelineConfig, SPECIFICATIONS["finer-sine"].config.pipeline))
    config.datamanager.dataparser.data = small_capture  # pyright: ignore[reportAttributeAccessIssue]
    config.datamanager.data = small_capture  # pyright: ignore[reportAttributeAccessIssue]
    config.model.field.width = 16
    config.target_num_samples = 2000
    config.model.supersampling_from = 2
    pipeline = config.setup(device="cpu", test_mode="val")
    assert isinstance(pipeline, FinerPipeline)
    model = cast(FinerModel, pipeline.model)
    callbacks = pipeline.get_training_callbacks(None)  # pyright: ignore[reportArgumentType]
    pixels, rays = [], []
    for step in range(4):
        for callback in callbacks:
            callback.run_callback(step)
        before = pipeline.trained_rays
        outputs, _, _ = pipeline.get_train_loss_dict(step)
        pixels.append(len(outputs["rgb"]))
        rays.append(pipeline.trained_rays - before)
    assert model.supersampling == 2
    assert rays[:2] == pixels[:2]
    assert rays[2:] == [4 * count for count in pixels[2:]]
    assert pixels[2] < 0.6 * pixels[1]


def test_numbers_out_of_range_are_refused() -> None:
    for number in (0, 9):
        with pytest.raises(UsageError, match="supersampling must lie between 1 and 8"):
            make_model(supersampling=number)
    assert make_model(unbounded="no").supersampling == 1
    with pytest.raises(UsageError, match="at most 512 in scenes without end, not 700"):
        make_model(grid_resolution=700)
