"""Agreement, seconds and peak memory of programs that take turns in one process."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from finer_nerfstudio.benchmarks.subjects import PROGRAMS, Subject, forward_of, products_of, step_of
from finer_nerfstudio.errors import InputError


def require_agreement(subject: Subject) -> dict[str, float]:
    """Relative differences of outputs and gradients between ours and the plain reference.

    Raises:
        InputError: where they are more than rounding.
    """
    differences = {"output": 0.0, "gradient": 0.0}
    step_of(subject.ours, subject.inputs, keep_gradients=True)()
    step_of(subject.plain, subject.inputs, keep_gradients=True)()
    for ours, plain, x in zip(subject.ours, subject.plain, subject.inputs, strict=True):
        with torch.no_grad():
            differences["output"] = max(differences["output"], distance(ours(x), plain(x)))
        layers = [ours.first, *ours.hidden, ours.last]
        for layer, weight, bias in zip(layers, plain.weights, plain.biases, strict=True):
            assert weight.grad is not None
            assert bias.grad is not None
            if isinstance(layer, nn.Linear):
                found = [layer.weight.grad, layer.bias.grad]
                wanted = [weight.grad, bias.grad]
            else:
                found = [layer.weight_real.grad, layer.weight_imaginary.grad, layer.bias.grad]  # pyright: ignore
                flat_bias = bias.grad.real if layer.real_output else torch.cat([bias.grad.real, bias.grad.imag])
                wanted = [weight.grad.real, weight.grad.imag, flat_bias]
            for a, b in zip(found, wanted, strict=True):
                differences["gradient"] = max(differences["gradient"], distance(a, b))  # pyright: ignore
    # Narrow bumps magnify roundings of the pre-activation: 1e-7 of a phase of a hundred, layer after layer.
    if not (differences["output"] < 1e-3 and differences["gradient"] < 1e-2):
        raise InputError(f"{subject.name}: the two programs do not compute the same: {differences}.")
    return differences


def distance(a: Tensor, b: Tensor) -> float:
    """Length of the difference relative to the length of ``b``."""
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def seconds(function: Callable[[], None], device: torch.device) -> float:
    """Time of one call by the clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def peak_bytes(function: Callable[[], None], device: torch.device) -> int:
    """Most memory that tensors made by ``function`` took at one time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    from torch.profiler import ProfilerActivity, profile

    # It would report its own starts and stops, and the lack of a GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    events = record.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    current = peak = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        current += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        peak = max(peak, current)
    return peak


def measure(subject: Subject, repeats: int, device: torch.device) -> dict[str, Any]:
    """All programs of a subject by turns: medians in seconds, bytes, and the ratios that are asked about."""
    programs: dict[str, list[Any]] = {"ours": list(subject.ours), "plain": list(subject.plain), "relu": subject.relu}
    jobs: dict[tuple[str, str], Callable[[], None]] = {}
    for name, networks in programs.items():
        jobs["step", name] = step_of(networks, subject.inputs)
        jobs["forward", name] = forward_of(networks, subject.inputs)
    jobs["step", "products"] = products_of(subject, backward=True)
    jobs["forward", "products"] = products_of(subject, backward=False)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in jobs}
    for job in jobs.values():
        job()
    for _ in range(repeats):
        for key, job in jobs.items():
            times[key].append(seconds(job, device))
    result: dict[str, Any] = {}
    for quantity in ("step", "forward"):
        medians = {name: statistics.median(times[quantity, name]) for name in PROGRAMS}
        result[quantity] = {
            "seconds": medians,
            "plain_over_ours": medians["plain"] / medians["ours"],
            "ours_over_relu": medians["ours"] / medians["relu"],
            "ours_over_products": medians["ours"] / medians["products"],
        }
    memory = {name: peak_bytes(jobs["step", name], device) for name in programs}
    result["memory"] = {"bytes": memory, "ours_over_plain": memory["ours"] / memory["plain"]}
    return result
