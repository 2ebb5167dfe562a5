"""Compositing in C++ against tensor functions in double precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finer_nerfstudio.inr.methods import preset
from finer_nerfstudio.nerf import compiled_compositing
from finer_nerfstudio.nerf.compositing import along_rays, composite, weights_and_rest
from finer_nerfstudio.nerf.radiance import Radiance, initial_networks

pytestmark = pytest.mark.skipif(compiled_compositing._library() is None, reason="there is no C++ compiler")
BOX = torch.tensor([[-1.0] * 3, [1.0] * 3])


@dataclass
class Pieces:
    """Segments of rays."""

    ray_indices: Tensor
    distances: Tensor
    lengths: Tensor
    counts: Tensor

    @property
    def num_rays(self) -> int:
        return len(self.counts)

    def double(self) -> Pieces:
        return Pieces(self.ray_indices, self.distances.double(), self.lengths.double(), self.counts)


def some_pieces(counts: list[int], seed: int) -> Pieces:
    generator = torch.Generator().manual_seed(seed)
    rays = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
    distances, lengths = torch.rand(2, len(rays), generator=generator).unbind()
    return Pieces(rays, distances, 0.3 * lengths, torch.tensor(counts, dtype=torch.long))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(0, 1000), st.sampled_from([0.01, 1.0, 30.0]))
@settings(max_examples=40, deadline=None)
def test_weights_rest_and_their_gradients(counts: list[int], seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    number, spare = sum(counts), 3
    thickness = (scale * torch.rand(number + spare, generator=generator)).requires_grad_()
    wide = thickness.detach()[:number].double().requires_grad_()
    rays = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
    found = compiled_compositing.weights(thickness, torch.tensor(counts))
    expected = weights_and_rest(wide, rays, torch.tensor(counts))
    assert not bool(found[0][number:].any())
    torch.testing.assert_close(found[0][:number].double(), expected[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found[1].double(), expected[1], atol=1e-6, rtol=1e-5)
    grads = torch.randn(number + spare, generator=generator), torch.randn(len(counts), generator=generator)
    torch.autograd.backward(found, grads)
    torch.autograd.backward(expected, (grads[0][:number].double(), grads[1].double()))
    assert thickness.grad is not None
    assert wide.grad is not None
    torch.testing.assert_close(thickness.grad[:number].double(), wide.grad, atol=1e-5, rtol=1e-4)
    assert not bool(thickness.grad[number:].any())


@pytest.mark.parametrize("sky", [None, 1000.0])
@pytest.mark.parametrize("counts", [[3, 0, 7, 1, 0], [0, 0], [40] * 30])
def test_colours_and_gradients_are_those_of_double_precision(counts: list[int], sky: float | None) -> None:
    generator = torch.Generator().manual_seed(len(counts))
    networks = initial_networks(
        preset("finer-sine", "nerf"), width=8, density_depth=1, color_depth=1, generator=generator
    )
    with torch.no_grad():
        networks[0].last.bias[0] += 4.0
    field = Radiance(*networks, BOX, unbounded=True)
    directions = torch.nn.functional.normalize(torch.randn(len(counts), 3, generator=generator), dim=-1)
    origins = 0.1 * torch.randn(len(counts), 3, generator=generator)
    pieces = some_pieces(counts, 0)
    goal = torch.rand(len(counts), 3, generator=generator)

    def seen(wide: bool) -> tuple[list[Tensor], list[Tensor]]:
        own = field.double() if wide else field.float()
        rays = (origins.double(), directions.double(), pieces.double()) if wide else (origins, directions, pieces)
        found = composite(own, *rays, weight_threshold=1e-3, sky=sky)
        loss = ((found.rgb - goal) ** 2).sum() + found.passed.sum() + (found.weights**2).sum()
        gradients = torch.autograd.grad(loss, list(own.parameters()), allow_unused=True)
        values = [found.rgb, found.weights, found.thickness, found.passed, found.colored]
        return values, [torch.zeros(1) if each is None else each for each in gradients]

    (values, gradients), (exact, exact_gradients) = seen(False), seen(True)
    for found, expected in zip(values, exact, strict=True):
        torch.testing.assert_close(found.double(), expected.double(), atol=2e-4, rtol=2e-4)
    for found, expected in zip(gradients, exact_gradients, strict=True):
        scale = float(expected.abs().max()) if expected.numel() else 1.0
        torch.testing.assert_close(found.double(), expected.double(), atol=1e-3 * scale + 1e-6, rtol=1e-2)


def test_a_ray_that_meets_nothing_shows_the_sky_alone() -> None:
    networks = initial_networks(preset("finer-sine", "nerf"), width=8, density_depth=1, color_depth=1)
    field = Radiance(*networks, BOX, unbounded=True)
    origins, directions = torch.zeros(2, 3), torch.eye(3)[:2]
    found = composite(field, origins, directions, some_pieces([0, 0], 0), weight_threshold=1e-4, sky=1e3)
    expected = field.color(field.hidden_features(1e3 * directions), directions)
    torch.testing.assert_close(found.rgb, expected)
    assert torch.equal(found.passed, torch.ones(2))


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_rows_and_their_gradient(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, width = 1 + seed % 50, 1 + seed % 7
    values = torch.randn(rows, width, generator=generator, dtype=torch.float32).requires_grad_()
    places = (torch.rand(rows, generator=generator) < 0.4).nonzero().squeeze(1)
    found = compiled_compositing.rows_at(values, places)
    assert torch.equal(found, values[places])
    grad = torch.randn(len(places), width + 3, generator=generator)[:, :width]  # a part of wider rows
    found.backward(grad)
    expected = torch.zeros(rows, width)
    expected[places] = grad
    assert values.grad is not None
    assert torch.equal(values.grad, expected)


def test_places_along_rays_are_differentiated_where_rays_are() -> None:
    pieces = some_pieces([3, 0, 2], 1)
    origins, directions = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)).unbind()
    found = along_rays(origins, directions, pieces.ray_indices, pieces.distances)
    wide = along_rays(origins.double(), directions.double(), pieces.ray_indices, pieces.distances.double())
    for each, expected in zip(found, wide, strict=True):
        torch.testing.assert_close(each.double(), expected)
    positions, _ = along_rays(origins.requires_grad_(), directions, pieces.ray_indices, pieces.distances)
    (gradient,) = torch.autograd.grad(positions.sum(), origins)
    assert torch.equal(gradient, pieces.counts[:, None].float().expand(3, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_colours_of_another_type_are_summed_by_tensor_functions(dtype: torch.dtype) -> None:
    class Colored(Radiance):
        def color(self, *arguments: Any) -> Tensor:
            return super().color(*arguments).to(dtype)

    networks = initial_networks(preset("finer-sine", "nerf"), width=8, density_depth=1, color_depth=1)
    with torch.no_grad():
        networks[0].last.bias[0] += 4.0
    origins, directions = torch.zeros(3, 3), torch.eye(3)
    arguments = (origins, directions, some_pieces([3, 0, 7], 0))
    found = composite(Colored(*networks, BOX), *arguments, weight_threshold=1e-3, sky=100.0)
    expected = composite(Radiance(*networks, BOX), *arguments, weight_threshold=1e-3, sky=100.0)
    torch.testing.assert_close(found.rgb.float(), expected.rgb, atol=2e-2, rtol=0)
