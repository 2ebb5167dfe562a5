"""Programs are started, watched, interrupted and never left behind. Small ones in Python stand for Nerfstudio's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finer_nerfstudio.reproduction.radiance.programs import ProgramFailed, run_program

ROOT = Path(__file__).parents[3]
PYTHON = Path(sys.executable).name

# Says that it is there, and like ns-train does something about Ctrl-C before it ends.
SLEEPER = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
try:
    (folder / "started").touch()
    time.sleep(300)
except KeyboardInterrupt:
    (folder / "interrupted").touch()
"""


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_output_is_appended_to_the_log_and_watched(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    looks: list[str] = []
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr)"
    run_program(PYTHON, "-c", code, log=log, watch=lambda: looks.append(log.read_text()))
    assert log.read_text() == "before\nout\nerr\n"
    assert looks[-1] == log.read_text(), "the end is seen too"


def test_failures_say_how(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed, match=rf"{PYTHON} failed with exit code 3"):
        run_program(PYTHON, "-c", "raise SystemExit(3)")
    with pytest.raises(ProgramFailed, match="SIGKILL"):
        run_program(PYTHON, "-c", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ProgramFailed, match="ns-nothing is not installed"):
        run_program("ns-nothing", log=tmp_path / "log")


def test_an_environment_of_its_own(tmp_path: Path) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "3"}
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    run_program(PYTHON, "-c", code, log=tmp_path / "log", environment=environment)
    assert (tmp_path / "log").read_text() == "3\n"


def test_ctrl_c_interrupts_the_program_and_waits_for_it(tmp_path: Path) -> None:
    def interrupt() -> None:
        wait_until((tmp_path / "started").exists)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            run_program(PYTHON, "-c", SLEEPER, str(tmp_path))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "interrupted").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children about a killed parent")
def test_a_program_ends_with_its_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\n"
        "from finer_nerfstudio.reproduction.radiance.programs import run_program\n"
        f"run_program({PYTHON!r}, '-c', {SLEEPER!r}, sys.argv[1])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script, tmp_path], env=environment) as parent:
        wait_until((tmp_path / "started").exists)
        parent.kill()
    wait_until((tmp_path / "interrupted").exists)
