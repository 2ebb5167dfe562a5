"""The model on a scene with a known answer: rendering, its backgrounds, its averaged weights, and the panel."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from finer_nerfstudio import METHODS
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf import compiled_compositing
from finer_nerfstudio.nerf import model as model_module
from finer_nerfstudio.nerf.data.alpha import over, over_white
from finer_nerfstudio.nerf.field import FinerFieldConfig
from finer_nerfstudio.nerf.model import FinerModel, FinerModelConfig
from finer_nerfstudio.nerf.sampling import marching

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def make_model(method: str = "finer-sine", *, width: int = 24, samples_per_ray: int = 64) -> FinerModel:
    torch.manual_seed(0)
    config = FinerModelConfig(
        field=FinerFieldConfig(method=method, width=width), samples_per_ray=samples_per_ray, grid_resolution=16
    )
    return FinerModel(config, scene_box=SceneBox(aabb=BOX), num_train_data=4)


def rays(count: int = 64, seed: int = 1) -> RayBundle:
    generator = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    targets = 0.6 * (torch.rand(count, 3, generator=generator) * 2 - 1)
    return RayBundle(
        origins=targets - 3.0 * directions, directions=directions, pixel_area=torch.ones(count, 1), metadata={}
    )


def render(model: FinerModel, bundle: RayBundle | None = None) -> dict[str, Tensor]:
    model.eval()
    with torch.no_grad():
        return model.get_outputs(rays() if bundle is None else bundle)


@contextmanager
def inside_the_viewer(**values: float) -> Iterator[None]:
    """Make the model believe that the viewer's rendering thread asks."""
    with mock.patch.object(model_module, "viewer_thread", return_value=mock.MagicMock()):
        yield


def test_evaluation_agrees_with_float64_quadrature_of_the_field() -> None:
    model = make_model()
    bundle = rays(16)
    got = render(model, bundle)
    field = copy.deepcopy(model.averaged_field.module).double()
    assert model.grid is not None
    step = model.grid.step_length
    for ray in range(16):
        origin, direction = bundle.origins[ray].double(), bundle.directions[ray].double()
        planes = (BOX.double() - origin) / direction
        near, far = float(planes.amin(0).amax().clamp(min=0.05)), float(planes.amax(0).amin())
        distances = near + (torch.arange(1000, dtype=torch.float64) + 0.5) * step
        distances = distances[distances - near < far - near]
        hidden = field.hidden_features(origin + distances[:, None] * direction)  # pyright: ignore[reportCallIssue]
        optical = field.density(hidden).double() * step  # pyright: ignore[reportCallIssue]
        transmittance = torch.exp(-(optical.cumsum(0) - optical))
        weights = transmittance * (1.0 - torch.exp(-optical))
        color = field.color(hidden, direction.expand(len(distances), 3)).double()  # pyright: ignore[reportCallIssue]
        expected = (weights[:, None] * color).sum(0) + 1.0 - weights.sum()
        # Colour of samples below the weight threshold (1e-3 each in evaluation) is left out.
        skipped = weights[weights <= 1e-3].sum()
        assert (got["rgb"][ray].double() - expected).abs().max() <= float(skipped) + 2e-3
        assert abs(float(got["accumulation"][ray]) - float(weights.sum())) <= 2e-3


@pytest.mark.parametrize("method", METHODS)
def test_every_method_renders_and_learns(method: str) -> None:
    model = make_model(method)
    model.train()
    outputs = model.get_outputs(rays())
    image = torch.rand(64, 4, generator=torch.Generator().manual_seed(2))
    loss = model.get_loss_dict(outputs, {"image": image})["rgb_loss"]
    loss.backward()
    for name, parameter in model.field.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    pictures = render(model)
    assert ((pictures["rgb"] >= 0) & (pictures["rgb"] <= 1 + 1e-5)).all()
    assert ((pictures["normals"] >= 0) & (pictures["normals"] <= 1)).all()


