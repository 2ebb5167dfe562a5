"""The empirical neural tangent kernel: what a network can learn in the first steps (FINER++ paper, Fig. 5).

Gradient descent with a small step fits the part of a signal along an eigenvector of the kernel as fast as its
eigenvalue is large (Jacot et al. 2018), so that a longer tail of large eigenvalues means more detail sooner.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.analysis.outcome import Outcome, Table, panels, rounded
from finer_nerfstudio.analysis.points import lattice, points_of_model
from finer_nerfstudio.analysis.subject import NetworkOptions, bias_ranges_of, name_of, subject_of
from finer_nerfstudio.errors import UsageError, argument
from finer_nerfstudio.inr.activations import VariablePeriodic
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.runs.axes import legend_below, whole_decades
from finer_nerfstudio.runs.progress import Stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Numbers of a block of gradients; a few of them are in memory at once.
_NUMBERS_AT_ONCE = 1 << 25
_MOST_POINTS = 16_384


@dataclass(frozen=True, kw_only=True)
class NtkOptions(NetworkOptions):
    """Neural tangent kernel: its matrix and its eigenvalues for several bias ranges k (Fig. 5)."""

    scales: Literal["published", "small"] = "small"
    depth: int = 2
    """Hidden layers. Every one multiplies frequencies: with many, all eigenvalues are above 1 for any k."""
    bias_ranges: tuple[float, ...] = (1.0, 5.0, 10.0, 20.0)
    """k of the networks to lay side by side, unless --bias-range names one; of no account to methods without one, and
    to --model."""
    points: int = 1024
    """Evenly spaced coordinates in [-1, 1], or of a saved model where its signal is; about so many in two or three
    dimensions."""
    dimensions: int = 1
    """Of the coordinates, 1 to 3; a saved model has its own."""


def empirical_ntk(
    network: CoordinateNetwork,
    points: Float[Tensor, "n in_dim"],
    *,
    report: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "n n"]:
    """``K[i, j]``, the product of the gradients of the outputs at two points with respect to all parameters.

    Exact, in float64 whatever the network is in. Of several outputs, the mean of their kernels. The gradient is the
    formula's where an activation is variable-periodic: holding alpha constant is a device of training, and no
    function's gradient.

    Args:
        network: any real or complex network.
        points: coordinates, in the range that the network is for, usually [-1, 1].
        report: progress callback: (completed, total) blocks.

    Returns:
        Symmetric and positive semi-definite, on the network's device.
    """
    double = copy.deepcopy(network).double()
    if isinstance(double.activation, VariablePeriodic):
        double.activation = double.activation.with_scale_gradient(True)
    parameters: dict[str, Tensor] = dict(double.named_parameters())
    points = points.to(double.device, torch.float64)

    def output(values: dict[str, Tensor], point: Tensor, channel: Tensor) -> Tensor:
        return torch.func.functional_call(double, values, (point[None],))[0].index_select(0, channel[None])[0]

    gradients = torch.func.vmap(torch.func.grad(output), in_dims=(None, 0, None))
    count = sum(value.numel() for value in parameters.values())
    rows = max(1, _NUMBERS_AT_ONCE // count)
    blocks = points.split(rows)
    kernel = points.new_zeros(len(points), len(points))
    total = double.out_dim * len(blocks) * (len(blocks) + 1) // 2
    done = 0

    def gradient_rows(block: Tensor, channel: int) -> Tensor:
        parts = gradients(parameters, block, torch.tensor(channel, device=points.device))
        return torch.cat([part.reshape(len(block), -1) for part in parts.values()], dim=1).detach()

    for channel in range(double.out_dim):
        for i, left in enumerate(blocks):
            mine = gradient_rows(left, channel)
            for j in range(i, len(blocks)):
                product = mine @ (mine if i == j else gradient_rows(blocks[j], channel)).T
                here, there = slice(i * rows, i * rows + len(left)), slice(j * rows, j * rows + product.shape[1])
                kernel[here, there] += product / double.out_dim
                done += 1
                if report is not None:
                    report(done, total)
    upper = kernel.triu()
    return upper + upper.triu(1).T


@dataclass(frozen=True)
class KernelSummary:
    """A kernel in few numbers.

    Attributes:
        above_one: eigenvalues above 1, the paper's measure.
        diagonal_dominance: share of the squared norm that lies on the diagonal, in [0, 1]: 1 / n for a kernel that
            ties all points together as one, 1 for one in which every point learns for itself alone.
        effective_rank: exponential of the entropy of the normalised eigenvalues (Roy and Vetterli 2007), 1 to n.
        largest: eigenvalue.
    """

    above_one: int
    diagonal_dominance: float
    effective_rank: float
    largest: float


def eigenvalues_of(kernel: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    """Descending; those that rounding made negative are zero."""
    return torch.linalg.eigvalsh(kernel).flip(0).clamp(min=0.0)


def summary_of(kernel: Float[Tensor, "n n"]) -> KernelSummary:
    """The numbers that the paper reads off its pictures."""
    eigenvalues = eigenvalues_of(kernel)
    share = eigenvalues / eigenvalues.sum().clamp(min=1e-300)
    entropy = -float(torch.special.xlogy(share, share).sum())
    squares = kernel.square()
    return KernelSummary(
        above_one=int((eigenvalues > 1.0).sum()),
        diagonal_dominance=float(squares.diagonal().sum() / squares.sum().clamp(min=1e-300)),
        effective_rank=math.exp(entropy),
        largest=float(eigenvalues[0]),
    )


# A picture of a matrix has no use for more.
_LARGEST_PICTURE = 128


def study(options: NtkOptions, stage: Stage) -> Outcome:
    """Kernels of fresh networks with each bias range, or of a saved model before and after training.

    Args:
        options: which networks, and where to look.
        stage: progress callback.

    Raises:
        UsageError: for options that mean nothing.
        InputError: for a model that cannot be read.
    """
    if not 2 <= options.points <= _MOST_POINTS:
        raise UsageError(f"{argument('points')} must lie between 2 and {_MOST_POINTS:,}, not {options.points}.")
    if not 1 <= options.dimensions <= 3:
        raise UsageError(f"{argument('dimensions')} must be 1, 2 or 3, not {options.dimensions}.")
    networks: dict[str, CoordinateNetwork] = {}
    description: dict[str, Any] = {}
    if options.model is not None:
        subject = subject_of(options, 1, 1)
        networks, description = subject.states(), subject.description
        points = points_of_model(options.model, options.points).double()
    else:
        bias_ranges = bias_ranges_of(options, options.bias_ranges)
        for k in bias_ranges:
            subject = subject_of(replace(options, bias_range=k), options.dimensions, 1)
            networks["initial" if k is None else f"k = {k:g}"] = subject.initial
            description = {**subject.description, "bias_range": list(bias_ranges)}
        points = lattice(options.points, options.dimensions)
    summaries: dict[str, Any] = {}
    spectra: dict[str, list[Any]] = {"index": list(range(1, len(points) + 1))}
    pictures: dict[str, Table] = {}
    for name, network in networks.items():
        kernel = empirical_ntk(network, points, report=lambda done, total, name=name: stage(name, done, total)).cpu()
        summaries[name] = asdict(summary_of(kernel))
        spectra[name] = eigenvalues_of(kernel).tolist()
        every = max(1, len(points) // _LARGEST_PICTURE)
        small = kernel[::every, ::every]
        pictures[f"kernel {name}"] = Table({f"{i * every}": rounded(c) for i, c in enumerate(small.T.tolist())})
    return Outcome(
        "ntk",
        {"network": description, "points": len(points), "dimensions": points.shape[1], "seed": options.seed},
        {"method": name_of(options), "networks": summaries},
        {"eigenvalues": Table(spectra), **pictures},
    )


def draw(outcome: Outcome) -> Figure:
    """Kernels beside each other, and the spectra of all."""
    names = list(outcome.numbers["networks"])
    figure, axes = panels(len(names) + 1, columns=len(names) + 1, width=3.2, height=3.2)
    shown = None
    for name, place in zip(names, axes, strict=False):
        columns = outcome.tables[f"kernel {name}"].columns
        matrix = torch.tensor(list(columns.values())).T
        scale = float(matrix.diagonal().mean())
        shown = place.imshow(matrix / scale, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        place.set(title=name, xticks=[], yticks=[], ylabel="point")
        summary = outcome.numbers["networks"][name]
        place.set_xlabel(f"{summary['above_one']} eigenvalues > 1\neffective rank {summary['effective_rank']:.0f}")
    if shown is not None:
        places = list(axes[:-1])
        figure.colorbar(shown, ax=places, location="left", shrink=0.6, label="kernel over its mean diagonal")
    place = axes[-1]
    spectra = outcome.tables["eigenvalues"].columns
    for name in names:
        # Below the precision of the sums is noise.
        values = torch.tensor(spectra[name])
        certain = values > 1e-14 * values[0]
        place.plot(torch.tensor(spectra["index"])[certain], values[certain], label=name)
    place.axhline(1.0, color="grey", linewidth=0.8, linestyle="--")
    place.set(title=f"eigenvalues, {outcome.numbers['method']}", xlabel="index")
    whole_decades(place, "y")
    legend_below(place)
    return figure
