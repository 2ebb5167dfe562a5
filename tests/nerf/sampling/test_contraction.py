"""Space without end: its contraction, and the grid of its cells."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.field_components.spatial_distortions import SceneContraction
from torch import Tensor
from torch.nn import functional as F

from finer_nerfstudio.nerf.radiance import world_to_box
from finer_nerfstudio.nerf.sampling.contraction import contract, distance_at, expand, far_away, progress_at, shrinkage
from finer_nerfstudio.nerf.sampling.sampler import RayLimits
from finer_nerfstudio.nerf.sampling.unbounded_grid import UnboundedGrid

BOX = torch.tensor([[-1.0, -2.0, -0.5], [1.0, 1.0, 1.5]])


def positions(seed: int, count: int = 200) -> Tensor:
    """In and far outside the unit box, 1e-3 to 1e4 from its middle."""
    generator = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1)
    return directions * 10 ** (7 * torch.rand(count, 1, generator=generator, dtype=torch.float64) - 3)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_contraction_is_half_of_nerfstudios_and_has_an_inverse(seed: int) -> None:
    x = positions(seed)
    torch.testing.assert_close(contract(x), 0.5 * SceneContraction(order=float("inf"))(x))
    torch.testing.assert_close(expand(contract(x)), x, rtol=1e-9, atol=0)


def test_gradient_of_the_contraction() -> None:
    generator = torch.Generator().manual_seed(0)
    outside = 8 * torch.rand(20, 3, generator=generator, dtype=torch.float64) - 4
    x = torch.cat([outside, 0.2 * outside, torch.zeros(1, 3, dtype=torch.float64)]).requires_grad_()
    assert torch.autograd.gradcheck(contract, (x,))


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_shrinkage_is_of_lengths_that_point_away(seed: int) -> None:
    x = positions(seed)
    h = 1e-6
    shrunk = (contract(x * (1 + h)) - contract(x * (1 - h))).norm(dim=-1) / (2 * h * x.norm(dim=-1))
    beside_a_kink = (x.abs().amax(dim=-1) - 1).abs() < 1e-3
    # Within the box contract() halves all lengths.
    torch.testing.assert_close(2 * shrunk[~beside_a_kink], shrinkage(x)[~beside_a_kink], rtol=1e-5, atol=1e-12)


def test_distances_go_from_zero_through_reach_to_infinity() -> None:
    distances = torch.tensor([0.0, 1.0, 2.0, 4.0, 2000.0], dtype=torch.float64)
    progress = progress_at(distances, 2.0)
    torch.testing.assert_close(progress, torch.tensor([0.0, 0.5, 1.0, 1.5, 1.999], dtype=torch.float64))
    torch.testing.assert_close(distance_at(progress, 2.0), distances)
    assert math.isinf(float(distance_at(torch.tensor(2.0), 2.0)))


def rays(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    directions = F.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return 0.8 * (torch.rand(count, 3, generator=generator) * 2 - 1), directions


@pytest.mark.parametrize("jitter", [False, True])
def test_the_march_keeps_the_steps_in_occupied_cells_and_covers_all_of_space(jitter: bool) -> None:
    grid = UnboundedGrid(BOX, resolution=12, steps=64)
    origins, directions = rays(40)
    full = grid.march(origins, directions, RayLimits(generator=torch.Generator().manual_seed(1) if jitter else None))
    # Segments without gaps, up to the last edge; their lengths are contracted.
    edges = distance_at(torch.arange(64, dtype=torch.float64) / 32, grid.reach).float()
    assert float(edges[-1]) == pytest.approx(0.5 * 64 * grid.reach)
    for ray in range(40):
        own = full.ray_indices == ray
        assert int(own.sum()) == 63
        assert (full.distances[own] >= edges[:-1] * (1 - 1e-5)).all()
        assert (full.distances[own] <= edges[1:] * (1 + 1e-5)).all()
        place = world_to_box(origins[ray] + full.distances[own, None] * directions[ray], BOX)
        torch.testing.assert_close(full.lengths[own], edges.diff() * shrinkage(place), rtol=1e-4, atol=1e-5)
    grid.occupied.copy_(torch.rand(12**3, generator=torch.Generator().manual_seed(2)) < 0.3)
    kept = grid.march(origins, directions, RayLimits(generator=torch.Generator().manual_seed(1) if jitter else None))
    seen = origins[full.ray_indices] + full.distances[:, None] * directions[full.ray_indices]
    inside = grid.occupied[grid.cell_of(seen)]
    # A point on a cell's face may count to either side by rounding.
    assert abs(int(kept.counts.sum()) - int(inside.sum())) <= 0.002 * len(inside)
    missing = set(full.distances[inside].tolist()) ^ set(kept.distances.tolist())
    assert len(missing) <= 0.004 * len(inside)


def test_the_grid_finds_what_stands_far_outside_the_box() -> None:
    grid = UnboundedGrid(BOX, resolution=32, steps=128)
    # The outermost of the cells begin at 8, and this fills them: one that is half empty is forgotten now and then.
    wall = lambda x: 3.0 * (x[:, 0] > 8.0)  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        grid.update(wall, everywhere=True, generator=generator)
    behind = torch.tensor([[25.0, 3.0, 1.0], [100.0, -20.0, 4.0]])
    before = torch.tensor([[0.0, 0.0, 0.0], [-25.0, 3.0, 1.0], [5.0, 0.0, 0.0]])
    assert grid.occupied[grid.cell_of(behind)].all()
    assert not grid.occupied[grid.cell_of(before)].any()
    segments = grid.march(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]))
    assert 8 < float(segments.distances.min()) < 9


def test_a_cell_is_as_thick_as_the_segments_in_it() -> None:
    """Seen from the middle of the box, segments have the length that the grid's cells count with."""
    grid = UnboundedGrid(BOX, resolution=8, steps=256)
    _, directions = rays(40)
    origins = BOX.mean(dim=0).expand(40, 3)
    segments = grid.march(origins, directions)
    seen = origins[segments.ray_indices] + segments.distances[:, None] * directions[segments.ray_indices]
    ratio = segments.lengths / grid.lengths_at(seen)
    # Far out a segment reaches over much space; its middle stands for it.
    assert ((ratio > 0.9) & (ratio < 1.1))[segments.distances < 20].all()


def test_limits_and_the_sample_budget() -> None:
    grid = UnboundedGrid(BOX, resolution=8, steps=64)
    origins, directions = rays(50)
    bounded = grid.march(origins, directions, RayLimits(max_samples=300))
    assert bounded.num_rays == 300 // 63
    limited = grid.march(origins, directions, RayLimits(nears=torch.full((50, 1), 2.0), fars=torch.full((50, 1), 30.0)))
    assert limited.distances.min() >= 2.0
    assert limited.distances.max() <= 30.0
    assert grid.march(origins, directions, RayLimits(near_plane=0.5)).distances.min() >= 0.5
    assert far_away(grid.reach) > 0.5 * 64 * grid.reach, "the sky is behind everything"
