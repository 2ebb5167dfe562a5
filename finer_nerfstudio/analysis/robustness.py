"""How much the choice of a scale matters: PSNR over a sweep of it, base against FINER++ (FINER++ paper, Fig. 6).

A method that is good only at the right omega_0 or s_0 has to be tuned for each signal. Here it is measured how many
octaves of scales come within 3 dB of a method's own best, and how large the area under its curve is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.analysis.outcome import Outcome, Table, panels
from finer_nerfstudio.analysis.subject import ImageSource, image_of
from finer_nerfstudio.errors import InputError, UsageError, argument
from finer_nerfstudio.runs.axes import legend_below, whole_decades
from finer_nerfstudio.runs.metrics import decibels
from finer_nerfstudio.runs.options import Method, preset_of
from finer_nerfstudio.runs.progress import Stage
from finer_nerfstudio.runs.sweep import Cell, run_cells
from finer_nerfstudio.tasks.image.files import SourceImage
from finer_nerfstudio.tasks.image.fit import ImageOptions, fit_image, measure, require_possible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Family = Literal["sine", "gauss", "wavelet"]
Parameter = Literal["omega_0", "s_0"]


@dataclass(frozen=True)
class ScaleSweep:
    """The scale parameter, methods and default values of a family's sweep.

    Attributes:
        base: method.
        finer: its FINER++ counterpart.
        parameter: which scale.
        scales: the published one, and octaves on either side of it.
    """

    base: Method
    finer: Method
    parameter: Parameter
    scales: tuple[float, ...]


SWEEPS: dict[Family, ScaleSweep] = {
    "sine": ScaleSweep("siren", "finer-sine", "omega_0", (3.75, 7.5, 15.0, 30.0, 60.0, 120.0, 240.0)),
    "gauss": ScaleSweep("gauss", "finer-gauss", "s_0", (3.75, 7.5, 15.0, 30.0, 60.0, 120.0, 240.0)),
    "wavelet": ScaleSweep("wire", "finer-wavelet", "omega_0", (2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)),
}
"""Other parameters stay as published: s_0 of the wavelet, omega_f, and k."""

WITHIN_DECIBELS = 3.0
"""A scale is good enough where PSNR falls short of the best by no more."""

# PSNR of what is fitted exactly.
_HIGHEST = 100.0


@dataclass(frozen=True, kw_only=True)
class RobustnessOptions(ImageSource):
    """Robustness: PSNR over a sweep of the scale parameter, base against FINER++ (Fig. 6). Both are trained here, so
    that there is no --model; other activations have no published pair of methods."""

    size: int = 128
    """The image is averaged down so that its longer side has this many pixels. With few pixels for its weights a
    network keeps each for itself, and the highest scale wins."""
    family: Family = "sine"
    """Which base and which FINER++ method: siren and finer-sine, gauss and finer-gauss, or wire and finer-wavelet."""
    scales: tuple[float, ...] | None = None
    """omega_0 of the sine and the wavelet, s_0 of the Gaussian; octaves around the published one unless given."""
    steps: int = 500
    """Training steps of each run."""
    width: int = 64
    """Units of a hidden layer; with these, an image of the default size has four values for each weight, as in the
    paper."""
    depth: int = 3
    """Hidden layers."""
    learning_rate: float | None = None
    """Of both methods; the published ones unless given."""
    seed: int = 0
    """Of everything random in the first run at a scale; the next ones have the seeds after it."""
    seeds: int = 1
    """Runs at each scale, whose mean counts."""
    workers: int | None = None
    """Processes; one per GPU, or one, unless given."""
    cells_dir: Path = Path("outputs/analysis/robustness/cells")
    """Keeps the result of each finished run, so that a sweep that was interrupted goes on where it stopped."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""


@dataclass(frozen=True)
class Robustness:
    """How a method takes to other scales.

    Attributes:
        best_psnr: dB.
        best_scale: where.
        lowest_scale: of the stretch around the best scale in which PSNR is within 3 dB of the best; between measured
            scales PSNR is taken to be linear in the logarithm of the scale.
        highest_scale: likewise.
        octaves: width of this stretch.
        open_ended: whether it reaches an end of the sweep, so that it may be wider.
        area: under the curve of PSNR, dB times octaves.
        mean_psnr: area over the octaves of the sweep, dB.
    """

    best_psnr: float
    best_scale: float
    lowest_scale: float
    highest_scale: float
    octaves: float
    open_ended: bool
    area: float
    mean_psnr: float


