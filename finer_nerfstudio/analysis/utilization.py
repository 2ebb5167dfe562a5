"""How much of the activation's axis neurons visit, before and after training (FINER++ paper, Characteristic 1).

The paper says that base activations work on their central bump alone, and that variable-periodic ones make use of the
bumps along the whole axis. Here that is counted: pre-activations of every hidden layer at many points, where they lie,
what share of them is outside the central bump, and what share is where the activation is flat. Outside of its bump a
Gaussian is flat and a sine is not, so that the two shares have to be seen together.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from finer_nerfstudio.analysis.frequencies import repeats_of
from finer_nerfstudio.analysis.outcome import Outcome, Table, panels
from finer_nerfstudio.analysis.points import grid_points, points_of_model
from finer_nerfstudio.analysis.subject import ImageSource, NetworkOptions, Subject, image_of, preset_for, subject_of
from finer_nerfstudio.errors import UsageError, argument
from finer_nerfstudio.inr.activations import Activation, Sine, VariablePeriodic, base_of
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.runs.axes import legend_of_figure
from finer_nerfstudio.runs.options import Method
from finer_nerfstudio.runs.progress import Stage
from finer_nerfstudio.runs.training import Schedule, train
from finer_nerfstudio.tasks.image.files import SourceImage
from finer_nerfstudio.tasks.image.fit import signal_of
from finer_nerfstudio.tasks.signal.grid import psnr_of_loss, squared_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# So many points tell the shares to a fraction of a per cent, and their pre-activations take little memory.
_MOST_POINTS = 16_384
# Slopes are flat below this share of the central bump's steepest.
_FLAT = 0.01
# Of pre-activations: far below the width of any bump, far above the rounding of float64.
_DIFFERENCE = 1e-6
# Bars of a histogram in the figure, which shows where all but _BEYOND_FIGURE of the pre-activations lie.
_BARS = 81
_SAMPLES_OF_CURVE = 1001
_BEYOND_FIGURE = 0.002
_NUMBERS_SORTED = 1 << 20


@dataclass(frozen=True, kw_only=True)
class UtilizationOptions(ImageSource):
    """Utilisation of the activation: where pre-activations lie before and after training, base methods beside their
    FINER++ counterparts (Characteristic 1)."""

    size: int = 96
    """The image is averaged down so that its longer side has this many pixels."""
    methods: tuple[Method, ...] = ("siren", "finer-sine", "gauss", "finer-gauss")
    """Which are trained, with their published hyper-parameters; of no account to --model."""
    activation: str | None = None
    """An activation of your own beside them, made variable-periodic: tanh, sinc or another function of torch, or
    module:function."""
    model: Path | None = None
    """model.safetensors of a fit (finer fit-image, finer fit-sdf) to look at instead, before and after its
    training."""
    steps: int = 300
    """Training steps."""
    width: int = 128
    """Units of a hidden layer."""
    depth: int = 3
    """Hidden layers."""
    reference: float = 3.0
    """R: visited bins are counted on the pre-activation axis from -R to R."""
    bins: int = 60
    """Equal bins of this part of the axis."""
    least: float = 0.001
    """A bin is visited if at least this share of a layer's pre-activations lies in it."""
    seed: int = 0
    """Of everything random."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""


def pre_activations(network: CoordinateNetwork, coords: Float[Tensor, "n in_dim"]) -> list[Float[Tensor, "n features"]]:
    """Return the pre-activations of every hidden layer, first layer first, by plain tensor functions.

    Args:
        network: real or complex.
        coords: in the range that the network is for.

    Returns:
        A tensor for each hidden layer, on the network's device, with ``units`` features; those of a complex layer
        behind the first hold ``units`` real parts and then as many imaginary ones.
    """
    found: list[Tensor] = []
    with torch.no_grad():
        x = network._encoded(coords.to(network.device))
        for layer in network._layers(network.activation)[:-1]:
            assert layer.activation is not None
            found.append(F.linear(x, layer.weight, layer.bias))
            x = layer.activation.value(found[-1])
    return found


def central_bump(activation: Activation) -> float:
    """Half-width of the activation's bump around zero, on the axis of the pre-activation.

    ==================  ==================================================================================
    sine                to its first extremum: ``omega_0 u = pi / 2``
    Gauss, wavelet      one width of the Gaussian or the envelope: ``s_0 u = 1``
    variable-periodic   the same of the composed activation: ``omega_0 g(u) = pi / 2`` for the sine and
                        ``(s_0 / omega_f) sin(omega_f g(u)) = 1`` for the others. Where the inner sine is too
                        weak for that (``s_0 < omega_f``), to the trough between two bumps,
                        ``omega_f g(u) = pi / 2``
    one's own           made variable-periodic: to where the inner sine is zero again, ``omega_f g(u) = pi``;
                        of an even function, whose bumps repeat twice as often, to the trough between two
    ==================  ==================================================================================

    with ``g(u) = (|u| + 1) u``. Real and imaginary parts of a complex pre-activation are each held against it, though
    along the imaginary axis a wavelet has an envelope and no bumps that repeat: of these parts, what lies outside says
    how wide they are spread, and no more.

    Raises:
        ValueError: for ReLU and others without a bump, and for periodic functions of one's own, whose period nobody
            knows.
    """
    base, omega_f = base_of(activation), None
    if isinstance(activation, VariablePeriodic):
        omega_f = activation.omega_f
    elif not (isinstance(base, Sine) or hasattr(base, "s_0")):
        raise ValueError(f"{type(base).__name__} has no central bump")
    if isinstance(base, Sine):
        stretched = 0.5 * math.pi / base.omega_0
    elif (s_0 := getattr(base, "s_0", None)) is not None:  # also of a wavelet in the first layer
        stretched = 1.0 / s_0
        if omega_f is not None:
            stretched = math.asin(min(1.0, omega_f * stretched)) / omega_f
    elif omega_f is not None:
        stretched = 0.5 * repeats_of(activation).period / omega_f
    else:
        raise ValueError("the period of a periodic function of your own is not known, and so is its central bump")
    # g(u) = u + u^2 to the right of zero; this form of the root loses no digits where g is small.
    return 2.0 * stretched / (1.0 + math.sqrt(1.0 + 4.0 * stretched)) if activation is not base else stretched


@dataclass(frozen=True)
class Utilization:
    """Where the pre-activations of one layer, or of one part of a complex layer, lie.

    Attributes:
        visited_bins: share of the reference window's bins in which at least ``least`` of all of them lie, in [0, 1].
        outside_bump: share of them that lie outside the central bump, in [0, 1].
        flat: share of them at which the activation's slope is less than a hundredth of the steepest in the central
            bump, in [0, 1]: there a neuron neither responds nor learns.
        visited_width: largest minus smallest pre-activation of a neuron over all points, mean over neurons.
    """

    visited_bins: float
    outside_bump: float
    flat: float
    visited_width: float


QUANTITIES: tuple[str, ...] = tuple(field.name for field in fields(Utilization))
"""Shares and widths that are counted in each layer."""


def utilization_of(
    values: Float[Tensor, "n neurons"],
    steepness: Float[Tensor, "n neurons"],
    *,
    bump: float,
    reference: float = 3.0,
    bins: int = 60,
    least: float = 0.001,
) -> Utilization:
    """Count where pre-activations lie.

    Args:
        values: a row for each point and a column for each neuron, any range.
        steepness: slope of the activation there over the steepest in the central bump.
        bump: half-width of the central bump, on its border is inside.
        reference: R; bins divide [-R, R] evenly, and a value on a border belongs to the bin on its right. Values
            outside belong to none, and count among all nevertheless.
        bins: how many.
        least: share of all values that makes a bin a visited one.
    """
    shares = bin_shares(values, reference, bins)
    return Utilization(
        visited_bins=float((shares >= least).double().mean()),
        outside_bump=float((values.abs() > bump).double().mean()),
        flat=float((steepness < _FLAT).double().mean()),
        visited_width=float((values.amax(dim=0) - values.amin(dim=0)).double().mean()),
    )


def steepness_of(
    activation: Activation, values: Float[Tensor, "n features"], units: int
) -> list[Float[Tensor, "n units"]]:
    """Slope of an activation at pre-activations, over the steepest along the central bump.

    By central differences in float64; of a complex response, the modulus of its change.

    Args:
        activation: of the layer, for a first layer that for real pre-activations.
        values: ``units`` real numbers for each point, or as many real parts and then as many imaginary ones.
        units: neurons.

    Returns:
        For real pre-activations one tensor; for complex ones two, with respect to the real and the imaginary part.
    """
    parts = values.shape[1] // units
    bump = central_bump(activation)
    along = torch.zeros(1001, parts, dtype=torch.float64, device=values.device)
    along[:, 0] = torch.linspace(-bump, bump, len(along), dtype=torch.float64)
    steepest = float(_slope(activation, along, 1, 0).max())
    return [_slope(activation, values.double(), units, part) / steepest for part in range(parts)]


def bin_shares(values: Float[Tensor, "n neurons"], reference: float, bins: int) -> Float[Tensor, " bins"]:
    """Share of all values in each of ``bins`` equal bins of [-reference, reference], on the CPU."""
    number = ((values.double().flatten() + reference) * (bins / (2.0 * reference))).floor()
    inside = number[(number >= 0) & (number < bins)].long()
    return torch.bincount(inside, minlength=bins).double().cpu() / values.numel()


@dataclass(frozen=True)
class _Part:
    """The real or imaginary parts of one hidden layer's pre-activations, or all of a real layer's.

    Attributes:
        layer: from 1.
        name: "real" or "imaginary".
        values: ``[n, units]``.
        steepness: of the activation there, ``[n, units]``.
    """

    layer: int
    name: str
    values: Tensor
    steepness: Tensor


def study(options: UtilizationOptions, stage: Stage) -> Outcome:
    """Train each method on the image, or take a saved model, and count before and after.

    Args:
        options: what to train, where to look and what counts.
        stage: progress callback.

    Raises:
        UsageError: for options that mean nothing, and for activations without a bump.
        InputError: for what cannot be read, and when training diverges.
    """
    _require_sensible(options)
    wanted = _networks_of(options)
    image = image_of(options) if options.model is None else None
    subjects = [subject_of(network, 2, 3 if image is None else image.channels) for network in wanted]
    bumps = [_bump_of(subject) for subject in subjects]
    numbers: dict[str, Any] = {}
    layers: dict[str, list[Any]] = {name: [] for name in ("method", "layer", "part", "state", "bump", *QUANTITIES)}
    pictures: dict[str, Table] = {}
    for network_options, subject, bump in zip(wanted, subjects, bumps, strict=True):
        summary: dict[str, Any] = {"central_bump": bump}
        if image is None:
            assert options.model is not None
            points = points_of_model(options.model, _MOST_POINTS)
        else:
            points = grid_points((image.height, image.width), _MOST_POINTS)
            learning_rate = preset_for(network_options).learning_rate
            subject, summary["psnr"] = _trained(subject, image, learning_rate, options, stage)
        parts = {state: _parts(network, points) for state, network in subject.states().items()}
        is_complex = subject.initial.activation.complex_valued
        summary["layers"] = [
            f"{part.layer} {part.name}" if is_complex else f"{part.layer}" for part in parts["initial"]
        ]
        for state, found in parts.items():
            summary[state] = _add_rows(layers, subject.name, state, found, bump, options)
        numbers[subject.name] = summary
        pictures[f"histograms {subject.name}"], pictures[f"activation {subject.name}"] = _pictures(
            subject.initial, parts
        )
    return Outcome(
        "utilization",
        {
            "networks": {subject.name: subject.description for subject in subjects},
            "image": None if image is None else image.description,
            "steps": options.steps if image is not None else None,
            "reference": options.reference,
            "bins": options.bins,
            "least": options.least,
            "seed": options.seed,
        },
        {**({"notes": list(image.notes)} if image is not None and image.notes else {}), "methods": numbers},
        {"layers": Table(layers), **pictures},
    )


def _networks_of(options: UtilizationOptions) -> list[NetworkOptions]:
    """The networks to look at: a saved one, or one for each method and for an activation of one's own."""
    if options.model is not None:
        for name in ("activation", "image"):
            if getattr(options, name) is not None:
                raise UsageError(
                    f"{argument(name)} cannot be given with {argument('model')}, whose network and signal are its own."
                )
        return [NetworkOptions(model=options.model, seed=options.seed, device=options.device)]
    sized = NetworkOptions(width=options.width, depth=options.depth, seed=options.seed, device=options.device)
    wanted = [replace(sized, method=method) for method in dict.fromkeys(options.methods)]
    if options.activation is not None:
        wanted.append(replace(sized, activation=options.activation))
    return wanted


