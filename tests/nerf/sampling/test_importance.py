"""Samples that are drawn where a grid expects them to count, against the same sums in double precision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finer_nerfstudio.nerf.radiance import world_to_box
from finer_nerfstudio.nerf.sampling import importance
from finer_nerfstudio.nerf.sampling.contraction import contract, shrinkage
from finer_nerfstudio.nerf.sampling.importance import Amount, CellMeans, Chances, Drawn, draw, drawn_by_tensors
from finer_nerfstudio.nerf.sampling.sampler import RayLimits
from finer_nerfstudio.nerf.sampling.unbounded_grid import UnboundedGrid

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
STEPS, RESOLUTION = 96, 12


@pytest.fixture(scope="module", params=["compiled", "tensors"], autouse=True)
def program(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways to draw."""
    if request.param == "compiled" and importance._library() is None:
        pytest.skip("there is no C++ compiler")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "tensors":
            patch.setattr(importance, "_library", lambda: None)
        yield request.param


def some_chances(seed: int, share: float = 0.5) -> Chances:
    """A grid of random thickness, some of it occupied."""
    generator = torch.Generator().manual_seed(seed)
    thickness = 0.02 + torch.rand(RESOLUTION**3, generator=generator) ** 4
    occupied = torch.rand(RESOLUTION**3, generator=generator) < share
    return Chances(1.7, 2.0 / STEPS, STEPS - 1, thickness, 0.05, occupied, RESOLUTION)


