"""The spread of what makes up a ray's colour, in linear time, against the sum over all pairs."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finer_nerfstudio.nerf.rendering import ray_weights, spread_along_rays


def rays_of(counts: list[int], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights, increasing places and rays of so many segments on every ray, and what is left of each ray."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
    thickness = 2 * torch.rand(len(indices), generator=generator, dtype=torch.float64)
    weights = ray_weights(thickness, indices, len(counts))
    places = torch.cat([2 * torch.rand(n, generator=generator, dtype=torch.float64).sort().values for n in counts])
    remaining = 1 - torch.zeros(len(counts), dtype=torch.float64).index_add(0, indices, weights)
    return weights, places, indices, remaining


def over_all_pairs(weights: Tensor, places: Tensor, indices: Tensor, remaining: Tensor) -> Tensor:
    sums = []
    for ray in range(len(remaining)):
        w = torch.cat([weights[indices == ray], remaining[ray : ray + 1]])
        t = torch.cat([places[indices == ray], torch.full((1,), 2.0, dtype=torch.float64)])
        sums.append((w[:, None] * w * (t[:, None] - t).abs()).sum())
    return torch.stack(sums)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(0, 1000))
@settings(deadline=None)
def test_it_is_the_sum_over_all_pairs(counts: list[int], seed: int) -> None:
    arguments = rays_of(counts, seed)
    torch.testing.assert_close(spread_along_rays(*arguments), over_all_pairs(*arguments), atol=1e-12, rtol=1e-9)


def test_gradients_are_those_of_the_sum_over_all_pairs() -> None:
    weights, places, indices, remaining = rays_of([3, 0, 1, 5, 0], 1)
    gradients = []
    for function in (spread_along_rays, over_all_pairs):
        inputs = weights.clone().requires_grad_(), remaining.clone().requires_grad_()
        scale = torch.arange(1.0, 6.0, dtype=torch.float64)
        loss = (scale * function(inputs[0], places, indices, inputs[1])).sum()
        gradients.append(torch.cat(torch.autograd.grad(loss, inputs)))
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-9)


def test_single_precision_of_the_last_of_many_rays() -> None:
    weights, places, indices, remaining = rays_of([40] * 500, 2)
    got = spread_along_rays(weights.float(), places.float(), indices, remaining.float())
    expected = over_all_pairs(weights, places, indices, remaining)
    torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=1e-5)
