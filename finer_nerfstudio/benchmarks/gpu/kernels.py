"""Speed of the networks' kernels, and what the card can do at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import cache
from typing import Any

import torch

from finer_nerfstudio.benchmarks.gpu.cell import Place
from finer_nerfstudio.benchmarks.measuring import measure, require_agreement, seconds
from finer_nerfstudio.benchmarks.subjects import Case, Subject, subject_of
from finer_nerfstudio.inr.kernels.rounding import EXACT, rounded

CEILINGS = "ceilings"
"""The cell with the card's largest throughputs."""

# The paper's networks.
_WIDTHS: dict[str, int] = {"image": 256, "nerf": 182}


@dataclass(frozen=True)
class CeilingSizes:
    """What is copied and multiplied.

    Attributes:
        copied: bytes.
        side: of the square matrices.
        repeats: the fastest one counts.
    """

    copied: int = 1 << 31
    side: int = 8192
    repeats: int = 10


# A processor is as fast with these, and done in a second.
_LARGEST_ON_PROCESSOR = CeilingSizes(1 << 27, 1024, 3)


@cache
def ceilings(sizes: CeilingSizes, device: torch.device) -> dict[str, float]:
    """Measure the largest throughputs of a device, once in a process.

    Args:
        sizes: on a GPU; a processor gets no more than it does in a second.
        device: to be measured.

    Returns:
        ``copy``, bytes per second read and written by a copy; ``float32``, ``tf32`` and ``bfloat16``, floating-point
        operations per second of a matrix product with operands rounded to these.
    """
    if device.type == "cpu":
        largest = _LARGEST_ON_PROCESSOR
        sizes = CeilingSizes(*map(min, astuple(sizes), astuple(largest)))
    source = torch.zeros(sizes.copied // 4, device=device)
    target = torch.empty_like(source)
    found = {"copy": 2.0 * sizes.copied / _fastest(lambda: target.copy_(source), sizes.repeats, device)}
    del source, target
    a, b = (torch.rand(sizes.side, sizes.side, device=device) - 0.5 for _ in range(2))
    work = 2.0 * sizes.side**3
    precision = torch.get_float32_matmul_precision()
    try:
        for name, allowed in (("float32", "highest"), ("tf32", "high")):
            torch.set_float32_matmul_precision(allowed)
            found[name] = work / _fastest(lambda: torch.mm(a, b), sizes.repeats, device)
    finally:
        torch.set_float32_matmul_precision(precision)
    half, other = a.bfloat16(), b.bfloat16()
    found["bfloat16"] = work / _fastest(lambda: torch.mm(half, other), sizes.repeats, device)
    return found


def _fastest(job: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Seconds of the fastest call, after one that is not counted."""
    job()
    return min(seconds(job, device) for _ in range(repeats))


def measure_case(
    case: Case, method: str, points: int, repeats: int, sizes: CeilingSizes, seed: int, place: Place
) -> dict[str, Any]:
    """Compare a method's networks with the plain reference, ReLU and the bare products, and with the card's ceiling.

    Args:
        case: "image" or "nerf".
        method: one of the registry.
        points: coordinates per step.
        repeats: rounds in which every program has its turn.
        sizes: of the ceilings, which are measured here where their own cell has no result.
        seed: of weights and coordinates.
        place: where it runs.

    Raises:
        InputError: where our network and the reference do not compute the same.
    """
    subject = subject_of(method, case, _WIDTHS[case], points, place.device, seed)
    with rounded(EXACT):
        agreement = require_agreement(subject)
    measured = measure(subject, repeats, place.device)
    ceiling = place.finished.get(CEILINGS) or ceilings(sizes, place.device)
    for quantity in ("step", "forward"):
        operations = operations_of(subject, backward=quantity == "step")
        speed = {name: operations / measured[quantity]["seconds"][name] for name in ("ours", "products")}
        measured[quantity]["operations"] = operations
        measured[quantity]["share_of_ceiling"] = {
            precision: {name: value / ceiling[precision] for name, value in speed.items()}
            for precision in ("float32", "tf32", "bfloat16")
        }
    return {**measured, "agreement": agreement}


def operations_of(subject: Subject, *, backward: bool) -> float:
    """Return the floating-point operations of the matrix products of a forward pass, or of a training step.

    Args:
        subject: networks one after the other.
        backward: count the products of the backward pass too.
    """
    total = 0
    for n, (network, inputs) in enumerate(zip(subject.ours, subject.inputs, strict=True)):
        for i, layer in enumerate([network.first, *network.hidden, network.last]):
            outputs, units = layer.weight.shape  # pyright: ignore
            # Forward, the weight's gradient, and the input's where there is somebody to take it.
            products = 1 + backward * (2 if i or n else 1)
            total += 2 * products * outputs * units * len(inputs)
    return float(total)
