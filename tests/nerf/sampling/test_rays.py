"""Rays of pinhole cameras against Nerfstudio's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.model_components.ray_generators import RayGenerator
from torch import Tensor

from finer_nerfstudio.nerf.sampling import rays as rays_module
from finer_nerfstudio.nerf.sampling.rays import (
    LensRays,
    PinholeRays,
    TabulatedRays,
    are_pinholes,
    bands_of_rays,
    camera_rays,
    fit_a_table,
    lenses_of,
)


def cameras(kind: CameraType = CameraType.PERSPECTIVE, distortion: Tensor | None = None) -> Cameras:
    generator = torch.Generator().manual_seed(0)
    rotations, _ = torch.linalg.qr(torch.randn(5, 3, 3, generator=generator))
    positions = torch.randn(5, 3, 1, generator=generator)
    spread = torch.rand(4, 5, 1, generator=generator)
    return Cameras(
        camera_to_worlds=torch.cat([rotations, positions], dim=2),
        fx=50 + 10 * spread[0],
        fy=40 + 10 * spread[1],
        cx=30 + 3 * spread[2],
        cy=20 + 3 * spread[3],
        width=64,
        height=48,
        distortion_params=distortion,
        camera_type=kind,
    )


def test_rays_are_those_of_nerfstudio() -> None:
    scene = cameras()
    assert are_pinholes(scene)
    generator = torch.Generator().manual_seed(1)
    indices = torch.stack(
        [torch.randint(n, (400,), generator=generator) for n in (5, 48, 64)],
        dim=-1,
    )
    ours, theirs = PinholeRays(scene)(indices), RayGenerator(scene)(indices)
    torch.testing.assert_close(ours.origins, theirs.origins)
    torch.testing.assert_close(ours.directions, theirs.directions, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.metadata["directions_norm"], theirs.metadata["directions_norm"])
    assert theirs.camera_indices is not None
    assert torch.equal(ours.camera_indices, theirs.camera_indices)


def test_other_lenses_are_left_to_nerfstudio() -> None:
    assert not are_pinholes(cameras(CameraType.FISHEYE))
    assert not are_pinholes(cameras(CameraType.EQUIRECTANGULAR))
    assert not are_pinholes(cameras(distortion=torch.tensor([0.1, 0.0, 0.0, 0.0, 0.0, 0.0]).expand(5, 6)))
    assert are_pinholes(cameras(distortion=torch.zeros(5, 6)))


def fisheye(center: tuple[float, float], distortion: tuple[float, ...] = ()) -> Cameras:
    rotations, _ = torch.linalg.qr(torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(3)))
    rotations = rotations * torch.linalg.det(rotations)[:, None, None]
    return Cameras(
        camera_to_worlds=torch.cat([rotations, torch.tensor([[[1.0], [2], [3]], [[0], [0], [4]]])], dim=2),
        fx=7.0,
        fy=8.0,
        cx=center[0],
        cy=center[1],
        width=15,
        height=11,
        distortion_params=torch.tensor(distortion).expand(2, 6) if distortion else None,
        camera_type=CameraType.FISHEYE,
    )


def true_fisheye_rays(cameras: Cameras, camera: int) -> np.ndarray:
    """Equidistant projection in double precision: the angle to the axis is the distance from the principal point."""
    x, y = np.meshgrid(np.arange(15) + 0.5, np.arange(11) + 0.5)
    x, y = (x - float(cameras.cx[0])) / 7.0, (y - float(cameras.cy[0])) / 8.0
    angle, turn = np.hypot(x, y), np.arctan2(-y, x)
    local = np.stack([np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), -np.cos(angle)], axis=-1)
    return local @ cameras.camera_to_worlds[camera, :3, :3].double().numpy().T


@pytest.mark.parametrize("distortion", [(), (1e-9, 0.0, 0.0, 0.0, 0.0, 0.0)])
@pytest.mark.parametrize("center", [(7.5, 5.5), (7.0, 5.0), (0.5, 0.5), (7.5, 5.0)])
def test_the_axis_of_a_fish_eye_is_a_ray(center: tuple[float, float], distortion: tuple[float, ...]) -> None:
    """Wherever the principal point lies, on the middle of a pixel too."""
    cameras = fisheye(center, distortion)
    rows, columns = torch.meshgrid(torch.arange(11), torch.arange(15), indexing="ij")
    for camera in range(2):
        expected = true_fisheye_rays(cameras, camera)
        indices = torch.stack([torch.full_like(rows, camera), rows, columns], dim=-1).reshape(-1, 3)
        drawn = LensRays(cameras)(indices)
        shown = camera_rays(cameras[camera : camera + 1])
        for rays in (drawn, shown):
            np.testing.assert_allclose(rays.directions.numpy().reshape(11, 15, 3), expected, atol=1e-6)
            assert rays.pixel_area is not None
            assert bool(torch.isfinite(rays.pixel_area).all())
            np.testing.assert_allclose(rays.metadata["directions_norm"], 1.0, atol=1e-6)


def test_rays_of_other_lenses_are_nerfstudios() -> None:
    for kind in (CameraType.PERSPECTIVE, CameraType.EQUIRECTANGULAR):
        scene = cameras(kind)
        expected = scene[:1].generate_rays(camera_indices=0, keep_shape=True)
        assert torch.equal(camera_rays(scene[:1]).directions, expected.directions)
        assert torch.equal(camera_rays(scene[0]).directions, expected.directions)


def test_a_crop_bounds_the_axis_of_a_fish_eye_too() -> None:
    scene = fisheye((7.5, 5.5))[1:]
    box = OrientedBox.from_params((0.0, 0.0, 4.0), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    rays = camera_rays(scene, box)
    assert rays.nears is not None
    assert rays.fars is not None
    # The camera stands in the middle of the box, whose faces are one unit away.
    reach = 1.0 / rays.directions.abs().amax(dim=-1)
    torch.testing.assert_close(rays.fars.squeeze(-1), reach)
    expected = fisheye((7.49, 5.49))[1:].generate_rays(camera_indices=0, keep_shape=True, obb_box=box)
    torch.testing.assert_close(rays.nears, expected.nears)


def test_a_pose_of_whole_numbers_has_rays_of_fractions() -> None:
    whole = Cameras(
        camera_to_worlds=torch.tensor([[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3]]]), fx=9.0, fy=9.0, cx=2.0, cy=2.0
    )
    rays = camera_rays(whole)
    assert rays.origins.dtype == rays.directions.dtype == torch.float32
    assert (rays.origins == torch.tensor([0.0, 0.0, 3.0])).all()


def mixed_cameras() -> Cameras:
    """Six cameras with three lenses, upright and lying, one of them a fish eye and one that sees all around."""
    generator = torch.Generator().manual_seed(3)
    rotations, _ = torch.linalg.qr(torch.randn(6, 3, 3, generator=generator))
    kinds = (CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.EQUIRECTANGULAR)
    lens = torch.tensor([0, 1, 0, 2, 1, 0])
    return Cameras(
        camera_to_worlds=torch.cat([rotations, torch.randn(6, 3, 1, generator=generator)], dim=2),
        fx=torch.tensor([40.0, 20.0, 12.0])[lens][:, None],
        fy=torch.tensor([41.0, 20.0, 12.0])[lens][:, None],
        cx=torch.tensor([16.3, 10.5, 12.0])[lens][:, None],
        cy=torch.tensor([12.1, 15.5, 6.0])[lens][:, None],
        width=torch.tensor([32, 20, 24])[lens][:, None],
        height=torch.tensor([24, 30, 12])[lens][:, None],
        distortion_params=torch.tensor(
            [[-0.1, 0.02, 0.0, 0.0, 1e-3, -2e-3], [0.03, -0.01, 2e-3, 0.0, 0.0, 0.0], [0.0] * 6]
        )[lens],
        camera_type=torch.tensor([kind.value for kind in kinds])[lens][:, None],
    )


def test_a_table_has_the_rays_of_every_lens() -> None:
    scene = mixed_cameras()
    assert fit_a_table(scene)
    lens, first = lenses_of(scene)
    assert len(first) == 3
    assert lens[first].tolist() == [0, 1, 2]
    assert len({(int(a), int(b)) for a, b in zip(lens, scene.camera_type, strict=True)}) == 3
    indices = torch.cat(
        [
            torch.cartesian_prod(torch.tensor([camera]), torch.arange(int(height)), torch.arange(int(width)))
            for camera, (height, width) in enumerate(zip(scene.height, scene.width, strict=True))
        ]
    )
    ours, theirs = TabulatedRays(scene)(indices), LensRays(scene)(indices)
    torch.testing.assert_close(ours.origins, theirs.origins)
    # The pixel of the fish eye whose middle lies on the axis, too, of which Nerfstudio has NaN.
    torch.testing.assert_close(ours.directions, theirs.directions, atol=2e-6, rtol=0)
    torch.testing.assert_close(ours.metadata["directions_norm"], theirs.metadata["directions_norm"])
    assert torch.equal(ours.camera_indices, theirs.camera_indices)


def test_what_no_table_can_hold() -> None:
    assert not fit_a_table(cameras(CameraType.VR180_L)), "its rays begin in many places"
    large = mixed_cameras()
    large.width = torch.full_like(large.width, 20_000)
    large.height = torch.full_like(large.height, 20_000)
    assert not fit_a_table(large)


@pytest.mark.parametrize(("rows_together", "heights"), [(1, [3, 3, 3, 2]), (2, [2, 2, 2, 2, 2, 1])])
def test_bands_are_a_picture_from_top_to_bottom(
    rows_together: int, heights: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rays_module, "_RAYS_OF_BAND", 3 * 15 + 7)
    scene = fisheye((7.5, 5.5), (0.01, 0.0, 0.0, 0.0, 0.0, 0.0))[1:]
    box = OrientedBox.from_params((0.0, 0.0, 4.0), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    bands, whole = list(bands_of_rays(scene, box, rows_together=rows_together)), camera_rays(scene, box)
    assert [len(band.origins) for band in bands] == heights
    assert whole.nears is not None
    for name in ("origins", "directions", "nears", "fars", "camera_indices"):
        assert torch.equal(torch.cat([getattr(band, name) for band in bands]), getattr(whole, name))


def test_a_band_has_at_least_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rays_module, "_RAYS_OF_BAND", 1)
    assert [tuple(band.shape) for band in bands_of_rays(cameras()[:1], rows_together=2)] == [(2, 64)] * 24


def test_a_table_is_made_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, indices = mixed_cameras(), torch.tensor([[0, 23, 31], [1, 29, 19], [3, 11, 23], [5, 7, 9]])
    expected = TabulatedRays(scene)(indices)
    monkeypatch.setattr(rays_module, "_RAYS_OF_BAND", 100)
    torch.testing.assert_close(TabulatedRays(scene)(indices).directions, expected.directions)
