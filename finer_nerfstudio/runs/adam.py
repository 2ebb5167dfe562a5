"""Adam in one pass over memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class Adam:
    """Adam (Kingma and Ba 2015), with the numbers of ``torch.optim.Adam(parameters, fused=True)``.

    The first step of any of torch's optimizers imports ``torch.compile``, which takes half as long as PyTorch itself.

    Attributes:
        learning_rate: of the next step.
        state: by the number of a parameter, its moments and how many steps it has had.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self.state: dict[int, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change all parameters that have a gradient, in place."""
        given = [index for index, parameter in enumerate(self.parameters) if parameter.grad is not None]
        if not given:
            return
        for index in given:
            if index not in self.state:
                self.state[index] = _fresh(self.parameters[index])
        states = [self.state[index] for index in given]
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage]
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
            [self.parameters[index] for index in given],
            [gradient for index in given if (gradient := self.parameters[index].grad) is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            lr=self.learning_rate,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            weight_decay=0.0,
            eps=_EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def load(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Go on from the moments of a run before.

        Args:
            state: of an optimizer of as many parameters, on any device.

        Raises:
            ValueError: for moments that do not belong to these parameters.
        """
        loaded: dict[int, dict[str, Tensor]] = {}
        for index, given in state.items():
            if not 0 <= index < len(self.parameters):
                raise ValueError(f"there is no parameter {index}")
            loaded[index] = _fresh(self.parameters[index])
            if given.keys() != loaded[index].keys():
                raise ValueError(f"the moments of the parameter {index} are {', '.join(given)}")
            for name, tensor in loaded[index].items():
                if given[name].shape != tensor.shape:
                    raise ValueError(f"{name} of the parameter {index} has another shape")
                tensor.copy_(given[name])
        self.state = loaded


def _fresh(parameter: Tensor) -> dict[str, Tensor]:
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format, requires_grad=False),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format, requires_grad=False),
    }
