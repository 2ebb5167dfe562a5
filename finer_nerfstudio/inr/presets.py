"""What the published numbers were made with: (method, task) -> hyper-parameters (FINER++ paper, §5 and appendix).

A baseline is a row here, not a module.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from finer_nerfstudio.inr.activations import Activation, Gauss, ReLU, Sine, Wavelet, variable_periodic

Task = Literal["image", "sdf", "nerf"]
Source = Literal["code", "text"]


@dataclass(frozen=True)
class Preset:
    """Hyper-parameters of one method for one task.

    Attributes:
        activation: activation of all hidden layers.
        learning_rate: initial learning rate of Adam; it decays exponentially to a tenth unless the task says otherwise.
        bias_range: k, the half-width of the first layer's biases; None for PyTorch's default.
        encoding_frequencies: octaves of positional encoding.
    """

    activation: Activation
    learning_rate: float
    bias_range: float | None = None
    encoding_frequencies: int = 0


_SQRT_2, _SQRT_3 = math.sqrt(2.0), math.sqrt(3.0)

_IMAGE: dict[str, Preset] = {
    "pemlp": Preset(ReLU(), 5e-4, encoding_frequencies=10),
    "siren": Preset(Sine(30.0), 5e-4),
    "gauss": Preset(Gauss(30.0), 5e-3),
    "wire": Preset(Wavelet(omega_0=20.0, s_0=10.0), 5e-3),
    "finer-sine": Preset(variable_periodic(Sine(30.0)), 5e-4, bias_range=1.0 / _SQRT_2),
    # s_0 / omega_f = 3, and for the wavelet s_0 / omega_f = 2 and omega_0 / omega_f = 4: the authors' code.
    "finer-gauss": Preset(variable_periodic(Gauss(30.0), omega_f=10.0), 1e-3, bias_range=1.0),
    "finer-wavelet": Preset(variable_periodic(Wavelet(omega_0=20.0, s_0=10.0), omega_f=5.0), 1e-3, bias_range=1.0),
}

_BIAS_RANGES: dict[tuple[Task, Source], dict[str, float]] = {
    ("sdf", "code"): {"finer-sine": 1.0, "finer-gauss": 1.0, "finer-wavelet": 1.0 / _SQRT_3},
    ("sdf", "text"): {"finer-sine": 1.0, "finer-gauss": 1.0, "finer-wavelet": 1.0 / _SQRT_2},
    ("nerf", "code"): {"finer-sine": 1.0 / _SQRT_3, "finer-gauss": 1.0 / _SQRT_3, "finer-wavelet": 1.0},
    ("nerf", "text"): {"finer-sine": 1.0 / _SQRT_3, "finer-gauss": 1.0 / _SQRT_3, "finer-wavelet": 1.0},
}

_LEARNING_RATES: dict[Task, float] = {"sdf": 1e-4, "nerf": 2e-4}

METHODS: tuple[str, ...] = tuple(_IMAGE)
"""Names of all methods: four baselines and the three FINER++ families."""


def preset(method: str, task: Task, source: Source = "code") -> Preset:
    """The published hyper-parameters of ``method`` for ``task``.

    Args:
        method: one of :data:`METHODS`.
        task: "image", "sdf" or "nerf". Learning rates of the Gauss and Wavelet families for "nerf" were not published
            and are those of the sine.
        source: where the authors' "code" and the paper's "text" differ: the text has omega_f = 2.5 throughout, the
            code 10 (Gauss) and 5 (Wavelet), and another bias range for the Wavelet's signed distances. The published
            numbers come from the code.

    Raises:
        ValueError: for an unknown method, task or source, naming the known ones.
    """
    for kind, value, known in (
        ("method", method, METHODS),
        ("task", task, ("image", "sdf", "nerf")),
        ("source", source, ("code", "text")),
    ):
        if value not in known:
            raise ValueError(f"unknown {kind} {value!r}; known are {', '.join(known)}")
    row = _IMAGE[method]
    if source == "text" and method in ("finer-gauss", "finer-wavelet"):
        base = Gauss(30.0) if method == "finer-gauss" else Wavelet(omega_0=20.0, s_0=10.0)
        row = replace(row, activation=variable_periodic(base, omega_f=2.5))
    if task == "image":
        return row
    bias_range = _BIAS_RANGES[task, source].get(method)
    return replace(row, learning_rate=_LEARNING_RATES[task], bias_range=bias_range)
