"""A benchmark from its options to its files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from finer_nerfstudio.benchmarks.fits import PROGRAMS, Program, fits
from finer_nerfstudio.benchmarks.growth import growth
from finer_nerfstudio.benchmarks.measuring import measure, require_agreement
from finer_nerfstudio.benchmarks.report import description, draw, markdown
from finer_nerfstudio.benchmarks.startup import first_step
from finer_nerfstudio.benchmarks.subjects import WIDTHS, Case, Subject, subject_of
from finer_nerfstudio.errors import UsageError, argument
from finer_nerfstudio.files.atomic import write_json, write_text
from finer_nerfstudio.inr.methods import METHODS
from finer_nerfstudio.runs.options import device_named
from finer_nerfstudio.runs.progress import stages
from finer_nerfstudio.tasks.image.files import read_image, sample_image

# Cases that are measured on their own, without programs taking turns.
_OTHER_CASES = ("growth", "fits", "step")
_PROFILED_STEPS = 128


@dataclass(frozen=True)
class Benchmark:
    """Methods and sizes to compare."""

    cases: tuple[Case, ...] = ("image", "nerf", "widths")
    """image: 2 -> 256 x 4 -> 3; nerf: the paper's density and colour networks one after the other, 182 wide; widths:
    the image network 64 to 512 wide, on a quarter of the points; growth: a step of each stage of a stream, beside its
    new units alone and a network of all units; fits: no times, but the PSNR of whole fits of the sample image by
    this package, by the plain reference, and with operands of matrix products rounded; step: the parts of a step of
    ns-train on a scene, in milliseconds."""
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
    fit_width: int = 256
    """Width of the networks of the fits."""
    fit_programs: tuple[Program, ...] = PROGRAMS
    """What fits: the plain reference, this package, and its roundings, one name for both passes or one for each."""
    fit_image: Path | None = None
    """Fit this image, averaged down, instead of the generated sample."""
    step_data: Path | None = None
    """Folder of the scene whose step is taken apart."""
    step_after: int = 2000
    """Training steps before the measured ones; the first see only haze. Each of --methods is trained."""
    output_dir: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("outputs/benchmark")
    """Folder for benchmark.json, benchmark.md and benchmark.png; older ones are replaced."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, ..."""
    seed: int = 0
    """Of weights and coordinates."""


def subjects(command: Benchmark, device: torch.device) -> Iterator[tuple[Case, Subject]]:
    """Every case for every method, made when its turn comes."""
    for case in command.cases:
        for method in command.methods if case not in _OTHER_CASES else ():
            if case == "widths":
                for width in WIDTHS:
                    subject = subject_of(method, case, width, max(1, command.points // 4), device, command.seed)
                    subject.name = f"{method} {width}"
                    yield case, subject
            else:
                width = 182 if case == "nerf" else 256
                yield case, subject_of(method, case, width, command.points, device, command.seed)


def run_benchmark(command: Benchmark) -> None:
    """Measure and write down.

    Raises:
        UsageError: for options out of range.
    """
    for name, least in (
        ("points", 1),
        ("repeats", 1),
        ("fit_steps", 1),
        ("fit_size", 16),
        ("fit_width", 1),
        ("step_after", 1),
    ):
        if getattr(command, name) < least:
            raise UsageError(f"{argument(name)} must be at least {least}, not {getattr(command, name)}.")
    if "step" in command.cases and command.step_data is None:
        raise UsageError(f"{argument('cases')} step needs a scene: give {argument('step_data')} its folder.")
    unknown = sorted(set(command.methods) - set(METHODS))
    if unknown or not command.methods:
        raise UsageError(f"{argument('methods')} {' '.join(unknown) or '(none)'}: known are {', '.join(METHODS)}.")
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
        "fit_width": command.fit_width,
        "fit_image": "sample" if command.fit_image is None else command.fit_image.name,
        "cases": {},
    }
    networks = {"image": 1, "nerf": 1, "widths": len(WIDTHS)}
    todo = max(1, len(command.methods) * sum(networks.get(case, 0) for case in command.cases))
    with stages() as stage:
        if image is not None:
            results["fits"] = {}
            for method in command.methods:
                stage(f"fits {method}", 0, todo)
                results["fits"][method] = fits(
                    method,
                    command.fit_steps,
                    image,
                    device,
                    command.seed,
                    width=command.fit_width,
                    programs=command.fit_programs,
                )
        if "growth" in command.cases:
            results["growth"] = {}
            for method in command.methods:
                stage(f"growth {method}", 0, todo)
                results["growth"][method] = growth(method, command.points, command.repeats, device, command.seed)
        if "step" in command.cases and command.step_data is not None:
            from finer_nerfstudio.nerf.training.step_parts import step_parts

            results |= {"step_data": command.step_data.name, "step_after": command.step_after}
            results["step"] = {
                method: step_parts(
                    method,
                    command.step_data,
                    after=command.step_after,
                    steps=_PROFILED_STEPS,
                    device=device,
                    seed=command.seed,
                    report=stage,
                )
                for method in command.methods
            }
        for done, (case, subject) in enumerate(subjects(command, device)):
            stage(f"{case} {subject.name}", done, todo)
            agreement = require_agreement(subject)
            measured = measure(subject, command.repeats, device)
            results["cases"].setdefault(case, {})[subject.name] = measured | {"agreement": agreement}
        stage("first steps", todo, todo)
        if device.type == "cpu" and results["cases"]:
            built = [method for method in command.methods if METHODS[method].activation.kernel_form() is not None]
            results["first_step_seconds"] = {method: first_step(method) for method in built}
    text = markdown(results)
    write_json(command.output_dir / "benchmark.json", results)
    write_text(command.output_dir / "benchmark.md", text)
    if results["cases"]:
        draw(results, command.output_dir / "benchmark.png")
    print(text)
    for method, found in results.get("first_step_seconds", {}).items():
        print(f"{method}: first step after {found['nothing_built']:.1f} s, {found['built_before']:.1f} s once built")
    print(f"next: look at {command.output_dir}, which holds the numbers and their picture")
