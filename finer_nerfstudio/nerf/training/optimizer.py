"""The optimizer that Nerfstudio's trainer is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from finer_nerfstudio.runs.adam import Rules, fresh_state, update

_VARIANTS = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")


class Adam(torch.optim.Adam):
    """PyTorch's Adam, with steps of all parameters in one call on processors.

    State and results are those of ``torch.optim.Adam(..., fused=True)``, within rounding, which makes the steps on
    other devices and those of variants of Adam.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move the parameters by one step.

        Args:
            closure: evaluates the model again, and returns the loss.
        """
        if getattr(self, "grad_scale", None) is not None or not all(map(_is_plain, self.param_groups)):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in given:
                if not self.state[parameter]:
                    self.state[parameter].update(fresh_state(parameter))
            rules = Rules(float(group["lr"]), tuple(group["betas"]), group["eps"], group["weight_decay"])
            update(given, [self.state[parameter] for parameter in given], rules)
        return loss


def _is_plain(group: dict[str, Any]) -> bool:
    """Whether the parameters of a group are updated by Adam as such, on a processor."""
    on_processor = all(parameter.device.type == "cpu" for parameter in group["params"])
    return on_processor and not any(group.get(name) for name in _VARIANTS)
