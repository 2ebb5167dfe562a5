"""Matrix products of layers of any size against float64, with wide vectors and by the BLAS that stands in for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finer_nerfstudio import Sine
from finer_nerfstudio.inr.kernels import building, compiled
from finer_nerfstudio.inr.kernels.layers import Layer, fused_chain, plain_chain

pytestmark = pytest.mark.skipif(
    compiled.unavailable_because("sine") is not None, reason=str(compiled.unavailable_because("sine"))
)


@pytest.fixture(params=["native", "without wide vectors"])
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "without wide vectors":
        if torch.backends.cpu.get_cpu_capability() != "AVX512":
            pytest.skip("this processor has no 512-bit vectors to do without")
        monkeypatch.setattr(building, "_FLAGS", (*building._FLAGS, "-mno-avx512f"))
        compiled._build.cache_clear()
    yield request.param
    compiled._build.cache_clear()


def chain(sizes: list[int], generator: torch.Generator) -> list[Layer]:
    """Layers of these sizes, with a smooth activation between them."""
    layers = []
    for number, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        weight = torch.randn(n_out, n_in, generator=generator) / n_in**0.5
        bias = torch.randn(n_out, generator=generator)
        layers.append(Layer(weight, bias, Sine(1.0) if number < len(sizes) - 2 else None))
    return layers


def evaluated(x: Tensor, layers: list[Layer], upstream: Tensor, *, fused: bool) -> list[Tensor]:
    """Value and gradients with respect to input, weights and biases."""
    inputs = [x, *(tensor for layer in layers for tensor in (layer.weight, layer.bias))]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    remade = [
        Layer(weight, bias, layer.activation)
        for layer, weight, bias in zip(layers, leaves[1::2], leaves[2::2], strict=True)
    ]
    out = fused_chain(leaves[0], remade, compiled) if fused else plain_chain(leaves[0], remade)
    return [out, *torch.autograd.grad(out, leaves, upstream)]


# Whole tiles of every width, tiles with a rest, and the sizes of radiance fields.
SIZES = [[3, 80, 80, 1], [83, 80, 3], [16, 32, 48, 64, 96], [100, 112, 182, 5], [257, 17], [1, 1, 1], [2, 200, 33]]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_tile(program: str, sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = chain(sizes, generator)
    for rows in (1, 5, 64, 131):
        check(layers, rows, generator)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 130), min_size=2, max_size=4), st.integers(1, 200))
def test_any_size(sizes: list[int], rows: int) -> None:
    generator = torch.Generator().manual_seed(1)
    check(chain(sizes, generator), rows, generator)


def check(layers: list[Layer], rows: int, generator: torch.Generator) -> None:
    x = torch.randn(rows, layers[0].weight.shape[1], generator=generator)
    upstream = torch.randn(rows, layers[-1].weight.shape[0], generator=generator)
    exact = [Layer(layer.weight.double(), layer.bias.double(), layer.activation) for layer in layers]
    expected = evaluated(x.double(), exact, upstream.double(), fused=False)
    for i, (found, wanted) in enumerate(zip(evaluated(x, layers, upstream, fused=True), expected, strict=True)):
        # Gradients of weights and biases, all but the first two, are sums over rows, whose terms may cancel and leave
        # what was rounded away from each.
        scale = float(wanted.abs().max()) + (1.0 if i < 2 else rows**0.5)
        torch.testing.assert_close(found.double() / scale, wanted / scale, atol=3e-6, rtol=0)
