"""The supported frequency set: what the bias range makes of first-layer frequencies (FINER++ paper, section 4.3).

A first-layer neuron of FINER++ is ``sigma(omega g(u))`` with ``u = w x + b``, ``g(u) = alpha(u) u`` and
``alpha(u) = |u| + 1``, where omega is omega_0 of a sine and omega_f of the other families. Its phase moves on by
``omega |w| (2|u| + 1)`` per unit of x: the base frequency ``omega |w|`` times the factor ``2|u| + 1`` (paper, Eqs. 7
and 9). Around x = 0 that is ``2|b| + 1``, which biases from U(-k, k) spread over [1, 2k + 1].

A response repeats after 2 pi of phase, and after pi where sigma is even: the bumps of a Gaussian and of a wavelet's
envelope repeat ``omega_f |w| (2|u| + 1) / pi`` times per unit of x.

The formula is held against the responses themselves: the distance between neighbouring maxima, which knows nothing of
alpha.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from finer_nerfstudio.analysis.outcome import Outcome, Table, panels
from finer_nerfstudio.analysis.subject import NetworkOptions, bias_ranges_of, name_of, subject_of
from finer_nerfstudio.errors import UsageError, argument
from finer_nerfstudio.inr.activations import Activation, Sine, VariablePeriodic
from finer_nerfstudio.inr.initialization import weight_bound
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.runs.axes import legend_below, whole_decades
from finer_nerfstudio.runs.progress import Stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Neurons are looked at in the narrowest of these parts of the window that shows a whole repeat, which then spans many
# samples, whether the neuron is fast or slow.
_ZOOMS = (1 / 64, 1 / 8, 1.0)
_SAMPLES = 4096
# Of a repeat: with fewer, its maximum is not to be found.
_FEWEST_SAMPLES = 8
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, kw_only=True)
class FrequenciesOptions(NetworkOptions):
    """Supported frequencies: local frequencies of first-layer neurons, measured and by the formula, for several bias
    ranges k (section 4.3)."""

    depth: int = 1
    """Hidden layers; only the first one is looked at."""
    bias_ranges: tuple[float, ...] = (1.0, 5.0, 10.0, 20.0)
    """k of the networks to lay side by side, unless --bias-range names one; of no account to methods without one, and
    to --model."""
    window: float = 1.0
    """Coordinates from minus this to this are looked at. A neuron that does not repeat there once, around 0, has no
    local frequency."""


def frequency_factor(u: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """``2|u| + 1``, the local frequency at pre-activations ``u`` over the base frequency (paper, Eqs. 7 and 9)."""
    return 2.0 * u.abs() + 1.0


def mean_frequency_factor(start: Float[Tensor, "*batch"], stop: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The mean of :func:`frequency_factor` between two pre-activations that are not the same.

    What is measured over a repeat is this mean. On one side of zero it is the factor halfway between the two.
    """
    return 1.0 + (stop * stop.abs() - start * start.abs()) / (stop - start)


@dataclass(frozen=True)
class Repeats:
    """How the response of a first-layer neuron repeats.

    Attributes:
        omega: radians of phase per unit of the pre-activation at zero.
        period: radians after which the response, of a wavelet its modulus, is the same again: 2 pi, or pi for even
            activations.
        maxima: of the response in a period.
        variable: whether the frequency grows with the pre-activation.
    """

    omega: float
    period: float
    maxima: int
    variable: bool