def some_rays(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return 0.6 * torch.randn(count, 3, generator=generator), directions


def drawn_from(
    chances: Chances, origins: Tensor, directions: Tensor, samples: int, seed: int, near: float = 0.0
) -> Drawn:
    generator = torch.Generator().manual_seed(seed)
    rays = len(origins)
    return draw(
        origins,
        directions,
        torch.full((rays,), near),
        torch.full((rays,), math.inf),
        chances,
        Amount(0.0, samples, samples),
        looked_at=torch.rand(rays, generator=generator),
        placed=torch.rand(rays, generator=generator),
    )


def smooth(positions: Tensor) -> Tensor:
    """A density that is nowhere zero, of contracted positions."""
    return 0.3 + torch.sin(5.0 * positions[..., 0]) ** 2 + torch.exp(-8.0 * (positions - 0.3).square().sum(-1))


@given(st.integers(0, 1000))
@settings(max_examples=6, deadline=None)
def test_thickness_along_a_ray_is_right_on_average_whatever_the_grid_expects(seed: int) -> None:
    chances = replace(some_chances(seed), occupied=torch.ones(RESOLUTION**3, dtype=torch.bool))
    origin, direction = some_rays(1, seed)
    draws = 4000
    drawn = drawn_from(chances, origin.expand(draws, 3), direction.expand(draws, 3), 8, seed)
    density = smooth(contract(origin + drawn.distances[..., None] * direction)).double()
    estimates = (density * drawn.lengths).sum(dim=1)

    progress = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000 * (2.0 - 2.0 / STEPS)
    beyond = progress.clamp(min=1.0)
    distances = torch.where(progress <= 1.0, chances.reach * progress, chances.reach / (2.0 - beyond))
    per_progress = torch.where(progress <= 1.0, chances.reach, distances.square() / chances.reach)
    positions = origin.double() + distances[:, None] * direction.double()
    exact = (smooth(contract(positions)) * per_progress * shrinkage(positions)).mean() * (2.0 - 2.0 / STEPS)
    deviation = estimates.std() / math.sqrt(draws)
    assert abs(estimates.mean() - exact) < 5 * deviation + 1e-4 * exact
    assert deviation < 0.05 * exact  # or the check above would say nothing


@given(st.integers(0, 1000), st.sampled_from([Amount(0.0, 1, 1), Amount(0.5, 3, 16), Amount(0.2, 2, 40, shared=0.9)]))
@settings(max_examples=12, deadline=None)
def test_samples_lie_where_double_precision_puts_them(seed: int, amount: Amount) -> None:
    chances, rays = some_chances(seed, share=0.3), 60
    origins, directions = some_rays(rays, seed)
    generator = torch.Generator().manual_seed(seed)
    looked_at, placed = torch.rand(2, rays, generator=generator).unbind()
    nears, fars = torch.full((rays,), 0.2), 0.5 + 9.5 * torch.rand(rays, generator=generator)
    drawn = draw(origins, directions, nears, fars, chances, amount, looked_at=looked_at, placed=placed)
    near_a_face = 0
    for ray in range(rays):
        progress = (np.arange(STEPS - 1) + float(looked_at[ray])) * 2.0 / STEPS
        distance = np.where(progress <= 1.0, 1.7 * progress, 1.7 / (2.0 - np.maximum(progress, 1.0)))
        point = origins[ray].double().numpy() + distance[:, None] * directions[ray].double().numpy()
        largest = np.maximum(np.abs(point).max(axis=1), 1.0)
        cells = (point * ((1 - 0.5 / largest) / largest)[:, None] + 1.0) * (0.5 * RESOLUTION)
        if np.abs(cells - cells.round()).min() < 1e-4:
            near_a_face += 1  # where rounding decides
            continue
        flat = np.ravel_multi_index(tuple(np.clip(cells.astype(int), 0, RESOLUTION - 1).T), (RESOLUTION,) * 3)
        inside = (distance >= 0.2) & (distance <= float(fars[ray]))
        occupied = inside & chances.occupied.numpy()[flat]
        assert int(drawn.candidates[ray]) == inside.sum()
        if not occupied.any():
            assert int(drawn.counts[ray]) == 0
            continue
        contracted = np.where(progress <= 1, 1.7, distance**2 / 1.7) / largest**2 * 2.0 / STEPS
        own = np.where(occupied, chances.thickness.double().numpy()[flat] * contracted / 0.05, 0.0)
        behind = 1.0 / (1.0 + np.cumsum(own) + 0.5 * np.cumsum(own) ** 2)
        weight = np.concatenate([[1.0], behind[:-1]]) - behind
        by_weight = (1 - amount.shared) * weight / max(1 - behind[-1], 1e-6)
        chance = np.where(occupied, by_weight + amount.shared / occupied.sum(), 0.0)
        chance /= chance.sum()
        samples = int(drawn.counts[ray])
        spread = amount.per_spread / np.square(chance).sum()
        assert samples in np.clip(np.ceil([spread - 1e-3, spread + 1e-3]), amount.fewest, amount.most)
        numbers = np.arange(samples)
        wanted = (numbers + (float(placed[ray]) + 0.618034 * numbers) % 1.0) / samples
        ends = np.cumsum(chance)
        step = np.minimum(np.searchsorted(ends, wanted, side="right"), np.flatnonzero(occupied)[-1])
        clear = np.abs(wanted[:, None] - ends).min(axis=1) > 1e-4  # of the places where rounding decides
        within = np.clip((wanted - (ends[step] - chance[step])) / chance[step], 0.0, 1.0)
        place = (step + within) * 2.0 / STEPS
        expected = np.where(place <= 1.0, 1.7 * place, 1.7 / (2.0 - np.maximum(place, 1.0)))
        expected = np.clip(expected, 0.2, float(fars[ray]))
        np.testing.assert_allclose(drawn.distances[ray, :samples].numpy(), expected, rtol=2e-3, atol=2e-3)
        at = origins[ray].double().numpy() + expected[:, None] * directions[ray].double().numpy()
        shrunk = np.maximum(np.abs(at).max(axis=1), 1.0) ** 2
        lengths = np.where(expected <= 1.7, 1.7, expected**2 / 1.7) / shrunk * 2.0 / STEPS / (samples * chance[step])
        np.testing.assert_allclose(drawn.lengths[ray, :samples].numpy()[clear], lengths[clear], rtol=5e-2)
    assert near_a_face < rays // 2


def test_compiled_and_tensors_draw_the_same() -> None:
    chances = some_chances(3)
    origins, directions = some_rays(500, 3)
    generator = torch.Generator().manual_seed(0)
    limits = torch.full((500,), 0.1), torch.full((500,), math.inf)
    places = dict(zip(("looked_at", "placed"), torch.rand(2, 500, generator=generator), strict=True))
    ours = draw(origins, directions, *limits, chances, Amount(0.3, 2, 12), **places)
    theirs = drawn_by_tensors(origins, directions, *limits, chances, Amount(0.3, 2, 12), **places)
    assert len(ours.counts.unique()) > 5
    same = ours.counts == theirs.counts
    assert same.float().mean() > 0.98
    used = (torch.arange(12) < ours.counts[:, None]) & same[:, None]
    assert (ours.cells == theirs.cells)[used].float().mean() > 0.99
    close = torch.isclose(ours.distances, theirs.distances, rtol=1e-2, atol=1e-3)[used]
    assert close.float().mean() > 0.99


def test_rays_of_a_pixel_are_sampled_by_what_one_of_them_expects() -> None:
    chances, pixels = some_chances(4), 100
    generator = torch.Generator().manual_seed(0)
    origins, directions = (values.repeat_interleave(4, dim=0)[:-1] for values in some_rays(pixels, 4))
    rays = len(origins)  # the last pixel has three
    directions = directions + 1e-3 * torch.randn(rays, 3, generator=generator)
    limits = torch.full((rays,), 0.1), torch.full((rays,), 9.0)
    places = dict(zip(("looked_at", "placed"), torch.rand(2, rays, generator=generator), strict=True))
    amount = Amount(0.3, 2, 12)
    together = draw(origins, directions, *limits, chances, amount, **places, together=4)
    first = torch.arange(rays) // 4 * 4
    chosen = places["looked_at"][first] * (rays - first).clamp(max=4)
    leader = first + chosen.long()
    assert len(set((leader - first).tolist())) == 4
    # Each pixel's leader alone, asking the grid where its pixel did, and with its own samples.
    alone = draw(
        origins[leader], directions[leader], *limits, chances, amount, looked_at=chosen.frac(), placed=places["placed"]
    )
    assert torch.equal(together.counts, alone.counts)
    assert torch.equal(together.candidates, alone.candidates)
    used = torch.arange(12) < together.counts[:, None]
    torch.testing.assert_close(together.distances[used], alone.distances[used], rtol=1e-5, atol=1e-5)
    # Cells and lengths are those of the ray itself.
    own = origins[:, None] + directions[:, None] * together.distances[..., None]
    cells = ((contract(own) + 1.0) * (0.5 * RESOLUTION)).long().clamp(0, RESOLUTION - 1)
    flat = (cells[..., 0] * RESOLUTION + cells[..., 1]) * RESOLUTION + cells[..., 2]
    assert (flat == together.cells)[used].float().mean() > 0.999


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_cells_follow_the_means_of_what_was_seen_in_them(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    thickness = torch.rand(50, generator=generator)
    means = CellMeans(0.2)
    expected = thickness.double()
    for samples in (300, 0, 7):
        cells = torch.randint(40, (samples,), generator=generator)
        density = 100.0 * torch.rand(samples, generator=generator) ** 8
        means.follow(thickness, cells, density, 0.5)
        for cell in cells.unique():
            mean = 0.5 * density.double()[cells == cell].mean()
            expected[cell] += 0.2 * (mean - expected[cell])
    torch.testing.assert_close(thickness.double(), expected, rtol=1e-5, atol=1e-6)


def grid_of(thickness: Tensor, drawn: int = 8) -> UnboundedGrid:
    grid = UnboundedGrid(BOX, amount=Amount(0.0, drawn, drawn), resolution=RESOLUTION, steps=STEPS)
    grid.thickness.copy_(thickness)
    return grid


def test_samples_ascend_and_stay_in_occupied_cells() -> None:
    grid = grid_of(some_chances(5).thickness)
    grid.occupied.copy_(some_chances(5, 0.2).occupied)
    origins, directions = some_rays(200, 5)
    segments = grid.march(origins, directions, RayLimits(near_plane=0.05, generator=torch.Generator().manual_seed(5)))
    positions = origins[segments.ray_indices] + segments.distances[:, None] * directions[segments.ray_indices]
    # A step belongs to the cell where it is looked at, and reaches into others by its length.
    assert grid.occupied[segments.cells].float().mean() > 0.5
    assert (grid.cell_of(positions) == segments.cells).float().mean() > 0.999
    for ray in range(200):
        own = segments.distances[segments.ray_indices == ray]
        assert len(own) == int(segments.counts[ray])
        assert bool((own.diff() >= 0).all())
        assert bool((own >= 0.05).all())


def test_pictures_have_more_in_the_middles_of_their_shares() -> None:
    grid = grid_of(torch.rand(RESOLUTION**3, generator=torch.Generator().manual_seed(0)))
    origins, directions = some_rays(50, 1)
    first, again = grid.march(origins, directions), grid.march(origins, directions)
    assert bool((first.counts == 24).all())
    assert torch.equal(first.distances, again.distances)
    assert bool((grid.march(origins, directions, RayLimits(quick=True)).counts == 16).all())
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    drawn = [grid.march(origins, directions, RayLimits(generator=generator)) for generator in generators]
    assert bool((drawn[0].counts == 8).all())
    assert torch.equal(drawn[0].distances, drawn[1].distances)
    assert not torch.equal(drawn[0].distances, drawn[2].distances)


def test_limits_of_rays_and_of_samples() -> None:
    grid = grid_of(torch.ones(RESOLUTION**3))
    origins, directions = some_rays(40, 2)
    limits = RayLimits(nears=torch.full((40, 1), 0.5), fars=torch.full((40, 1), 2.5), max_samples=100)
    segments = grid.march(origins, directions, limits)
    assert segments.num_rays == 100 // 24
    assert bool((segments.distances >= 0.5).all())
    assert bool((segments.distances <= 2.5).all())
    nothing = RayLimits(nears=torch.full((40, 1), 2.0), fars=torch.full((40, 1), 1.0))
    assert len(grid.march(origins, directions, nothing).distances) == 0
    assert len(grid.march(origins[:0], directions[:0]).distances) == 0


def test_rays_through_nothing_have_no_sample() -> None:
    grid = grid_of(torch.ones(RESOLUTION**3))
    cells = torch.arange(RESOLUTION**3)
    grid.occupied.copy_(cells // RESOLUTION**2 >= RESOLUTION // 2)  # where x is positive
    origins = torch.tensor([[-0.1, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.2, 0.1, 0.0]])
    directions = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    segments = grid.march(origins, directions)
    assert segments.counts.tolist() == [0, 24, 0]
    assert segments.ray_indices.tolist() == [1] * 24
    assert segments.slots.tolist() == list(range(24))


def density_of_ball(positions: Tensor) -> Tensor:
    """40 per contracted unit inside a ball of radius 0.4 around (0.2, -0.3, 0.4), 0.01 elsewhere."""
    return 0.01 + 40.0 * ((positions - torch.tensor([0.2, -0.3, 0.4])).norm(dim=-1) < 0.4)


def test_places_that_are_no_numbers_are_harmless() -> None:
    grid = grid_of(torch.ones(RESOLUTION**3))
    origins = torch.tensor([[float("nan"), 0.0, 0.0], [0.1, 0.0, 0.0]])
    segments = grid.march(origins, torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert bool(((segments.cells >= 0) & (segments.cells < RESOLUTION**3)).all())
    assert bool(segments.distances[segments.ray_indices == 1].isfinite().all())


def test_training_and_updates_lead_samples_to_matter() -> None:
    grid = UnboundedGrid(BOX, amount=Amount(0.0, 8, 8), resolution=32, steps=STEPS)
    generator = torch.Generator().manual_seed(0)
    origins, directions = some_rays(300, 7)
    origins = origins + 2.5 * torch.nn.functional.normalize(origins, dim=-1)
    directions = torch.nn.functional.normalize(torch.tensor([0.2, -0.3, 0.4]) - origins, dim=-1)

    def share_in_ball() -> float:
        segments = grid.march(origins, directions, RayLimits(generator=generator))
        positions = origins[segments.ray_indices] + segments.distances[:, None] * directions[segments.ray_indices]
        return float((density_of_ball(positions) > 1).float().mean())

    before = share_in_ball()
    for step in range(160):
        if step % 16 == 0:
            grid.update(density_of_ball, everywhere=False, generator=generator)
        segments = grid.march(origins, directions, RayLimits(generator=generator))
        positions = origins[segments.ray_indices] + segments.distances[:, None] * directions[segments.ray_indices]
        grid.see(segments, density_of_ball(positions))
    assert before < 0.25
    assert share_in_ball() > 0.6
    middle = grid.cell_of(torch.tensor([[0.2, -0.3, 0.4]]))
    torch.testing.assert_close(grid.thickness[middle], torch.tensor([40.0 * grid.step_length]), rtol=0.2, atol=0.0)
    # What empties is forgotten, where rays see it and where none does.
    for _ in range(400):
        grid.update(lambda x: torch.full_like(x[:, 0], 0.01), everywhere=False, generator=generator)
    assert not bool((grid.thickness > 0.1 * 40.0 * grid.step_length).any())


def test_lengths_are_contracted_in_boxes_of_any_shape() -> None:
    """Of a uniform haze, every ray sees as much as it has contracted length."""
    box = torch.tensor([[-2.0, -1.0, 0.0], [2.0, 3.0, 1.0]])
    grid = UnboundedGrid(box, amount=Amount(0.0, 16, 16), resolution=RESOLUTION, steps=STEPS)
    grid.thickness.fill_(0.02)
    origins = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 0.2]])
    directions = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2, 0.1], [-0.3, 1.0, 0.4]]), dim=-1)
    segments = grid.march(origins, directions)
    for ray in range(2):
        own = float(segments.lengths[segments.ray_indices == ray].sum())
        last = grid.reach / (2.0 / STEPS)
        t = torch.linspace(0.0, 1.0, 2_000_001, dtype=torch.float64) ** 3 * last
        at = world_to_box(origins[ray].double() + t[:, None] * directions[ray].double(), box.double())
        exact = float(torch.trapezoid(shrinkage(at), t))
        assert own == pytest.approx(exact, rel=0.05)
