"""The subjects of the comparison: networks of ours and of others, and a training step and a forward pass of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from finer_nerfstudio.benchmarks.reference import PlainNetwork, plain_relu_network
from finer_nerfstudio.inr.methods import preset
from finer_nerfstudio.inr.network import CoordinateNetwork

Case = Literal["image", "nerf", "widths", "growth", "fits", "step"]


WIDTHS = (64, 128, 256, 512)


PROGRAMS = ("ours", "plain", "relu", "products")


@dataclass
class Subject:
    """One method and size: networks one after the other, each as ours, as plain one, and with ReLU.

    Attributes:
        name: method, and width where it varies.
        ours: this package's networks.
        plain: the plain references.
        relu: plain ReLU networks of as many real parameters.
        inputs: input of every network: coordinates, and for the colour network features of its own.
    """

    name: str
    ours: list[CoordinateNetwork]
    plain: list[PlainNetwork]
    relu: list[nn.Sequential]
    inputs: list[Tensor]


def subject_of(method: str, case: Case, width: int, points: int, device: torch.device, seed: int) -> Subject:
    """The networks of a case for one method."""
    generator = torch.Generator().manual_seed(seed)
    task = "nerf" if case == "nerf" else "image"
    row = preset(method, task)
    # Inputs, outputs, hidden layers and whether coordinates are encoded.
    shapes = [(3, 1 + width, 3, True), (width + 3, 3, 3, False)] if case == "nerf" else [(2, 3, 4, True)]
    ours, relu, inputs = [], [], []
    for n_in, n_out, depth, encoded in shapes:
        frequencies = row.encoding_frequencies if encoded else 0
        network = CoordinateNetwork(
            n_in,
            n_out,
            width=width,
            depth=depth,
            activation=row.activation,
            bias_range=row.bias_range,
            encoding_frequencies=frequencies,
            generator=generator,
        )
        ours.append(network.to(device))
        relu.append(plain_relu_network([n_in, *([width] * depth), n_out]).to(device))
        inputs.append((torch.rand(points, n_in, generator=generator) * 2 - 1).to(device))
    return Subject(method, ours, [PlainNetwork(network) for network in ours], relu, inputs)


def step_of(networks: list[Any], inputs: list[Tensor], *, keep_gradients: bool = False) -> Callable[[], None]:
    """A training step but for the update of the weights, which is the same for all: forward, loss and backward.

    The colour network's input takes a gradient, as it does behind the density network.

    Args:
        networks: one after the other.
        inputs: of each.
        keep_gradients: leave them behind, to be looked at.
    """
    parameters = [parameter for network in networks for parameter in network.parameters()]
    features = [x.clone().requires_grad_(i > 0) for i, x in enumerate(inputs)]

    def step() -> None:
        loss = sum(network(x).square().mean() for network, x in zip(networks, features, strict=True))
        loss.backward()  # pyright: ignore[reportAttributeAccessIssue]
        # Here and not at the start: what a step frees is then its own, and its memory can be counted.
        if not keep_gradients:
            for tensor in [*parameters, *features]:
                tensor.grad = None

    return step


def forward_of(networks: list[Any], inputs: list[Tensor]) -> Callable[[], None]:
    """Evaluation without gradients."""

    @torch.no_grad()
    def forward() -> None:
        for network, x in zip(networks, inputs, strict=True):
            network(x)

    return forward


def products_of(subject: Subject, *, backward: bool) -> Callable[[], None]:
    """The real matrix products of our layers, one after the other, into memory that is there already."""
    device, points = subject.inputs[0].device, subject.inputs[0].shape[0]
    plan: list[tuple[Tensor, Tensor, Tensor]] = []
    memory: dict[tuple[int, str], Tensor] = {}

    def matrix(width: int, purpose: str) -> Tensor:
        if (width, purpose) not in memory:
            memory[width, purpose] = torch.rand(points, width, device=device)
        return memory[width, purpose]

    for n, network in enumerate(subject.ours):
        for i, layer in enumerate([network.first, *network.hidden, network.last]):
            weight = layer.weight.detach()  # pyright: ignore
            n_out, n_in = weight.shape
            # What is read is never written: results of results would grow or fade to numbers that take longer.
            before, after = matrix(n_in, "read"), matrix(n_out, "read")
            plan.append((before, weight.t(), matrix(n_out, "written")))
            if backward:
                plan.append((after.t(), before, torch.empty_like(weight)))
                if i or n:
                    plan.append((after, weight, matrix(n_in, "written")))

    def products() -> None:
        for a, b, out in plan:
            torch.mm(a, b, out=out)

    return products
