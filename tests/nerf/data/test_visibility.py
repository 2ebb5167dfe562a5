"""What the cameras of a bounded scene see of its box."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.scene_box import SceneBox

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.data.visibility import require_sight, shown_pixels, sight_of
from finer_nerfstudio.nerf.sampling.rays import LensRays

BOX = np.array([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def views(target: np.ndarray, distance: float = 3.0, count: int = 12, spread: float = 1.0) -> Cameras:
    """Cameras that look at ``target`` from all around, or from nearly one direction."""
    generator = np.random.default_rng(0)
    poses = []
    for _ in range(count):
        back = np.array([0.0, 0.0, 1.0]) + spread * generator.normal(size=3)
        back /= np.linalg.norm(back)
        right = np.cross([0.3, 1.0, 0.2], back)
        right /= np.linalg.norm(right)
        poses.append(np.stack([right, np.cross(back, right), back, target + distance * back], axis=1))
    return Cameras(torch.from_numpy(np.stack(poses)).float(), fx=20.0, fy=20.0, cx=8.0, cy=8.0, width=16, height=16)


def outputs(cameras: Cameras, scale: float = 1.0) -> DataparserOutputs:
    box = SceneBox(aabb=torch.from_numpy(BOX).float())
    return DataparserOutputs(image_filenames=[], cameras=cameras, scene_box=box, dataparser_scale=scale)


def batch(cameras: Cameras, *, radius: float | None = None) -> dict[str, torch.Tensor]:
    """Blank pictures, opaque in a circle where ``radius`` is given."""
    row, column = torch.meshgrid(torch.arange(16) - 7.5, torch.arange(16) - 7.5, indexing="ij")
    alpha = (torch.hypot(row, column) < (99 if radius is None else radius)).float()
    image = torch.stack([0 * alpha, 0 * alpha, 0 * alpha, alpha], dim=-1)
    return {"image": image.expand(len(cameras), -1, -1, -1), "image_idx": torch.arange(len(cameras))}


@pytest.mark.parametrize("target", [(0.0, 0.0, 0.0), (0.6, -0.5, 0.3)])
def test_a_scene_in_its_box_gets_no_word(target: tuple[float, ...], capsys: pytest.CaptureFixture[str]) -> None:
    cameras = views(np.array(target))
    require_sight(outputs(cameras), batch(cameras, radius=3.0), LensRays(cameras))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("target", "spread"), [((10.0, 0, 0), 1.0), ((1.5, 0, 0), 1.0), ((0, 0, -4.0), 0.05)])
def test_an_object_outside_is_refused_even_where_rays_meet_the_box(target: tuple[float, ...], spread: float) -> None:
    cameras = views(np.array(target), spread=spread)
    with pytest.raises(InputError, match="outside of the box") as caught:
        require_sight(outputs(cameras, 0.5), batch(cameras, radius=3.0), LensRays(cameras))
    # In units of the file, which has not been halved.
    where = str(caught.value).split("look at (")[1].split(")")[0]
    np.testing.assert_allclose([float(x) for x in where.split(",")], 2 * np.array(target), atol=0.1)
    assert "reaches 2 units" in str(caught.value)


def test_no_ray_at_all_is_refused_without_a_common_point() -> None:
    """Cameras side by side, which look away from the box."""
    pose = torch.eye(4)[:3].repeat(4, 1, 1)
    pose[:, 0, 3] = torch.arange(4.0)
    pose[:, 2, 3] = -5.0
    cameras = Cameras(pose, fx=20.0, fy=20.0, cx=8.0, cy=8.0, width=16, height=16)
    with pytest.raises(InputError, match="0% of the rays"):
        require_sight(outputs(cameras), batch(cameras), LensRays(cameras))


def test_a_scene_that_sticks_out_of_its_box_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    cameras = views(np.zeros(3), distance=8.0)
    require_sight(outputs(cameras), batch(cameras), LensRays(cameras))
    said = capsys.readouterr().out
    assert said.startswith("Only ")
    share = float(said.split("%")[0].removeprefix("Only "))
    bundle = LensRays(cameras)(torch.cartesian_prod(torch.arange(12), torch.arange(16), torch.arange(16)))
    steps = torch.linspace(0, 20, 2001)
    reached = (bundle.origins[:, None] + bundle.directions[:, None] * steps[:, None]).abs().amax(-1) <= 1
    assert share == pytest.approx(100 * float(reached.any(dim=1).float().mean()), abs=1.5)


def test_what_is_transparent_or_masked_is_not_looked_at() -> None:
    cameras = views(np.zeros(3), count=3)
    pictures = batch(cameras, radius=2.0)
    shown = shown_pixels(pictures)
    assert bool((torch.hypot(*(shown[:, 1:].T - 7.5)) < 2).all())
    assert set(shown[:, 0].tolist()) == {0, 1, 2}
    mask = torch.ones(3, 16, 16, 1, dtype=torch.bool)
    mask[1] = False
    assert set(shown_pixels({**pictures, "mask": mask})[:, 0].tolist()) == {0, 2}
    with pytest.raises(InputError, match="show nothing"):
        require_sight(outputs(cameras), {**pictures, "mask": ~mask.any() & mask}, LensRays(cameras))


def test_cameras_that_look_everywhere_have_no_common_point() -> None:
    generator = np.random.default_rng(1)
    directions = generator.normal(size=(40, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    origins = 0.3 * generator.normal(size=(40, 3))
    sight = sight_of(origins, directions, np.arange(40), BOX)
    assert sight.target is None
    assert sight.share == 1.0


def test_rays_along_a_face_of_the_box() -> None:
    origins = np.array([[1.0, 0.0, 3.0], [1.0 + 1e-9, 0.0, 3.0], [0.0, 0.0, 3.0]])
    sight = sight_of(origins, np.tile([[0.0, 0.0, -1.0]], (3, 1)), np.arange(3), BOX)
    assert sight.share == pytest.approx(2 / 3)
