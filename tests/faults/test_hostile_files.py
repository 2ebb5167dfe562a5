"""Damaged and hostile files: every reader answers in a sentence, soon, and takes little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("fuzz_reader.py")
COUNTS = {"streams": 10_000, "models": 1000, "splats": 1000, "grids": 1000, "meshes": 1000, "scenes": 1000}
COUNTS |= {"pictures": 1000, "greedy": 1}
MOST_MEGABYTES = 500


@pytest.mark.parametrize("kind", COUNTS)
def test_hostile_files(kind: str, tmp_path: Path, share: float, record: Callable[..., None]) -> None:
    count = max(1, round(COUNTS[kind] * share))
    # The end of a reader that neither ends nor fails is a failure too.
    done = subprocess.run(
        [sys.executable, str(PROGRAM), kind, str(count), "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=3000,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, f"{done.stderr[-3000:]}\nthe file is in {tmp_path}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    record(f"hostile {kind}", **found)
    assert found["failures"] == 0, done.stderr[-5000:]
    assert found["peak_megabytes_above_idle"] < MOST_MEGABYTES, found
