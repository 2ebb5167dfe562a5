"""Training at several bias ranges: curves, error maps and spectra for each k (FINER++ paper, Figs. 1b and 7).

First-layer biases from U(-k, k) choose the bumps in which neurons start, and with them the frequencies that the network
begins with. Scales are small here (omega_0 = 1 and so on), else their own frequencies would hide it. A network that
starts too low learns the fine structure of an image late, and one that starts too high has noise to unlearn. Both can
be seen in how much of the error lies in the low and in the high band of frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from finer_nerfstudio.analysis.outcome import Outcome, Table, panels
from finer_nerfstudio.analysis.points import image_shape
from finer_nerfstudio.analysis.subject import (
    ImageSource,
    NetworkOptions,
    bias_ranges_of,
    image_of,
    name_of,
    preset_for,
    subject_of,
)
from finer_nerfstudio.errors import InputError, UsageError, argument
from finer_nerfstudio.files.checkpoint import load_model
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.runs.axes import legend_below, whole_decades
from finer_nerfstudio.runs.metrics import decibels
from finer_nerfstudio.runs.progress import Stage
from finer_nerfstudio.runs.training import Schedule, train
from finer_nerfstudio.tasks.image.files import SourceImage
from finer_nerfstudio.tasks.image.fit import signal_of
from finer_nerfstudio.tasks.image.spectrum import band_powers, mean_centroid, mean_spectrum
from finer_nerfstudio.tasks.signal.grid import GridSignal, decode, psnr_of_loss, squared_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The longer side of an error map in a table.
_LARGEST_MAP = 64
# Of the squared full intensity, what rounding leaves in single precision; the figure shows nothing below.
_LOWEST_POWER = 1e-20


@dataclass(frozen=True, kw_only=True)
class InitializationOptions(NetworkOptions, ImageSource):
    """Training at several bias ranges k: curves, error maps and spectra (Figs. 1b, 7)."""

    scales: Literal["published", "small"] = "small"
    bias_ranges: tuple[float, ...] = (1.0, 5.0, 10.0, 20.0)
    """k of the networks to train, unless --bias-range names one; of no account to methods without one, and to
    --model."""
    steps: int = 400
    """Training steps on all pixels."""
    learning_rate: float | None = None
    """Adam's learning rate at the first step; the published one unless given."""
    cutoff: float | None = None
    """Cycles per longer side that divide low from high frequencies; a quarter of the highest, which is an eighth of
    the pixels along the longer side, unless given."""
    width: int = 128
    """Units of a hidden layer."""
    depth: int = 3
    """Hidden layers."""
    size: int = 128
    """The image is averaged down so that its longer side has this many pixels; to those of the model with --model."""


@dataclass(frozen=True)
class Reconstruction:
    """An image as a network reconstructs it. Frequencies in cycles per longer side.

    Attributes:
        psnr: of the clipped reconstruction over all pixels and channels, dB.
        psnr_low: of the error below the cutoff alone, dB.
        psnr_high: of the error from the cutoff on alone, dB.
        centroid: mean frequency of the reconstruction, weighted by power.
        centroid_at_start: the same of the untrained network's output; None where that is a reconstruction of its own.
    """

    psnr: float
    psnr_low: float
    psnr_high: float
    centroid: float
    centroid_at_start: float | None


def picture_of(network: CoordinateNetwork, shape: tuple[int, ...]) -> Float[Tensor, "height width channels"]:
    """A network's output at the pixels of an image of this height and width, clipped to intensities in [0, 1]."""
    outputs = torch.cat(list(decode(network, shape, device=network.device)))
    return (0.5 * outputs + 0.5).clamp(0.0, 1.0).reshape(*shape, -1)


def intensities_of(signal: GridSignal) -> Float[Tensor, "height width channels"]:
    """The image itself, in [0, 1]."""
    return (0.5 * signal.targets(slice(None)) + 0.5).reshape(*signal.shape, -1)


def psnr_of(mean_square: float) -> float:
    """PSNR in dB of a mean squared error of intensities in [0, 1]; infinite for none."""
    return decibels(mean_square)


