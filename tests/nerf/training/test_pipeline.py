"""The pipeline on a scene of three blank pictures."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager
from PIL import Image

from finer_nerfstudio.nerf.configs import finer_sine
from finer_nerfstudio.nerf.training.pipeline import FinerPipeline, FinerPipelineConfig


def write_scene(folder: Path, *names: str, **content: object) -> None:
    """The pictures 0.png, 1.png and 2.png of 8x8 pixels, listed in files of the names ``names``."""
    frames = []
    for index in range(3):
        Image.new("RGB", (8, 8)).save(folder / f"{index}.png")
        matrix = np.eye(4)
        matrix[:3, 3] = (0.1 * index, 0.0, 2.0)
        frames.append({"file_path": f"{index}.png", "transform_matrix": matrix.tolist()})
    for name in names:
        (folder / name).write_text(json.dumps({"frames": frames, **content}))


def pipeline_config(scene: Path) -> FinerPipelineConfig:
    config = copy.deepcopy(finer_sine.config.pipeline)
    assert isinstance(config, FinerPipelineConfig)
    config.datamanager.data = scene
    config.model.field.width = 8
    config.model.grid_resolution = 8
    return config


@pytest.mark.parametrize(
    ("target", "per_ray", "most", "expected"), [(100, 192, 1000, 16), (6144, 192, 1000, 32), (6144, 1, 1000, 1000)]
)
def test_the_first_batch_keeps_to_the_bounds_of_all(
    tmp_path: Path, target: int, per_ray: int, most: int, expected: int
) -> None:
    write_scene(tmp_path, "transforms_train.json", "transforms_val.json", camera_angle_x=0.7)
    config = pipeline_config(tmp_path)
    config.target_num_samples, config.max_num_samples_per_ray, config.max_num_rays = target, per_ray, most
    pipeline = config.setup(device="cpu")
    assert isinstance(pipeline, FinerPipeline)
    assert pipeline.dynamic_num_rays_per_batch == expected
    rays, batch = pipeline.datamanager.next_train(0)
    assert len(rays) == len(batch["image"]) == expected


def test_batches_are_those_of_nerfstudio(tmp_path: Path) -> None:
    write_scene(tmp_path, "transforms_train.json", "transforms_val.json", camera_angle_x=0.7)
    data = pipeline_config(tmp_path).setup(device="cpu").datamanager
    sampler = data.train_pixel_sampler
    count = sampler.num_rays_per_batch
    torch.manual_seed(1)
    steps = [data.next_train(0) for _ in range(8)]
    sampler.set_num_rays_per_batch(8 * count)  # which are drawn together
    torch.manual_seed(1)
    expected_rays, expected_batch = VanillaDataManager.next_train(data, 0)
    for name in ("origins", "directions", "camera_indices"):
        assert torch.equal(torch.cat([getattr(rays, name) for rays, _ in steps]), getattr(expected_rays, name))
    assert all(len(rays) == count and batch.keys() == expected_batch.keys() for rays, batch in steps)
    for name, values in expected_batch.items():
        assert torch.equal(torch.cat([batch[name] for _, batch in steps]), values)
    assert data.train_count == 9


def test_pixels_are_drawn_anew_where_steps_change(tmp_path: Path) -> None:
    write_scene(tmp_path, "transforms_train.json", "transforms_val.json", camera_angle_x=0.7)
    pipeline = pipeline_config(tmp_path).setup(device="cpu")
    data = pipeline.datamanager
    sampler, generator = data.train_pixel_sampler, data.train_ray_generator
    for count, across in ((20, 1), (50, 1), (50, 2), (30, 2), (200, 1)):
        sampler.set_num_rays_per_batch(count)
        generator.across = across
        for _ in range(3):
            rays, batch = data.next_train(0)
            assert len(batch["indices"]) == len(batch["image"]) == count
            assert len(rays) == count * across**2
            assert torch.equal(rays.directions, generator(batch["indices"]).directions)


@pytest.mark.parametrize("damaged", [0, 2])
def test_a_damaged_picture_of_a_capture_is_named(
    tmp_path: Path, damaged: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scene(tmp_path, "transforms.json", w=8, h=8, fl_x=9.0, fl_y=9.0, cx=4.0, cy=4.0)
    (tmp_path / f"{damaged}.png").write_text("not a picture")
    with pytest.raises(SystemExit) as stop:
        pipeline_config(tmp_path).setup(device="cpu")
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert f"{damaged}.png" in message
    assert "cannot be read as an image" in message
