"""What can be said of the Triton kernels without a GPU: they are right when interpreted, and they compile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="the fused kernels need Triton")

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
# Compiles what the host functions launch, for a GPU that is not there.
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

from finer_nerfstudio.inr.kernels import triton_activation, triton_network
from finer_nerfstudio.inr.kernels.form import KernelForm

wavelet = KernelForm("wavelet", omega=20.0, s=10.0, variable=True, omega_f=5.0)
real_wavelet = KernelForm("wavelet", omega=20.0, s=10.0, variable=True, omega_f=5.0, real_input=True)
sine = KernelForm("sine", omega=30.0, variable=True)

# Triton compiles sizes of one differently.
for form, features in ((wavelet, 32), (sine, 1)):
    x, bias = torch.zeros(64, features), torch.zeros(features)
    triton_activation.backward(x, bias, triton_activation.forward(x, None, form), form)
for forms, sizes in (([real_wavelet, wavelet], ((16, 2), (32, 32), (3, 32))), ([sine], ((16, 1), (1, 16)))):
    weights, biases = [torch.zeros(size) for size in sizes], [torch.zeros(size[0]) for size in sizes]
    arguments = (torch.zeros(1, sizes[0][1]), weights, biases, forms)
    triton_network.backward(*arguments, triton_network.forward(*arguments), want_input_grad=True)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU runs these tests itself")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this is the interpreter's process")
@pytest.mark.parametrize("file", ["test_triton_activation.py", "test_triton_network.py", "test_triton_program.py"])
def test_kernels_are_right_in_the_interpreter(file: str) -> None:
    """In a process of their own: Triton must learn of the interpreter before anything imports it."""
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / file)],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stdout[-6000:] + process.stderr[-2000:]
    assert " passed" in process.stdout


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
    compiled = [line.split() for line in process.stdout.splitlines()]
    assert [name for name, *_ in compiled] == ["_activation_kernel"] * 4 + ["_forward_kernel", "_backward_kernel"] * 2
    # What a block may have of a multiprocessor's shared memory on compute capability 8.6 and 8.9, the least of all.
    assert all(int(shared) <= 99 * 1024 for _, shared, _ in compiled)
