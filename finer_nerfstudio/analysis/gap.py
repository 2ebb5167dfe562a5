"""The capacity-convergence gap: a scale parameter against wider weights (FINER++ paper, Fig. 2).

The base activations are one function of the scaled pre-activation, ``sigma_p(u) = sigma_1(p u)``. So a network with
scale parameter p and one with p = 1 whose weights and biases in front of the activations are p times as large are the
same function: they can represent the same, and start from the same. They do not learn alike. By the chain rule the
gradient with respect to the p times larger numbers is p times smaller, and they have to move p times as far for the
same change of the function. Gradient descent is thus p^2 times slower in these layers. Adam, which does away with the
size of gradients, is p times slower: it does what it would do to the scale parameter's network with a learning rate
that is p times smaller in these layers.

Widening the weights therefore raises the capacity without giving the convergence to make use of it. How wide the gap
is depends on the learning rate: where that of the method is high for a large p, as WIRE's is, the slower form is behind
by less. (alpha(x) x of FINER++ is not proportional to x, so that its scale cannot be moved into the weights.)
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from finer_nerfstudio.analysis.initialization import (
    finite_or_nan,
    intensities_of,
    picture_of,
    psnr_of,
    train_on,
)
from finer_nerfstudio.analysis.outcome import Outcome, Table, panels
from finer_nerfstudio.analysis.subject import (
    LEARNING_RATE_OF_OWN,
    ImageSource,
    function_named,
    image_of,
)
from finer_nerfstudio.errors import UsageError, argument
from finer_nerfstudio.inr.activations import Activation, Custom, Gauss, Sine, Wavelet
from finer_nerfstudio.inr.methods import preset
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.runs.axes import legend_of_figure
from finer_nerfstudio.runs.options import Method, device_named, require_seed, require_sizes
from finer_nerfstudio.runs.progress import Stage
from finer_nerfstudio.tasks.image.fit import signal_of
from finer_nerfstudio.tasks.image.spectrum import mean_centroid
from finer_nerfstudio.tasks.signal.grid import GridSignal, decode

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class GapOptions(ImageSource):
    """Capacity-convergence gap: a scale parameter p against p times wider weights, the same function at the start
    (Fig. 2). Both are trained here, so that there is no --model."""

    method: Method = "siren"
    """siren, gauss or wire: p is omega_0 of the sine, s_0 of the Gaussian, and s_0 of the wavelet with omega_0 = 2 p
    as published."""
    activation: str | None = None
    """An activation of your own instead, f(p u), not made variable-periodic: tanh, sinc or another function of torch,
    or module:function. Learning rate 5e-4."""
    scale_parameters: tuple[float, ...] | None = None
    """Values of p; up to the published one (30, 30 and 10), or to 30, unless given."""
    size: int = 96
    """The image is averaged down so that its longer side has this many pixels."""
    steps: int = 300
    """Training steps on all pixels."""
    learning_rate: float | None = None
    """Adam's learning rate at the first step, the same for both; the published one unless given."""
    width: int = 128
    """Units of a hidden layer."""
    depth: int = 3
    """Hidden layers."""
    seed: int = 0
    """Of the networks."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""


@dataclass(frozen=True)
class Family:
    """An activation with a scale parameter.

    Attributes:
        unit: the activation with p = 1.
        parameter: what p is called.
        scale_parameters: p by default.
    """

    unit: Activation
    parameter: str
    scale_parameters: tuple[float, ...]


FAMILIES: dict[str, Family] = {
    "siren": Family(Sine(1.0), "omega_0", (5.0, 15.0, 30.0)),
    "gauss": Family(Gauss(1.0), "s_0", (5.0, 10.0, 30.0)),
    "wire": Family(Wavelet(omega_0=2.0, s_0=1.0), "s_0", (2.5, 5.0, 10.0)),
}
"""By method. The wavelet keeps the ratio of its published parameters, 20 to 10."""


def with_wider_weights(network: CoordinateNetwork, unit: Activation, p: float) -> CoordinateNetwork:
    """The same function with another activation: ``sigma_1(p W z + p b)`` in place of ``sigma_p(W z + b)``.

    Args:
        network: with the activation ``unit.rescaled(p)``.
        unit: sigma_1.
        p: what weights and biases of all layers but the last are multiplied by, real and imaginary parts alike.

    Returns:
        A copy.
    """
    wider = copy.deepcopy(network)
    wider.activation = unit
    with torch.no_grad():
        for layer in (wider.first, *wider.hidden):
            for parameter in layer.parameters():
                parameter.mul_(p)
    return wider


@dataclass(frozen=True)
class Gap:
    """How two forms of the same network fare with one value of p.

    Attributes:
        psnr_scale: after training with the scale parameter p, dB.
        psnr_weights: after training with p = 1 and wider weights, dB.
        gap: the first minus the second, dB.
        difference_at_start: largest difference between the outputs of the two before training; the image's values go
            from -1 to 1.
        centroid_at_start: mean frequency of their output before training, weighted by power, in cycles per longer
            side: what p does to the capacity, the same for both.
    """

    psnr_scale: float
    psnr_weights: float
    gap: float
    difference_at_start: float
    centroid_at_start: float


def study(options: GapOptions, stage: Stage) -> Outcome:
    """Train both forms for every p with the same seed, learning rate and steps.

    Tables: "curves" (PSNR in dB of unclipped outputs before each step, and after the last) and "gaps".

    Args:
        options: what to train, on which image.
        stage: progress callback.

    Raises:
        UsageError: for options that mean nothing.
        InputError: for an image that cannot be read, and when training diverges.
    """
    family = _family_of(options)
    scale_parameters = family.scale_parameters if options.scale_parameters is None else options.scale_parameters
    _require_sensible(options, scale_parameters)
    device = device_named(options.device)
    image = image_of(options)
    signal = signal_of(image)
    learning_rate = options.learning_rate or (
        LEARNING_RATE_OF_OWN if options.activation else preset(options.method, "image").learning_rate
    )
    curves: dict[str, list[Any]] = {}
    gaps = []
    for p in scale_parameters:
        gap, trained = _gap_at(p, family, options, signal, learning_rate, device, stage)
        gaps.append(gap)
        curves |= trained
    columns: dict[str, list[Any]] = {"p": list(scale_parameters)}
    for gap in gaps:
        for name, value in asdict(gap).items():
            columns.setdefault(name, []).append(value)
    return Outcome(
        "gap",
        {
            "method": options.activation or options.method,
            "width": options.width,
            "depth": options.depth,
            "image": image.description,
            "steps": options.steps,
            "learning_rate": learning_rate,
            "seed": options.seed,
        },
        {
            "method": options.activation or options.method,
            **({"notes": list(image.notes)} if image.notes else {}),
            "parameter": family.parameter,
            "scale_parameters": {f"{p:g}": asdict(gap) for p, gap in zip(scale_parameters, gaps, strict=True)},
        },
        {"curves": Table(curves), "gaps": Table(columns)},
    )


def _gap_at(
    p: float,
    family: Family,
    options: GapOptions,
    signal: GridSignal,
    learning_rate: float,
    device: torch.device,
    stage: Stage,
) -> tuple[Gap, dict[str, list[Any]]]:
    """Train both forms at one scale parameter, and return their gap and their curves."""
    scaled = CoordinateNetwork(
        2,
        signal.channels,
        width=options.width,
        depth=options.depth,
        activation=family.unit.rescaled(p),
        generator=torch.Generator().manual_seed(options.seed),
    ).to(device)
    wider = with_wider_weights(scaled, family.unit, p)
    start = picture_of(scaled, signal.shape)
    outputs, others = (torch.cat(list(decode(net, signal.shape, device=device))) for net in (scaled, wider))
    target = intensities_of(signal)
    quality: dict[str, float] = {}
    curves: dict[str, list[Any]] = {}
    for kind, network in (("scale", scaled), ("weights", wider)):
        name = f"{family.parameter} = {p:g}, {kind}"
        curve = train_on(
            network,
            signal,
            learning_rate=learning_rate,
            steps=options.steps,
            seed=options.seed,
            report=lambda done, total, name=name: stage(name, done, total),
        )
        curves["step"] = [step for step, _ in curve]
        curves[f"{kind} {p:g}"] = [psnr for _, psnr in curve]
        error = picture_of(network, signal.shape) - target
        quality[kind] = psnr_of(float(error.double().square().mean()))
    gap = Gap(
        psnr_scale=quality["scale"],
        psnr_weights=quality["weights"],
        gap=quality["scale"] - quality["weights"],
        difference_at_start=float((outputs - others).abs().max()),
        centroid_at_start=mean_centroid(start),
    )
    return gap, curves


def draw(outcome: Outcome) -> Figure:
    """The two curves of every p beside each other, and the gap against p."""
    gaps, curves = outcome.tables["gaps"].columns, outcome.tables["curves"].columns
    parameter = outcome.numbers["parameter"].replace("omega_0", "ω₀").replace("s_0", "s₀")
    count = len(gaps["p"])
    figure, axes = panels(count + 1, columns=min(4, count + 1), width=3.7, height=3.4)
    labels = {"scale": f"{parameter} = p", "weights": f"{parameter} = 1, weights p times wider"}
    for place, p in zip(axes, gaps["p"], strict=False):
        for kind, label in labels.items():
            place.plot(curves["step"], finite_or_nan(curves[f"{kind} {p:g}"]), label=label)
        place.set(title=f"{outcome.numbers['method']}, p = {p:g}", xlabel="step", ylabel="PSNR (dB)")
        place.sharey(axes[0])
    legend_of_figure(figure, axes[0])
    place = axes[count]
    place.plot(gaps["p"], finite_or_nan(gaps["gap"]), "o-", color="black")
    place.axhline(0.0, color="grey", linewidth=0.8, linestyle="--")
    place.set(title="gap after training", xlabel="p, of the activation or of the weights", ylabel="PSNR (dB)")
    return figure


def _family_of(options: GapOptions) -> Family:
    if options.activation is not None:
        return Family(Custom(function_named(options.activation)), "p", (5.0, 15.0, 30.0))
    if options.method not in FAMILIES:
        raise UsageError(
            f"{argument('method')} {options.method}: the gap is that of activations whose scale can be moved into the "
            f"weights; choose {', '.join(list(FAMILIES)[:-1])} or {list(FAMILIES)[-1]}."
        )
    return FAMILIES[options.method]


def _require_sensible(options: GapOptions, scale_parameters: tuple[float, ...]) -> None:
    if not scale_parameters:
        raise UsageError(f"{argument('scale_parameters')} needs at least one value of p.")
    for p in scale_parameters:
        if not 0 < p < math.inf:
            raise UsageError(f"{argument('scale_parameters')} must be positive numbers, and {p} is none.")
    if len({f"{p:g}" for p in scale_parameters}) < len(scale_parameters):
        raise UsageError(f"{argument('scale_parameters')} has a value twice: name each once.")
    require_sizes(options.width, options.depth)
    require_seed(options.seed)
    if options.learning_rate is not None and not 0 < options.learning_rate < math.inf:
        raise UsageError(f"{argument('learning_rate')} must be a positive number, not {options.learning_rate}.")
    if options.steps < 1:
        raise UsageError(f"{argument('steps')} must be at least 1, not {options.steps}.")