def _add_rows(
    layers: dict[str, list[Any]],
    name: str,
    state: str,
    parts: Sequence[_Part],
    bump: float,
    options: UtilizationOptions,
) -> dict[str, list[float]]:
    """Add a row for each layer of a network, and return its quantities by layer."""
    rows = [
        utilization_of(
            part.values,
            part.steepness,
            bump=bump,
            reference=options.reference,
            bins=options.bins,
            least=options.least,
        )
        for part in parts
    ]
    for column, value in (("method", name), ("state", state), ("bump", bump)):
        layers[column] += [value] * len(parts)
    layers["layer"] += [part.layer for part in parts]
    layers["part"] += [part.name for part in parts]
    quantities = {}
    for quantity in QUANTITIES:
        values = [getattr(row, quantity) for row in rows]
        layers[quantity] += values
        quantities[quantity] = [round(value, 4) for value in values]
    return quantities


def draw(outcome: Outcome) -> Figure:
    """A row for each method: pre-activations of each layer before and after, over the activation, and the shares.

    Of complex layers, real parts alone; the tables have both.
    """
    rows = outcome.tables["layers"].rows()
    methods = list(dict.fromkeys(row["method"] for row in rows))
    depths = {name: max(row["layer"] for row in rows if row["method"] == name) for name in methods}
    across = max(depths.values()) + 1
    figure, axes = panels(across * len(methods), columns=across, width=3.4, height=2.5)
    for line, method in enumerate(methods):
        own = [row for row in rows if row["method"] == method and row["part"] == "real"]
        bars, curves = (
            [row for row in outcome.tables[f"{kind} {method}"].rows() if row["part"] == "real"]
            for kind in ("histograms", "activation")
        )
        for layer in range(1, depths[method] + 1):
            place = axes[line * across + layer - 1]
            shown = [bar for bar in bars if bar["layer"] == layer]
            x = [bar["pre_activation"] for bar in shown]
            bump = own[0]["bump"]
            place.axvspan(-bump, bump, color="0.85", linewidth=0, label="central bump")
            for state, color in (("initial", "C0"), ("trained", "C1")):
                place.fill_between(x, [bar[state] for bar in shown], step="mid", color=color, alpha=0.45, label=state)
            place.set(xlim=(x[0], x[-1]), ylim=(0, None), yticks=[], title=f"{method}, layer {layer}")
            curve = place.twinx()
            drawn = [point for point in curves if point["layer"] == layer]
            curve.plot(
                [point["pre_activation"] for point in drawn],
                [point["activation"] for point in drawn],
                color="black",
                linewidth=0.6,
            )
            curve.set(yticks=[], ylim=(-1.15, 1.6))
        place = axes[line * across + across - 1]
        kinds = (("visited_bins", ""), ("outside_bump", "////"), ("flat", "...."))
        colors = (("initial", "C0"), ("trained", "C1"))
        for offset, ((quantity, hatch), (state, color)) in enumerate(itertools.product(kinds, colors)):
            values = [row for row in own if row["state"] == state]
            place.bar(
                [row["layer"] + 0.14 * (offset - 2.5) for row in values],
                [row[quantity] for row in values],
                width=0.14,
                color=color,
                alpha=0.6,
                hatch=hatch,
                label=f"{quantity.replace('_', ' ')}, {state}",
            )
        place.set(ylim=(0, 1), xticks=range(1, depths[method] + 1), xlabel="layer", title="shares")
    legend_of_figure(figure, axes[0], axes[across - 1])
    return figure