def test_training_fits_a_half_transparent_grey_from_rays_alone() -> None:
    """A constant RGBA target: random backgrounds leave alpha 0.5 as the only explanation."""
    model = make_model(samples_per_ray=32)
    optimizer = torch.optim.Adam(model.field.parameters(), lr=2e-3)
    target = torch.tensor([0.2, 0.6, 0.4, 0.5]).expand(64, 4)
    for step in range(150):
        model.train()
        outputs = model.get_outputs(rays(seed=step))
        loss = model.get_loss_dict(outputs, {"image": target})["rgb_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.averaged_field.update_parameters(model.field)
    pictures = render(model, rays(seed=1000))
    assert abs(float(pictures["accumulation"].mean()) - 0.5) < 0.05
    torch.testing.assert_close(pictures["rgb"].mean(0), over_white(target[0]), atol=0.05, rtol=0)
    rgba = model.get_rgba_image(pictures)
    torch.testing.assert_close(rgba[:, :3].mean(0), target[0, :3], atol=0.1, rtol=0)


def test_fog_is_sampled_a_third_as_often_and_rendered_as_ever() -> None:
    model = make_model(samples_per_ray=96)

    def samples(step: int) -> int:
        for callback in model.get_training_callbacks(None):  # pyright: ignore[reportArgumentType]
            callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        assert model.grid is not None
        model.grid.occupied.fill_(True)
        model.train()
        return int(model.get_outputs(rays(256))["num_samples_per_batch"])

    early, before = samples(1), render(model)
    late, after = samples(model.config.grid_warmup_steps), render(model)
    assert late / early == pytest.approx(3.0, rel=0.05)
    torch.testing.assert_close(before["rgb"], after["rgb"])


def test_compositing() -> None:
    image = torch.tensor([[1.0, 0.0, 0.5, 0.25]])
    torch.testing.assert_close(over(image, torch.tensor([[0.0, 1.0, 1.0]])), torch.tensor([[0.25, 0.75, 0.875]]))
    torch.testing.assert_close(over_white(image), torch.tensor([[1.0, 0.75, 0.875]]))
    torch.testing.assert_close(over_white(image[:, :3]), image[:, :3])


def test_background_differs_from_step_to_step_and_only_in_training() -> None:
    model = make_model()
    batch = {"image": torch.zeros(64, 4)}
    model.train()
    with torch.no_grad():
        outputs = model.get_outputs(rays())
    first, second = (float(model.get_loss_dict(outputs, batch)["rgb_loss"]) for _ in range(2))
    assert first != second
    model.eval()
    first, second = (float(model.get_loss_dict(outputs, batch)["rgb_loss"]) for _ in range(2))
    assert first == second


def test_evaluation_uses_the_averaged_weights() -> None:
    model = make_model()
    before = render(model)["rgb"]
    with torch.no_grad():
        for parameter in model.field.parameters():
            parameter.mul_(0.5)
    torch.testing.assert_close(render(model)["rgb"], before, rtol=0, atol=0)
    old = [parameter.clone() for parameter in model.averaged_field.module.parameters()]
    # The first update of an average takes the weights as they are.
    model.averaged_field.n_averaged.fill_(10)
    model.averaged_field.update_parameters(model.field)
    for averaged, was, now in zip(model.averaged_field.module.parameters(), old, model.field.parameters(), strict=True):
        torch.testing.assert_close(averaged, 0.95 * was + 0.05 * now)


def test_samples_of_a_training_step_are_bounded() -> None:
    model = make_model()
    model.config.max_samples_per_batch = 500
    model.train()
    outputs = model.get_outputs(rays(200))
    assert outputs["num_samples_per_batch"] <= 500
    assert 0 < outputs["rgb"].shape[0] < 200
    # The loss pairs the rays that were kept with their own pixels.
    assert torch.isfinite(model.get_loss_dict(outputs, {"image": torch.rand(200, 4)})["rgb_loss"])


class Waits(TorchDispatchMode):
    """Notes the operations whose answer a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = func.overloadpacket.__name__
        if operation in ("_local_scalar_dense", "nonzero", "bincount", "masked_select", "_unique2", "equal"):
            self.met.append(operation)
        return func(*args, **(kwargs or {}))


def test_a_training_step_asks_three_times_how_many_there_are() -> None:
    """Of rays that fit, of samples on them, and of samples with a colour: a GPU idles after every answer."""
    model = make_model()
    assert model.grid is not None
    model.grid.occupied = torch.rand(model.grid.occupied.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    model.train()
    for _ in range(2):  # which ask whether there is an average yet
        model.averaged_field.follow(model.field)
    batch = {"image": torch.rand(64, 4)}
    # Without the ways of processors.
    marched = mock.patch.object(marching, "available", return_value=False)
    composited = mock.patch.object(compiled_compositing, "usable", return_value=False)
    with marched, composited, Waits() as waits:
        outputs = model.get_outputs(rays())
        metrics = model.get_metrics_dict(outputs, batch)
        model.get_loss_dict(outputs, batch, metrics)["rgb_loss"].backward()
        model.averaged_field.follow(model.field)
    assert waits.met == ["_local_scalar_dense", "nonzero", "nonzero"]


def test_the_panel_changes_the_viewers_picture_and_no_other() -> None:
    model = make_model()
    plain = render(model)["rgb"]
    model.panel.bias_from.value, model.panel.bias_to.value = 0, 30
    torch.testing.assert_close(render(model)["rgb"], plain, rtol=0, atol=0)
    with inside_the_viewer():
        banded = render(model)["rgb"]
    assert (banded - plain).abs().max() > 1e-3

    # The band is what silencing those neurons by hand gives.
    by_hand = copy.deepcopy(model.averaged_field)
    magnitude = model.field.rendered().density_net.first.bias.detach().abs()
    silenced = magnitude > 0.3 * magnitude.max()
    assert 0 < int(silenced.sum()) < len(silenced)
    with torch.no_grad():
        by_hand.get_parameter("module.density_net.hidden.0.weight")[:, silenced] = 0.0
    model.averaged_field = by_hand
    torch.testing.assert_close(render(model)["rgb"], banded, atol=1e-5, rtol=0)


def test_a_full_band_is_the_whole_network() -> None:
    model = make_model("finer-wavelet")
    plain = render(model)["rgb"]
    with inside_the_viewer():
        torch.testing.assert_close(render(model)["rgb"], plain, rtol=0, atol=0)


def test_rendering_leaves_training_untouched() -> None:
    """Weights, grid and the state of every random source are the same after pictures were taken."""

    def train(with_pictures: bool) -> dict[str, Tensor]:
        model = make_model()
        optimizer = torch.optim.Adam(model.field.parameters(), lr=1e-3)
        for step in range(6):
            model.train()
            assert model.grid is not None
            model.grid.update(model.field.density_at, everywhere=True, generator=model.generator(torch.device("cpu")))
            outputs = model.get_outputs(rays(seed=step))
            loss = model.get_loss_dict(outputs, {"image": torch.full((64, 4), 0.3)})["rgb_loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.averaged_field.update_parameters(model.field)
            if with_pictures:
                with inside_the_viewer():
                    model.panel.bias_to.value = 20
                    render(model)
        return {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}

    plain, watched = train(False), train(True)
    for key, value in plain.items():
        assert torch.equal(value, watched[key]), key


def test_state_of_another_method_is_refused() -> None:
    state = make_model("siren").state_dict()
    with pytest.raises(InputError, match="siren"):
        make_model("finer-sine").load_state_dict(state)


def test_state_of_other_scales_is_refused() -> None:
    narrow = make_model("gauss")
    narrow.config.field.s_0 = 10.0
    with pytest.raises(InputError, match=r"s_0 = 10, not s_0 = 30.*--pipeline\.model\.field"):
        make_model("gauss").load_state_dict(narrow.state_dict())
    without = make_model("gauss").state_dict()
    del without["_extra_state"]["scales"]  # as older checkpoints have it
    make_model("gauss").load_state_dict(without)
    assert make_model("pemlp").get_extra_state()["scales"] == ""


def test_normals_point_against_the_gradient_of_density() -> None:
    model = make_model()
    field = model.field.rendered().double()
    points = 0.8 * (torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 2 - 1)
    h = 1e-6
    gradient = torch.stack(
        [
            (field.density_net(points + h * axis)[:, 0] - field.density_net(points - h * axis)[:, 0]) / (2 * h)
            for axis in torch.eye(3, dtype=torch.float64)
        ],
        dim=-1,
    )
    expected = -F.normalize(gradient, dim=-1)
    torch.testing.assert_close(field.normals_at(points).double(), expected, atol=1e-4, rtol=0)
