"""The flat optimiser against torch's own in float64, and its kernel in the interpreter or on a GPU."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from finer_nerfstudio.nerf.captured.adam import AdamRules, FlatAdam

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RULES = AdamRules(ema_decay=0.9)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 17), nn.Tanh(), nn.Linear(17, 2))


def gradients(module: nn.Module, step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64) * 10.0**-step for p in module.parameters()]


def test_steps_and_average_are_those_of_torch() -> None:
    ours = network().to(DEVICE)
    averaged = copy.deepcopy(ours)
    optimizer = FlatAdam(ours, averaged, RULES)
    theirs = network().double()
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-2, betas=(0.9, 0.99), eps=1e-15)
    decay = torch.optim.lr_scheduler.ExponentialLR(adam, 0.1 ** (1 / 40))
    mean = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for step in range(12):
        wanted = gradients(theirs, step)
        for parameter, gradient in zip(theirs.parameters(), wanted, strict=True):
            parameter.grad = gradient
        adam.step()
        decay.step()
        mean.update_parameters(theirs)
        optimizer.learning_rate.fill_(1e-2 * 0.1 ** (step / 40))
        optimizer.update([gradient.float().to(DEVICE) for gradient in wanted])
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.double().cpu(), other.detach(), rtol=1e-5, atol=1e-6)
    for own, other in zip(averaged.parameters(), mean.module.parameters(), strict=True):
        torch.testing.assert_close(own.double().cpu(), other.detach(), rtol=1e-5, atol=1e-6)
    assert float(optimizer.step) == 12
    for (first, second), parameter in zip(optimizer.moments(), theirs.parameters(), strict=True):
        state = adam.state[parameter]
        torch.testing.assert_close(first.double().cpu(), state["exp_avg"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(second.double().cpu(), state["exp_avg_sq"], rtol=1e-5, atol=1e-6)


def test_parameters_are_views_of_one_buffer_and_the_module_stays_itself() -> None:
    ours = network()
    before = [parameter.detach().clone() for parameter in ours.parameters()]
    optimizer = FlatAdam(ours, copy.deepcopy(ours), RULES)
    for old, new in zip(before, ours.parameters(), strict=True):
        assert torch.equal(old, new)
    assert optimizer.count == sum(parameter.numel() for parameter in ours.parameters())
    assert all(parameter.data_ptr() % 256 == optimizer.values.data_ptr() % 256 for parameter in ours.parameters())
    optimizer.values.zero_()
    assert all(not bool(parameter.any()) for parameter in ours.parameters())


@pytest.mark.skipif(
    DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1",
    reason="without a GPU, the interpreter's process runs this",
)
def test_the_kernel_updates_alike() -> None:
    from finer_nerfstudio.nerf.captured import triton_adam

    generator = torch.Generator().manual_seed(0)
    buffers = [torch.rand(2500, generator=generator) for _ in range(5)]
    numbers = torch.tensor([1e-2, 0.8, 0.9])
    value, gradient, first, second, average = (buffer.double() for buffer in buffers)
    first = 0.9 * first + 0.1 * gradient
    second = 0.99 * second + 0.01 * gradient**2
    value = value - 1e-2 * first / (second.sqrt() / 0.8 + 1e-15)
    average = 0.9 * average + 0.1 * value
    ours = [buffer.to(DEVICE) for buffer in buffers]
    values, gradient_of_loss, moment, square, mean = ours
    triton_adam.update(values, gradient_of_loss, moment, square, mean, numbers.to(DEVICE), RULES)
    for got, wanted in zip(ours, (value, gradient, first, second, average), strict=True):
        torch.testing.assert_close(got.double().cpu(), wanted, rtol=1e-5, atol=1e-6)
