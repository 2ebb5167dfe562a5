"""Fit a coordinate network to an image, measure it, and decode it at any resolution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.inr.methods import precision_in_words, training_rounding
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.runs import metrics
from finer_nerfstudio.runs.options import device_named, preset_of, protocol_of, settings_of
from finer_nerfstudio.runs.training import Report, Schedule, Training, train
from finer_nerfstudio.tasks.image.files import SourceImage
from finer_nerfstudio.tasks.image.options import ImageOptions
from finer_nerfstudio.tasks.image.spectrum import mirrored_centroid
from finer_nerfstudio.tasks.signal.bias_range import bias_range_for
from finer_nerfstudio.tasks.signal.grid import GridSignal, decode, points_per_step, squared_error

# LPIPS keeps all features of a network in memory; beyond this many pixels it is left out.
_LARGEST_FOR_LPIPS = 1 << 22
# SSIM is measured in bands of rows of about this many pixels.
_SSIM_BAND = 1 << 21


@dataclass(frozen=True)
class FittedImage:
    """Result of :func:`fit_image`.

    Attributes:
        network: from coordinates ``[*batch, 2]`` (down, right; the longer side spans [-1, 1]) to channels in [-1, 1].
        training: steps, seconds and the losses on the way.
        settings: everything that decided the result.
    """

    network: CoordinateNetwork
    training: Training
    settings: dict[str, Any]


def signal_of(image: SourceImage) -> GridSignal:
    """An image as the network sees it: black is -1, full intensity is 1."""
    return GridSignal(image.pixels, low=0.0, high=float(image.maximum))


def require_possible(options: ImageOptions, image: SourceImage) -> None:
    """Find out what :func:`fit_image` would refuse, before anything is read or written.

    Raises:
        UsageError: for options that cannot mean anything.
    """
    device_named(options.device)
    chosen, protocol = preset_of(options, "image"), protocol_of(options, "image")
    Schedule(protocol.steps, chosen.learning_rate, minutes=options.minutes)
    points_per_step(options.batch_size, image.height * image.width)


def fit_image(
    image: SourceImage,
    options: ImageOptions,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    report: Report | None = None,
) -> FittedImage:
    """Fit a network to ``image``.

    Args:
        image: the signal.
        options: method, length and hyper-parameters.
        checkpoint: where the state of the run is kept.
        resume: go on from there.
        report: progress callback.

    Raises:
        UsageError: for options that cannot mean anything.
        InputError: when training diverges or a file cannot be read or written.
    """
    device = device_named(options.device)
    signal = signal_of(image)
    protocol = protocol_of(options, "image")
    chosen = preset_of(options, "image")
    schedule = Schedule(protocol.steps, chosen.learning_rate, minutes=options.minutes)
    points_per_step(options.batch_size, signal.samples)
    if options.bias_range == "auto":
        bias_range = bias_range_for(signal, chosen, width=protocol.width, depth=protocol.depth, device=device)
        chosen = replace(chosen, bias_range=bias_range)
    generator = torch.Generator().manual_seed(options.seed)
    network = chosen.network(2, signal.channels, width=protocol.width, depth=protocol.depth, generator=generator)
    rounding = training_rounding(options.method, options.precision, device)
    settings = {
        **settings_of(options, chosen, protocol),
        "products": precision_in_words(rounding),
        "image": image.description,
    }
    network.to(device)
    training = train(
        network,
        squared_error(network, signal, options.batch_size),
        schedule,
        generator=generator,
        checkpoint=checkpoint,
        resume=resume,
        settings=settings,
        rounding=rounding,
        report=report,
    )
    return FittedImage(network, training, settings)


def decode_image(
    network: CoordinateNetwork,
    *,
    height: int,
    width: int,
    maximum: int,
    resolution: tuple[int, int] | None = None,
    region: tuple[tuple[float, float], tuple[float, float]] | None = None,
    out: np.ndarray | None = None,
    report: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Pixels of a fitted image, ``[rows, columns, channels]`` uint8 or uint16.

    Args:
        network: what :func:`fit_image` trained.
        height: of the image that it was trained on, in pixels.
        width: of that image.
        maximum: 255 or 65535, the value of full intensity.
        resolution: rows and columns of the wanted picture; those of the image unless given.
        region: ``((top, bottom), (left, right))`` in pixels of the image that the picture shows; all unless given.
        out: array to write to, such as a memory map.
        report: progress callback: (completed, total) pixels.
    """
    rows, columns = resolution or (height, width)
    if out is None:
        out = np.empty((rows, columns, network.out_dim), np.uint8 if maximum == 255 else np.uint16)
    flat = out.reshape(rows * columns, network.out_dim)
    done = 0
    evaluate = network.compile_for_inference()
    for part in decode(evaluate, (height, width), device=network.device, resolution=(rows, columns), region=region):
        flat[done : done + len(part)] = (_intensity(part) * maximum).round_().numpy()
        done += len(part)
        if report is not None:
            report(done, len(flat))
    return out


