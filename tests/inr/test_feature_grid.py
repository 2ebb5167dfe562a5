"""The multiresolution grid against one that is written down corner by corner, in double precision."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finer_nerfstudio.inr.feature_grid import FeatureGrid
from finer_nerfstudio.inr.kernels import feature_grid as kernel


@pytest.fixture(scope="module", params=["compiled", "tensors"], autouse=True)
def program(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways to look up."""
    if request.param == "compiled" and kernel._library() is None:
        pytest.skip("there is no C++ compiler")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "tensors":
            patch.setattr(kernel, "_library", lambda: None)
        yield request.param


def grid(entries: int = 1 << 9, seed: int = 0) -> FeatureGrid:
    """Three levels, of which the last two share entries."""
    made = FeatureGrid(levels=3, coarsest=5, finest=40, entries=entries)
    with torch.no_grad():
        made.table.normal_(generator=torch.Generator().manual_seed(seed))
    return made


def some_points(count: int, seed: int) -> Tensor:
    """Some of them on faces, edges and corners of the cube."""
    points = 2.0 * torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) - 1.0
    points[: count // 4] = points[: count // 4].sign()
    points[count // 4 : count // 2, seed % 3] = 1.0
    return points


def written_down(points: np.ndarray, made: FeatureGrid) -> np.ndarray:
    table = made.table.detach().double().numpy()
    rows = []
    for point in points:
        row = []
        for level in made.levels:
            r = level.resolution
            place = (point + 1.0) * r / 2.0
            low = np.minimum(np.floor(place).astype(int), r - 1)
            total = np.zeros(2)
            for step in itertools.product((0, 1), repeat=3):
                corner = [int(value) for value in low + step]
                weight = np.prod([1 - abs(p - c) for p, c in zip(place, corner, strict=True)])
                if (r + 1) ** 3 <= level.entries:
                    entry = (corner[0] * (r + 1) + corner[1]) * (r + 1) + corner[2]
                else:
                    entry = (corner[0] ^ (corner[1] * 2654435761) ^ (corner[2] * 805459861)) % level.entries
                total += weight * table[level.first + entry]
            row.append(total)
        rows.append(np.concatenate(row))
    return np.array(rows)


@given(st.integers(0, 1000), st.sampled_from([1, 31, 32, 33, 100]))
@settings(max_examples=12, deadline=None)
def test_features_are_those_of_the_corners(seed: int, count: int) -> None:
    made, points = grid(seed=seed), some_points(count, seed)
    expected = written_down(points.double().numpy(), made)
    np.testing.assert_allclose(made(points).detach().numpy(), expected, atol=2e-5)
    assert made.features == expected.shape[1] == 6


@given(st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_gradient_by_the_table_is_that_of_a_linear_map(seed: int) -> None:
    """Features are linear in the table: a change of it gives exactly what the gradient says."""
    made, points = grid(seed=seed), some_points(50, seed)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(50, made.features, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((made(points).double() * weights).sum(), made.table)
    change = torch.randn(made.table.shape, generator=generator)
    before = written_down(points.double().numpy(), made)
    with torch.no_grad():
        made.table.add_(change)
    after = written_down(points.double().numpy(), made)
    expected = float(((after - before) * weights.numpy()).sum())
    assert float((gradient.double() * change.double()).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_gradient_by_the_points_agrees_with_differences() -> None:
    made = grid()
    points = 1.9 * torch.rand(200, 3, generator=torch.Generator().manual_seed(1)) - 0.95
    h = 1e-4
    # Features have a kink at every face of a cell.
    clear = torch.ones(200, dtype=torch.bool)
    for level in made.levels:
        place = (points.double() + 1.0) * level.resolution / 2.0
        clear &= ((place - place.round()).abs() > 2 * h * level.resolution).all(dim=1)
    points = points[clear]
    assert len(points) > 50
    weights = torch.randn(len(points), made.features, generator=torch.Generator().manual_seed(2)).double()
    points.requires_grad_()
    (gradient,) = torch.autograd.grad((made(points).double() * weights).sum(), points)
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[axis] = h
        at = points.detach().double()
        difference = written_down((at + step).numpy(), made) - written_down((at - step).numpy(), made)
        expected = (difference * weights.numpy()).sum(axis=1) / (2 * h)
        np.testing.assert_allclose(gradient[:, axis].numpy(), expected, rtol=2e-3, atol=2e-2)


def test_points_may_come_before_their_features() -> None:
    made, points = grid(), some_points(2100, 4).requires_grad_()
    rows, features = made(points, with_points=True), made(points)
    assert torch.equal(rows, torch.cat([points, features], dim=1))
    grad = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    whole = torch.autograd.grad(rows, [points, made.table], grad)
    parts = torch.autograd.grad(features, [points, made.table], grad[:, 3:])
    torch.testing.assert_close(whole[0], parts[0] + grad[:, :3])
    assert torch.equal(whole[1], parts[1])
    assert made(points.view(30, 70, 3), with_points=True).shape == (30, 70, 9)


def test_the_same_gradient_each_time_on_any_number_of_threads() -> None:
    made, points = grid(), some_points(3000, 3)
    gradients, threads = [], torch.get_num_threads()
    for number in (1, 2, 3, threads):
        torch.set_num_threads(number)
        try:
            (gradient,) = torch.autograd.grad(made(points).square().sum(), made.table)
        finally:
            torch.set_num_threads(threads)
        gradients.append(gradient)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_points_outside_count_to_the_nearest_face_and_none_are_no_matter() -> None:
    made = grid()
    outside = torch.tensor([[1.5, 0.2, -3.0], [0.1, -1.0001, 7.0]])
    torch.testing.assert_close(made(outside), made(outside.clamp(-1.0, 1.0)))
    assert made(torch.zeros(0, 3)).shape == (0, 6)
    assert made(torch.zeros(4, 5, 3)).shape == (4, 5, 6)


def test_a_fresh_grid_says_next_to_nothing_and_is_that_of_its_seed() -> None:
    first, second, third = (
        FeatureGrid(levels=4, coarsest=4, finest=64, entries=1 << 10, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.table, second.table)
    assert not torch.equal(first.table, third.table)
    assert float(first(some_points(100, 0)).detach().abs().max()) <= 1e-4
    assert [level.resolution for level in first.levels] == [4, 10, 25, 64]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "0 levels of 4 to 64"),
        ({"coarsest": 0}, "at least 1"),
        ({"finest": 3}, "4 to 3"),
        ({"entries": 1000}, "power of two, not 1000"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureGrid(**{"levels": 4, "coarsest": 4, "finest": 64, "entries": 1 << 10, **options})  # pyright: ignore[reportArgumentType]
