"""Coordinate networks with variable-periodic activations. Torch only: no Nerfstudio, no files."""

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
