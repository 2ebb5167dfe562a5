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
# Compiles what the host functions launch, for a GPU that is not there, and prints what each kernel takes of it.
COMPILE = """
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
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
label = "any"
inspector = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

def compile_only(self, *arguments, grid, warmup, **options):
    compiled = launch(self, *arguments, grid=grid, warmup=True, **options)
    registers = stack = -1
    if inspector.exists():
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            Path(file.name).write_bytes(compiled.asm["cubin"])
            command = [str(inspector), "--dump-resource-usage", file.name]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        registers, stack = re.search(r"REG:(\\d+) STACK:(\\d+)", text).groups()
    print(self.fn.__name__, label, compiled.metadata.shared, registers, stack, flush=True)
JITFunction.run = compile_only

from finer_nerfstudio.inr.kernels import triton_activation, triton_network
from finer_nerfstudio.inr.kernels.form import KernelForm
from finer_nerfstudio.inr.kernels.rounding import Rounding

wavelet = KernelForm("wavelet", omega=20.0, s=10.0, variable=True, omega_f=5.0)
real_wavelet = KernelForm("wavelet", omega=20.0, s=10.0, variable=True, omega_f=5.0, real_input=True)
sine = KernelForm("sine", omega=30.0, variable=True)

# Triton compiles sizes of one differently.
for form, features in ((wavelet, 32), (sine, 1)):
    x, bias = torch.zeros(64, features), torch.zeros(features)
    triton_activation.backward(x, bias, triton_activation.forward(x, None, form), form)

def compile_network(forms, sizes, rounding, rows=16):
    weights, biases = [torch.zeros(size) for size in sizes], [torch.zeros(size[0]) for size in sizes]
    arguments = (torch.zeros(rows, sizes[0][1]), weights, biases, forms)
    width = sizes[-1][1]
    if triton_network.recomputes([width]):
        y = triton_network.forward(*arguments, precision=rounding.forward)
        triton_network.backward(*arguments, y, want_input_grad=True, rounding=rounding)
    else:
        stored = torch.zeros(len(sizes) - 2, rows, width)
        y = triton_network.forward(*arguments, precision=rounding.forward, stored=stored)
        triton_network.backward_stored(
            *arguments, y, stored, want_input_grad=True, precision=rounding.backward
        )

compile_network([real_wavelet, wavelet], ((16, 2), (32, 32), (3, 32)), Rounding("tf32", "tf32"), rows=1)
compile_network([sine], ((16, 1), (1, 16)), Rounding("tf32", "tf32"), rows=1)
for rounding in (Rounding("tf32", "bfloat16"), Rounding("bfloat16", "tf32"), Rounding("float16", "float16")):
    for forms, first, width in (
        ([sine] * 3, 64, 64), ([real_wavelet, wavelet, wavelet], 32, 64),
        ([sine] * 3, 182, 182), ([sine] * 3, 256, 256), ([real_wavelet, wavelet, wavelet], 181, 362),
    ):
        if width not in {"tf32": (64, 182, 256, 362), "bfloat16": (256, 362), "float16": (64,)}[rounding.forward]:
            continue
        label = f"{forms[0].family}-{width}-{rounding.forward}-{rounding.backward}"
        compile_network(forms, ((first, 2), (width, width), (width, width), (3, width)), rounding)
"""
# What a block may have of a multiprocessor's shared memory on compute capability 8.6 and 8.9, the least of all.
SHARED_BYTES = 99 * 1024
# Bytes of registers that a thread may spill: what 256 threads do, 64 KB, the first-level cache holds.
SPILLED_BYTES = 256


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
def test_kernels_compile_to_machine_code_that_fits(capability: int, tmp_path: Path) -> None:
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
    print(process.stdout)
    compiled = [line.split() for line in process.stdout.splitlines()]
    names = [name for name, *_ in compiled]
    assert names[:8] == ["_activation_kernel"] * 4 + ["forward_kernel", "recomputing_kernel"] * 2
    assert set(names[8:]) == {"forward_kernel", "recomputing_kernel", "wide_forward_kernel", "wide_backward_kernel"}
    for name, label, shared, _registers, spilled in compiled:
        assert int(shared) <= SHARED_BYTES, f"{name} {label}"
        assert int(spilled) <= SPILLED_BYTES, f"{name} {label}"
        if name.startswith("wide"):
            assert int(spilled) <= 16, f"{name} {label}: wide networks are trained because they need not spill"
