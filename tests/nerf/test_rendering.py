"""Pictures by Nerfstudio's commands: colours behind what is cut out, lenses of all kinds, and endless exports."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox, SceneBox
from nerfstudio.model_components import renderers

from finer_nerfstudio.nerf import compiled_compositing, rendering
from finer_nerfstudio.nerf.field import FinerFieldConfig
from finer_nerfstudio.nerf.model import FinerModel, FinerModelConfig
from finer_nerfstudio.nerf.training.opaque_rays import OpaqueRays

BOX = SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))
COLOR = torch.tensor([0.1, 0.5, 0.9])


def make_model(*, unbounded: bool = False) -> FinerModel:
    torch.manual_seed(0)
    config = FinerModelConfig(
        field=FinerFieldConfig(width=8),
        samples_per_ray=32,
        grid_resolution=8,
        unbounded="yes" if unbounded else "no",
    )
    return FinerModel(config, scene_box=BOX, num_train_data=4).eval()


def camera(kind: CameraType = CameraType.PERSPECTIVE) -> Cameras:
    """Three units in front of the origin, which the middle of the middle pixel shows."""
    pose = torch.eye(4)[None, :3]
    pose[0, 2, 3] = 3.0
    return Cameras(pose, fx=9.0, fy=9.0, cx=7.5, cy=5.5, width=15, height=11, camera_type=kind)


@pytest.mark.parametrize("unbounded", [False, True])
def test_the_colour_of_a_camera_path_is_behind_what_it_cuts_out(unbounded: bool) -> None:
    """What ns-render camera-path does with crop_bg_color, and the viewer with its crop."""
    model = make_model(unbounded=unbounded)
    box = OrientedBox.from_params((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5))
    white = model.get_outputs_for_camera(camera(), obb_box=box)
    with renderers.background_color_override_context(COLOR):
        colored = model.get_outputs_for_camera(camera(), obb_box=box)
    missed = white["accumulation"].squeeze(-1) == 0
    assert 0 < int(missed.sum()) < missed.numel()
    torch.testing.assert_close(colored["rgb"][missed], COLOR.expand(int(missed.sum()), 3))
    through = 1.0 - white["accumulation"]
    torch.testing.assert_close(colored["rgb"], white["rgb"] - through + through * COLOR, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.get_outputs_for_camera(camera(), obb_box=box)["rgb"], white["rgb"])


@pytest.mark.parametrize("unbounded", [False, True])
def test_a_fish_eye_renders_its_axis(unbounded: bool) -> None:
    outputs = make_model(unbounded=unbounded).get_outputs_for_camera(camera(CameraType.FISHEYE))
    for name in ("rgb", "depth", "accumulation"):
        assert bool(torch.isfinite(outputs[name]).all()), name
    middle = make_model(unbounded=unbounded).get_outputs_for_camera(camera())
    torch.testing.assert_close(outputs["rgb"][5, 7], middle["rgb"][5, 7])


def bundle(count: int) -> RayBundle:
    return RayBundle(
        origins=torch.tensor([[0.0, 0.0, 3.0]]).expand(count, 3),
        directions=torch.tensor([[0.0, 0.0, -1.0]]).expand(count, 3),
        pixel_area=torch.ones(count, 1),
        metadata={},
    )


def test_an_export_of_haze_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """A fresh field is haze; the hook counts what Nerfstudio's export of points draws."""
    model, hook = make_model(), OpaqueRays()
    model.register_forward_hook(hook)
    with torch.no_grad():
        model(bundle(1000))
        assert (hook.rays, hook.opaque) == (1000, 0)
        hook.rays = (1 << 18) - 10
        with pytest.raises(SystemExit) as stop:
            model(bundle(1000))
    assert stop.value.code == 1
    assert "never be enough" in capsys.readouterr().err


def test_an_export_of_an_empty_box_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model().eval()
    # Rays from (0, 0, 3) downwards: at 1 and 2 units.
    outputs = {"accumulation": torch.ones(2, 1), "depth": torch.tensor([[1.0], [2.0]])}

    def hook_of(center: tuple[float, float, float]) -> OpaqueRays:
        hook = OpaqueRays(OrientedBox.from_params(center, (0.0, 0.0, 0.0), (0.5, 0.5, 0.5)))
        hook.rays = 1 << 20
        return hook

    one = hook_of((0.0, 0.0, 2.0))
    one(model, (bundle(2),), outputs)
    assert one.opaque == 1
    with pytest.raises(SystemExit) as stop:
        hook_of((0.0, 0.0, 0.0))(model, (bundle(2),), outputs)
    assert stop.value.code == 1
    assert "choose another box" in capsys.readouterr().err


def test_an_export_of_something_opaque_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model, hook = make_model(), OpaqueRays()
    hook.rays, hook.opaque = 1 << 20, 600
    outputs = {"accumulation": torch.tensor([[0.1], [0.6], [1.0]])}
    hook(model, (), outputs)
    assert (hook.rays, hook.opaque) == ((1 << 20) + 3, 602)
    hook(model.train(), (), outputs)
    hook(model.eval(), (), {"accumulation": torch.zeros(4, 5, 1)})
    assert hook.rays == (1 << 20) + 3


@pytest.mark.parametrize("slab", [1, 3, 12])
def test_slabs_in_cpp_are_those_of_tensors(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    assert model.grid is not None
    model.grid.occupied = torch.rand(model.grid.occupied.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    monkeypatch.setattr(rendering, "_EVALUATION_SLAB", slab)
    compiled = model.get_outputs_for_camera(camera())
    assert float(compiled["occupancy"].max()) > 0
    monkeypatch.setattr(compiled_compositing, "_library", lambda: None)
    for name, values in model.get_outputs_for_camera(camera()).items():
        torch.testing.assert_close(values, compiled[name], atol=1e-5, rtol=0)
