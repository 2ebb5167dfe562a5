"""Activations as plain numbers, for fused kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class KernelForm:
    """An activation as the numbers of its formula, with ``alpha(x) = |x| + 1`` and ``g(x) = alpha(x) x``.

    ========  =========================  ==========================  ===================================
    family    base                       variable, no ``omega_f``    variable, with ``omega_f``
    ========  =========================  ==========================  ===================================
    relu      ``max(x, 0)``
    sine      ``sin(omega x)``           ``sin(omega g(x))``
    gauss     ``exp(-(s x)^2)``                                      ``exp(-((s / omega_f) u)^2)``
    wavelet   ``exp(j omega x) *                                     ``exp(j (omega / omega_f) u) *
              exp(-|s x|^2)``                                        exp(-|(s / omega_f) u|^2)``
    ========  =========================  ==========================  ===================================

    Here ``u = sin(omega_f g(x))``. A wavelet's features are packed, all real parts before all imaginary ones, and g is
    applied to either part by itself before the complex sine is taken; with ``real_input`` (the first layer) the
    pre-activation is real and only the result is packed.

    Attributes:
        family: the base activation.
        omega: omega_0 of a sine or wavelet, 0 otherwise.
        s: s_0 of a Gaussian or wavelet, 0 otherwise.
        variable: whether g is applied.
        omega_f: frequency of the inner sine, 0 where there is none.
        scale_gradient: whether the derivative of g is ``2|x| + 1``, or ``alpha(x)`` as with alpha held constant.
        real_input: whether a wavelet's pre-activation is real.
    """

    family: Literal["relu", "sine", "gauss", "wavelet"]
    omega: float = 0.0
    s: float = 0.0
    variable: bool = False
    omega_f: float = 0.0
    scale_gradient: bool = False
    real_input: bool = False

    @property
    def outputs_per_input(self) -> int:
        """Features of the result for each feature of the pre-activation."""
        return 2 if self.real_input else 1
