"""The occupancy grid against brute force."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finer_nerfstudio.nerf.compositing import ray_weights
from finer_nerfstudio.nerf.radiance import box_to_world, world_to_box
from finer_nerfstudio.nerf.sampling import marching
from finer_nerfstudio.nerf.sampling.sampler import OccupancyGrid, RayLimits

BOX = torch.tensor([[-1.0, -2.0, -0.5], [1.0, 1.0, 1.5]])


@pytest.fixture(scope="module", params=["compiled", "plain"], autouse=True)
def program(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways to march."""
    if request.param == "compiled" and not marching.available(torch.zeros(1)):
        pytest.skip("there is no C++ compiler")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain":
            patch.setattr(marching, "available", lambda tensor: False)
        yield request.param


def rays(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    targets = box_to_world(torch.rand(count, 3, generator=generator) * 2 - 1, BOX)
    return targets - 4.0 * directions, directions


def ball(positions: Tensor) -> Tensor:
    """Density 50 inside a ball of radius 0.4 around (0.2, -0.3, 0.4)."""
    return 50.0 * ((positions - torch.tensor([0.2, -0.3, 0.4])).norm(dim=-1) < 0.4)


def trained_grid(resolution: int = 32, steps: int = 128) -> OccupancyGrid:
    grid = OccupancyGrid(BOX, resolution=resolution, steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        grid.update(ball, everywhere=True, generator=generator)
    return grid


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_world_and_box_round_trip(seed: int) -> None:
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(box_to_world(world_to_box(x, BOX), BOX), x)
    torch.testing.assert_close(world_to_box(BOX, BOX), torch.tensor([[-1.0] * 3, [1.0] * 3]))


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=25, deadline=None)
def test_march_keeps_exactly_the_steps_in_occupied_cells(seed: int, jitter: bool) -> None:
    grid = OccupancyGrid(BOX, resolution=12, steps=96)
    grid.occupied.copy_(torch.rand(12**3, generator=torch.Generator().manual_seed(seed)) < 0.2)
    origins, directions = rays(40, seed)
    generator = torch.Generator().manual_seed(seed) if jitter else None
    segments = grid.march(origins, directions, RayLimits(generator=generator))
    offsets = torch.rand(40, generator=torch.Generator().manual_seed(seed)) if jitter else torch.full((40,), 0.5)
    for ray in range(40):
        with torch.no_grad():
            planes = (BOX - origins[ray]) / directions[ray]
        near, far = planes.amin(0).amax().clamp(min=0), planes.amax(0).amin()
        expected = []
        if far > near:
            t = near + (torch.arange(math.ceil((far - near) / grid.step_length)) + offsets[ray]) * grid.step_length
            t = t[t - near < far - near]
            inside = grid.occupied[grid.cell_of(origins[ray] + t[:, None] * directions[ray])]
            expected = t[inside]
        got = segments.distances[segments.ray_indices == ray]
        # A point that lies on a cell's face may count to either side by rounding.
        assert abs(len(got) - len(expected)) <= 1
        if len(got) == len(expected) and len(got):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert segments.slots[segments.ray_indices == ray].tolist() == list(range(len(got)))


def test_grid_finds_the_ball_and_nothing_far_from_it() -> None:
    grid = trained_grid()
    generator = torch.Generator().manual_seed(1)
    positions = box_to_world(torch.rand(20_000, 3, generator=generator) * 2 - 1, BOX)
    occupied = grid.occupied[grid.cell_of(positions)]
    assert occupied[ball(positions) > 0].float().mean() > 0.97
    far = (positions - torch.tensor([0.2, -0.3, 0.4])).norm(dim=-1) > 0.4 + 0.25
    assert not occupied[far].any()


def test_what_empties_is_forgotten_and_what_fills_is_seen_at_once() -> None:
    grid = trained_grid()
    generator = torch.Generator().manual_seed(2)
    # A mean below the fixed threshold would keep the last traces occupied for long; give the grid something to hold.
    elsewhere = lambda x: 50.0 * (x[:, 0] > 0.8)  # noqa: E731
    grid.update(elsewhere, everywhere=True, generator=generator)
    middle = torch.tensor([[0.2, -0.3, 0.4]])
    assert grid.occupied[grid.cell_of(torch.tensor([[0.95, 0.0, 0.0]]))].all()
    assert grid.occupied[grid.cell_of(middle)].all()
    for _ in range(120):
        grid.update(elsewhere, everywhere=False, generator=generator)
    assert not grid.occupied[grid.cell_of(middle)].any()


def test_skipping_empty_space_does_not_change_the_rendering() -> None:
    grid = trained_grid()
    everything = OccupancyGrid(BOX, resolution=32, steps=128)
    origins, directions = rays(300, 3)
    accumulations = []
    for sampler in (grid, everything):
        segments = sampler.march(origins, directions)
        positions = origins[segments.ray_indices] + directions[segments.ray_indices] * segments.distances[:, None]
        weights = ray_weights(ball(positions) * segments.lengths, segments.ray_indices, segments.counts)
        accumulations.append(torch.zeros(300).index_add_(0, segments.ray_indices, weights))
    difference = (accumulations[0] - accumulations[1]).abs()
    assert difference.mean() < 0.01
    assert trained_grid().march(origins, directions).counts.sum() < 0.2 * 300 * 60


def test_sample_budget_keeps_leading_rays() -> None:
    grid = OccupancyGrid(BOX, resolution=8, steps=64)
    origins, directions = rays(100, 4)
    free = grid.march(origins, directions)
    bounded = grid.march(origins, directions, RayLimits(max_samples=500))
    assert bounded.distances.shape[0] <= 500
    kept = bounded.num_rays
    assert 0 < kept < 100
    torch.testing.assert_close(bounded.distances, free.distances[: int(free.counts[:kept].sum())])
    assert int(free.counts[: kept + 1].sum()) > 500


def test_rays_that_miss_and_limits_along_rays() -> None:
    grid = OccupancyGrid(BOX, resolution=8, steps=64)
    origins = torch.tensor([[5.0, 5.0, 5.0], [0.0, 0.0, 5.0]])
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    segments = grid.march(origins, directions)
    assert segments.counts[0] == 0
    assert segments.distances.min() >= 3.5
    assert segments.distances.max() <= 5.5
    limited = grid.march(
        origins, directions, RayLimits(nears=torch.tensor([[0.0], [4.0]]), fars=torch.tensor([[9.0], [5.0]]))
    )
    assert limited.distances.min() >= 4.0
    assert limited.distances.max() <= 5.0
    nothing = grid.march(origins[:1], directions[:1])
    assert nothing.num_slots == 1
    assert nothing.distances.shape == (0,)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_axis_parallel_rays_from_inside(axis: int) -> None:
    grid = OccupancyGrid(BOX, resolution=8, steps=64)
    direction = torch.zeros(1, 3)
    direction[0, axis] = 1.0
    origin = torch.zeros(1, 3)
    segments = grid.march(origin, direction)
    assert segments.distances.max() <= float(BOX[1, axis])
    assert int(segments.counts[0]) == pytest.approx(float(BOX[1, axis]) / grid.step_length, abs=1)


def test_no_rays_at_all() -> None:
    segments = OccupancyGrid(BOX, resolution=8, steps=64).march(
        torch.zeros(0, 3), torch.zeros(0, 3), RayLimits(max_samples=100)
    )
    assert segments.num_rays == 0
    assert segments.distances.shape == (0,)