def _require_sensible(options: UtilizationOptions) -> None:
    if options.model is None and not options.methods and options.activation is None:
        raise UsageError(f"{argument('methods')} needs at least one method.")
    if not 0 < options.reference < math.inf:
        raise UsageError(f"{argument('reference')} must be a positive number, not {options.reference}.")
    if not 1 <= options.bins <= 100_000:
        raise UsageError(f"{argument('bins')} must lie between 1 and 100,000, not {options.bins}.")
    if not 0 < options.least < 1:
        raise UsageError(f"{argument('least')} must lie between 0 and 1, not {options.least}.")
    if options.steps < 1:
        raise UsageError(f"{argument('steps')} must be at least 1, not {options.steps}.")


def _bump_of(subject: Subject) -> float:
    try:
        return central_bump(subject.initial.activation)
    except ValueError as error:
        raise UsageError(f"{subject.name}: {error}, of which something could be inside or outside.") from error


def _trained(
    subject: Subject, image: SourceImage, learning_rate: float, options: UtilizationOptions, stage: Stage
) -> tuple[Subject, float]:
    """The subject with a trained copy of its network, and the PSNR in dB before the last step."""
    network = copy.deepcopy(subject.initial)
    training = train(
        network,
        squared_error(network, signal_of(image), "full"),
        Schedule(options.steps, learning_rate),
        generator=torch.Generator().manual_seed(options.seed),
        report=lambda _share, step, _loss: stage(subject.name, step, options.steps),
    )
    return replace(subject, trained=network), psnr_of_loss(training.curve[-1][1])


