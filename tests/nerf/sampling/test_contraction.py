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
from finer_nerfstudio.nerf.sampling.importance import Amount
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


def grid_of(resolution: int, steps: int) -> UnboundedGrid:
    return UnboundedGrid(BOX, amount=Amount(0.5, 4, 32), resolution=resolution, steps=steps)


@pytest.mark.parametrize("jitter", [False, True])
def test_samples_reach_all_of_space_and_stand_for_all_of_a_ray(jitter: bool) -> None:
    grid = grid_of(resolution=12, steps=64)
    origins, directions = rays(40)
    full = grid.march(origins, directions, RayLimits(generator=torch.Generator().manual_seed(1) if jitter else None))
    last = float(distance_at(torch.tensor(63 / 32), grid.reach))
    assert last == pytest.approx(0.5 * 64 * grid.reach)
    assert full.distances.max() < last * (1 + 1e-5)
    assert full.distances.max() > 0.2 * last
    for ray in range(40):
        own = full.ray_indices == ray
        # The middles of equal shares of a grid that knows nothing yet.
        exact = torch.linspace(0.0, 1.0, 200_001, dtype=torch.float64) ** 3 * last
        place = world_to_box(origins[ray].double() + exact[:, None] * directions[ray].double(), BOX.double())
        length = float(torch.trapezoid(shrinkage(place), exact))
        assert float(full.lengths[own].sum()) == pytest.approx(length, rel=0.15 if jitter else 0.05)


def test_the_grid_finds_what_stands_far_outside_the_box() -> None:
    grid = grid_of(resolution=32, steps=128)
    # The outermost of the cells begin at 8, and this fills them: one that is half empty is forgotten now and then.
    wall = lambda x: 3.0 * (x[:, 0] > 8.0)  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        grid.update(wall, everywhere=True, generator=generator)
    behind = torch.tensor([[25.0, 3.0, 1.0], [100.0, -20.0, 4.0]])
    before = torch.tensor([[0.0, 0.0, 0.0], [-25.0, 3.0, 1.0], [5.0, 0.0, 0.0]])
    assert grid.occupied[grid.cell_of(behind)].all()
    assert not grid.occupied[grid.cell_of(before)].any()
    segments = grid.march(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]))
    assert 7 < float(segments.distances.min()) < 9


def test_limits_and_the_sample_budget() -> None:
    grid = grid_of(resolution=8, steps=64)
    origins, directions = rays(50)
    bounded = grid.march(origins, directions, RayLimits(max_samples=300))
    everything = grid.march(origins, directions)
    assert bounded.num_rays == int((everything.counts.cumsum(0) <= 300).sum()) > 2
    assert torch.equal(bounded.distances, everything.distances[: len(bounded.distances)])
    limited = grid.march(origins, directions, RayLimits(nears=torch.full((50, 1), 2.0), fars=torch.full((50, 1), 30.0)))
    assert limited.distances.min() >= 2.0
    assert limited.distances.max() <= 30.0
    assert grid.march(origins, directions, RayLimits(near_plane=0.5)).distances.min() >= 0.5
    assert far_away(grid.reach) > 0.5 * 64 * grid.reach, "the sky is behind everything"
