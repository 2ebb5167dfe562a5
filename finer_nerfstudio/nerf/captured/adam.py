"""Adam and the moving average of the weights over one flat buffer, in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finer_nerfstudio.nerf import kernels_at_work

# Every parameter begins at a multiple of so many numbers, as memory of its own would: products ask for aligned rows.
_ALIGNMENT = 64


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
        self._sizes = [parameter.numel() for parameter in self.parameters]
        device = self.parameters[0].device
        self._gaps = [torch.zeros(-size % _ALIGNMENT, device=device) for size in self._sizes]
        self.values = self._flattened(self.parameters)
        self.average = self._flattened(list(averaged.parameters()))
        self.first = torch.zeros_like(self.values)
        self.second = torch.zeros_like(self.values)
        self.step = torch.zeros((), dtype=torch.float64, device=device)
        self.learning_rate = torch.zeros((), dtype=torch.float64, device=device)
        averaged.requires_grad_(False)

    @property
    def count(self) -> int:
        """Return the number of weights."""
        return sum(self._sizes)

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor]) -> None:
        """Move weights and average by one step at the present learning rate.

        Args:
            gradients: with respect to each parameter.
        """
        gradient, rules, numbers = self.packed(gradients), self.rules, self.numbers()
        if kernels_at_work.usable(self.values):
            from finer_nerfstudio.nerf.captured import triton_adam

            triton_adam.update(self.values, gradient, self.first, self.second, self.average, numbers, rules)
            return
        self.first.lerp_(gradient, 1.0 - rules.betas[0])
        self.second.mul_(rules.betas[1]).addcmul_(gradient, gradient, value=1.0 - rules.betas[1])
        root = self.second.sqrt().div_(numbers[1]).add_(rules.eps)
        self.values.sub_(numbers[0] * self.first / root)
        self.average.lerp_(self.values, 1.0 - numbers[2])

    def numbers(self) -> Tensor:
        """Count the step, and return what it is made with: ``[3]`` float32.

        Learning rate over the first moment's correction, root of the second's, and decay of the average, which is that
        of the weights alone after the first step.
        """
        rules, step = self.rules, self.step
        decay = torch.where(step > 0, rules.ema_decay, 0.0)
        step += 1
        corrections = [1.0 - beta**step for beta in rules.betas]
        return torch.stack([self.learning_rate / corrections[0], corrections[1].sqrt(), decay]).float()

    def packed(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return one buffer with a tensor for each parameter, laid out as the parameters are."""
        pairs = zip(tensors, self._gaps, strict=True)
        return torch.cat([part for tensor, gap in pairs for part in (tensor.reshape(-1), gap)])

    def moments(self) -> list[tuple[Tensor, Tensor]]:
        """Return the first and second moment of each parameter, views of what is updated."""
        pairs = zip(self._views(self.first), self._views(self.second), strict=True)
        return [
            (first.view(parameter.shape), second.view(parameter.shape))
            for parameter, (first, second) in zip(self.parameters, pairs, strict=True)
        ]

    def _flattened(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Return one buffer with all parameters, which become views of it."""
        flat = self.packed([parameter.detach() for parameter in parameters])
        for parameter, view in zip(parameters, self._views(flat), strict=True):
            parameter.data = view.view(parameter.shape)
        return flat

    def _views(self, flat: Tensor) -> list[Tensor]:
        lengths = [size + len(gap) for size, gap in zip(self._sizes, self._gaps, strict=True)]
        return [part[:size] for part, size in zip(flat.split(lengths), self._sizes, strict=True)]
