"""Products of rounded operands and of complex matrices in C++, against tensor functions."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finer_nerfstudio import METHODS, Sine, preset
from finer_nerfstudio.inr.kernels import compiled, plain
from finer_nerfstudio.inr.kernels.blocks import BlockProgram
from finer_nerfstudio.inr.kernels.layers import ChainProgram, Layer, fused_chain, plain_chain
from finer_nerfstudio.inr.kernels.rounding import EXACT, Rounding, rounded

ROUNDED = Rounding(backward="bfloat16")

pytestmark = pytest.mark.skipif(
    compiled.unavailable_because("sine") is not None, reason=str(compiled.unavailable_because("sine"))
)
has_pairs = pytest.mark.skipif(
    compiled.unavailable_because("sine") is None and not compiled.computes(ROUNDED, [Sine(1.0)]),
    reason="this processor has no products of bfloat16 pairs",
)


def layers_of(sizes: list[int], seed: int, *, is_complex: bool = False) -> list[Layer]:
    """Layers of these sizes, of complex numbers all but the last, with a smooth activation between them."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for number, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        last = number == len(sizes) - 2
        weight = torch.randn(n_out, n_in, generator=generator) / n_in**0.5
        if is_complex and not last:
            real, imaginary = (torch.randn(n_out, n_in, generator=generator) / n_in**0.5 for _ in range(2))
            weight = torch.cat([torch.cat([real, -imaginary], dim=1), torch.cat([imaginary, real], dim=1)])
        elif is_complex:
            weight = torch.randn(n_out, 2 * n_in, generator=generator) / n_in**0.5
        bias = torch.randn(len(weight), generator=generator)
        layers.append(Layer(weight, bias, None if last else Sine(1.0), complex_valued=is_complex and not last))
    return layers


def step(
    x: Tensor, layers: list[Layer], upstream: Tensor, program: ChainProgram | None, rounding: Rounding = EXACT
) -> list[Tensor]:
    """Value and gradients with respect to input, weights and biases."""
    leaves = [
        t.detach().clone().requires_grad_() for t in (x, *(p for layer in layers for p in (layer.weight, layer.bias)))
    ]
    remade = [
        replace(layer, weight=weight, bias=bias)
        for layer, weight, bias in zip(layers, leaves[1::2], leaves[2::2], strict=True)
    ]
    out = plain_chain(leaves[0], remade) if program is None else fused_chain(leaves[0], remade, program, rounding)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def folded(gradients: list[Tensor], layers: list[Layer]) -> list[Tensor]:
    """Gradients of complex weights by their real and their imaginary parts, as autograd folds them."""
    found = list(gradients)
    for number, layer in enumerate(layers):
        if layer.complex_valued:
            weight = found[1 + 2 * number + 1]
            (upper_left, upper_right), (lower_left, lower_right) = (
                half.chunk(2, dim=1) for half in weight.chunk(2, dim=0)
            )
            found[1 + 2 * number + 1] = torch.stack([upper_left + lower_right, lower_left - upper_right])
    return found


def inputs(layers: list[Layer], rows: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, layers[0].weight.shape[1], generator=generator)
    return x, torch.randn(rows, layers[-1].width(), generator=generator)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=3, max_size=4), st.integers(1, 150), st.integers(0, 100))
def test_complex_products_are_those_of_their_real_matrices(sizes: list[int], rows: int, seed: int) -> None:
    layers = layers_of(sizes, seed, is_complex=True)
    x, upstream = inputs(layers, rows, seed)
    wide = [replace(layer, weight=layer.weight.double(), bias=layer.bias.double()) for layer in layers]
    expected = folded(step(x.double(), wide, upstream.double(), None), layers)
    found = folded(step(x, layers, upstream, compiled), layers)
    for number, (got, wanted) in enumerate(zip(found, expected, strict=True)):
        scale = float(wanted.abs().max()) + (1.0 if number < 2 else rows**0.5)
        torch.testing.assert_close(got.double() / scale, wanted / scale, atol=1e-5, rtol=0)


@has_pairs
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=3, max_size=4), st.integers(1, 150), st.integers(0, 100), st.booleans())
def test_rounded_backward_products_are_those_of_rounded_operands(
    sizes: list[int], rows: int, seed: int, is_complex: bool
) -> None:
    layers = layers_of(sizes, seed, is_complex=is_complex)
    x, upstream = inputs(layers, rows, seed)
    exact = folded(step(x, layers, upstream, BlockProgram(plain)), layers)
    expected = folded(step(x, layers, upstream, BlockProgram(plain), ROUNDED), layers)
    found = folded(step(x, layers, upstream, compiled, ROUNDED), layers)
    torch.testing.assert_close(found[0], exact[0], atol=1e-5, rtol=1e-5)
    for number, (got, wanted, whole) in enumerate(zip(found[1:], expected[1:], exact[1:], strict=True)):
        # Three complex products round other sums than four do; and what is rounded once differs by what it came from.
        scale = float(whole.norm()) + 0.3 * (1.0 if number < 2 else rows**0.5)
        assert float((got - wanted).norm()) <= (0.02 if is_complex else 0.005) * scale


@has_pairs
def test_rounding_is_that_of_bfloat16() -> None:
    """One layer, whose gradients are single products: those of operands rounded to nearest, and no others."""
    layers = layers_of([33, 17], 0)
    x, upstream = inputs(layers, 41, 0)
    found = step(x, layers, upstream, compiled, ROUNDED)
    near = [tensor.bfloat16().double() for tensor in (x, upstream, layers[0].weight)]
    torch.testing.assert_close(found[1].double(), near[1] @ near[2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[2].double(), near[1].T @ near[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[3].double(), upstream.double().sum(dim=0), atol=1e-5, rtol=1e-5)


@has_pairs
@pytest.mark.parametrize("method", METHODS)
def test_first_layers_keep_their_digits(method: str) -> None:
    network = preset(method, "image").network(2, 3, width=24, depth=2, generator=torch.Generator().manual_seed(0))
    x = torch.rand(300, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def of_the_weights(rounding: Rounding, layer: int) -> Tensor:
        with rounded(rounding):
            out = network(x)
        return torch.autograd.grad(out.square().sum(), list(network.parameters())[layer])[0]

    exact, found = (of_the_weights(rounding, 0) for rounding in (EXACT, ROUNDED))
    assert float((found - exact).norm() / exact.norm()) < 0.05
