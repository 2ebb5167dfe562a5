"""Choosing the bias range k of FINER++ from the signal, before any training.

The bias range decides how quickly the features of a fresh network change from place to place. Too slowly, and training
has to make the high frequencies of the signal out of low ones; too quickly, and neighbouring samples look unrelated, so
that what is learnt about one says nothing about the next. The measure of both is the normalised structure function: the
mean squared difference of two points a sample apart, over that of two unrelated points. It is 0 for a constant and 1
for noise, and for a stationary field it is one minus the autocorrelation, which is the spectrum's Fourier transform.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.inr.network import CoordinateNetwork

CANDIDATES: tuple[float, ...] = tuple(0.25 * 2.0 ** (0.25 * step) for step in range(19))
"""The bias ranges that are looked at: from 0.25 to 5.7, a quarter of an octave apart."""


def structure(first: Float[Tensor, "n features"], second: Float[Tensor, "n features"]) -> float:
    """The normalised structure function of pairs: 0 where pairs are equal, 1 where they are unrelated.

    Args:
        first: features, or values of a signal, at one point of each pair.
        second: the same at the other.
    """
    difference = (first - second).square().mean(dim=0)
    spread = 2.0 * torch.cat([first, second]).var(dim=0, correction=0)
    known = spread > 1e-12
    return float((difference[known] / spread[known]).mean()) if known.any() else 0.0


def choose_bias_range(
    network_with: Callable[[float], CoordinateNetwork],
    first: Float[Tensor, "n dim"],
    second: Float[Tensor, "n dim"],
    *,
    target: float,
    candidates: Sequence[float] = CANDIDATES,
) -> float:
    """The bias range whose fresh network's features differ by ``target`` between the points of a pair.

    Args:
        network_with: a freshly initialised network with the bias range that it is given.
        first: coordinates of one point of each pair.
        second: coordinates of the other, one sample of the signal away.
        target: the wanted :func:`structure` of the last hidden features.
        candidates: bias ranges in rising order; structure rises with them.
    """
    best, smallest = candidates[0], float("inf")
    for bias_range in candidates:
        network = network_with(bias_range)
        with torch.no_grad():
            found = structure(network.hidden_features(first), network.hidden_features(second))
        if abs(found - target) < smallest:
            best, smallest = bias_range, abs(found - target)
        if found > target:
            break
    return best
