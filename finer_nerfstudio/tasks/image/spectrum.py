"""Power spectra of images and of error maps: how much of them is at which frequency.

Frequencies are in cycles per longer side of the image, so that they are the coordinate network's own: its longer side
spans [-1, 1] whatever the number of pixels. Half the number of pixels along the longer side is the highest frequency
along an axis; diagonal waves go up to sqrt(2) times that.

Two things are wanted of a spectrum, and no one transform gives both. Its shape should not show that the image ends:
:func:`radial_spectrum` and :func:`mean_centroid` take a Hann window, which keeps the jump between opposite borders from
leaking into all frequencies. Its parts should add up to the mean square of the image itself:
:func:`band_powers` mirrors the image at its borders instead, which weighs all pixels alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def radial_spectrum(values: Float[Tensor, "height width"]) -> tuple[Float[Tensor, " rings"], Float[Tensor, " rings"]]:
    """Power spectrum averaged over directions.

    The mean is taken off, and what is left goes through a Hann window. A ring holds the coefficients whose frequency
    rounds to the same whole number. Powers are normalised so that their sum over all coefficients, which is that of
    mean power times the coefficients in a ring, is the mean square of what is left, weighted by the window's square
    (Parseval): about the variance of the image. A wave of amplitude A adds up to A^2 / 2, over its own ring and those
    beside it, because the window spreads every coefficient over its neighbours, one to each side along each axis.

    Args:
        values: an image or an error map, of one channel, in any units.

    Returns:
        Frequencies 0, 1, 2, ... in cycles per longer side, and the mean power of a coefficient in each ring in squared
        units of ``values``; float64 on the CPU. The first is zero up to what neighbouring frequencies share with it.
    """
    power = _windowed_power(values)
    rings = _ring_of_coefficients(values.shape)
    sizes = rings.flatten().bincount()
    sums = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, rings.flatten(), power.flatten())
    return torch.arange(len(sizes), dtype=torch.float64), sums / sizes


def band_powers(values: Float[Tensor, "height width"], cutoff: float) -> tuple[float, float]:
    """Mean square of what lies below and of what lies from a frequency on; the two add up to that of ``values``.

    Of an error map, that is how much of the mean squared error is owed to coarse and to fine structure.

    Args:
        values: an image or an error map, of one channel, in any units; its mean counts as the lowest frequency.
        cutoff: in cycles per longer side.
    """
    power, radii = _mirrored_power(values)
    low = radii < cutoff
    return float(power[low].sum()), float(power[~low].sum())


def mirrored_centroid(values: Float[Tensor, "height width"]) -> float:
    """Mean frequency in cycles per longer side, weighted by power, of the image mirrored at its borders; zero for a
    constant.

    For what is slower than a cycle or long in one direction: a window would take away most of the first and widen the
    spectrum along the shorter side of the second. Waves whose slope is steep at a border get a kink there, which makes
    them seem slower by up to a third of a cycle.

    Args:
        values: an image or the response of a neuron, of one channel, in any units.
    """
    values = values.double()
    power, radii = _mirrored_power(values - values.mean())
    total = float(power.sum())
    # What rounding leaves of a constant has no frequency.
    return float((power * radii).sum()) / total if total > 1e-24 * float(values.square().mean()) else 0.0


def mean_spectrum(
    image: Float[Tensor, "height width channels"],
) -> tuple[Float[Tensor, " rings"], Float[Tensor, " rings"]]:
    """:func:`radial_spectrum` averaged over the channels."""
    spectra = [radial_spectrum(channel) for channel in image.unbind(-1)]
    return spectra[0][0], torch.stack([power for _, power in spectra]).mean(dim=0)


def mean_centroid(image: Float[Tensor, "height width channels"]) -> float:
    """Return the mean frequency in cycles per longer side, weighted by power; zero for a constant.

    From the windowed coefficients of :func:`radial_spectrum` themselves, before they are put into rings, of all
    channels together: those that vary more weigh more.

    Args:
        image: an image or an error map, in any units.
    """
    power = torch.stack([_windowed_power(channel) for channel in image.unbind(-1)]).sum(dim=0)
    total = float(power.sum())
    # What rounding leaves of a constant has no frequency.
    if total <= 1e-24 * float(image.detach().double().square().sum()) / power.numel():
        return 0.0
    return float((power * _radii(power.shape)).sum()) / total


def _windowed_power(values: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    """Power of every coefficient; float64 on the CPU."""
    values = values.detach().double().cpu()
    height, width = values.shape
    window = _hann(height)[:, None] * _hann(width)
    # The weighted mean, so that exactly nothing is left at frequency zero.
    centred = values - (window * values).sum() / window.sum()
    return torch.fft.fft2(window * centred).abs().square() / (values.numel() * window.square().sum())


def _mirrored_power(
    values: Float[Tensor, "height width"],
) -> tuple[Float[Tensor, "height2 width2"], Float[Tensor, "height2 width2"]]:
    """Power and frequency of every coefficient of the mirrored image, which is twice as long: they lie half a cycle per
    side apart. Float64 on the CPU."""
    mirrored = values.detach().double().cpu()
    mirrored = torch.cat([mirrored, mirrored.flip(0)], dim=0)
    mirrored = torch.cat([mirrored, mirrored.flip(1)], dim=1)
    power = (torch.fft.fft2(mirrored).abs() / mirrored.numel()).square()
    return power, _radii(mirrored.shape, max(values.shape))


def _hann(count: int) -> Float[Tensor, " count"]:
    """Samples of a Hann window at pixel centres: symmetric, none of them zero, and three coefficients in all."""
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.sin(math.pi * centres).square()


def _radii(shape: Sequence[int], longer: int | None = None) -> Float[Tensor, "height width"]:
    """Frequency of every coefficient in cycles per longer side, which is that of ``shape`` unless given."""
    longer = max(shape) if longer is None else longer
    down, right = (torch.fft.fftfreq(count, dtype=torch.float64) * longer for count in shape)
    return torch.hypot(down[:, None], right[None, :])


def _ring_of_coefficients(shape: Sequence[int]) -> Int[Tensor, "height width"]:
    return _radii(shape).round().long()
