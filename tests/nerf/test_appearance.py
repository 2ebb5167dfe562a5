"""Codes of pictures: what differs from picture to picture is theirs, and everything else is seen by their mean."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.nerf.field import FinerField, FinerFieldConfig
from finer_nerfstudio.nerf.model import FinerModel, FinerModelConfig
from finer_nerfstudio.nerf.streaming.growing_field import GrowingFieldConfig

BOX = torch.tensor([[-1.0] * 3, [1.0] * 3])
EXPOSURES = torch.tensor([0.4, 0.7, 1.0])


def make_model(appearance_dim: int, *, unbounded: str = "yes") -> FinerModel:
    torch.manual_seed(0)
    config = FinerModelConfig(
        field=FinerFieldConfig(method="finer-sine", width=16),
        samples_per_ray=32,
        grid_resolution=8,
        unbounded=unbounded,  # pyright: ignore[reportArgumentType]
        appearance_dim=appearance_dim,
        ema_decay=0.0,
    )
    return FinerModel(config, scene_box=SceneBox(aabb=BOX), num_train_data=3)


def bundle(picture: Tensor, seed: int) -> RayBundle:
    directions = torch.randn(len(picture), 3, generator=torch.Generator().manual_seed(seed))
    return RayBundle(
        origins=torch.zeros(len(picture), 3),
        directions=torch.nn.functional.normalize(directions, dim=-1),
        pixel_area=torch.ones(len(picture), 1),
        camera_indices=picture[:, None],
        metadata={},
    )


def trained(model: FinerModel, steps: int = 150) -> float:
    """The last losses of a model that sees the same grey through three exposures."""
    model.train()
    optimizer = torch.optim.Adam(model.field.parameters(), lr=5e-3)
    losses = []
    for step in range(steps):
        picture = torch.arange(96) % 3
        outputs = model.get_outputs(bundle(picture, step))
        shown = 0.8 * EXPOSURES[picture[: len(outputs["rgb"]), None]].expand(-1, 3)
        loss = model.get_loss_dict(outputs, {"image": shown})["rgb_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.averaged_field.follow(model.field)
    return sum(losses[-20:]) / 20


def test_codes_take_what_differs_between_pictures() -> None:
    without, model = trained(make_model(0)), make_model(4)
    assert trained(model) < 0.2 * without
    assert isinstance(model.field, FinerField)
    model.eval()
    rendered = model.get_outputs(bundle(torch.zeros(200, dtype=torch.long), 7))["rgb"].mean()
    assert 0.8 * 0.4 < float(rendered) < 0.8, "pictures are seen by the mean of all codes"
    with torch.no_grad():  # a change that leaves the mean
        model.averaged_field.module.codes.copy_(model.averaged_field.module.codes.roll(1, dims=0))  # pyright: ignore
    again = model.get_outputs(bundle(torch.zeros(200, dtype=torch.long), 7))["rgb"].mean()
    torch.testing.assert_close(again, rendered)


@pytest.mark.parametrize("unbounded", ["yes", "no"])
def test_a_ray_trains_the_code_of_its_own_picture_alone(unbounded: str) -> None:
    model = make_model(4, unbounded=unbounded).train()
    outputs = model.get_outputs(bundle(torch.ones(64, dtype=torch.long), 0))
    outputs["rgb"].square().sum().backward()
    assert isinstance(model.field, FinerField)
    assert model.field.codes is not None
    assert model.field.codes.grad is not None
    assert (model.field.codes.grad.abs().sum(dim=1) > 0).tolist() == [False, True, False]


def test_numbers_out_of_range_and_fields_that_grow_are_refused() -> None:
    for dim in (-1, 5000):
        with pytest.raises(UsageError, match="appearance-dim must lie between"):
            make_model(dim)
    with pytest.raises(UsageError, match="fields that do not grow"):
        GrowingFieldConfig(method="finer-sine").setup(aabb=BOX, codes=(3, 4))
    with pytest.raises(UsageError, match="encoding grid is for fields that do not grow"):
        GrowingFieldConfig(method="finer-sine", encoding="grid").setup(aabb=BOX)
