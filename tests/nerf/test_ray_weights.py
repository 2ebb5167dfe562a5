"""Rendering weights of flat segments against nerfacc's of a table, and against finite differences."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from nerfacc import render_weight_from_density
from torch import Tensor

from finer_nerfstudio.nerf.compositing import ray_weights


def segments(counts: list[int], seed: int, scale: float) -> tuple[Tensor, Tensor]:
    """Thickness of so many segments on every ray, and the rays' indices."""
    thickness = scale * torch.rand(sum(counts), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return thickness, torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12),
    st.integers(0, 1000),
    st.sampled_from([0.01, 1.0, 30.0]),
)
def test_weights_are_those_of_nerfacc(counts: list[int], seed: int, scale: float) -> None:
    thickness, rays = segments(counts, seed, scale)
    table = torch.zeros(len(counts), max([1, *counts]), dtype=torch.float64)
    slots = torch.cat([torch.arange(count) for count in counts])
    table[rays, slots] = thickness
    expected, _, _ = render_weight_from_density(torch.zeros_like(table), torch.ones_like(table), table)
    weights = ray_weights(thickness, rays, torch.tensor(counts))
    torch.testing.assert_close(weights, expected[rays, slots])
    in_single_precision = ray_weights(thickness.float(), rays, torch.tensor(counts))
    torch.testing.assert_close(in_single_precision.double(), weights, atol=1e-6, rtol=1e-5)


def test_gradients_are_finite_differences() -> None:
    counts = [3, 0, 1, 5, 0]
    thickness, rays = segments(counts, 1, 1.0)
    assert torch.autograd.gradcheck(lambda t: ray_weights(t, rays, torch.tensor(counts)), thickness.requires_grad_())


def test_opaque_rays_before_a_ray_leave_it_alone() -> None:
    """Sums over all rays in single precision would leave nothing of the last one's."""
    counts = [40] * 500 + [4]
    thickness, rays = segments(counts, 2, 1000.0)
    thickness[-4:] = torch.tensor([1e-3, 2e-3, 3e-3, 4e-3])
    thickness = thickness.float().requires_grad_()
    weights = ray_weights(thickness, rays, torch.tensor(counts))
    alone = ray_weights(thickness.detach()[-4:].double(), torch.zeros(4, dtype=torch.long), torch.tensor([4]))
    torch.testing.assert_close(weights[-4:].double(), alone, atol=1e-9, rtol=1e-4)
    (grad,) = torch.autograd.grad(weights[-4:].sum(), thickness)
    torch.testing.assert_close(
        grad[-4:], torch.full((4,), float(torch.exp(-thickness.detach()[-4:].sum()))), atol=1e-5, rtol=0
    )
    assert not grad[:-4].any()
