"""Activations and their variable-periodic versions, and what omega_f makes of them (FINER++ paper, Figs. 1a and 3).

With ``g(x) = alpha(x) x`` and ``alpha(x) = |x| + 1`` the composed activation is ``sigma((1 / omega_f) sin(omega_f
g(x)))``, which around zero is close to the base. Too small an omega_f leaves it at that: no bump beside the central one
is in reach. Too large an omega_f leaves the inner sine, of amplitude ``1 / omega_f``, no room to move the base: bumps
overlap, and the activation comes close to a constant. The sine is periodic itself and has no omega_f; what says how
often it repeats is omega_0.

Everything is read off values and slopes at many pre-activations. How many bumps there are is said by g as well: they
stand where the phase ``omega_f g(x)`` is one at which the base of a sine has a maximum.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from finer_nerfstudio.analysis.outcome import Outcome, Table, panels
from finer_nerfstudio.analysis.subject import NetworkOptions, name_of, subject_of
from finer_nerfstudio.errors import UsageError, argument
from finer_nerfstudio.inr.activations import Activation, Sine, VariablePeriodic, base_of, variable_periodic
from finer_nerfstudio.runs.axes import legend_of_figure
from finer_nerfstudio.runs.progress import Stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Points of a curve in the figure, and how many times as many are measured. A bump of more detail than the figure has
# points for would be drawn as one that is not there.
_FEWEST_DRAWN, _MOST_DRAWN = 1000, 20_000
_FINER = 50
_COLUMNS = 4
# A function of one's own may change this much faster than its argument.
_DETAIL_OF_OWN = 10.0
_SAMPLES_OF_PERIOD = 4096
# Of the values; smaller differences are rounding.
_SMALLEST_RANGE = 1e-12
# Of the base's range; below it the trough between two Gaussian bumps is above half their height.
_FLAT = 0.5


@dataclass(frozen=True, kw_only=True)
class ActivationsOptions(NetworkOptions):
    """Activations: a base, its variable-periodic version, and what too small and too large omega_f make of it
    (Figs. 1a and 3)."""

    omega_fs: tuple[float, ...] = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
    """omega_f to lay side by side; of a sine, which has none, omega_0 in its place. Of no account to methods that are
    not variable-periodic."""
    reach: float = 1.0
    """R: pre-activations from minus this to this are looked at."""


@dataclass(frozen=True)
class Curve:
    """An activation along real pre-activations; of a complex one, that of the first layer.

    Attributes:
        x: pre-activations, ascending, symmetric around zero, which is among them.
        parts: its value by "value", or by "real", "imaginary" and "modulus" for complex ones.
        slope: modulus of the derivative of the value.
    """

    x: Float[Tensor, " n"]
    parts: dict[str, Float[Tensor, " n"]]
    slope: Float[Tensor, " n"]

    @property
    def response(self) -> Float[Tensor, " n"]:
        """Whose bumps are counted: the value, or the modulus of a complex one."""
        return self.parts["modulus" if "modulus" in self.parts else "value"]


def curve_of(activation: Activation, reach: float, intervals: int) -> Curve:
    """Sample an activation in float64; slopes are the formula's, with alpha not held constant.

    Args:
        activation: any.
        reach: R; from -R to R.
        intervals: between samples on either side of zero.
    """
    activation = activation.for_first_layer().with_scale_gradient(True)
    half = torch.linspace(0.0, reach, intervals + 1, dtype=torch.float64)
    x = torch.cat([-half[1:].flip(0), half])
    column = x[:, None]
    value = activation.value(column)
    slopes = [activation.vjp(column, unit.expand_as(value)) for unit in torch.eye(value.shape[1], dtype=torch.float64)]
    slope = torch.linalg.vector_norm(torch.cat(slopes, dim=1), dim=1)
    if value.shape[1] == 1:
        return Curve(x, {"value": value[:, 0]}, slope)
    real, imaginary = value.unbind(dim=1)
    return Curve(x, {"real": real, "imaginary": imaginary, "modulus": torch.hypot(real, imaginary)}, slope)


def maxima_of(values: Float[Tensor, " n"]) -> Int[Tensor, " maxima"]:
    """Where values have local maxima, ends excluded; of a level one, its first sample."""
    levels, counts = torch.unique_consecutive(values, return_counts=True)
    if len(levels) < 3 or float(levels.amax() - levels.amin()) <= _SMALLEST_RANGE * float(levels.abs().amax()):
        return torch.zeros(0, dtype=torch.int64)
    inside = (levels[1:-1] > levels[:-2]) & (levels[1:-1] > levels[2:])
    return (counts.cumsum(0) - counts)[1:-1][inside]


def bumps_by_formula(activation: Activation, reach: float) -> int | None:
    """How many maxima an activation's response has within (-R, R), counted along its phase.

    A variable-periodic activation has the phase ``omega_f g(x)``, or ``omega_0 g(x)`` if its base is a sine, and a
    maximum at each phase at which ``sin``, or the base of the inner sine, has one. A Gaussian and a wavelet's modulus
    have them at multiples of pi.

    Args:
        activation: any.
        reach: R.

    Returns:
        None for a function of one's own that is not variable-periodic, about which a formula says nothing.
    """
    base = base_of(activation)
    is_variable = isinstance(activation, VariablePeriodic)
    farthest = reach * (reach + 1.0) if is_variable else reach
    if isinstance(base, Sine):
        return _count(base.omega_0 * farthest, [0.5 * math.pi])
    is_bump = hasattr(base, "s_0")
    if not is_variable or activation.omega_f is None:
        return 1 if is_bump and not is_variable else None
    phases = [0.0, math.pi] if is_bump else _phases_of_maxima(base.rescaled(1.0 / activation.omega_f))
    return _count(activation.omega_f * farthest, phases)


def _count(farthest: float, phases: list[float]) -> int:
    """Phases within (-farthest, farthest) that are among the given ones up to full turns."""
    turn = 2.0 * math.pi
    return sum(
        max(0, math.ceil((farthest - phase) / turn) - math.floor((-farthest - phase) / turn) - 1) for phase in phases
    )


def _phases_of_maxima(outer: Activation) -> list[float]:
    # A quarter of a step off, so that no maximum at a multiple of pi / 2 lies halfway between two samples.
    step = 2.0 * math.pi / _SAMPLES_OF_PERIOD
    phase = (torch.arange(-1, _SAMPLES_OF_PERIOD + 1, dtype=torch.float64) + 0.25) * step
    return phase[maxima_of(outer.value(torch.sin(phase)[:, None])[:, 0])].tolist()


@dataclass(frozen=True)
class ActivationSummary:
    """An activation between -R and R in few numbers; of a complex one, its modulus where nothing else is said.

    Attributes:
        bumps: local maxima, counted from the values.
        bumps_by_formula: the same from g; None where no formula says it.
        central_width: distance between the places on either side of zero at which the value has gone halfway to its
            next extremum, or to the border; of a Gaussian, the full width at half its height. None where it is level.
        narrowest_bump: smallest distance between two neighbouring maxima; None with fewer than two.
        largest_slope: of the value; of a complex one, modulus of its derivative.
        lowest: value.
        highest: value.
        range: highest minus lowest.
        relative_range: range over that of the base; None for a base.
        verdict: "degenerate" for at most one bump, "flat" for less than half of the base's range, else "repeats";
            "base" for a base.
    """

    bumps: int
    bumps_by_formula: int | None
    central_width: float | None
    narrowest_bump: float | None
    largest_slope: float
    lowest: float
    highest: float
    range: float
    relative_range: float | None
    verdict: str


def summary_of(activation: Activation, curve: Curve, base: Curve | None) -> ActivationSummary:
    """Summarise an activation by its samples.

    Args:
        activation: which.
        curve: its samples, close enough to each other for its bumps.
        base: samples of its base; None if it is one.
    """
    response, reach = curve.response, float(curve.x[-1])
    maxima = curve.x[maxima_of(response)]
    lowest, highest = float(response.amin()), float(response.amax())
    relative, verdict = None, "base"
    if base is not None:
        whole = float(base.response.amax() - base.response.amin())
        relative = (highest - lowest) / whole if whole else None
        repeats = "flat" if relative is not None and relative < _FLAT else "repeats"
        verdict = repeats if len(maxima) > 1 else "degenerate"
    return ActivationSummary(
        bumps=len(maxima),
        bumps_by_formula=bumps_by_formula(activation, reach),
        central_width=_central_width(curve.x, response),
        narrowest_bump=float(maxima.diff().amin()) if len(maxima) > 1 else None,
        largest_slope=float(curve.slope.amax()),
        lowest=lowest,
        highest=highest,
        range=highest - lowest,
        relative_range=relative,
        verdict=verdict,
    )


def _central_width(x: Tensor, response: Tensor) -> float | None:
    center = len(x) // 2
    right = _halfway(x[center:], response[center:])
    left = _halfway(-x[: center + 1].flip(0), response[: center + 1].flip(0))
    return None if left is None or right is None else left + right


def _halfway(x: Tensor, values: Tensor) -> float | None:
    """Where values, from the first on, have gone half the way to their first extremum."""
    signs = values.diff().sign()
    if signs[0] == 0:
        return None
    turned = (signs != signs[0]).nonzero()
    end = int(turned[0, 0]) if len(turned) else len(signs)
    middle = 0.5 * (values[0] + values[end])
    beyond = int(((values[: end + 1] - middle) * signs[0] >= 0).nonzero()[0, 0])
    low, high = values[beyond - 1], values[beyond]
    return float(x[beyond - 1] + (x[beyond] - x[beyond - 1]) * (middle - low) / (high - low))


def study(options: ActivationsOptions, stage: Stage) -> Outcome:
    """A method's base activation, the method's own, and versions of it with each omega_f.

    Args:
        options: which activation, and where to look.
        stage: progress callback.

    Raises:
        UsageError: for options that mean nothing, and bumps too many to be drawn.
        InputError: for a model that cannot be read.
    """
    if not 0 < options.reach < math.inf:
        raise UsageError(f"{argument('reach')} must be a positive number, not {options.reach}.")
    for value in options.omega_fs:
        if not 0 < value < math.inf:
            raise UsageError(f"{argument('omega_fs')} must be positive numbers, not {value}.")
    subject = subject_of(options, 1, 1)
    activation = subject.initial.activation
    varied = "omega_0" if isinstance(base_of(activation), Sine) else "omega_f"
    shown: dict[str, Activation] = {"base": base_of(activation)}
    if isinstance(activation, VariablePeriodic):
        shown["variable-periodic"] = activation
        shown |= {f"{varied} = {value:g}": _with_frequency(activation, value) for value in options.omega_fs}
    drawn = max(_intervals(name, kind, options.reach) for name, kind in shown.items())
    numbers: dict[str, Any] = {}
    curves: dict[str, list[float]] = {}
    for done, (name, kind) in enumerate(shown.items()):
        stage(name, done, len(shown))
        curve = curve_of(kind, options.reach, drawn * _FINER)
        if not all(bool(values.isfinite().all()) for values in (*curve.parts.values(), curve.slope)):
            raise UsageError(f"{name_of(options)}: the activation is not finite everywhere within {argument('reach')}.")
        # Of a sine the base is another one for each omega_0.
        base = None if name == "base" else curve_of(base_of(kind), options.reach, drawn * _FINER)
        numbers[name] = {**_parameters(kind), **asdict(summary_of(kind, curve, base))}
        curves.setdefault("x", curve.x[::_FINER].tolist())
        for part, values in curve.parts.items():
            curves[name if part == "value" else f"{name}, {part}"] = values[::_FINER].tolist()
        stage(name, done + 1, len(shown))
    columns = {"activation": list(numbers)}
    for column in dict.fromkeys(column for row in numbers.values() for column in row):
        columns[column] = [row.get(column) for row in numbers.values()]
    return Outcome(
        "activations",
        {"network": subject.description, "reach": options.reach, "omega_fs": list(options.omega_fs)},
        {"method": name_of(options), "varied": varied, "reach": options.reach, "activations": numbers},
        {"summary": Table(columns), "curves": Table(curves)},
    )


def draw(outcome: Outcome) -> Figure:
    """The base, the method's own activation, and each version of it; of complex ones both parts and the modulus."""
    numbers: dict[str, dict[str, Any]] = outcome.numbers["activations"]
    curves = outcome.tables["curves"].columns
    figure, axes = panels(len(numbers), columns=_COLUMNS, width=3.6, height=2.9)
    styles = {
        "": {"color": "C0", "linewidth": 1.0},
        ", real": {"color": "C0", "linewidth": 0.7, "label": "real"},
        ", imaginary": {"color": "C1", "linewidth": 0.7, "label": "imaginary"},
        ", modulus": {"color": "black", "linewidth": 1.3, "label": "modulus"},
    }
    lowest = min(min(values) for name, values in curves.items() if name != "x")
    highest = max(max(values) for name, values in curves.items() if name != "x")
    margin = 0.06 * (highest - lowest or 1.0)
    last_row = (len(axes) - 1) // _COLUMNS * _COLUMNS
    for number, ((name, summary), place) in enumerate(zip(numbers.items(), axes, strict=True)):
        for part, style in styles.items():
            if f"{name}{part}" in curves:
                place.plot(curves["x"], curves[f"{name}{part}"], **style)
        scales = ", ".join(f"{key} {summary[key]:g}" for key in ("omega_0", "s_0", "omega_f") if key in summary)
        title = f"{outcome.numbers['method']}: {name}" if name == "base" else name
        place.set(xlim=(curves["x"][0], curves["x"][-1]), ylim=(lowest - margin, highest + margin))
        # The others differ from the second one in what their names say.
        if scales and name in ("base", "variable-periodic"):
            title += f"\n{scales}"
        place.set_title(title, fontsize=10)
        bumps = f"{summary['bumps']} bump{'' if summary['bumps'] == 1 else 's'}, range {summary['range']:.2g}"
        verdict = "" if name == "base" else f", {summary['verdict']}"
        place.set_xlabel(f"{bumps}{verdict}\nlargest slope {summary['largest_slope']:.3g}")
        if number >= last_row:
            place.set_xlabel(f"{place.get_xlabel()}\npre-activation")
    legend_of_figure(figure, axes[0])
    return figure


