"""Adam and the moving average of weights on processors: one call of C++ for all tensors (``adam.cpp``)."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finer_nerfstudio.inr.kernels import building


class Adam(torch.optim.Adam):
    """PyTorch's Adam, with steps of all parameters in one call on processors.

    State and results are those of ``torch.optim.Adam(..., fused=True)``, within rounding, which computes what this one
    does not: other devices and types, variants of Adam, and everything where there is no compiler.
    """

    @torch.no_grad()
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
            self._update(group)
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        (beta_1, beta_2), learning_rate = group["betas"], float(group["lr"])
        states = [self._state_of(parameter) for parameter in parameters]
        rates, corrections = [], []
        for state in states:
            state["step"] += 1
            number = float(state["step"])
            rates.append(learning_rate / (1.0 - beta_1**number))
            corrections.append((1.0 - beta_2**number) ** 0.5)
        _call(
            "adam",
            [
                parameters,
                [parameter.grad for parameter in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
            ],
            *(_reals(values) for values in (rates, corrections)),
            len(parameters),
            beta_1,
            beta_2,
            group["eps"],
            group["weight_decay"],
        )

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state


def follow(means: Sequence[Tensor], values: Sequence[Tensor], share: float) -> None:
    """Move tensors towards others, in place.

    Args:
        means: that move.
        values: towards which, of the same shapes.
        share: of the way, in [0, 1].
    """
    if not all(map(_is_simple, [*means, *values])) or _library() is None:
        torch._foreach_lerp_(list(means), list(values), share)
        return
    _call("follow", [means, values], len(means), share)


def _is_simple(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous()


def _is_plain(group: dict[str, Any]) -> bool:
    """Whether the parameters of a group are updated by Adam as such, and lie where C++ reads them."""
    variants = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")
    if any(group.get(name) for name in variants) or _library() is None:
        return False
    gradients = (parameter.grad for parameter in group["params"])
    return all(map(_is_simple, group["params"])) and all(each is None or each.is_contiguous() for each in gradients)


def _reals(values: Sequence[float]) -> Any:
    return (ctypes.c_float * len(values))(*values)


def _call(function: str, tensors: Sequence[Sequence[Any]], *rest: Any) -> None:
    library, number = _library(), len(tensors[0])
    assert library is not None
    pointers = [(ctypes.c_void_p * number)(*(tensor.data_ptr() for tensor in each)) for each in tensors]
    sizes = (ctypes.c_int64 * number)(*(tensor.numel() for tensor in tensors[0]))
    getattr(library, f"finer_{function}")(*pointers, sizes, *rest, torch.get_num_threads())


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = building.build(Path(__file__).with_name("adam.cpp"), "adam")
    if isinstance(library, str):
        return None
    pointer, long, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    library.finer_adam.argtypes = [*[pointer] * 7, long, *[real] * 4, ctypes.c_int]
    library.finer_follow.argtypes = [*[pointer] * 3, long, real, ctypes.c_int]
    library.finer_adam.restype = library.finer_follow.restype = None
    return library
