"""Threads that wait give their core away; counted in processor time, not by the clock."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.runs.processor import prepare_processor

WAITING = """
import sys, time, torch
from finer_nerfstudio.runs.processor import prepare_processor
torch.set_num_threads(int(sys.argv[2]))
if sys.argv[1] == "prepared":
    prepare_processor()
values = torch.ones(1 << 17)
values.add_(1.0)
before = time.process_time()
for _ in range(100):
    values.add_(1.0)
    time.sleep(0.005)
print(time.process_time() - before)
"""

several_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core computes in one thread")


def processor_seconds(setting: str, threads: int = 2, **environment: str) -> float:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", WAITING, setting, str(threads)],
        capture_output=True,
        text=True,
        check=True,
        env={**kept, **environment},
    )
    return float(done.stdout)


@several_cores
@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP is Linux's")
def test_threads_that_wait_use_no_processor_time() -> None:
    spinning = processor_seconds("as imported")
    assert spinning > 0.2, "what is mended here: threads that spin for milliseconds after every operation"
    assert processor_seconds("prepared") < 0.3 * spinning


@several_cores
def test_a_policy_of_the_environment_stands() -> None:
    assert processor_seconds("prepared", OMP_WAIT_POLICY="active") > 0.2


def test_one_thread_needs_no_others() -> None:
    assert processor_seconds("prepared", threads=1) < 0.2


DENORMALS = """
import sys, threading, torch
from finer_nerfstudio.inr.methods import preset
from finer_nerfstudio.runs.processor import prepare_processor
torch.set_num_threads(4)
small = torch.full((1 << 20,), 1e-38)
count = lambda: int((small * 1e-3).count_nonzero())
if "operation" in sys.argv:
    assert count() == len(small)
if "kernel" in sys.argv:
    preset("siren", "image").network(2, 1, width=16, depth=1)(torch.rand(1 << 12, 2)).sum().backward()
if "another thread" in sys.argv:
    other = threading.Thread(target=count)
    other.start()
    other.join()
prepare_processor()
print(count())
torch.set_num_threads(6)
print(count())
def prepared():
    count()
    prepare_processor()
    print(count())
thread = threading.Thread(target=prepared)
thread.start()
thread.join()
"""


@pytest.mark.parametrize("before", ["nothing", "operation", "kernel", "another thread"])
def test_denormals_are_zero_in_all_threads(before: str) -> None:
    """Also in those that started before, in those that start later, and in the pool of another thread of Python."""
    done = subprocess.run([sys.executable, "-c", DENORMALS, before], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0", "0"]
    assert torch.full((1,), 1e-38).mul(1e-3).count_nonzero() == 1, "this process has not been told"


def test_unknown_vectors_are_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINER_VECTORS", "wide")
    with pytest.raises(UsageError, match="FINER_VECTORS is one of avx512, avx2, neon, blas; not 'wide'"):
        prepare_processor()