def robustness_of(
    scales: Float[Tensor, " n"], psnr: Float[Tensor, " n"], *, within: float = WITHIN_DECIBELS
) -> Robustness:
    """Read robustness off a curve.

    Args:
        scales: ascending, positive, two at least.
        psnr: dB.
        within: of the best, dB.
    """
    octave, values = scales.double().log2(), psnr.double()
    best = int(values.argmax())
    threshold = float(values[best]) - within
    low, open_below = _reach(octave[: best + 1].flip(0), values[: best + 1].flip(0), threshold)
    high, open_above = _reach(octave[best:], values[best:], threshold)
    area = float(torch.trapezoid(values, octave))
    return Robustness(
        best_psnr=float(values[best]),
        best_scale=float(scales[best]),
        lowest_scale=2.0**low,
        highest_scale=2.0**high,
        octaves=high - low,
        open_ended=open_below or open_above,
        area=area,
        mean_psnr=area / float(octave[-1] - octave[0]),
    )


def _reach(octave: Tensor, values: Tensor, threshold: float) -> tuple[float, bool]:
    """How far values, from the first on, stay at or above a threshold, and whether that is to the end."""
    below = (values < threshold).nonzero()
    if not len(below):
        return float(octave[-1]), True
    outside = int(below[0, 0])
    share = (values[outside - 1] - threshold) / (values[outside - 1] - values[outside])
    return float(octave[outside - 1] + share * (octave[outside] - octave[outside - 1])), False


def more_robust(methods: Mapping[str, Robustness]) -> str | None:
    """The method with the most octaves; None where that cannot be told, because a sweep ended too soon.

    Args:
        methods: two or more, by name.
    """
    winner, *others = sorted(methods, key=lambda name: methods[name].octaves, reverse=True)
    told = all(methods[name].octaves < methods[winner].octaves and not methods[name].open_ended for name in others)
    return winner if told else None


def psnr_of_constant(image: SourceImage) -> float:
    """PSNR in dB of the best image of one colour, at most 100: what a network that learns nothing else reaches."""
    intensity = image.pixels.astype(np.float64) / image.maximum
    error = float(np.square(intensity - intensity.mean(axis=(0, 1))).mean())
    return decibels(max(error, 10.0 ** (-_HIGHEST / 10.0)))


@dataclass(frozen=True)
class _Run:
    """A fit of the sweep.

    Attributes:
        method: which.
        scale: omega_0 or s_0.
        options: of the fit.
        cell: the same to be run.
    """

    method: Method
    scale: float
    options: ImageOptions
    cell: Cell = field(repr=False)


def fit_and_measure(image: SourceImage, options: ImageOptions) -> dict[str, Any]:
    """The numbers of one run; one that diverges has no PSNR, which is a finding and not a failure."""
    try:
        fitted = fit_image(image, options)
    except UsageError:
        raise
    except InputError as error:
        return {"psnr": None, "diverged": str(error)}
    quality, _ = measure(fitted.network, image)
    psnr = quality["psnr"]
    assert psnr is not None
    return {
        **quality,
        # Infinite for an exact fit, which files have no number for.
        "psnr": min(psnr, _HIGHEST),
        "seconds": fitted.training.seconds,
        "learning_rate": fitted.settings["learning_rate"],
        "bias_range": fitted.settings["bias_range"],
    }


def study(options: RobustnessOptions, stage: Stage) -> Outcome:
    """Fit the image with both methods at each scale, but for what was fitted before.

    Args:
        options: which family, image and scales.
        stage: progress callback.

    Raises:
        UsageError: for options that mean nothing.
        InputError: for an image that cannot be read, and a cell's file that is none.
    """
    sweep = SWEEPS[options.family]
    scales = _scales_of(options, sweep)
    image = image_of(options)
    runs = _runs(options, sweep, scales, image)
    for run in runs:
        require_possible(run.options, image)
    done = 0

    def report(cell: Cell, result: dict[str, Any], was_there: bool) -> None:
        nonlocal done
        done += 1
        psnr = "diverged" if result["psnr"] is None else f"{result['psnr']:.2f} dB"
        stage(f"{cell.name}: {psnr}", done, len(runs))

    stage(f"{sweep.base} and {sweep.finer}", 0, len(runs))
    results = run_cells([run.cell for run in runs], options.cells_dir, workers=options.workers, report=report)
    floor = psnr_of_constant(image)
    psnr = {run.cell.name: results[run.cell.name]["psnr"] for run in runs}
    curves: dict[str, list[float]] = {"scale": scales}
    diverged: dict[str, int] = {}
    for method in (sweep.base, sweep.finer):
        curves[method] = [
            _mean([psnr[run.cell.name] for run in runs if (run.method, run.scale) == (method, scale)], floor)
            for scale in scales
        ]
        diverged[method] = sum(psnr[run.cell.name] is None for run in runs if run.method == method)
    axis = torch.tensor(scales, dtype=torch.float64)
    found = {
        method: robustness_of(axis, torch.tensor(curves[method], dtype=torch.float64))
        for method in (sweep.base, sweep.finer)
    }
    return Outcome(
        "robustness",
        {
            "image": {**image.description, "file": None if options.image is None else str(options.image)},
            "family": options.family,
            "scales": scales,
            "steps": options.steps,
            "width": options.width,
            "depth": options.depth,
            "seed": options.seed,
            "seeds": options.seeds,
            "learning_rates": {run.method: preset_of(run.options, "image").learning_rate for run in runs},
        },
        {
            **({"notes": list(image.notes)} if image.notes else {}),
            "parameter": sweep.parameter,
            "within_decibels": WITHIN_DECIBELS,
            "psnr_of_constant": floor,
            "methods": {method: {**asdict(row), "diverged": diverged[method]} for method, row in found.items()},
            "more_robust": more_robust(found) or "cannot be told: sweep more scales",
            "finer_ahead_at": sum(
                ours > theirs for ours, theirs in zip(curves[sweep.finer], curves[sweep.base], strict=True)
            ),
            "scales": len(scales),
            "larger_area": max(found, key=lambda method: found[method].area),
        },
        {"curves": Table(curves), "runs": _table_of(runs, results)},
    )


