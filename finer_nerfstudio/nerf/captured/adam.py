"""Adam and the moving average of the weights over one flat buffer, in one pass over memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class AdamRules:
    """Hyper-parameters of Adam (Kingma and Ba 2015).

    Attributes:
        betas: decay of the gradient's first and second moment.
        eps: added to the root of the second moment.
        ema_decay: of the average of the weights per step.
    """

    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-15
    ema_decay: float = 0.95


class FlatAdam:
    """Adam for the parameters of a module, which become views of one buffer, and their moving average.

    The learning rate and the number of finished steps stay on the device: a captured step can be repeated without being
    told anything.

    Args:
        module: whose parameters are trained.
        averaged: the same module once more; its parameters become views of the average.
        rules: hyper-parameters.
    """

    def __init__(self, module: nn.Module, averaged: nn.Module, rules: AdamRules) -> None:
        self.rules = rules
        self.parameters = list(module.parameters())
        self.values = _flattened(self.parameters)
        self.average = _flattened(averaged.parameters())
        self.first = torch.zeros_like(self.values)
        self.second = torch.zeros_like(self.values)
        self.step = torch.zeros((), dtype=torch.float64, device=self.values.device)
        self.learning_rate = torch.zeros((), dtype=torch.float64, device=self.values.device)
        averaged.requires_grad_(False)

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor]) -> None:
        """Move weights and average by one step at the present learning rate.

        Args:
            gradients: with respect to each parameter.
        """
        gradient = torch.cat([each.reshape(-1) for each in gradients])
        rules, step = self.rules, self.step
        # The average is that of the weights alone after the first step.
        decay = torch.where(step > 0, rules.ema_decay, 0.0)
        step += 1
        corrections = [1.0 - beta**step for beta in rules.betas]
        numbers = torch.stack([self.learning_rate / corrections[0], corrections[1].sqrt(), decay]).float()
        if self.values.is_cuda and find_spec("triton") is not None:
            from finer_nerfstudio.nerf.captured import triton_adam

            triton_adam.update(self.values, gradient, self.first, self.second, self.average, numbers, rules)
            return
        self.first.lerp_(gradient, 1.0 - rules.betas[0])
        self.second.mul_(rules.betas[1]).addcmul_(gradient, gradient, value=1.0 - rules.betas[1])
        root = self.second.sqrt().div_(numbers[1]).add_(rules.eps)
        self.values.sub_(numbers[0] * self.first / root)
        self.average.lerp_(self.values, 1.0 - numbers[2])

    def moments(self) -> list[tuple[Tensor, Tensor]]:
        """Return the first and second moment of each parameter, views of what is updated."""
        sizes = [parameter.numel() for parameter in self.parameters]
        pairs = zip(self.first.split(sizes), self.second.split(sizes), strict=True)
        return [
            (first.view(parameter.shape), second.view(parameter.shape))
            for parameter, (first, second) in zip(self.parameters, pairs, strict=True)
        ]


def _flattened(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return one buffer with all parameters, which become views of it."""
    parameters = list(parameters)
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    start = 0
    for parameter in parameters:
        parameter.data = flat[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
    return flat
