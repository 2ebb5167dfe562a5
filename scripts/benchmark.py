"""How fast are the networks, beside plain PyTorch, beside ReLU, and beside their matrix products alone?

    python scripts/benchmark.py
    python scripts/benchmark.py --cases image --methods finer-sine finer-wavelet --repeats 9

Four programs take turns in one process and on the same numbers: this package; a plain reference, written below from the
formulas as one would write them in PyTorch; the plain network with ReLU, of as many real parameters; and the bare
matrix products. Outputs and gradients of the first two are compared before anything is timed. Times mean little beyond
the machine they were taken on, and not much on it, so that ratios of medians are what to read.
"""

from __future__ import annotations

import itertools
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from finer_nerfstudio import (
    METHODS,
    CoordinateNetwork,
    GrowingNetwork,
    VariablePeriodic,
    Wavelet,
    bias_shells,
    preset,
)
from finer_nerfstudio.atomic_files import replacing, write_json, write_text
from finer_nerfstudio.command_line import run_command
from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.inr.activations import Activation, Gauss, Sine
from finer_nerfstudio.inr.growth import FrozenPart, GrowthStage
from finer_nerfstudio.inr.kernels import compiled
from finer_nerfstudio.inr.presets import PROTOCOLS
from finer_nerfstudio.tasks.axes import legend_of_figure, whole_decades
from finer_nerfstudio.tasks.grid import psnr_of_loss, sample_centers
from finer_nerfstudio.tasks.image.files import SourceImage, read_image, sample_image
from finer_nerfstudio.tasks.image.fit import signal_of
from finer_nerfstudio.tasks.options import device_named
from finer_nerfstudio.tasks.progress import stages
from finer_nerfstudio.tasks.streaming.encode import WIDTHS as WIDTHS_OF_STREAM
from finer_nerfstudio.tasks.streaming.stage_training import grid_problem

Case = Literal["image", "nerf", "widths", "growth", "fits"]
WIDTHS = (64, 128, 256, 512)
PROGRAMS = ("ours", "plain", "relu", "products")


@dataclass(frozen=True)
class Benchmark:
    """What to compare."""

    cases: tuple[Case, ...] = ("image", "nerf", "widths")
    """image: 2 -> 256 x 4 -> 3; nerf: the paper's density and colour networks one after the other, 182 wide; widths:
    the image network 64 to 512 wide, on a quarter of the points; growth: a step of each stage of a stream, beside its
    new units alone and a network of all units; fits: no times, but the PSNR of whole fits of the
    sample image by this package, by the plain reference, and in half precision."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods to compare."""
    points: int = 65_536
    """Coordinates per step."""
    repeats: int = 5
    """Rounds in which every program has its turn; medians are reported."""
    flush_denormals: bool = False
    """Treat denormal numbers as zero in all programs, as this package's commands do. Products with the tails of plain
    Gaussians are faster then; torch.exp, which makes them, is not. PyTorch itself does not unless told."""
    fit_steps: int = 300
    """Training steps of the fits."""
    fit_size: int = 64
    """Longer side in pixels of the image that is fitted."""
    fit_image: Path | None = None
    """Fit this image, averaged down, instead of the generated sample."""
    output_dir: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("outputs/benchmark")
    """Folder for benchmark.json, benchmark.md and benchmark.png; older ones are replaced."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, ..."""
    seed: int = 0
    """Of weights and coordinates."""


# The plain reference ------------------------------------------------------------------------------------------------


