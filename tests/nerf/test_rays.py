"""Rays of pinhole cameras against Nerfstudio's own."""

from __future__ import annotations

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.model_components.ray_generators import RayGenerator
from torch import Tensor

from finer_nerfstudio.nerf.rays import PinholeRays, are_pinholes


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
