"""The whole queue in an environment with nothing but what a GPU machine has, dry and under kill -9."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import time
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import torch

from finer_nerfstudio.benchmarks.gpu.bundle import Bundle
from finer_nerfstudio.benchmarks.gpu.cell import OutOfTime, Place
from finer_nerfstudio.benchmarks.gpu.cells import all_cells
from finer_nerfstudio.benchmarks.gpu.wheels import MOST_BYTES, PRESENT, WHEELS, listing, package_bytes
from finer_nerfstudio.runs import training

RUN = """
from finer_nerfstudio.cli.main import main
main(["gpu-queue", *sys.argv[1:]])
"""
# Names of top-level modules that were imported from files, printed as the last thing.
WATCHED = """
import atexit, json
def told():
    files = {name.split(".")[0]: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    print("IMPORTED", json.dumps(sorted(name for name, file in files.items() if file)), file=sys.stderr)
atexit.register(told)
"""


@pytest.fixture
def command(bare: Any, toy: Any, tmp_path: Path) -> list[str]:
    """The queue of toys from its first to its last cell."""
    code = "\n".join(["import sys", WATCHED, RUN])
    options = ["--quick", "--bundle", str(toy.folder), "--minutes", "9", "--device", "cpu"]
    return [*bare.command, code, *options, "--output-dir", str(tmp_path / "results")]


def records_in(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_the_whole_queue(command: list[str], bare: Any, toy: Any, tmp_path: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
    assert "Warning" not in done.stderr
    cells = all_cells(Bundle(toy.folder), quick=True)
    programs = {cell.name for cell in cells if cell.group in ("nerfacto", "splats")}
    records = records_in(tmp_path / "results")
    assert set(records) == {cell.name for cell in cells} - programs
    assert all("result" in record and record["quick"] and record["card"] == "CPU" for record in records.values())
    assert all(program in done.stdout for program in programs)
    assert done.stdout.count("not installed here: pip install 'finer-nerfstudio[nerf]'") == len(programs) == 2
    assert "next: python scripts/make_results.py" in done.stdout
    step = records["quick-kernels-nerf-wire-64"]["result"]["step"]
    assert step["share_of_ceiling"]["float32"]["ours"] > 0
    assert records["quick-picture_0-siren-omega80"]["result"]["psnr"] > 0
    assert {"iou", "iou_paper", "chamfer_paper"} <= records["quick-ring-siren"]["result"].keys()
    _require_listed(json.loads(done.stderr.rpartition("IMPORTED")[2]), bare.present)


def _require_listed(imported: list[str], present: set[str]) -> None:
    """What was imported is there already or is listed, and what is listed was imported."""
    providers = packages_distributions()
    listed = {wheel.name for wheel in WHEELS}
    used = {re.sub(r"[-_.]+", "-", name).lower() for module in imported for name in providers.get(module, [])}
    assert listed <= used
    assert used <= present | listed | {"finer-nerfstudio"}, "nothing else can have been there"


def test_killed_again_and_again(command: list[str], tmp_path: Path) -> None:
    """A queue that is killed at any moment goes on, and neither repeats nor damages what it has."""
    results, chance = tmp_path / "results", random.Random(7)
    first: dict[str, int] = {}
    few = [*command, "--only", "quick-*-finer-sine*"]
    for number in range(3):
        # Imports take seconds, in which nothing can go wrong; a slow machine takes long for the first cell too.
        awaited = "  measured in" if number % 2 else "cells are measured"
        with subprocess.Popen(few, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as child:
            assert child.stderr is not None
            for line in child.stderr:
                if awaited in line:
                    break
            time.sleep(chance.uniform(0.0, 4.0))
            child.send_signal(signal.SIGKILL)
        found = {name: (results / f"{name}.json").stat().st_mtime_ns for name in records_in(results)}
        assert first.items() <= found.items(), "written once"
        first = found
    assert first
    done = subprocess.run(few, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    records = records_in(results)
    assert all("result" in record for record in records.values())
    assert {name: (results / f"{name}.json").stat().st_mtime_ns for name in first} == first
    assert not list(results.glob(".*"))
    again = subprocess.run(few, capture_output=True, text=True, cwd=tmp_path)
    assert f"{len(records)} of {len(records)} cells are measured" in again.stderr


@pytest.mark.parametrize(
    ("number", "code", "says"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_interrupted(number: signal.Signals, code: int, says: str, command: list[str], tmp_path: Path) -> None:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith("  measured"):
                break
        child.send_signal(number)
        rest = child.stderr.read()
    assert child.returncode == code
    assert f"{says}; what was measured is kept, and the same command goes on from there." in rest
    assert "Traceback" not in rest
    assert not list((tmp_path / "results").glob(".*"))


def test_a_shape_goes_on_from_its_checkpoint(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    cell = next(cell for cell in all_cells(Bundle(toy.folder), quick=True) if cell.name == "quick-ring-siren")
    place = Place(torch.device("cpu"), tmp_path / "scratch", time.monotonic() + 600)
    assert cell.remaining(place) is None
    whole = cell.work(place)
    shutil.rmtree(place.scratch)
    steps = iter(range(1, 1000))
    monkeypatch.setattr(Place, "require_time", lambda _: _out_of_time(next(steps) > 30))
    with pytest.raises(OutOfTime):
        cell.work(place)
    monkeypatch.undo()
    remaining = cell.remaining(place)
    assert remaining is not None
    assert remaining > 0
    went_on = cell.work(place)
    assert went_on["earlier_seconds"] > 0
    for name in ("iou", "chamfer_paper", "steps"):
        assert went_on[name] == whole[name], "to the bit, as if there had been no interruption"


def _out_of_time(over: bool) -> None:
    if over:
        raise OutOfTime


def test_the_list_of_wheels() -> None:
    text = listing(37_000_000)
    assert all(f"{wheel.name}=={wheel.version}" in text for wheel in WHEELS)
    total = sum(wheel.size for wheel in WHEELS) + package_bytes() + 37_000_000
    assert f"{total:,} bytes together, below the 60 MB" in text
    assert total < MOST_BYTES
    assert "ABOVE the 60 MB" in listing(MOST_BYTES)
    assert not {wheel.name for wheel in WHEELS} & set(PRESENT)
