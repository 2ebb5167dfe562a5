"""Cells run once, wherever they run, and tables say what they say."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.files.png import write_image
from finer_nerfstudio.reproduction.table import Row, write_table
from finer_nerfstudio.reproduction.table1 import image_cells
from finer_nerfstudio.runs.sweep import Cell, run_cells, visible_gpu
from finer_nerfstudio.tasks.image.files import sample_image
from finer_nerfstudio.tasks.image.fit import ImageOptions

ROOT = Path(__file__).parents[2]


def square(number: int, log: str) -> dict[str, Any]:
    with Path(log).open("a") as file:
        file.write(f"{number} {os.getpid()}\n")
    if number < 0:
        raise InputError(f"{number} is negative.")
    return {"value": number * number}


def cells(log: Path, *numbers: int, version: int = 1) -> list[Cell]:
    return [Cell(f"cell{n}", {"n": n, "version": version}, square, (n, str(log))) for n in numbers]


def runs(log: Path) -> list[str]:
    return [line.split()[0] for line in log.read_text().splitlines()]


def test_finished_cells_are_not_run_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run_cells(cells(log, 1, 2), tmp_path) == {"cell1": {"value": 1}, "cell2": {"value": 4}}
    results = run_cells(cells(log, 1, 2, 3), tmp_path)
    assert list(results) == ["cell1", "cell2", "cell3"]
    assert runs(log) == ["1", "2", "3"]
    run_cells(cells(log, 1, version=2), tmp_path)
    assert runs(log) == ["1", "2", "3", "1"]


def test_a_failing_cell_keeps_the_others(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(InputError, match="negative"):
        run_cells(cells(log, 1, -1, 2), tmp_path)
    assert (tmp_path / "cell1.json").exists()
    assert not (tmp_path / "cell-1.json").exists()


def test_others_go_on_where_failures_are_heard_of(tmp_path: Path) -> None:
    failed: list[tuple[str, str]] = []
    results = run_cells(
        cells(tmp_path / "log", 1, -1, 2),
        tmp_path,
        on_failure=lambda cell, error: failed.append((cell.name, str(error))),
    )
    assert list(results) == ["cell1", "cell2"]
    assert failed == [("cell-1", "-1 is negative.")]
    assert not (tmp_path / "cell-1.json").exists()


def test_programs_of_a_worker_see_its_gpu() -> None:
    assert visible_gpu(1, None) == "1"
    assert visible_gpu(1, "2, 5") == "5"


def test_damaged_results_are_named(tmp_path: Path) -> None:
    (tmp_path / "cell1.json").write_text("{")
    with pytest.raises(InputError, match=r"cell1\.json"):
        run_cells(cells(tmp_path / "log", 1), tmp_path)


def test_a_pool_of_processes(tmp_path: Path) -> None:
    write_image(tmp_path / "sample.png", sample_image(24).pixels)
    options = ImageOptions(width=16, depth=2, steps=20)
    todo = [
        cell
        for method in ("siren", "finer-wavelet")
        for cell in image_cells([tmp_path / "sample.png"], method, options, size=16)
    ]
    here = run_cells(todo, tmp_path / "here", workers=1)
    there = run_cells(todo, tmp_path / "there", workers=2)
    assert list(here) == list(there) == ["sample-siren", "sample-finer-wavelet"]
    for name, result in here.items():
        # The number of threads decides the order of sums.
        assert there[name]["psnr"] == pytest.approx(result["psnr"], abs=0.05)


SLOW_SWEEP = """
import os, sys, time
from pathlib import Path
from finer_nerfstudio.runs.sweep import Cell, run_cells, visible_gpu

def work(folder):
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(600)
    return {}

if __name__ == "__main__":
    run_cells([Cell(f"cell{n}", {}, work, (sys.argv[1],)) for n in range(2)], Path(sys.argv[1]), workers=2)
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_a_killed_or_interrupted_sweep(tmp_path: Path, ending: signal.Signals) -> None:
    script = tmp_path / "slow_sweep.py"
    script.write_text(SLOW_SWEEP)
    with subprocess.Popen(
        [sys.executable, script, tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # A shell that runs the tests in the background has them, and all they start, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as sweep:
        workers = wait_for(lambda: [path.stem for path in tmp_path.glob("*.pid")], lambda found: len(found) == 2)
        sweep.send_signal(ending)
    wait_for(lambda: [worker for worker in workers if Path("/proc", worker).exists()], lambda alive: not alive)


def wait_for(look: Callable[[], list[str]], enough: Callable[[list[str]], bool]) -> list[str]:
    deadline = time.monotonic() + 120
    while not enough(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def test_a_cluster_of_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is an optional extra")
    write_image(tmp_path / "sample.png", sample_image(24).pixels)
    todo = image_cells([tmp_path / "sample.png"], "siren", ImageOptions(width=16, depth=2, steps=20), size=16)
    here = run_cells(todo, tmp_path / "here")
    there = run_cells(todo, tmp_path / "there", cluster="local")
    assert there["sample-siren"]["psnr"] == pytest.approx(here["sample-siren"]["psnr"], abs=0.05)


def test_workers_below_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="workers"):
        run_cells(cells(tmp_path / "log", 1), tmp_path, workers=0)


def test_a_table_says_which_is_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        Row("siren", [{"psnr": 30.0, "lpips": None}, {"psnr": 32.0, "lpips": 0.1}], {"psnr": 38.52}),
        Row("finer-sine", [{"psnr": 35.0, "lpips": 0.2}, {"psnr": 33.0, "lpips": 0.1}], {"psnr": 40.76}),
        Row("gauss", [{"psnr": 30.0}, {"psnr": 31.0}], None),
        Row("finer-gauss", [{"psnr": 20.0}, {"psnr": 21.0}], None),
    ]
    write_table(
        tmp_path,
        title="Table",
        protocol="two steps",
        rows=rows,
        items=["a", "b"],
        columns={"psnr": "PSNR", "lpips": "LPIPS"},
        higher_is_better=True,
    )
    text = (tmp_path / "table.md").read_text()
    assert "| siren | 31.00 | 38.52 | n/a | n/a |" in text
    assert "finer-sine 34.00 is better than siren 31.00" in text
    assert "finer-gauss 20.50 is WORSE than gauss 30.50" in text
    assert "finer-sine 34.00 is better" in capsys.readouterr().out
    assert list(csv.reader((tmp_path / "table.csv").open()))[1] == ["siren", "a", "30.0", ""]
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["rows"][1]["mean"] == {"psnr": 34.0, "lpips": pytest.approx(0.15)}
    with Image.open(tmp_path / "table.png") as picture:
        assert picture.width > 300


def test_a_cluster_that_does_not_answer_is_said_at_once(tmp_path: Path) -> None:
    """Ray would look for it for minutes without a word."""
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    cell = Cell("a", {}, dict, ())
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(InputError, match=f"no Ray cluster answers at {address} .*ray start"):
            run_cells([cell], tmp_path, cluster=address)
