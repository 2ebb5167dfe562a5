"""The trainer's Adam against PyTorch's in double precision."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finer_nerfstudio.nerf.training.optimizer import Adam
from finer_nerfstudio.runs import adam

SHAPES = [(3,), (1,), (70, 300), (0,), (5, 4, 3), (40000,)]


@pytest.fixture(scope="module", params=["compiled", "tensors"], autouse=True)
def program(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways to move weights."""
    if request.param == "compiled" and adam._library() is None:
        pytest.skip("there is no C++ compiler")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "tensors":
            patch.setattr(adam, "_library", lambda: None)
        yield request.param


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"betas": (0.5, 0.9), "eps": 1e-3}])
def test_steps_are_those_of_double_precision(options: dict[str, Any]) -> None:
    ours = [nn.Parameter(each) for each in tensors(0)]
    exact = [nn.Parameter(each) for each in tensors(0, torch.float64)]
    never = nn.Parameter(torch.ones(4))  # has no gradient
    pair = Adam([*ours, never], lr=1e-2, fused=True, **options), torch.optim.Adam(exact, lr=1e-2, **options)
    for step in range(20):
        for group in (pair[0].param_groups[0], pair[1].param_groups[0]):
            group["lr"] = 1e-2 * 0.9**step
        for mine, wide, grad in zip(ours, exact, tensors(1 + step), strict=True):
            scale = 10.0 ** (step % 5 - 3)
            mine.grad, wide.grad = scale * grad, scale * grad.double()
        for optimizer in pair:
            optimizer.step()
    for mine, wide in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine.double(), wide, rtol=1e-5, atol=2e-6)
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(
                pair[0].state[mine][name].double(), pair[1].state[wide][name], rtol=1e-4, atol=2e-6
            )
        assert float(pair[0].state[mine]["step"]) == 20
    assert torch.equal(never, torch.ones(4))
    assert never not in pair[0].state or not pair[0].state[never]


def test_state_is_that_of_pytorch_and_may_be_loaded_either_way() -> None:
    ours = [nn.Parameter(each) for each in tensors(0)]
    optimizer = Adam(ours, lr=1e-2, fused=True)
    for step in range(3):
        for parameter, grad in zip(ours, tensors(step), strict=True):
            parameter.grad = grad
        optimizer.step()
    for kind in (Adam, torch.optim.Adam):
        copies = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
        other = kind(copies, lr=1.0, fused=True)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for parameter, grad in zip(copies, tensors(7), strict=True):
            parameter.grad = grad
        other.step()
        expected = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
        again = Adam(expected, lr=1.0, fused=True)
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for parameter, grad in zip(expected, tensors(7), strict=True):
            parameter.grad = grad
        again.step()
        for found, wanted in zip(copies, expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_closures_variants_and_other_types_are_as_pytorch_has_them() -> None:
    def after(kind: type[torch.optim.Adam], dtype: torch.dtype, **options: Any) -> Tensor:
        parameter = nn.Parameter(torch.linspace(-1.0, 2.0, 12, dtype=dtype).view(3, 4).T)  # not contiguous
        optimizer = kind([parameter], lr=0.1, **options)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (parameter**2).sum()
            loss.backward()
            return loss

        losses = [float(loss.detach()) for _ in range(3) if (loss := optimizer.step(closure)) is not None]
        assert losses[0] > losses[2]
        return parameter.detach()

    for dtype in (torch.float32, torch.float64):
        for options in ({}, {"amsgrad": True}, {"maximize": False}):
            torch.testing.assert_close(after(Adam, dtype, **options), after(torch.optim.Adam, dtype, **options))
