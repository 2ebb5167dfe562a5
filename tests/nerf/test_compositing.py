"""A fixed number of colours gives what as many as are needed give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from finer_nerfstudio.inr.methods import preset
from finer_nerfstudio.nerf.captured.march import PaddedSegments, Steps, march, walk_of
from finer_nerfstudio.nerf.compositing import composite, counts_of, leading_places, sums_along_rays
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