class PlainNetwork(nn.Module):
    """A coordinate network in plain PyTorch, with the weights of one of ours; complex layers in complex numbers."""

    def __init__(self, network: CoordinateNetwork) -> None:
        super().__init__()
        self.activation = network.activation
        self.frequencies = network.encoding_frequencies
        layers = [network.first, *network.hidden, network.last]
        self.weights = nn.ParameterList(plain_weight(layer) for layer in layers)
        self.biases = nn.ParameterList(plain_bias(layer) for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.frequencies:
            angles = torch.cat([2.0**i * x for i in range(self.frequencies)], dim=-1)
            order = angles.unflatten(-1, (self.frequencies, x.shape[-1])).flatten(-2)
            x = torch.cat([x, torch.sin(order), torch.cos(order)], dim=-1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = F.linear(x, weight, bias)
            if i < len(self.weights) - 1:
                x = plain_activation(x, self.activation)
        return x.real if x.is_complex() else x


def plain_weight(layer: nn.Module) -> nn.Parameter:
    """A copy of a layer's weight, complex if the layer is."""
    if isinstance(layer, nn.Linear):
        return nn.Parameter(layer.weight.detach().clone())
    return nn.Parameter(torch.complex(layer.weight_real.detach(), layer.weight_imaginary.detach()))  # pyright: ignore


def plain_bias(layer: nn.Module) -> nn.Parameter:
    """A copy of a layer's bias, complex if the layer is."""
    bias: Tensor = layer.bias.detach().clone()  # pyright: ignore
    if isinstance(layer, nn.Linear):
        return nn.Parameter(bias)
    if layer.real_output:
        return nn.Parameter(torch.complex(bias, torch.zeros_like(bias)))
    return nn.Parameter(torch.complex(*bias.chunk(2)))


def plain_activation(x: Tensor, activation: Activation) -> Tensor:
    """The formulas, alpha held constant in the backward pass as the published numbers have it."""
    if isinstance(activation, VariablePeriodic):
        with torch.no_grad():
            alpha = x.real.abs() + 1 if x.is_complex() else x.abs() + 1
            alpha_imaginary = x.imag.abs() + 1 if x.is_complex() else alpha
        x = torch.complex(alpha * x.real, alpha_imaginary * x.imag) if x.is_complex() else alpha * x
        base, omega_f = activation.base, activation.omega_f
        if omega_f is None:
            return plain_base(x, base, 1.0)
        return plain_base(torch.sin(omega_f * x), base, 1.0 / omega_f)
    return plain_base(x, activation, 1.0)


def plain_base(x: Tensor, base: Activation, factor: float) -> Tensor:
    """A base activation whose parameters are multiplied by ``factor``."""
    if isinstance(base, Sine):
        return torch.sin(factor * base.omega_0 * x)
    if isinstance(base, Gauss):
        return torch.exp(-((factor * base.s_0 * x) ** 2))
    if isinstance(base, Wavelet):
        return torch.exp(1j * factor * base.omega_0 * x - (factor * base.s_0 * x).abs().square())
    return torch.relu(x)


def plain_relu_network(sizes: list[int]) -> nn.Sequential:
    """Linear maps of these sizes with ReLU in between."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# What is compared ---------------------------------------------------------------------------------------------------


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


# Measuring ----------------------------------------------------------------------------------------------------------


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


def _stage_step(
    network: GrowingNetwork, stage: GrowthStage, before: FrozenPart, coords: Tensor, targets: Tensor, parts: list[slice]
) -> None:
    for rows in parts:
        _, output = stage(network.encoded(coords[rows]), before[rows], network.activation)
        (output - targets[rows]).square().mean().backward()


def _dense_step(network: CoordinateNetwork, coords: Tensor, targets: Tensor, parts: list[slice]) -> None:
    for rows in parts:
        (network(coords[rows]) - targets[rows]).square().mean().backward()


def growth(method: str, points: int, repeats: int, device: torch.device, seed: int) -> dict[str, dict[str, float]]:
    """A training step of every widening of a stream on an image of about so many pixels.

    Beside it the new units alone, reading constants instead of what old units give, and a dense network of all units.
    """
    signal = signal_of(sample_image(max(16, round(math.sqrt(points)))))
    row = preset(method, "image")
    network = GrowingNetwork(
        2,
        signal.channels,
        depth=PROTOCOLS["image"].depth,
        activation=row.activation,
        encoding_frequencies=row.encoding_frequencies,
    ).to(device)
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, dict[str, float]] = {}
    for width, shell in zip(WIDTHS_OF_STREAM, bias_shells(row.bias_range, len(WIDTHS_OF_STREAM)), strict=True):
        stage = network.grow(width, bias_shell=shell, generator=generator)
        if len(network.stages) == 1:
            continue
        problem = grid_problem(network, signal, "full", generator)
        coords = sample_centers(torch.arange(signal.samples), signal.shape).to(device)
        part = network.frozen_part(coords, stages=len(network.stages) - 1)
        constants = FrozenPart([torch.rand_like(layer) for layer in part.features], torch.rand_like(part.output))
        targets = signal.targets(slice(None)).to(device)
        dense = network.merged().requires_grad_(True)
        rows = 1 << 16
        parts = [slice(start, start + rows) for start in range(0, signal.samples, rows)]

        jobs: dict[str, Callable[[], Any]] = {
            "ours": partial(problem.backward, generator),
            "block": partial(_stage_step, network, stage, constants, coords, targets, parts),
            "dense": partial(_dense_step, dense, coords, targets, parts),
        }
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for job in jobs.values():
            job()
        for _ in range(repeats):
            for name, job in jobs.items():
                times[name].append(seconds(job, device))
        medians = {name: statistics.median(values) for name, values in times.items()}
        found[str(width)] = {
            **{f"{name}_seconds": value for name, value in medians.items()},
            "ours_over_block": medians["ours"] / medians["block"],
            "dense_over_ours": medians["dense"] / medians["ours"],
        }
    return found


def fits(method: str, steps: int, image: SourceImage, device: torch.device, seed: int) -> dict[str, float]:
    """PSNR in dB after training the same initial network on the same image by each program.

    "plain, shuffled" is the plain reference with the pixels in another order. Only roundings differ then, and what
    they make of the result is what no two programs can be expected to agree in.

    Half precision is that of operands of matrix products, by autocast; float16 with the loss scaled up, as gradients
    of a mean over all pixels are below what it can hold.
    """
    signal = signal_of(image)
    everything = torch.arange(signal.samples)
    in_order = sample_centers(everything, signal.shape).to(device), signal.targets(slice(None)).to(device)
    order = torch.randperm(signal.samples, generator=torch.Generator().manual_seed(seed)).to(device)
    row = preset(method, "image")
    width, depth = PROTOCOLS["image"].width, PROTOCOLS["image"].depth
    programs: dict[str, torch.dtype | None] = {
        "plain": None,
        "plain, shuffled": None,
        "ours": None,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }
    found = {}
    for name, dtype in programs.items():
        generator = torch.Generator().manual_seed(seed)
        network = row.network(2, signal.channels, width=width, depth=depth, generator=generator).to(device)
        program = PlainNetwork(network) if name.startswith("plain") else network
        coords, targets = (each[order] for each in in_order) if name == "plain, shuffled" else in_order
        scale = 2.0**10 if dtype == torch.float16 else 1.0

        # As in the protocol; not fused, because complex numbers cannot be.
        optimizer = torch.optim.Adam(program.parameters(), lr=row.learning_rate)
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1.0 / steps))
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                loss = (program(coords).float() - targets).square().mean()
            (scale * loss).backward()
            for parameter in program.parameters():
                assert parameter.grad is not None
                parameter.grad /= scale
            optimizer.step()
            decay.step()
        with torch.no_grad():
            loss = float((program(coords).float() - targets).square().mean())
        found[name] = psnr_of_loss(loss) if math.isfinite(loss) else math.nan
    return found


FIRST_STEP = """
import time
import torch
from finer_nerfstudio import CoordinateNetwork, preset
begin = time.perf_counter()
row = preset("{method}", "image")
network = CoordinateNetwork(2, 3, width=256, depth=4, activation=row.activation, bias_range=row.bias_range)
for points in (16_384, 1_000, 9_999):
    network(torch.rand(points, 2)).square().mean().backward()
    print(time.perf_counter() - begin)
    begin = time.perf_counter()
"""


def first_step(method: str) -> dict[str, float]:
    """Seconds until the first training step is done in a new process, without and with kernels built before.

    A step is of the 16,384 points of a 128 x 128 image. The two after it have other numbers of points.
    """
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache, "CUDA_VISIBLE_DEVICES": ""}
        found = []
        for _ in range(2):
            command = [sys.executable, "-c", FIRST_STEP.format(method=method)]
            output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            found.append([float(line) for line in output.split()])
    new, again = found
    return {"nothing_built": new[0], "built_before": again[0], "other_batch_sizes": max(*new[1:], *again[1:])}


def description(device: torch.device) -> dict[str, Any]:
    """The machine, as far as it matters here."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    described = {
        "device": str(device),
        "processor": processor,
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "compiled_kernels": compiled.unavailable_because("sine") or "yes",
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


# Telling ------------------------------------------------------------------------------------------------------------


def subjects(command: Benchmark, device: torch.device) -> Iterator[tuple[Case, Subject]]:
    """Every case for every method, made when its turn comes."""
    for case in command.cases:
        for method in command.methods if case not in ("growth", "fits") else ():
            if case == "widths":
                for width in WIDTHS:
                    subject = subject_of(method, case, width, max(1, command.points // 4), device, command.seed)
                    subject.name = f"{method} {width}"
                    yield case, subject
            else:
                width = 182 if case == "nerf" else 256
                yield case, subject_of(method, case, width, command.points, device, command.seed)


def markdown(results: dict[str, Any]) -> str:
    """The ratios as tables."""
    machine = results["machine"]
    lines = [
        f"{machine.get('gpu', machine['processor'])}, {machine['threads']} threads, PyTorch {machine['torch']}",
        "",
    ]
    for case, found in results["cases"].items():
        lines += [
            f"**{case}**",
            "",
            "| | step: plain / ours | forward: plain / ours | step: ours / ReLU | step: ours / products | "
            "memory: ours / plain |",
            "|---|---|---|---|---|---|",
        ]
        for name, numbers in found.items():
            step, forward, memory = numbers["step"], numbers["forward"], numbers["memory"]
            lines.append(
                f"| {name} | {step['plain_over_ours']:.2f} | {forward['plain_over_ours']:.2f} | "
                f"{step['ours_over_relu']:.2f} | {step['ours_over_products']:.2f} | {memory['ours_over_plain']:.2f} |"
            )
        lines.append("")
    if "growth" in results:
        lines += ["**growth**, a step of each stage: ours / new units alone (dense network / ours)", ""]
        lines += [f"| | {' | '.join(map(str, WIDTHS_OF_STREAM[1:]))} |", "|---|" + "---|" * (len(WIDTHS_OF_STREAM) - 1)]
        for name, found in results["growth"].items():
            cells = [f"{row['ours_over_block']:.2f} ({row['dense_over_ours']:.2f})" for row in found.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    if "fits" in results:
        programs = list(next(iter(results["fits"].values())))
        lines += [f"**fits**, PSNR in dB after {results['fit_steps']} steps", ""]
        lines += [f"| | {' | '.join(programs)} |", "|---|" + "---|" * len(programs)]
        for name, numbers in results["fits"].items():
            lines.append(f"| {name} | " + " | ".join(f"{numbers[program]:.2f}" for program in programs) + " |")
        lines.append("")
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """Bars of a step's time, each program beside the others, one panel for each case."""
    from matplotlib.figure import Figure

    cases = results["cases"]
    figure = Figure(figsize=(9, 0.6 + sum(0.7 + 0.42 * len(found) for found in cases.values())), layout="constrained")
    heights = [1 + len(found) for found in cases.values()]
    panels = figure.subplots(len(cases), 1, squeeze=False, height_ratios=heights)[:, 0]
    labels = {
        "plain": "plain PyTorch",
        "relu": "plain ReLU network",
        "ours": "this package",
        "products": "products alone",
    }
    for axes, (case, found) in zip(panels, cases.items(), strict=True):
        for i, (program, label) in enumerate(labels.items()):
            values = [1e3 * numbers["step"]["seconds"][program] for numbers in found.values()]
            places = [n + 0.2 * (i - 1.5) for n in range(len(found))]
            axes.barh(places, values, height=0.2, label=label)
        axes.set_yticks(range(len(found)), list(found))
        axes.invert_yaxis()
        whole_decades(axes, "x")
        axes.set_xlabel("milliseconds per training step (logarithmic)")
        axes.set_title(case, loc="left")
        axes.grid(axis="x", alpha=0.3)
    legend_of_figure(figure, panels[0])
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)


def main(command: Benchmark) -> None:
    """Measure and write down.

    Raises:
        UsageError: for options out of range.
    """
    for name, least in (("points", 1), ("repeats", 1), ("fit_steps", 1), ("fit_size", 16)):
        if getattr(command, name) < least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(command, name)}.")
    unknown = sorted(set(command.methods) - set(METHODS))
    if unknown or not command.methods:
        raise UsageError(f"--methods {' '.join(unknown)}: known are {', '.join(METHODS)}.")
    if command.flush_denormals:
        torch.set_flush_denormal(True)
    device = device_named(command.device)
    image = None
    if "fits" in command.cases:
        given, size = command.fit_image, command.fit_size
        image = sample_image(size) if given is None else read_image(given, size=size)
    results: dict[str, Any] = {
        "machine": description(device),
        "points": command.points,
        "repeats": command.repeats,
        "seed": command.seed,
        "denormals_flushed": command.flush_denormals,
        "fit_steps": command.fit_steps,
        "fit_size": command.fit_size,
        "fit_image": "sample" if command.fit_image is None else command.fit_image.name,
        "cases": {},
    }
    networks = {"image": 1, "nerf": 1, "widths": len(WIDTHS), "growth": 0, "fits": 0}
    todo = max(1, len(command.methods) * sum(networks[case] for case in command.cases))
    with stages() as stage:
        if image is not None:
            results["fits"] = {}
            for method in command.methods:
                stage(f"fits {method}", 0, todo)
                results["fits"][method] = fits(method, command.fit_steps, image, device, command.seed)
        if "growth" in command.cases:
            results["growth"] = {}
            for method in command.methods:
                stage(f"growth {method}", 0, todo)
                results["growth"][method] = growth(method, command.points, command.repeats, device, command.seed)
        for done, (case, subject) in enumerate(subjects(command, device)):
            stage(f"{case} {subject.name}", done, todo)
            agreement = require_agreement(subject)
            measured = measure(subject, command.repeats, device)
            results["cases"].setdefault(case, {})[subject.name] = measured | {"agreement": agreement}
        stage("first steps", todo, todo)
        if device.type == "cpu" and results["cases"]:
            results["first_step_seconds"] = {method: first_step(method) for method in command.methods}
    text = markdown(results)
    write_json(command.output_dir / "benchmark.json", results)
    write_text(command.output_dir / "benchmark.md", text)
    if results["cases"]:
        draw(results, command.output_dir / "benchmark.png")
    print(text)
    for method, found in results.get("first_step_seconds", {}).items():
        print(f"{method}: first step after {found['nothing_built']:.1f} s, {found['built_before']:.1f} s once built")
    print(f"written to {command.output_dir}")


if __name__ == "__main__":
    run_command(main, Benchmark, __doc__)