def measure(
    network: CoordinateNetwork,
    image: SourceImage,
    *,
    out: np.ndarray | None = None,
    download_lpips: bool = False,
    report: Callable[[str, int, int], None] | None = None,
) -> tuple[dict[str, float | None], np.ndarray]:
    """Quality of a fitted image on all its pixels, and the reconstruction.

    PSNR (dB) is that of the clipped outputs before they are rounded to whole pixel values; SSIM and LPIPS are those of
    the picture as it is saved. LPIPS is None where it cannot be had, SSIM below its 11 pixel window.

    Args:
        network: what :func:`fit_image` trained.
        image: what it was trained on.
        out: array for the reconstruction, such as a memory map.
        download_lpips: fetch the weights that LPIPS needs.
        report: progress callback: (description, completed, total).
    """
    height, width, channels = image.pixels.shape
    if out is None:
        out = np.empty(image.pixels.shape, image.pixels.dtype)
    flat = out.reshape(-1, channels)
    signal = signal_of(image)
    squared, start = 0.0, 0
    for part in decode(network.compile_for_inference(), (height, width), device=network.device):
        intensity, truth = _intensity(part), _intensity(signal.targets(slice(start, start + len(part))))
        squared += float((intensity - truth).double().square().sum())
        flat[start : start + len(part)] = (intensity * image.maximum).round_().numpy()
        start += len(part)
        if report is not None:
            report("decoding", start, len(flat))
    error = squared / signal.samples / channels
    quality = {
        "psnr": metrics.decibels(error),
        "ssim": _similarity(out, image, report),
        "lpips": _perceptual_distance(out, image, download_lpips),
    }
    return quality, out


def _intensity(outputs: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch channels"]:
    """Network outputs as intensities in [0, 1]."""
    return (0.5 * outputs + 0.5).clamp(0.0, 1.0)


def _similarity(
    reconstruction: np.ndarray, image: SourceImage, report: Callable[[str, int, int], None] | None
) -> float | None:
    """Mean SSIM, in bands of rows, of images as large as the window at least."""
    height, width, channels = image.pixels.shape
    margin = 2 * metrics.SSIM_BORDER
    windows = (height - margin, width - margin)
    if min(windows) < 1:
        return None
    rows = max(1, _SSIM_BAND // width)
    total = 0.0
    for top in range(0, windows[0], rows):
        bottom = min(top + rows, windows[0])
        truth, found = (
            torch.from_numpy(pixels[top : bottom + margin].astype(np.float32)) / image.maximum
            for pixels in (image.pixels, reconstruction)
        )
        total += float(metrics.ssim_map(found, truth).double().sum())
        if report is not None:
            report("comparing", bottom, windows[0])
    return total / (windows[0] * windows[1] * channels)


def _perceptual_distance(reconstruction: np.ndarray, image: SourceImage, download: bool) -> float | None:
    height, width, channels = image.pixels.shape
    # AlexNet sees colours, and nothing of an image that is smaller than its strides.
    if height * width > _LARGEST_FOR_LPIPS or min(height, width) < 64:
        return None
    colors = [0, 0, 0] if channels < 3 else [0, 1, 2]
    pair = (
        torch.from_numpy(pixels[..., colors].astype(np.float32)) / image.maximum
        for pixels in (reconstruction, image.pixels)
    )
    distance = metrics.lpips(*pair, download=download)
    return None if distance is None else float(distance)


def responding_neurons(
    network: CoordinateNetwork, shape: tuple[int, int], side: int = 128
) -> tuple[Float[Tensor, "n rows columns"], Float[Tensor, " n"]]:
    """First-layer neurons that respond to anything in the image, in the order of their frequencies.

    The frequency of a neuron is the mean of its response's spectrum, weighted by power
    (:func:`finer_nerfstudio.tasks.image.spectrum.mirrored_centroid`): measured and not taken from a formula, so that it
    means the same for every activation. A neuron has none whose response spans less than a hundredth of what another
    one's does, or is away from its median in less than a two hundredth of the image: a Gaussian whose bump lies beyond
    it, for example. If no neuron responds, all are given.

    Args:
        network: any network of two coordinates.
        shape: height and width of its image.
        side: samples along the longer side of a response.

    Returns:
        Responses, and frequencies in cycles per longer side.
    """
    rows, columns = (max(1, round(side * size / max(shape))) for size in shape)
    parts = decode(network.first_layer, shape, device=network.device, resolution=(rows, columns))
    # A complex layer's first half are the real parts of its neurons.
    responses = torch.cat([part[:, : network.units] for part in parts]).T
    span = responses.amax(dim=1) - responses.amin(dim=1)
    away = (responses - responses.median(dim=1, keepdim=True).values).abs() > 0.25 * span[:, None]
    responds = (span >= 0.01 * span.max()) & (away.double().mean(dim=1) >= 0.005)
    responses = (responses[responds] if responds.any() else responses).reshape(-1, rows, columns)
    frequencies = torch.tensor([mirrored_centroid(response) for response in responses], dtype=torch.float64)
    order = frequencies.argsort(stable=True)
    return responses[order], frequencies[order]


def extreme_neurons(
    network: CoordinateNetwork, shape: tuple[int, int], count: int = 4, side: int = 128
) -> tuple[np.ndarray, np.ndarray]:
    """Responses of the first-layer neurons of lowest and of highest frequency (FINER++ paper, Fig. 8).

    Args:
        network: any network of two coordinates.
        shape: height and width of its image.
        count: how many of either kind, of those that respond (:func:`responding_neurons`).
        side: samples along the longer side of a response.

    Returns:
        Responses ``[2 count, rows, columns]`` in the order of their frequencies, and those in cycles per longer side.
    """
    responses, frequencies = responding_neurons(network, shape, side)
    count = min(count, len(responses) // 2)
    chosen = [*range(count), *range(len(responses) - count, len(responses))] if count else [0]
    return responses[chosen].float().numpy(), frequencies[chosen].numpy()
