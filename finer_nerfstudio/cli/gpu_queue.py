"""Measure the paper's tables on a GPU that is at hand for a few minutes at a time.

    finer gpu-queue --prepare bundle --scene blender/lego --images images/*.png --shape armadillo.obj
    finer gpu-queue --list-wheels --bundle bundle
    finer gpu-queue --minutes 9 --bundle bundle

The first command makes a bundle of everything that the measurements read, where the package is installed with its
extras. The last one runs on the GPU machine, which needs neither Nerfstudio nor a network. It takes one measurement
after the other, the most valuable first, and keeps each in a file of its own. Measurements that are there are not
repeated: the same command goes on where the last one ended, was interrupted or killed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

import tyro

from finer_nerfstudio.benchmarks.gpu import wheels
from finer_nerfstudio.benchmarks.gpu.bundle import Bundle, sizes_of, write_bundle
from finer_nerfstudio.benchmarks.gpu.cell import Place, QueueCell
from finer_nerfstudio.benchmarks.gpu.cells import Trainers, all_cells
from finer_nerfstudio.benchmarks.gpu.page import figure_of
from finer_nerfstudio.benchmarks.gpu.queue import Outcome, Queue, in_words, run_queue
from finer_nerfstudio.benchmarks.gpu.records import is_measured
from finer_nerfstudio.cli.command import exit_without_extra, note_signals
from finer_nerfstudio.errors import InputError, UsageError, argument
from finer_nerfstudio.files.atomic import require_folder
from finer_nerfstudio.reproduction.radiance import baselines
from finer_nerfstudio.runs.command_line import printable
from finer_nerfstudio.runs.folder import claimed
from finer_nerfstudio.runs.options import device_named
from finer_nerfstudio.runs.processor import prepare_processor
from finer_nerfstudio.runs.progress import stages


@dataclass(frozen=True)
class GpuQueue:
    """What to do, and for how long."""

    minutes: float = 9.0
    """Start no measurement that would not end within so many minutes."""
    bundle: Path | None = None
    """Folder that --prepare made; without it, only the kernels are measured."""
    output_dir: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("docs/results/gpu")
    """Folder for one JSON file for each measurement."""
    scratch_dir: Path = Path("outputs/gpu_queue")
    """Folder for checkpoints of measurements that are not finished."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, ..."""
    only: str | None = None
    """Only measurements whose names match this pattern, such as "kernels-*" or "*finer-sine*"."""
    quick: bool = False
    """Toy sizes, which take a processor seconds each and measure nothing. With --prepare, a toy bundle."""
    prepare: Path | None = None
    """Make a bundle in this folder instead. It takes the extras nerf and sdf."""
    scene: Path | None = None
    """With --prepare: a scene in Blender format."""
    images: tuple[Path, ...] = ()
    """With --prepare: image files."""
    shape: Path | None = None
    """With --prepare: a mesh."""
    list_wheels: bool = False
    """Print instead what the GPU machine needs beside PyTorch, and how large all of it is."""


class CardLost(InputError):
    """The process can no longer use the GPU: a new one can."""

    exit_code = 3


def run(command: GpuQueue) -> None:
    """Measure, make a bundle or list wheels."""
    if command.list_wheels:
        size = None if command.bundle is None else sum(sizes_of(Bundle(command.bundle).folder).values())
        print(wheels.listing(size))
    elif command.prepare is not None:
        _prepare(command, command.prepare)
    else:
        _measure(command)


def _prepare(command: GpuQueue, folder: Path) -> None:
    if command.scene is None or command.shape is None or not command.images:
        raise UsageError("--prepare takes a --scene, one or more --images and a --shape.")
    stems = [path.stem for path in command.images]
    if len(set(stems)) < len(stems):
        raise UsageError("--images names two files with the same name, which measurements are called by: rename one.")
    if not (command.scene / "transforms_train.json").is_file():
        raise UsageError(f"--scene {command.scene} is no scene in Blender format: it holds no transforms_train.json.")
    require_folder(folder, "--prepare")
    prepare_processor()
    with exit_without_extra():
        from finer_nerfstudio.benchmarks.gpu.preparing import prepare

        with stages() as stage:
            contents = prepare(command.scene, command.images, command.shape, quick=command.quick, report=stage)
            sizes = write_bundle(folder, contents)
    for name, size in sizes.items():
        print(f"{name:<12} {size:>12,} bytes")
    print(f"{'together':<12} {sum(sizes.values()):>12,} bytes")
    print(f"next: finer gpu-queue --list-wheels --bundle {folder}")


