"""FINER++: variable-periodic activations for neural fields, and a Nerfstudio method family built on them.

Everything exported here is the public API. Nerfstudio itself is imported only by ``finer_nerfstudio.nerf``.
"""

from importlib.metadata import PackageNotFoundError, version

from finer_nerfstudio.checkpoint import SavedModel, load_model, save_model
from finer_nerfstudio.inr import (
    METHODS,
    Activation,
    CoordinateNetwork,
    Custom,
    Gauss,
    GrowingNetwork,
    Preset,
    ReLU,
    Sine,
    VariablePeriodic,
    Wavelet,
    bias_shells,
    positional_encoding,
    preset,
    variable_periodic,
)
from finer_nerfstudio.tasks.array import FittedArray, fit_array

try:
    __version__ = version("finer-nerfstudio")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+unknown"

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
