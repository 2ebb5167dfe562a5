"""A fixed number of colours gives what as many as are needed give."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from finer_nerfstudio.inr.methods import preset
from finer_nerfstudio.nerf.captured.march import PaddedSegments, Steps, march, walk_of
from finer_nerfstudio.nerf.compositing import composite, counts_of, leading_places, ray_weights, sums_along_rays
from finer_nerfstudio.nerf.radiance import Radiance, initial_networks

BOX = torch.tensor([[-1.0] * 3, [1.0] * 3])
STEPS = Steps(columns=64, resolution=8, length=2.0 * 3.0**0.5 / 64, near_plane=0.05)


def scene(method: str) -> tuple[Radiance, Tensor, Tensor, PaddedSegments]:
    generator = torch.Generator().manual_seed(0)
    networks = initial_networks(preset(method, "nerf"), width=16, density_depth=2, color_depth=1, generator=generator)
    with torch.no_grad():
        networks[0].last.bias[0] += 5.0
    directions = torch.nn.functional.normalize(torch.randn(40, 3, generator=generator), dim=-1)
    origins = 0.3 * torch.randn(40, 3, generator=generator) - 2.0 * directions
    occupied = torch.rand(8**3, generator=generator) < 0.5
    segments = march(walk_of(origins, directions, torch.full((40,), 0.5), BOX, STEPS), occupied, STEPS, 40 * 64)
    return Radiance(*networks, BOX).double(), origins.double(), directions.double(), segments


def gradients(field: Radiance, rgb: Tensor) -> list[Tensor]:
    weights = torch.rand(rgb.shape, generator=torch.Generator().manual_seed(1), dtype=rgb.dtype)
    return list(torch.autograd.grad((weights * rgb).sum(), list(field.parameters()), allow_unused=True))


@pytest.mark.parametrize("method", ["finer-sine", "finer-wavelet"])
def test_colours_and_gradients_are_the_same_whatever_there_is_room_for(method: str) -> None:
    field, origins, directions, segments = scene(method)
    free = composite(field, origins, directions, segments, weight_threshold=1e-2)
    needed = int(free.colored.sum())
    assert 0 < needed < int(segments.counts.sum())
    assert torch.equal(free.colored, counts_of(free.weights > 1e-2, segments.counts))
    expected = gradients(field, free.rgb)
    for room in (needed, needed + 7, len(segments.lengths)):
        fixed = composite(field, origins, directions, segments, weight_threshold=1e-2, most_colored=room)
        torch.testing.assert_close(fixed.rgb, free.rgb)
        assert torch.equal(fixed.colored, free.colored)
        for got, wanted in zip(gradients(field, fixed.rgb), expected, strict=True):
            torch.testing.assert_close(got, wanted)


def test_rays_whose_colours_fit_are_right_where_others_do_not_fit() -> None:
    field, origins, directions, segments = scene("finer-sine")
    free = composite(field, origins, directions, segments, weight_threshold=1e-2)
    room = int(free.colored.sum()) // 2
    fixed = composite(field, origins, directions, segments, weight_threshold=1e-2, most_colored=room)
    whole = free.colored.cumsum(0) <= room
    assert 0 < int(whole.sum()) < 40
    torch.testing.assert_close(fixed.rgb[whole], free.rgb[whole])


def test_leading_places_are_distinct_and_in_order() -> None:
    chosen = torch.rand(100, generator=torch.Generator().manual_seed(0)) < 0.3
    wanted = chosen.nonzero().squeeze(1)
    for count in (1, 10, len(wanted), 60, 100):
        places = leading_places(chosen, count)
        known = min(count, len(wanted))
        assert torch.equal(places[:known], wanted[:known])
        assert torch.equal(places[known:], torch.arange(known, count))


def test_sums_leave_out_what_is_behind_the_last_ray() -> None:
    values = torch.rand(10, 2, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([3, 0, 4])
    sums = sums_along_rays(values, counts)
    torch.testing.assert_close(sums, torch.stack([values[:3].sum(0), torch.zeros(2).double(), values[3:7].sum(0)]))
    assert torch.autograd.gradcheck(lambda v: sums_along_rays(v, counts), values)


@pytest.mark.skipif(
    not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1",
    reason="without a GPU, the interpreter's process runs this",
)
@pytest.mark.parametrize("counts", [[0], [1], [3, 0, 130, 64, 1, 0, 65]])
def test_the_kernels_weights_and_gradients_are_those_of_float64(counts: list[int]) -> None:
    from finer_nerfstudio.nerf import triton_compositing

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(sum(counts))
    number, padding = torch.tensor(counts), 5
    # From thin air to walls.
    thickness = 10.0 ** (7.0 * torch.rand(sum(counts) + padding, generator=generator) - 6.0)
    grad = torch.randn(len(thickness), generator=generator)
    weight, behind = triton_compositing.weights(thickness.to(device), number.to(device))
    found = triton_compositing.gradient(grad.to(device), weight, behind, number.to(device))
    total = sum(counts)
    wide = thickness[:total].double().requires_grad_()
    rays = torch.repeat_interleave(torch.arange(len(counts)), number)
    expected = ray_weights(wide, rays, number)
    expected.backward(grad[:total].double())
    torch.testing.assert_close(weight[:total].double().cpu(), expected.detach(), rtol=2e-5, atol=1e-7)
    torch.testing.assert_close(found[:total].double().cpu(), wide.grad, rtol=1e-4, atol=2e-6)
    assert not bool(weight[total:].any())
    assert not bool(found[total:].any())