def repeats_of(activation: Activation) -> Repeats:
    """How an activation's response repeats along the pre-activation.

    Raises:
        ValueError: for one that does not repeat, or after nobody knows how much.
    """
    if isinstance(activation, Sine):
        return Repeats(activation.omega_0, 2.0 * math.pi, 1, variable=False)
    if not isinstance(activation, VariablePeriodic):
        raise ValueError(f"{type(activation).__name__} does not repeat: there is no frequency to measure")
    base = activation.base
    if isinstance(base, Sine):
        return Repeats(base.omega_0, 2.0 * math.pi, 1, variable=True)
    if activation.omega_f is None:
        raise ValueError("the period of a periodic function of your own is not known")
    outer = base.for_first_layer().rescaled(1.0 / activation.omega_f)
    # Half a step off the extrema at multiples of pi / 2, so that none is split between the two ends.
    phase = (torch.arange(_SAMPLES, dtype=torch.float64) + 0.25) * (2.0 * math.pi / _SAMPLES)
    argument = torch.sin(phase)[:, None]
    response, mirrored = (
        _real_response(outer.value(values), 1, base.complex_valued) for values in (argument, -argument)
    )
    even = torch.allclose(response, mirrored, rtol=1e-9, atol=1e-12)
    around = torch.cat([response[-1:], response, response[:1]])
    maxima = int(_maxima(around).sum())
    if maxima == 0:
        raise ValueError("the function is constant where the inner sine goes: there is no frequency to measure")
    return Repeats(activation.omega_f, math.pi if even else 2.0 * math.pi, maxima // (2 if even else 1), variable=True)


@dataclass(frozen=True)
class LocalFrequencies:
    """Neurons whose response repeats around x = 0, each over its repeat there.

    Attributes:
        neuron: their numbers.
        start: where the repeat begins, in coordinates.
        stop: where it ends.
        measured: repeats per unit of the coordinate.
    """

    neuron: Int[Tensor, " measured"]
    start: Float[Tensor, " measured"]
    stop: Float[Tensor, " measured"]
    measured: Float[Tensor, " measured"]


def measure_frequencies(network: CoordinateNetwork, repeats: Repeats, *, window: float = 1.0) -> LocalFrequencies:
    """Local frequencies of first-layer neurons around the origin, along the first axis, from their responses alone.

    Responses are sampled in float64, and the maxima on either side of 0 are found to a small part of a sample.

    Args:
        network: whose first layer is looked at.
        repeats: says how many maxima make a repeat.
        window: coordinates from minus this to this are looked at.
    """
    double = copy.deepcopy(network).double()
    found: dict[int, tuple[float, float]] = {}
    for zoom in _ZOOMS:
        x = torch.linspace(-zoom * window, zoom * window, _SAMPLES, dtype=torch.float64, device=double.device)
        coords = x.new_zeros(_SAMPLES, double.in_dim)
        coords[:, 0] = x
        with torch.no_grad():
            features = double.first_layer(coords)
        response = _real_response(features, double.units, double.activation.complex_valued).cpu()
        peaks = _maxima(response)
        for neuron in range(double.units):
            if neuron not in found:
                repeat = _repeat_around_zero(_positions(x.cpu(), response[:, neuron], peaks[:, neuron]), repeats.maxima)
                if repeat is not None:
                    found[neuron] = repeat
    order = sorted(found)
    start, stop = (torch.tensor([found[i][end] for i in order], dtype=torch.float64) for end in (0, 1))
    return LocalFrequencies(torch.tensor(order, dtype=torch.int64), start, stop, 1.0 / (stop - start))


def analytic_frequencies(
    network: CoordinateNetwork, repeats: Repeats, local: LocalFrequencies
) -> Float[Tensor, " measured"]:
    """Return the formula's frequencies on the stretches that were measured, in repeats per unit of the coordinate."""
    weight = network.first.weight.detach().double().cpu()[local.neuron, 0]
    bias = network.first.bias.detach().double().cpu()[local.neuron]
    base = weight.abs() * (repeats.omega / repeats.period)
    if not repeats.variable:
        return base
    return base * mean_frequency_factor(weight * local.start + bias, weight * local.stop + bias)


@dataclass(frozen=True)
class SupportedFrequencies:
    """The frequency set of one network; frequencies in repeats per unit of the coordinate.

    Attributes:
        neurons: that were measured.
        all_neurons: of the layer.
        lowest: measured.
        median: measured.
        highest: measured.
        highest_analytic: that of the fastest neuron at x = 0 by the formula.
        limit: that no neuron of such a network exceeds at x = 0 by the formula; None after training.
        highest_factor: measured frequency over that neuron's base frequency, at most.
        factor_limit: 2k + 1; None without a bias range, and after training.
        largest_deviation: of measured frequencies from the formula, relative.
    """

    neurons: int
    all_neurons: int
    lowest: float | None
    median: float | None
    highest: float | None
    highest_analytic: float
    limit: float | None
    highest_factor: float | None
    factor_limit: float | None
    largest_deviation: float | None


def study(options: FrequenciesOptions, stage: Stage) -> Outcome:
    """First layers of fresh networks with each bias range, or of a saved model before and after training.

    Args:
        options: which networks, and where to look.
        stage: progress callback.

    Raises:
        UsageError: for options that mean nothing, and for methods whose neurons do not repeat.
        InputError: for a model that cannot be read.
    """
    if not 0 < options.window < math.inf:
        raise UsageError(f"{argument('window')} must be a positive number, not {options.window}.")
    networks, description = _networks(options)
    (first, *_) = networks.values()
    if first.encoding_frequencies:
        raise UsageError(f"{name_of(options)}: neurons behind a positional encoding have no single base frequency.")
    try:
        repeats = repeats_of(first.activation)
    except ValueError as error:
        raise UsageError(
            f"{name_of(options)}: {error}. Choose siren, a finer method or an {argument('activation')} of your own."
        ) from error
    summaries: dict[str, Any] = {}
    neurons: dict[str, list[Any]] = {
        name: [] for name in ("network", "neuron", "start", "stop", "base", "measured", "analytic")
    }
    quantiles: dict[str, list[Any]] = {"network": [], "kind": [], **{f"{q:.0%}": [] for q in _QUANTILES}}
    for done, (name, network) in enumerate(networks.items()):
        stage(name, done, len(networks))
        every = _analytic_at_zero(network, repeats)
        _require_visible(float(every.max()), options.window)
        local = measure_frequencies(network, repeats, window=options.window)
        analytic = analytic_frequencies(network, repeats, local)
        base = network.first.weight.detach().double().cpu()[local.neuron, 0].abs() * repeats.omega / repeats.period
        rows = (local.neuron, local.start, local.stop, base, local.measured, analytic)
        neurons["network"] += [name] * len(base)
        for column, values in zip(list(neurons)[1:], rows, strict=True):
            neurons[column] += values.tolist()
        for kind, values in (("measured", local.measured), ("analytic", analytic)):
            quantiles["network"].append(name)
            quantiles["kind"].append(kind)
            for q in _QUANTILES:
                quantiles[f"{q:.0%}"].append(float(values.quantile(q)) if len(values) else None)
        summary = _summary(network, repeats, local.measured, analytic, base, every, is_fresh=name != "trained")
        summaries[name] = asdict(summary)
        stage(name, done + 1, len(networks))
    return Outcome(
        "frequencies",
        {"network": description, "window": options.window, "seed": options.seed, "repeat_of_phase": repeats.period},
        {"method": name_of(options), "networks": summaries},
        {"quantiles": Table(quantiles), "neurons": Table(neurons)},
    )


def draw(outcome: Outcome) -> Figure:
    """Densities of local frequencies, measured against analytic ones, and the highest factor against 2k + 1."""
    networks: dict[str, dict[str, Any]] = outcome.numbers["networks"]
    table = outcome.tables["neurons"].columns
    measured = {name: [] for name in networks}
    analytic = {name: [] for name in networks}
    for name, x, y in zip(table["network"], table["analytic"], table["measured"], strict=True):
        analytic[name].append(x)
        measured[name].append(y)
    figure, (densities, scatter, factors) = panels(3, columns=3, width=4.4, height=3.8)
    everything = torch.tensor(table["measured"], dtype=torch.float64)
    ends = [value for row in networks.values() for value in (row["highest_analytic"], row["limit"]) if value]
    low = float(everything.quantile(0.01)) if len(everything) else 0.1 * min(ends)
    edges = torch.logspace(math.log10(low), math.log10(1.1 * max(ends)), 49, dtype=torch.float64)
    for row, (name, summary) in enumerate(networks.items()):
        color = f"C{row}"
        counts = torch.histogram(torch.tensor(measured[name], dtype=torch.float64), edges)[0]
        height = 0.8 * counts / counts.max().clamp(min=1.0)
        densities.stairs((row + height).tolist(), edges.tolist(), baseline=row, fill=True, color=color, alpha=0.6)
        marks = (
            ("highest measured", summary["highest"], "solid"),
            ("limit of the formula", summary["limit"], "dashed"),
        )
        for label, value, style in marks:
            if value is not None:
                label = label if row == 0 else None
                densities.plot(
                    [value] * 2, [row, row + 0.85], color="black", linestyle=style, linewidth=1.1, label=label
                )
        scatter.plot(analytic[name], measured[name], ".", color=color, markersize=3, alpha=0.6, label=name)
    densities.set(
        xlabel="local frequency, repeats per unit",
        title=f"neurons by frequency, {outcome.numbers['method']}",
        yticks=[row + 0.3 for row in range(len(networks))],
        yticklabels=list(networks),
        ylim=(-0.1, len(networks)),
    )
    whole_decades(densities, "x")
    legend_below(densities)
    line = [low, max(ends)]
    scatter.plot(line, line, color="grey", linewidth=0.8, zorder=0)
    scatter.set(xlabel="by the formula", ylabel="measured", title="local frequency, repeats per unit")
    whole_decades(scatter, "x", "y")
    legend_below(scatter, marker_scale=3.0)
    names = [name for name, summary in networks.items() if summary["highest_factor"] is not None]
    places = range(len(names))
    factors.bar(places, [networks[name]["highest_factor"] for name in names], color="C0", alpha=0.6, label="measured")
    limits = [networks[name]["factor_limit"] for name in names]
    if any(limit is not None for limit in limits):
        limits = [math.nan if limit is None else limit for limit in limits]
        factors.plot(places, limits, "k_", markersize=24, label="2k + 1")
    factors.set(title="highest frequency over base frequency", xticks=list(places), xticklabels=names)
    legend_below(factors)
    return figure


def _networks(options: FrequenciesOptions) -> tuple[dict[str, CoordinateNetwork], dict[str, Any]]:
    """Networks by what tells them apart, and what they have in common."""
    if options.model is not None:
        subject = subject_of(options, 1, 1)
        return subject.states(), subject.description
    networks: dict[str, CoordinateNetwork] = {}
    description: dict[str, Any] = {}
    bias_ranges = bias_ranges_of(options, options.bias_ranges)
    for k in bias_ranges:
        subject = subject_of(replace(options, bias_range=k), 1, 1)
        networks["initial" if k is None else f"k = {k:g}"] = subject.initial
        description = {**subject.description, "bias_range": list(bias_ranges)}
    return networks, description


def _analytic_at_zero(network: CoordinateNetwork, repeats: Repeats) -> Float[Tensor, " units"]:
    base = network.first.weight.detach().double().cpu()[:, 0].abs() * (repeats.omega / repeats.period)
    return base * frequency_factor(network.first.bias.detach().double().cpu()) if repeats.variable else base


def _require_visible(highest: float, window: float) -> None:
    spacing = 2.0 * window * _ZOOMS[0] / _SAMPLES
    if highest * spacing * _FEWEST_SAMPLES > 1.0:
        raise UsageError(
            f"the fastest neuron repeats {highest:.3g} times per unit, too fast for {argument('window')} {window:g}: "
            "choose a narrower one, or a smaller bias range."
        )


def _summary(
    network: CoordinateNetwork,
    repeats: Repeats,
    measured: Tensor,
    analytic: Tensor,
    base: Tensor,
    every: Tensor,
    *,
    is_fresh: bool,
) -> SupportedFrequencies:
    seen = len(measured) > 0
    k = network.bias_range if repeats.variable and is_fresh else None
    factor_limit = None if k is None else 2.0 * k + 1.0
    steepest = weight_bound(network.first.in_features, is_first=True, omega=network.activation.init_omega)
    fastest = steepest * repeats.omega / repeats.period
    limit = fastest if not repeats.variable else None if factor_limit is None else fastest * factor_limit
    return SupportedFrequencies(
        neurons=len(measured),
        all_neurons=network.units,
        lowest=float(measured.min()) if seen else None,
        median=float(measured.median()) if seen else None,
        highest=float(measured.max()) if seen else None,
        highest_analytic=float(every.max()),
        limit=limit if is_fresh else None,
        highest_factor=float((measured / base).max()) if seen else None,
        factor_limit=factor_limit,
        largest_deviation=float((measured / analytic - 1.0).abs().max()) if seen else None,
    )


def _real_response(features: Float[Tensor, "n packed"], units: int, is_complex: bool) -> Float[Tensor, "n units"]:
    """The features, or the squared moduli of complex ones: a wavelet's envelope."""
    return features[:, :units].square() + features[:, units:].square() if is_complex else features


def _maxima(response: Float[Tensor, "n units"]) -> Bool[Tensor, "inner units"]:
    """Where the samples but the first and the last are local maxima; the first one of equal neighbours is."""
    middle = response[1:-1]
    return (middle > response[:-2]) & (middle >= response[2:])


def _positions(x: Float[Tensor, " n"], response: Float[Tensor, " n"], peaks: Bool[Tensor, " inner"]) -> Sequence[float]:
    """Where the maxima lie, by the parabola through each and its two neighbours."""
    at = peaks.nonzero()[:, 0] + 1
    left, middle, right = response[at - 1], response[at], response[at + 1]
    offset = 0.5 * (left - right) / (left - 2.0 * middle + right)
    return (x[at] + offset * (x[1] - x[0])).tolist()


def _repeat_around_zero(positions: Sequence[float], maxima: int) -> tuple[float, float] | None:
    """From a maximum to that a repeat later, with x = 0 in between, or None where they are not both there."""
    behind = sum(position <= 0.0 for position in positions)
    start = behind - 1 - (maxima - 1) // 2
    stop = start + maxima
    return (positions[start], positions[stop]) if start >= 0 and stop < len(positions) else None
