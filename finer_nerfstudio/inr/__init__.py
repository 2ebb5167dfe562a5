"""Coordinate networks with variable-periodic activations. Torch only: no Nerfstudio, no files.

What is exported is imported when it is first asked for: the methods can be listed without PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finer_nerfstudio.inr.activations import (
        Activation,
        Custom,
        Gauss,
        ReLU,
        Sine,
        VariablePeriodic,
        Wavelet,
        variable_periodic,
    )
    from finer_nerfstudio.inr.growth import GrowingNetwork, bias_shells
    from finer_nerfstudio.inr.methods import METHODS, Preset, preset
    from finer_nerfstudio.inr.network import CoordinateNetwork, positional_encoding

__all__ = [
    "METHODS",
    "Activation",
    "CoordinateNetwork",
    "Custom",
    "Gauss",
    "GrowingNetwork",
    "Preset",
    "ReLU",
    "Sine",
    "VariablePeriodic",
    "Wavelet",
    "bias_shells",
    "positional_encoding",
    "preset",
    "variable_periodic",
]

# Activations are most of it.
_MODULE_OF = {
    **dict.fromkeys(__all__, "activations"),
    **dict.fromkeys(("GrowingNetwork", "bias_shells"), "growth"),
    **dict.fromkeys(("METHODS", "Preset", "preset"), "methods"),
    **dict.fromkeys(("CoordinateNetwork", "positional_encoding"), "network"),
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF.values():
        return import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULE_OF.values()})
