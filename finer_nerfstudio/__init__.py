"""FINER++: variable-periodic activations for neural fields, and a Nerfstudio method family built on them.

Everything exported here is the public API. It is imported when it is first asked for: the command line and
Nerfstudio's search for plugins start without PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from finer_nerfstudio._version import __version__

if TYPE_CHECKING:
    from finer_nerfstudio.files.checkpoint import SavedModel, load_model, save_model
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
    from finer_nerfstudio.tasks.signal.array import FittedArray, fit_array

__all__ = [
    "METHODS",
    "Activation",
    "CoordinateNetwork",
    "Custom",
    "FittedArray",
    "Gauss",
    "GrowingNetwork",
    "Preset",
    "ReLU",
    "SavedModel",
    "Sine",
    "VariablePeriodic",
    "Wavelet",
    "__version__",
    "bias_shells",
    "fit_array",
    "load_model",
    "positional_encoding",
    "preset",
    "save_model",
    "variable_periodic",
]

# The networks are most of it.
_ROOM_OF = {
    **dict.fromkeys(__all__, "inr"),
    **dict.fromkeys(("SavedModel", "load_model", "save_model"), "files.checkpoint"),
    **dict.fromkeys(("FittedArray", "fit_array"), "tasks.signal.array"),
}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
