"""Operands of products are rounded as asked for, in each direction by itself, and nothing else is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from finer_nerfstudio import METHODS, CoordinateNetwork, preset
from finer_nerfstudio.inr import kernels
from finer_nerfstudio.inr.kernels import Rounding, rounded, rounded_backward
from finer_nerfstudio.inr.kernels.rounding import EXACT, Precision, product, read_rounding, round_to_tf32


def network(method: str) -> CoordinateNetwork:
    row = preset(method, "image")
    return row.network(2, 3, width=24, depth=3, generator=torch.Generator().manual_seed(0))


def step(net: CoordinateNetwork, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    out = net(x)
    weights = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
    return out.detach(), list(torch.autograd.grad((out * weights).sum(), list(net.parameters())))


@pytest.mark.parametrize("method", METHODS)
def test_a_rounded_backward_pass_leaves_the_forward_pass_alone(method: str) -> None:
    net = network(method)
    x = torch.rand(200, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    value, exact = step(net, x)
    with rounded_backward("bfloat16"):
        same, found = step(net, x)
    torch.testing.assert_close(same, value, rtol=1e-4, atol=1e-5)
    differences = [float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
    assert max(differences) > 1e-4
    assert max(differences) < 0.05
    assert differences[-1] < 1e-4, "the last bias adds up what is given"


def test_a_backward_pass_rounds_as_its_forward_pass_was_told() -> None:
    """Not as what is set when it runs, which is in another thread and later."""
    net, x = network("finer-sine"), torch.rand(50, 2)
    with rounded(Rounding("tf32", "bfloat16")):
        out = net(x)
        inside = torch.autograd.grad(out.sum(), list(net.parameters()), retain_graph=True)
    outside = torch.autograd.grad(out.sum(), list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))
    assert not torch.equal(net(x), out)


def test_nothing_is_rounded_unless_asked_for() -> None:
    """Nor after an error inside; and double precision never is."""
    net, x = network("finer-gauss"), torch.rand(50, 2)
    value = net(x)
    with pytest.raises(RuntimeError), rounded(Rounding("bfloat16", "bfloat16")):
        raise RuntimeError
    assert torch.equal(net(x), value)
    with rounded(EXACT):
        assert torch.equal(net(x), value)
    net, x = net.double(), x.double()
    value = net(x)
    with rounded(Rounding("bfloat16", "bfloat16")):
        assert torch.equal(net(x), value)


def test_autocast_is_stronger() -> None:
    net, x = network("finer-sine"), torch.rand(50, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, grads = step(net, x)
        with rounded(Rounding("float32", "float32")):
            other, others = step(net, x)
    with rounded(Rounding("bfloat16", "bfloat16")):
        third, thirds = step(net, x)
    assert torch.equal(value, other)
    assert torch.equal(value, third)
    for one, two, three in zip(grads, others, thirds, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_layers_may_ask_for_full_precision() -> None:
    weight, bias = torch.randn(5, 4), torch.randn(5)
    x = torch.randn(7, 4)
    with rounded(Rounding("bfloat16", "bfloat16")):
        exact = kernels.evaluate_layers(x, [kernels.Layer(weight, bias, None, full_precision=True)])
        coarse = kernels.evaluate_layers(x, [kernels.Layer(weight, bias, None)])
    torch.testing.assert_close(exact, x @ weight.t() + bias)
    assert (coarse - exact).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("precision", "largest"), [("float32", 0.0), ("tf32", 2.0**-11), ("bfloat16", 2.0**-9), ("float16", 2.0**-11)]
)
def test_operands_keep_their_bits(precision: Precision, largest: float) -> None:
    """The product with one is the operand as it was rounded: to half a unit in its last place."""
    x = torch.rand(1000, 1, generator=torch.Generator().manual_seed(0)) + 1.0
    error = (product(x, torch.ones(1, 1), precision) - x).abs().max()
    assert largest * 0.9 <= float(error) <= largest * 2.0
    assert torch.equal(
        product(x, torch.ones(1, 1), precision, out=torch.empty_like(x)), product(x, torch.ones(1, 1), precision)
    )


def test_tf32_rounds_ties_to_even() -> None:
    unit = 2.0**-10
    x = torch.tensor([1 + unit / 2, 1 + 1.5 * unit, -1 - 1.5 * unit, 1 + unit * 0.5001, 0.0, torch.inf, -torch.inf])
    expected = torch.tensor([1.0, 1 + 2 * unit, -1 - 2 * unit, 1 + unit, 0.0, torch.inf, -torch.inf])
    assert torch.equal(round_to_tf32(x), expected)
    assert torch.equal(round_to_tf32(expected), expected)
    assert round_to_tf32(torch.tensor([torch.nan])).isnan().all()


def test_names_of_roundings() -> None:
    assert read_rounding("tf32") == Rounding("tf32", "tf32")
    assert read_rounding("float32, bfloat16") == Rounding("float32", "bfloat16")
    for wrong in ("", "half", "tf32,", "tf32,tf32,tf32", "bf16"):
        with pytest.raises(ValueError, match="a precision is one of float32, tf32, bfloat16, float16"):
            read_rounding(wrong)