def _with_frequency(activation: VariablePeriodic, frequency: float) -> VariablePeriodic:
    if isinstance(activation.base, Sine):
        return variable_periodic(Sine(frequency))
    return replace(activation, omega_f=frequency)


def _parameters(activation: Activation) -> dict[str, float]:
    base = base_of(activation)
    found = {name: float(getattr(base, name)) for name in ("omega_0", "s_0") if hasattr(base, name)}
    if isinstance(activation, VariablePeriodic) and activation.omega_f is not None:
        found["omega_f"] = activation.omega_f
    return found


def _intervals(name: str, activation: Activation, reach: float) -> int:
    """Intervals on either side of zero that show an activation: several for a bump, and for an edge of one."""
    scales = _parameters(activation)
    fastest = max(scales.get("omega_0", 0.0), scales.get("s_0", 0.0)) or _DETAIL_OF_OWN
    if isinstance(activation, VariablePeriodic):
        fastest = max(fastest, 2.0 * scales.get("omega_f", 0.0)) * (2.0 * reach + 1.0)
    needed = max(_FEWEST_DRAWN // 2, math.ceil(2.0 * reach * fastest)) if math.isfinite(reach * fastest) else math.inf
    if 2 * needed > _MOST_DRAWN:
        raise UsageError(
            f"{name}: its bumps are too narrow to be drawn from {-reach:g} to {reach:g}; choose a smaller "
            f"{argument('reach')}."
        )
    return int(needed)
