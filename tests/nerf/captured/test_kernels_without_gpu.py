"""What can be said of these Triton kernels without a GPU: they are right when interpreted, and they compile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton")

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
COMPILE = """
import sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

class NoGpu:
    def get_current_target(self):
        return GPUTarget("cuda", int(sys.argv[1]), 32)
    def get_current_device(self):
        return 0
    def get_current_stream(self, device):
        return 0

driver.set_active(NoGpu())
launch = JITFunction.run
def compile_only(self, *arguments, grid, warmup, **options):
    compiled = launch(self, *arguments, grid=grid, warmup=True, **options)
    print(self.fn.__name__, compiled.metadata.shared, len(compiled.asm["cubin"]))
JITFunction.run = compile_only

from finer_nerfstudio.nerf import triton_compositing
from finer_nerfstudio.nerf.captured import triton_adam, triton_march
from finer_nerfstudio.nerf.captured.adam import AdamRules
from finer_nerfstudio.nerf.captured.march import Steps, walk_of

steps = Steps(1024, 128, 0.003, 0.05)
box = torch.tensor([[-1.0] * 3, [1.0] * 3])
walk = walk_of(torch.zeros(64, 3), torch.ones(64, 3), torch.zeros(64), box, steps)
occupied = torch.ones(128**3, dtype=torch.bool)
triton_march.places(walk, occupied, steps, triton_march.counts(walk, occupied, steps), 4096)
counts = torch.full((64,), 3)
weight, behind = triton_compositing.weights(torch.zeros(200), counts)
triton_compositing.gradient(weight, weight, behind, counts)
triton_adam.update(*torch.zeros(5, 4000), torch.ones(3), AdamRules())
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU runs these tests itself")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this is the interpreter's process")
def test_kernels_are_right_in_the_interpreter() -> None:
    """In a process of their own: Triton must learn of the interpreter before anything imports it."""
    names = ("captured/test_march.py", "captured/test_adam.py", "test_compositing.py", "test_kernels_at_work.py")
    files = [str(HERE.parent / name) for name in names]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "kernel", *files],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stdout[-6000:] + process.stderr[-2000:]
    assert " passed" in process.stdout
    assert "skipped" not in process.stdout


@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_to_machine_code(capability: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    process = subprocess.run(
        [sys.executable, "-c", COMPILE, str(capability)],
        cwd=ROOT,
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    names = [line.split()[0] for line in process.stdout.splitlines()]
    assert names == ["_march_kernel", "_march_kernel", "_weights_kernel", "_gradient_kernel", "_adam_kernel"]
