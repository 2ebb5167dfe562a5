"""Rendering weights of flat segments against nerfacc's of a table, and against finite differences."""

from __future__ import annotations

import os

import pytest
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