def _scales_of(options: RobustnessOptions, sweep: ScaleSweep) -> list[float]:
    """The scales to sweep, in ascending order."""
    scales = sorted(set(sweep.scales if options.scales is None else options.scales))
    if len(scales) < 2:
        raise UsageError(f"{argument('scales')} must be two different numbers at least.")
    if not all(0 < scale < math.inf for scale in scales):
        raise UsageError(
            f"{argument('scales')} must be positive numbers, not {min(scales) if min(scales) <= 0 else max(scales)}."
        )
    if options.seeds < 1:
        raise UsageError(f"{argument('seeds')} must be at least 1, not {options.seeds}.")
    return scales


def _table_of(runs: Sequence[_Run], results: Mapping[str, Mapping[str, Any]]) -> Table:
    columns: dict[str, list[Any]] = {
        "method": [run.method for run in runs],
        "scale": [run.scale for run in runs],
        "seed": [run.options.seed for run in runs],
    }
    for quantity in ("psnr", "ssim", "seconds"):
        columns[quantity] = [results[run.cell.name].get(quantity) for run in runs]
    return Table(columns)


def draw(outcome: Outcome) -> Figure:
    """PSNR against the scale, and what is within 3 dB of each method's best."""
    numbers = outcome.numbers
    curves = outcome.tables["curves"].columns
    figure, (place,) = panels(1, columns=1, width=6.4, height=4.4)
    for index, (method, row) in enumerate(numbers["methods"].items()):
        color = f"C{index}"
        bound = "at least " if row["open_ended"] else ""
        label = f"{method}: best {row['best_psnr']:.1f} dB, {bound}{row['octaves']:.1f} octaves"
        if row["diverged"]:
            label += f", {row['diverged']} diverged"
        place.plot(curves["scale"], curves[method], "o-", color=color, markersize=4, label=label)
        single = [run for run in outcome.tables["runs"].rows() if run["method"] == method and run["psnr"] is not None]
        place.plot([run["scale"] for run in single], [run["psnr"] for run in single], ".", color=color, alpha=0.4)
        level = row["best_psnr"] - numbers["within_decibels"]
        ends = [row["lowest_scale"], row["highest_scale"]]
        place.plot(ends, [level] * 2, "|-", color=color, linewidth=2.5, alpha=0.5)
    place.axhline(numbers["psnr_of_constant"], color="grey", linewidth=0.8, linestyle="--", label="one colour")
    whole_decades(place, "x")
    ticks = sorted({*curves["scale"], *place.get_xlim()})
    place.set_xticks(ticks, [f"{scale:g}" for scale in ticks])
    place.minorticks_off()
    place.set(xlabel=numbers["parameter"], ylabel="PSNR (dB)")
    place.set_title(f"{outcome.settings['steps']} steps; bars: within {numbers['within_decibels']:g} dB of the best")
    legend_below(place)
    return figure


def _runs(options: RobustnessOptions, sweep: ScaleSweep, scales: list[float], image: SourceImage) -> list[_Run]:
    """Scale by scale, so that a sweep that was interrupted can be compared."""
    runs = []
    for scale in scales:
        for method in (sweep.base, sweep.finer):
            for seed in range(options.seed, options.seed + options.seeds):
                fit = ImageOptions(
                    method=method,
                    steps=options.steps,
                    seed=seed,
                    device=options.device,
                    learning_rate=options.learning_rate,
                    width=options.width,
                    depth=options.depth,
                    omega_0=scale if sweep.parameter == "omega_0" else None,
                    s_0=scale if sweep.parameter == "s_0" else None,
                )
                stem = "sample" if options.image is None else options.image.stem
                # All digits, so that no two scales share a file.
                name = f"{stem}-{method}-{sweep.parameter}-{scale!r}-seed{seed}"
                settings = {"image": image.description, **asdict(fit)}
                runs.append(_Run(method, scale, fit, Cell(name, settings, fit_and_measure, (image, fit))))
    return runs


def _mean(psnr: list[float | None], floor: float) -> float:
    """Of runs at one scale; those that diverged are worth an image of one colour."""
    return sum(floor if value is None else value for value in psnr) / len(psnr)