def _measure(command: GpuQueue) -> None:
    if not command.minutes > 0:
        raise UsageError(f"{argument('minutes')} must be positive, not {command.minutes:g}.")
    device = device_named(command.device)
    bundle = None if command.bundle is None else Bundle(command.bundle)
    if bundle is not None and bundle.quick != command.quick:
        holds = "toys: add --quick, or make" if bundle.quick else "no toys: leave --quick out, or make"
        raise UsageError(f"--bundle {command.bundle} holds {holds} another bundle.")
    require_folder(command.output_dir, "--output-dir")
    require_folder(command.scratch_dir, "--scratch-dir")
    cells = all_cells(bundle, quick=command.quick, trainers=_trainers())
    cells = [cell for cell in cells if command.only is None or fnmatch(cell.name, command.only)]
    if not cells:
        names = ", ".join(f"{group}: {name}" for group, name in _first_names(command.quick, bundle).items())
        raise UsageError(f"--only {command.only} matches no measurement; the first ones are {names}.")
    if device.type == "cpu" and not command.quick:
        raise UsageError(
            "there is no GPU here that PyTorch can use, and measurements of a processor are none of this queue: add "
            "--quick to try everything with toys."
        )
    prepare_processor()
    unwind_asked = note_signals()
    goes_on = "what was measured is kept, and the same command goes on from there"
    queue = Queue(command.output_dir, command.scratch_dir.resolve(), device, command.minutes, _say, unwind_asked)
    try:
        with claimed(command.output_dir):
            outcome = run_queue(cells, queue)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(goes_on) from None
    except SystemExit:  # SIGTERM
        _say(f"terminated; {goes_on}.")
        raise
    _summarise(cells, outcome)
    if outcome.lost is not None:
        raise CardLost(f"{outcome.lost}: {goes_on}.")
    if outcome.failed:
        raise InputError(
            f"{', '.join(outcome.failed)} did not end well: the same command tries again, after all others."
        )


def _first_names(quick: bool, bundle: Bundle | None) -> dict[str, str]:
    """The first measurement of each kind."""
    found: dict[str, str] = {}
    for cell in all_cells(bundle, quick=quick):
        found.setdefault(cell.group, cell.name)
    return found


def _trainers() -> Trainers:
    def nerfacto(scene: Path, seconds: float, place: Place) -> dict:
        return baselines.nerfacto(scene, seconds, place.scratch, device=place.device.type)

    def splats(scene: Path, seconds: float, place: Place) -> dict:
        return baselines.splats(scene, seconds, place.scratch, device=place.device.type)

    return Trainers(nerfacto, splats, baselines.missing)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _summarise(cells: Sequence[QueueCell], outcome: Outcome) -> None:
    """Print what this run measured, how far every group is, and what is next."""
    width = max(len(cell.name) for cell in cells)
    for name in outcome.measured:
        record = outcome.records[name]
        print(f"{name:<{width}} {record['seconds']:>8.1f} s  {figure_of(record)}")
    for name, reason in outcome.failed.items():
        print(f"{name:<{width}} {'failed':>10}  {printable(reason)}")
    for sentence in dict.fromkeys(outcome.left_out.values()):
        names = [name for name, other in outcome.left_out.items() if other == sentence]
        who = ", ".join(names) if len(names) < 4 else f"{len(names)} measurements, {names[0]} the first of them,"
        print(f"{who} left out: {sentence}")
    print(f"\n{'':<10} {'measured':>10} {'failed':>8} {'left out':>9} {'waiting':>8}")
    for group in dict.fromkeys(cell.group for cell in cells):
        mine = [cell for cell in cells if cell.group == group]
        measured = sum(is_measured(cell, outcome.records.get(cell.name)) for cell in mine)
        failed, left, waiting = (
            sum(cell.name in names for cell in mine) for names in (outcome.failed, outcome.left_out, outcome.waiting)
        )
        print(f"{group:<10} {f'{measured} of {len(mine)}':>10} {failed:>8} {left:>9} {waiting:>8}")
    print(f"\nnext: {_next(outcome)}")


def _next(outcome: Outcome) -> str:
    if outcome.waiting:
        first, seconds = next(iter(outcome.waiting.items()))
        total = in_words(sum(outcome.waiting.values()))
        return (
            f"the same command again, which begins with {first} (about {in_words(seconds)}); {len(outcome.waiting)} "
            f"are unmeasured, about {total} of work"
        )
    if outcome.failed:
        return "the same command again, which tries what failed"
    return "python scripts/make_results.py, which fills in docs/results.md"


OPTIONS = GpuQueue