def _slope(
    activation: Activation, values: Float[Tensor, "n features"], units: int, part: int
) -> Float[Tensor, "n units"]:
    step = torch.zeros_like(values)
    step[:, part * units : (part + 1) * units] = _DIFFERENCE
    change = (activation.value(values + step) - activation.value(values - step)) / (2.0 * _DIFFERENCE)
    return torch.hypot(*change.chunk(2, dim=-1)) if change.shape[1] > units else change.abs()


def _parts(network: CoordinateNetwork, points: Float[Tensor, "n in_dim"]) -> list[_Part]:
    parts: list[_Part] = []
    for layer, values in enumerate(pre_activations(network, points), start=1):
        activation = network.activation.for_first_layer() if layer == 1 else network.activation
        steepness = steepness_of(activation, values, network.units)
        pieces = values.split(network.units, dim=1)
        for name, piece, steep in zip(("real", "imaginary"), pieces, steepness, strict=False):
            parts.append(_Part(layer, name, piece, steep))
    return parts


def _pictures(network: CoordinateNetwork, parts: dict[str, list[_Part]]) -> tuple[Table, Table]:
    """Densities of pre-activations by state, and the activation's real part there, the other part being zero."""
    densities: dict[str, list[Any]] = {name: [] for name in ("layer", "part", "pre_activation", "initial", "trained")}
    curves: dict[str, list[Any]] = {name: [] for name in ("layer", "part", "pre_activation", "activation")}
    for initial, trained in zip(parts["initial"], parts["trained"], strict=True):
        limit = max(_most_lie_within(part.values) for part in (initial, trained))
        centers = (torch.arange(_BARS, dtype=torch.float64) + 0.5) * (2.0 * limit / _BARS) - limit
        densities["pre_activation"] += centers.tolist()
        for state, part in (("initial", initial), ("trained", trained)):
            densities[state] += (bin_shares(part.values, limit, _BARS) * (_BARS / (2.0 * limit))).tolist()
        along = torch.linspace(-limit, limit, _SAMPLES_OF_CURVE, dtype=torch.float64)
        curves["pre_activation"] += along.tolist()
        curves["activation"] += _real_value(network, initial, along).tolist()
        for columns, count in ((densities, _BARS), (curves, _SAMPLES_OF_CURVE)):
            columns["layer"] += [initial.layer] * count
            columns["part"] += [initial.name] * count
    return Table(densities), Table(curves)


def _most_lie_within(values: Float[Tensor, "n neurons"]) -> float:
    """A distance from zero that all but few of the values keep within."""
    flat = values.abs().flatten()
    flat = flat[:: max(1, len(flat) // _NUMBERS_SORTED)].sort().values
    return max(1e-6, float(flat[int((1.0 - _BEYOND_FIGURE) * (len(flat) - 1))]))


def _real_value(network: CoordinateNetwork, part: _Part, u: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    if part.layer == 1:
        return network.activation.for_first_layer().value(u[:, None])[:, 0]
    if not network.activation.complex_valued:
        return network.activation.value(u[:, None])[:, 0]
    pair = (u, torch.zeros_like(u)) if part.name == "real" else (torch.zeros_like(u), u)
    return network.activation.value(torch.stack(pair, dim=-1))[:, 0]