def error_map(
    error: Float[Tensor, "height width channels"], largest: int = _LARGEST_MAP
) -> Float[Tensor, "rows columns"]:
    """Root mean square of an error over channels and over the pixels that a cell of the map covers.

    Args:
        error: differences of any kind.
        largest: cells along the longer side; smaller images keep their pixels.
    """
    squares = error.square().mean(dim=-1)
    shrinking = min(1.0, largest / max(squares.shape))
    rows, columns = (max(1, round(size * shrinking)) for size in squares.shape)
    return F.adaptive_avg_pool2d(squares[None], (rows, columns))[0].sqrt()


def train_on(
    network: CoordinateNetwork,
    signal: GridSignal,
    *,
    learning_rate: float,
    steps: int,
    seed: int,
    report: Callable[[int, int], None],
) -> list[tuple[int, float]]:
    """Train a network in place on all samples of a signal at every step.

    Args:
        network: what to train.
        signal: on what.
        learning_rate: Adam's at the first step; it falls exponentially to a tenth.
        steps: how many.
        seed: recorded with the run; full batches draw nothing.
        report: progress callback: (completed, total) steps.

    Returns:
        Pairs of a step and the PSNR in dB of the unclipped outputs before it, the last pair after all steps.

    Raises:
        InputError: when training diverges.
    """
    backward = squared_error(network, signal, "full")
    generator = torch.Generator().manual_seed(seed)
    training = train(
        network,
        backward,
        Schedule(steps, learning_rate),
        generator=generator,
        report=lambda _share, step, _loss: report(step, steps),
    )
    curve = [(step, psnr_of_loss(loss)) for step, loss in training.curve]
    curve.append((steps, psnr_of_loss(float(backward(generator)))))
    network.zero_grad(set_to_none=True)
    return curve


def finite_or_nan(values: list[float | None]) -> list[float]:
    """Values for matplotlib: infinite ones are missing from what was read from a file, and leave a hole here too."""
    return [math.nan if value is None or math.isinf(value) else value for value in values]


def study(options: InitializationOptions, stage: Stage) -> Outcome:
    """Train a network with each bias range on the image, or take a saved model before and after its training.

    Tables: "curves" (PSNR in dB of unclipped outputs before each step, and after the last; not of a saved model),
    "spectra" (mean power of a coefficient by frequency: of the image, and of fit and error of each network) and the
    error map of each network, a column of the table for each column of the map.

    Args:
        options: which networks, on which image.
        stage: progress callback.

    Raises:
        UsageError: for options that mean nothing, and for a model that is not one of an image.
        InputError: for a model or an image that cannot be read, for an image that does not have the model's shape, and
            when training diverges.
    """
    _require_sensible(options)
    image = image_of(options) if options.model is None else _image_for_model(options)
    signal = signal_of(image)
    target = intensities_of(signal)
    cutoff = max(signal.shape) / 8.0 if options.cutoff is None else options.cutoff
    looked_at = _saved(options, signal) if options.model is not None else _trained(options, signal, stage)
    frequencies, power = mean_spectrum(target)
    spectra = {"frequency": frequencies.tolist(), "image": power.tolist()}
    found: dict[str, Any] = {}
    maps: dict[str, Table] = {}
    for name, network in looked_at.networks.items():
        picture = picture_of(network, signal.shape)
        error = picture - target
        low, high = _bands(error, cutoff)
        found[name] = asdict(
            Reconstruction(
                psnr=psnr_of(float(error.double().square().mean())),
                psnr_low=psnr_of(low),
                psnr_high=psnr_of(high),
                centroid=mean_centroid(picture),
                centroid_at_start=looked_at.centroids_at_start.get(name),
            )
        )
        spectra[f"fit {name}"] = mean_spectrum(picture)[1].tolist()
        spectra[f"error {name}"] = mean_spectrum(error)[1].tolist()
        cells = error_map(error).double()
        maps[f"errors {name}"] = Table({f"{i}": [round(v, 5) for v in c] for i, c in enumerate(cells.T.tolist())})
    notes, curves = list(image.notes), looked_at.curves
    if options.model is not None and found["trained"]["psnr"] < found["initial"]["psnr"]:
        notes.append("training took the network away from this image: is it the image of the fit?")
    return Outcome(
        "initialization",
        {
            "network": looked_at.description,
            "networks": list(looked_at.networks),
            "image": image.description,
            "steps": options.steps if options.model is None else None,
            "learning_rate": looked_at.learning_rate,
            "seed": options.seed,
        },
        {
            "method": name_of(options),
            **({"notes": notes} if notes else {}),
            "cutoff": cutoff,
            "image": {"height": image.height, "width": image.width, "centroid": mean_centroid(target)},
            "networks": found,
            **({"best": max(found, key=lambda name: found[name]["psnr"])} if options.model is None else {}),
        },
        {**({"curves": Table(curves)} if curves else {}), "spectra": Table(spectra), **maps},
    )


