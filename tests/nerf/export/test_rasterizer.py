"""The PyTorch rasteriser against a loop over pixels, gsplat's own projection, and gsplat's kernels where they run."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from finer_nerfstudio.nerf.data.views import View
from finer_nerfstudio.nerf.export import harmonics, rasterizer
from finer_nerfstudio.nerf.export.rasterizer import rasterize, world_to_camera
from finer_nerfstudio.nerf.export.splats import Splats, rotation_matrices


def a_view(size: int = 24) -> View:
    """From the side and above, at the origin."""
    angle, height = 0.7, 0.5
    back = np.array([math.cos(angle) * math.cos(height), math.sin(angle) * math.cos(height), math.sin(height)])
    right = np.array([-math.sin(angle), math.cos(angle), 0.0])
    pose = np.stack([right, np.cross(back, right), back, 3.0 * back], axis=1)
    focal = 1.1 * size
    return View(size, size + 4, (focal, 1.05 * focal), (0.5 * size + 1, 0.5 * size - 1), tuple(pose.flatten().tolist()))


def some_splats(count: int = 40, dtype: torch.dtype = torch.float64) -> Splats:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    scales = -2.0 + 0.5 * normal(count, 3)
    means = 0.5 * normal(count, 3)
    means[0] = torch.tensor([10.0, 10.0, 10.0])  # behind the camera
    return Splats(means, normal(count, 3), normal(count, 4), scales, normal(count), 0.3 * normal(count, 9, 3))


def by_hand(splats: Splats, view: View) -> np.ndarray:
    """Every pixel on its own, through all splats front to back, as the paper has it: ``[height, width, 4]``."""
    pose = np.array(view.pose).reshape(3, 4)
    flip = np.diag([1.0, -1.0, -1.0])
    rotation = (pose[:, :3] @ flip).T
    drawn = []
    for i in range(len(splats)):
        x, y, z = rotation @ (splats.means[i].numpy() - pose[:, 3])
        if z <= rasterizer.NEAR:
            continue
        fx, fy = view.focal
        jacobian = np.array([[fx / z, 0, -fx * x / z**2], [0, fy / z, -fy * y / z**2]])
        axes = rotation_matrices(splats.rotations)[i].numpy() * splats.log_scales[i].exp().numpy()
        flat = jacobian @ rotation @ axes
        covariance = flat @ flat.T + 0.3 * np.eye(2)
        kept = math.sqrt(np.linalg.det(flat @ flat.T) / np.linalg.det(covariance))
        along = splats.means[i].numpy() - pose[:, 3]
        color = harmonics.colors(splats.harmonics[i : i + 1], torch.from_numpy(along / np.linalg.norm(along))[None])[0]
        middle = np.array([fx * x / z + view.center[0], fy * y / z + view.center[1]])
        opacity = kept / (1.0 + math.exp(-float(splats.opacity_logits[i])))
        drawn.append((z, middle, np.linalg.inv(covariance), opacity, color.numpy()))
    drawn.sort(key=lambda splat: splat[0])
    picture = np.zeros((view.height, view.width, 4))
    for row in range(view.height):
        for column in range(view.width):
            left = 1.0
            for _, middle, inverse, opacity, color in drawn:
                off = np.array([column + 0.5, row + 0.5]) - middle
                alpha = min(0.999, opacity * math.exp(-0.5 * off @ inverse @ off))
                if alpha >= 1.0 / 255.0:
                    picture[row, column] += left * alpha * np.array([*color, 1.0])
                    left *= 1.0 - alpha
    return picture


def test_every_pixel_blends_its_splats_front_to_back() -> None:
    splats, view = some_splats(), a_view()
    color, alpha = rasterize(splats, view)
    expected = by_hand(splats, view)
    assert 0.2 < expected[..., 3].mean() < 0.95, "the picture is neither empty nor full"
    np.testing.assert_allclose(color.numpy(), expected[..., :3], atol=1e-9)
    np.testing.assert_allclose(alpha.numpy(), expected[..., 3], atol=1e-9)


def test_parts_of_a_picture_are_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    splats, view = some_splats(), a_view()
    whole = rasterize(splats, view)
    monkeypatch.setattr(rasterizer, "_PAIRS_AT_ONCE", 300)
    parts = rasterize(splats, view)
    assert torch.allclose(whole[0], parts[0], atol=1e-12)
    assert torch.allclose(whole[1], parts[1], atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    splats, view = some_splats(6), a_view(12)
    names = ("means", "rotations", "log_scales", "opacity_logits", "harmonics")
    weights = torch.rand(view.height, view.width, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def total(change: dict[str, torch.Tensor]) -> torch.Tensor:
        color, alpha = rasterize(replace(splats, **change), view)
        return (color * weights).sum() + (alpha * weights[..., 0]).sum()

    for name in names:
        value = getattr(splats, name).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(total({name: value}), value)
        step = 1e-6 * torch.randn(value.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
        difference = total({name: value.detach() + step}) - total({name: value.detach() - step})
        assert float(difference) == pytest.approx(2.0 * float((gradient * step).sum()), rel=1e-3), name


def test_nothing_in_view_is_an_empty_picture() -> None:
    splats = some_splats(1)
    color, alpha = rasterize(splats, a_view())
    assert color.abs().sum() == alpha.abs().sum() == 0.0


def test_projection_is_that_of_gsplat() -> None:
    """What gsplat holds its own kernels against; both also where the slope is held, outside the picture."""
    implementation = pytest.importorskip("gsplat.cuda._torch_impl")
    splats, view = some_splats(dtype=torch.float32), a_view()
    splats.means[1:] *= 2.0
    splats.opacity_logits[:] = 4.0
    matrix = torch.eye(4)
    matrix[:3] = world_to_camera(view, splats.means)[0]
    (fx, fy), (cx, cy) = view.focal, view.center
    intrinsics = torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    radii, places, _, conics, kept = implementation._fully_fused_projection(
        splats.means,
        splats.covariances(),
        matrix[None],
        intrinsics[None],
        view.width,
        view.height,
        calc_compensations=True,
    )
    rows, columns = torch.meshgrid(torch.arange(view.height) + 0.5, torch.arange(view.width) + 0.5, indexing="ij")
    seen = 0
    for i in (radii[0] > 0).nonzero().flatten().tolist():
        dx, dy = columns - places[0, i, 0], rows - places[0, i, 1]
        a, b, c = conics[0, i]
        opacity = kept[0, i] * torch.sigmoid(splats.opacity_logits[i])
        expected = opacity * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
        expected[expected < 1.0 / 255.0] = 0.0
        alone = Splats(*(getattr(splats, name)[i : i + 1] for name in Splats.__dataclass_fields__))
        _, alpha = rasterize(alone, view)
        assert torch.allclose(alpha, expected.clamp(max=0.999), atol=5e-3), i
        seen += 1
    assert seen > 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat's kernels need CUDA")
def test_pictures_are_those_of_the_kernels() -> None:
    from finer_nerfstudio.nerf.export.gsplat_rasterizer import rasterize_with_gsplat, rasterizer_for

    splats, view = some_splats(dtype=torch.float32).to("cuda"), a_view(64)
    draw, why = rasterizer_for(splats)
    if draw is not rasterize_with_gsplat:
        pytest.skip(why)
    for own, kernels in zip(rasterize(splats, view), draw(splats, view), strict=True):
        # The kernels end a Gaussian after three standard deviations, where it has an opacity of 0.01 at most.
        assert (own - kernels).abs().mean() < 5e-3
