"""Adam and the moving average of weights: on processors, one call of C++ for all tensors (``adam.cpp``)."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.inr.kernels import building


@dataclass(frozen=True)
class Rules:
    """Hyper-parameters of a step of Adam (Kingma and Ba 2015).

    Attributes:
        learning_rate: of the step.
        betas: decay of the gradient's first and second moment.
        eps: added to the root of the second moment.
        weight_decay: of the weights, added to their gradient.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0


class Adam:
    """Adam with the state of ``torch.optim.Adam(parameters, fused=True)``.

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

    def step(self) -> None:
        """Change all parameters that have a gradient, in place."""
        given = [index for index, parameter in enumerate(self.parameters) if parameter.grad is not None]
        for index in given:
            if index not in self.state:
                self.state[index] = fresh_state(self.parameters[index])
        update(
            [self.parameters[index] for index in given],
            [self.state[index] for index in given],
            Rules(self.learning_rate),
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
            loaded[index] = fresh_state(self.parameters[index])
            if given.keys() != loaded[index].keys():
                raise ValueError(f"the moments of the parameter {index} are {', '.join(given)}")
            for name, tensor in loaded[index].items():
                if given[name].shape != tensor.shape:
                    raise ValueError(f"{name} of the parameter {index} has another shape")
                tensor.copy_(given[name])
        self.state = loaded


def fresh_state(parameter: Tensor) -> dict[str, Tensor]:
    """Return the moments of a parameter before its first step, by the names of torch's Adam."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format, requires_grad=False),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format, requires_grad=False),
    }


@torch.no_grad()
def update(parameters: Sequence[Tensor], states: Sequence[MutableMapping[str, Tensor]], rules: Rules) -> None:
    """Move parameters by a step, in place.

    Args:
        parameters: with gradients, all on one device.
        states: their moments, as :func:`fresh_state` begins them.
        rules: hyper-parameters.

    Raises:
        InputError: for moments of another shape.
    """
    if not parameters:
        return
    for parameter, state in zip(parameters, states, strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            if state[name].shape != parameter.shape:
                raise InputError("the optimizer's moments do not fit its parameters: they belong to another model.")
            if state[name].stride() != parameter.stride():  # PyTorch's would take one for another
                state[name] = torch.empty_like(parameter, requires_grad=False).copy_(state[name])
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    firsts, seconds, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
    torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage]
    if not all(map(_is_simple, [*parameters, *gradients, *firsts, *seconds])) or _library() is None:
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
            list(parameters),
            gradients,
            firsts,
            seconds,
            [],
            steps,
            lr=rules.learning_rate,
            beta1=rules.betas[0],
            beta2=rules.betas[1],
            weight_decay=rules.weight_decay,
            eps=rules.eps,
            amsgrad=False,
            maximize=False,
        )
        return
    numbers = [float(step) for step in steps]
    rates = _reals([rules.learning_rate / (1.0 - rules.betas[0] ** number) for number in numbers])
    corrections = _reals([(1.0 - rules.betas[1] ** number) ** 0.5 for number in numbers])
    tensors = [parameters, gradients, firsts, seconds]
    _call("adam", tensors, rates, corrections, len(parameters), *rules.betas, rules.eps, rules.weight_decay)


@torch.no_grad()
def follow(means: Sequence[Tensor], values: Sequence[Tensor], share: float) -> None:
    """Move tensors towards others, in place.

    Args:
        means: that move.
        values: towards which, of the same shapes.
        share: of the way, in [0, 1].
    """
    if not all(map(_is_simple, [*means, *values])) or _library() is None:
        torch._foreach_lerp_(list(means), list(values), share)  # pyright: ignore[reportPrivateImportUsage]
        return
    _call("follow", [means, values], len(means), share)


def _is_simple(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous()


def _reals(values: Sequence[float]) -> Any:
    return (ctypes.c_float * len(values))(*values)


def _call(function: str, tensors: Sequence[Sequence[Tensor]], *rest: Any) -> None:
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