@dataclass(frozen=True)
class _LookedAt:
    """Networks whose pictures are laid beside the image.

    Attributes:
        networks: by their names in figures.
        description: of what they have in common.
        learning_rate: that they were trained at here.
        curves: of that training.
        centroids_at_start: of their pictures before it.
    """

    networks: dict[str, CoordinateNetwork]
    description: dict[str, Any]
    learning_rate: float | None = None
    curves: dict[str, list[Any]] = field(default_factory=dict)
    centroids_at_start: dict[str, float] = field(default_factory=dict)


def _saved(options: InitializationOptions, signal: GridSignal) -> _LookedAt:
    subject = subject_of(options, 2, signal.channels)
    return _LookedAt(subject.states(), subject.description)


def _trained(options: InitializationOptions, signal: GridSignal, stage: Stage) -> _LookedAt:
    """Train a network with each bias range."""
    learning_rate = options.learning_rate or preset_for(options).learning_rate
    # All before the first is trained, so that what is out of range is said at once.
    subjects = {
        "trained" if k is None else f"k = {k:g}": subject_of(replace(options, bias_range=k), 2, signal.channels)
        for k in bias_ranges_of(options, options.bias_ranges)
    }
    curves: dict[str, list[Any]] = {}
    starts = {name: mean_centroid(picture_of(subject.initial, signal.shape)) for name, subject in subjects.items()}
    for name, subject in subjects.items():
        curve = train_on(
            subject.initial,
            signal,
            learning_rate=learning_rate,
            steps=options.steps,
            seed=options.seed,
            report=lambda done, total, name=name: stage(name, done, total),
        )
        curves["step"] = [step for step, _ in curve]
        curves[name] = [psnr for _, psnr in curve]
    description = [subject.description for subject in subjects.values()][-1]
    if len(subjects) > 1:
        description = {**description, "bias_range": None}
    networks = {name: subject.initial for name, subject in subjects.items()}
    return _LookedAt(networks, description, learning_rate, curves, starts)


