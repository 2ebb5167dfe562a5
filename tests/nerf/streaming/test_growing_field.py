"""The field that grows: what was trained stays what it was, to the bit, and what is new is all that is trained."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor
from torch.nn import functional as F

from finer_nerfstudio import METHODS
from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.nerf.model import FinerModel, FinerModelConfig
from finer_nerfstudio.nerf.streaming.growing_field import GrowingField, GrowingFieldConfig
from finer_nerfstudio.nerf.training.trainer import ExponentialDecay

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def make_model(method: str = "finer-sine", widths: tuple[int, ...] = (8, 14, 20)) -> FinerModel:
    torch.manual_seed(0)
    config = FinerModelConfig(
        field=GrowingFieldConfig(method=method, widths=widths), samples_per_ray=32, grid_resolution=8
    )
    return FinerModel(config, scene_box=SceneBox(aabb=BOX), num_train_data=4)


def growing(field: object) -> GrowingField:
    assert isinstance(field, GrowingField)
    return field


def points(seed: int = 0, count: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(count, 3, generator=generator) * 2 - 1
    return positions, F.normalize(torch.randn(count, 3, generator=generator), dim=-1)


@torch.no_grad()
def seen(field: GrowingField, stages: int | None = None) -> Tensor:
    positions, directions = points()
    shown = field.rendered(stages)
    hidden = shown.hidden_features(positions)
    return torch.cat([shown.density(hidden)[:, None], shown.color(hidden, directions)], dim=1)


def train(model: FinerModel, steps: int) -> None:
    field = growing(model.field)
    optimizer = torch.optim.AdamW(field.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        positions, directions = points(seed=step + 1)
        hidden = field.hidden_features(positions)
        color = field.color(hidden, directions)
        loss = (field.density(hidden) - positions.norm(dim=-1)).square().mean() + (color - 0.3).square().mean()
        loss.backward()
        optimizer.step()
        model.averaged_field.update_parameters(field)


@pytest.mark.parametrize("method", METHODS)
def test_earlier_stages_stay_what_they_were_to_the_bit(method: str) -> None:
    model = make_model(method)
    field, averaged = growing(model.field), growing(model.averaged_field.module)
    shown = [seen(averaged)]
    for progress, stages in ((0.0, 1), (0.34, 2), (0.67, 3)):
        model.grow_until(progress)
        assert field.active == averaged.active == stages
        # A widening by itself shows nothing new, apart from the rounding of a wider product.
        torch.testing.assert_close(seen(averaged), shown[-1], rtol=1e-4, atol=1e-5)
        train(model, 8)
        shown.append(seen(averaged))
        assert not torch.allclose(shown[-1], shown[-2]), "this stage has learnt nothing"
        for i, before in enumerate(shown[1:]):
            assert torch.equal(seen(averaged, i + 1), before)
            if i + 1 < stages:  # what is frozen are the averaged weights
                assert torch.equal(seen(field, i + 1), before)


@pytest.mark.parametrize("method", ["finer-sine", "wire"])
def test_only_the_newest_stage_has_gradients(method: str) -> None:
    model = make_model(method)
    model.grow_until(0.5)
    field = growing(model.field)
    train(model, 1)
    for network in (field.density_net, field.color_net):
        for i, stage in enumerate(network.stages):
            assert all((parameter.grad is not None) == (i == 1) for parameter in stage.parameters())


@pytest.mark.parametrize("encoding", ["raw", "spherical-harmonics"])
def test_stages_and_the_network_that_stands_for_them_agree(encoding: str) -> None:
    config = GrowingFieldConfig(method="finer-wavelet", widths=(8, 14, 20), direction_encoding=encoding)  # pyright: ignore[reportArgumentType]
    field = config.setup(aabb=2 * BOX, generator=torch.Generator().manual_seed(0))
    for parameter in field.parameters():  # new columns are zero at first
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    positions, directions = points()
    for stages in (1, 2, 3):
        field.activate(stages)
        hidden = field.hidden_features(positions)
        expected = torch.cat([field.density(hidden)[:, None], field.color(hidden, directions)], dim=1)
        torch.testing.assert_close(seen(field), expected.detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(field.density_at(positions), expected[:, 0])


def test_a_checkpoint_remembers_how_far_the_field_had_grown() -> None:
    model, other = make_model(), make_model()
    model.grow_until(0.5)
    train(model, 2)
    other.load_state_dict(model.state_dict())
    assert growing(other.field).active == growing(other.averaged_field.module).active == 2
    assert torch.equal(seen(growing(other.field)), seen(growing(model.field)))
    other.grow_until(0.4)
    assert growing(other.field).active == 2, "a stage is never taken back"


def test_shells_hold_the_biases_of_their_stage() -> None:
    config = GrowingFieldConfig(method="finer-sine", widths=(8, 16, 24), bias_range=0.5)
    for network in (config.setup(aabb=BOX).density_net, config.setup(aabb=BOX).color_net):
        for i, stage in enumerate(network.stages):
            magnitude = stage.first.bias.detach().abs()
            assert float(magnitude.min()) >= 0.5 * i
            assert float(magnitude.max()) <= 0.5 * (i + 1)
    config.shells = False
    assert all(stage.first.bias.abs().max() <= 0.5 for stage in config.setup(aabb=BOX).density_net.stages)


def test_the_learning_rate_starts_anew_with_every_stage() -> None:
    decay = ExponentialDecay(0.1)
    decay.restarts = (0.25, 0.5)
    rates = []
    for decay.progress in (0.0, 0.2499, 0.25, 0.4999, 0.5, 1.0):
        rates.append(decay(0))
    assert rates == pytest.approx([1.0, 0.1, 1.0, 0.1, 1.0, 0.1], rel=2e-3)


def test_the_slider_of_widths_picks_what_fits_and_has_been_trained() -> None:
    model = make_model()
    field = growing(model.field)
    assert model.panel.width is not None
    assert (model.panel.width.min, model.panel.width.max) == (8, 20)
    assert field.stages_within(20) == 1, "the others are not trained yet"
    model.grow_until(1.0)
    assert [field.stages_within(width) for width in (8, 13, 14, 19, 20)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"widths": ()}, "at least one"),
        ({"widths": (20, 20)}, "must increase"),
        ({"widths": (0, 20)}, "must increase"),
        ({"widths": (8, 10**9)}, "65,536"),
        ({"widths": (8, 16), "grow_at": (0.2, 0.4)}, "grow-at must be 1"),
        ({"widths": (8, 16), "grow_at": (1.0,)}, "between 0 and 1"),
        ({"widths": (8, 16), "grow_at": (float("nan"),)}, "between 0 and 1"),
        ({"widths": (8, 12, 16), "grow_at": (0.5, 0.4)}, "increasing"),
        ({"method": "finer-wavelet", "widths": (8, 10, 11)}, "add a unit"),
    ],
)
def test_impossible_growth_is_refused_in_a_sentence(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        GrowingFieldConfig(**options).setup(aabb=BOX)  # pyright: ignore[reportArgumentType]
