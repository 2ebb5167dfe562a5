"""First-layer neurons of the lowest and of the highest frequency (FINER++ paper, Fig. 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from finer_nerfstudio.analysis.outcome import Outcome, Table, panels
from finer_nerfstudio.analysis.points import image_shape
from finer_nerfstudio.analysis.subject import NetworkOptions, name_of, subject_of
from finer_nerfstudio.errors import UsageError, argument
from finer_nerfstudio.files.checkpoint import load_model
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.runs.progress import Stage
from finer_nerfstudio.tasks.image.fit import extreme_neurons, responding_neurons

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NEURONS = 16
_LARGEST_SIDE = 512


@dataclass(frozen=True, kw_only=True)
class NeuronsOptions(NetworkOptions):
    """First-layer neurons: those of the lowest and of the highest frequency and what they respond to (Fig. 8)."""

    depth: int = 1
    """Hidden layers of a fresh network; only the first one is looked at."""
    count: int = 4
    """Neurons of either kind."""
    side: int = 128
    """Samples along the longer side of a response; frequencies above half of them per side are not seen as such."""


@dataclass(frozen=True)
class FrequencyRange:
    """Frequencies of the first layer in cycles per longer side of the image.

    Attributes:
        lowest: of the neurons that respond.
        median: likewise.
        highest: likewise.
        responding: how many do.
        neurons: of the layer.
    """

    lowest: float
    median: float
    highest: float
    responding: int
    neurons: int


def study(options: NeuronsOptions, stage: Stage) -> Outcome:
    """First layers of a fresh network for images, or of a saved model before and after training.

    A neuron's frequency is the mean of its response's spectrum, weighted by power, see
    :func:`finer_nerfstudio.tasks.image.fit.responding_neurons`. The table of a state has a column for each neuron
    shown, the lowest frequency first, with its response row by row.

    Args:
        options: which network, how many neurons and how finely.
        stage: progress callback.

    Raises:
        UsageError: for options that mean nothing, and for a model that is not one of an image.
        InputError: for a model that cannot be read.
    """
    for name, least, most in (("count", 1, _MOST_NEURONS), ("side", 16, _LARGEST_SIDE)):
        if not least <= getattr(options, name) <= most:
            raise UsageError(f"{argument(name)} must lie between {least} and {most}, not {getattr(options, name)}.")
    shape = (options.side, options.side)
    if options.model is not None:
        saved = load_model(options.model)
        if saved.network.in_dim != 2 or saved.task != "image":
            raise UsageError(
                f"{options.model} reads {saved.network.in_dim} coordinates: neurons are drawn as pictures, which takes "
                "a model of an image (finer fit-image)."
            )
        shape = image_shape(saved, options.model)
    subject = subject_of(options, 2, 3)
    states = subject.states()
    ranges: dict[str, Any] = {}
    tables: dict[str, Table] = {}
    shown: dict[str, list[float]] = {}
    rows, columns = (max(1, round(options.side * size / max(shape))) for size in shape)
    for done, (state, network) in enumerate(states.items()):
        stage(state, done, len(states))
        ranges[state] = vars(frequency_range(network, shape, options.side))
        responses, frequencies = extreme_neurons(network, shape, options.count, options.side)
        shown[state] = frequencies.tolist()
        # Four digits are more than a picture shows, and a third of the file.
        tables[f"responses {state}"] = Table(
            {f"neuron {i}": [round(v, 4) for v in response.ravel().tolist()] for i, response in enumerate(responses)}
        )
        stage(state, done + 1, len(states))
    tables["frequencies"] = Table(
        {
            "state": [state for state, values in shown.items() for _ in values],
            "neuron": [i for values in shown.values() for i in range(len(values))],
            "cycles_per_longer_side": [value for values in shown.values() for value in values],
        }
    )
    return Outcome(
        "neurons",
        {
            "network": subject.description,
            "rows": rows,
            "columns": columns,
            "count": options.count,
            "seed": options.seed,
        },
        {"method": name_of(options), "cycles_per_longer_side": ranges},
        tables,
    )


def frequency_range(network: CoordinateNetwork, shape: tuple[int, int], side: int) -> FrequencyRange:
    """Lowest, median and highest frequency of the first layer.

    Args:
        network: of two coordinates.
        shape: height and width of its image.
        side: samples along the longer side of a response.
    """
    _, ordered = responding_neurons(network, shape, side)
    median = float(ordered.quantile(0.5))
    return FrequencyRange(float(ordered[0]), median, float(ordered[-1]), len(ordered), network.units)


def draw(outcome: Outcome) -> Figure:
    """The responses, the lowest frequency first, a row for each state of the network."""
    states = list(outcome.numbers["cycles_per_longer_side"])
    frequencies: dict[str, list[float]] = {state: [] for state in states}
    table = outcome.tables["frequencies"].columns
    for state, value in zip(table["state"], table["cycles_per_longer_side"], strict=True):
        frequencies[state].append(value)
    across = max(len(values) for values in frequencies.values())
    figure, axes = panels(across * len(states), columns=across, width=1.6, height=1.85)
    shape = (outcome.settings["rows"], outcome.settings["columns"])
    for row, state in enumerate(states):
        columns = list(outcome.tables[f"responses {state}"].columns.values())
        for i, (column, frequency) in enumerate(zip(columns, frequencies[state], strict=True)):
            place = axes[row * across + i]
            response = torch.tensor(column).reshape(shape)
            limit = max(float(response.abs().max()), 1e-12)
            place.imshow(response, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            place.set(xticks=[], yticks=[])
            place.set_title(f"{frequency:.1f}", fontsize=9)
            if i == 0:
                place.set_ylabel(state)
    figure.suptitle(f"first-layer neurons of {outcome.numbers['method']}: cycles per longer side", fontsize=10)
    return figure