def draw(outcome: Outcome) -> Figure:
    """Training curves, spectra of fits and of errors, PSNR by band, and below them the error maps."""
    networks: dict[str, dict[str, Any]] = outcome.numbers["networks"]
    method, cutoff = outcome.numbers["method"], outcome.numbers["cutoff"]
    curves = outcome.tables.get("curves")
    plots = 3 if curves is None else 4
    figure, axes = panels(plots + len(networks), columns=plots, width=4.0, height=3.5)
    colors = {name: f"C{index}" for index, name in enumerate(networks)}
    if curves is not None:
        for name, color in colors.items():
            axes[0].plot(curves.columns["step"], finite_or_nan(curves.columns[name]), color=color, label=name)
        axes[0].set(title=f"training, {method}", xlabel="step", ylabel="PSNR (dB)")
        legend_below(axes[0])
    spectra = outcome.tables["spectra"].columns
    # Beyond half the pixels of the longer side there are diagonal waves alone, and at 0 is the mean.
    shown = slice(1, max(outcome.numbers["image"]["height"], outcome.numbers["image"]["width"]) // 2 + 1)
    for place, kind in zip(axes[plots - 3 : plots - 1], ("fit", "error"), strict=True):
        frequency = spectra["frequency"][shown]
        lines = [
            ("image", "image", "black", 2.0),
            *((f"{kind} {name}", name, color, 1.5) for name, color in colors.items()),
        ]
        for column, label, color, thickness in lines:
            # No logarithm for the powers of a constant.
            power = [max(value, _LOWEST_POWER) for value in spectra[column][shown]]
            place.plot(frequency, power, color=color, linewidth=thickness, label=label)
        place.axvline(cutoff, color="grey", linewidth=0.8, linestyle="--")
        whole_decades(place, "x", "y")
        title = "spectra of fits" if kind == "fit" else "spectra of errors"
        place.set(title=title, xlabel="cycles per longer side", ylabel="mean power")
        if kind == "fit":  # the colours are the same everywhere
            legend_below(place)
    place = axes[plots - 1]
    kinds = {"psnr": "all", "psnr_low": f"below {cutoff:g} cycles", "psnr_high": f"{cutoff:g} cycles and above"}
    for index, (kind, label) in enumerate(kinds.items()):
        heights = finite_or_nan([row[kind] for row in networks.values()])
        where = [place_of + 0.27 * (index - 1) for place_of in range(len(networks))]
        place.bar(where, heights, width=0.27, color=("0.25", "C9", "C6")[index], label=label)
    place.set(
        title="PSNR of the error by band",
        ylabel="dB",
        xticks=range(len(networks)),
        xticklabels=list(networks),
    )
    legend_below(place)
    maps = {
        name: torch.tensor(list(outcome.tables[f"errors {name}"].columns.values()), dtype=torch.float64).T
        for name in networks
    }
    brightest = max(max(float(cells.quantile(0.99)) for cells in maps.values()), 1e-6)
    picture = None
    for place, (name, cells) in zip(axes[plots:], maps.items(), strict=True):
        picture = place.imshow(cells, cmap="inferno", vmin=0.0, vmax=brightest, interpolation="nearest")
        place.set(title=f"error, {name}: {_in_words(networks[name]['psnr'])}", xticks=[], yticks=[])
        centroid, of_image = networks[name]["centroid"], outcome.numbers["image"]["centroid"]
        place.set_xlabel(f"mean frequency {centroid:.1f} cycles, image {of_image:.1f}")
    if picture is not None:
        figure.colorbar(picture, ax=list(axes[plots:]), label="root mean square, full intensity 1", shrink=0.9)
    return figure


def _in_words(psnr: float | None) -> str:
    return "exact" if psnr is None or math.isinf(psnr) else f"{psnr:.2f} dB"


def _require_sensible(options: InitializationOptions) -> None:
    if options.cutoff is not None and not 0 < options.cutoff < math.inf:
        raise UsageError(f"{argument('cutoff')} must be a positive number, not {options.cutoff}.")
    if options.learning_rate is not None and not 0 < options.learning_rate < math.inf:
        raise UsageError(f"{argument('learning_rate')} must be a positive number, not {options.learning_rate}.")
    if options.steps < 1:
        raise UsageError(f"{argument('steps')} must be at least 1, not {options.steps}.")


def _image_for_model(options: InitializationOptions) -> SourceImage:
    """The image at the size of the one that the model was fitted to."""
    assert options.model is not None
    saved = load_model(options.model)
    if saved.task != "image" or saved.network.in_dim != 2:
        raise UsageError(f"{options.model} is no model of an image (finer fit-image), which is needed here.")
    (height, width), channels = image_shape(saved, options.model), saved.network.out_dim
    # A smaller image stays as it is.
    image = image_of(replace(options, size=max(16, height, width)))
    if (image.height, image.width, image.channels) != (height, width, channels):
        which = "the generated sample" if options.image is None else f"{options.image}"
        raise InputError(
            f"{options.model} was fitted to {height}x{width} pixels with {channels} channels (height x width), and "
            f"{which} has {image.height}x{image.width} with {image.channels} where its longer side is averaged down to "
            f"{max(height, width)}: name the image of the fit by {argument('image')}."
        )
    return image


def _bands(error: Float[Tensor, "height width channels"], cutoff: float) -> tuple[float, float]:
    """Mean squared error below and from the cutoff on, over all channels."""
    powers = [band_powers(channel, cutoff) for channel in error.unbind(-1)]
    low, high = (sum(part) / len(powers) for part in zip(*powers, strict=True))
    return low, high
