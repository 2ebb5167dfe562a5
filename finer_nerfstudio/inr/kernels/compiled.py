"""Activations on processors, from ``activations.cpp``, which the machine's own C++ compiler translates once.

A compiler that knows the processor makes vector instructions out of an activation, its derivative and its bias in one
pass; a chain of PyTorch operations goes to memory and back for each. A family's library takes a second to build, is
kept in the user's cache folder, and knows nothing of Python or PyTorch, so that no header or version has to match.
Without a compiler everything still runs, by the tensor functions of ``plain.py``: :func:`unavailable_because` says why.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from finer_nerfstudio.inr.kernels.plain import ElementwiseMap

_SOURCE = Path(__file__).with_name("activations.cpp")
_FAMILIES = {"relu": 0, "sine": 1, "gauss": 2, "wavelet": 3}
# Flags that change no value: no errno, no floating-point exceptions that anybody would look at. Not -ffast-math, which
# would lose NaN and, in older compilers, switch denormal numbers off for the whole process.
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC", "-shared")


def unavailable_because(family: str) -> str | None:
    """One line on why the kernels of a family cannot be used, or None if they can; builds them if need be."""
    library = _build(family)
    return library if isinstance(library, str) else None


def supports(x: Tensor, activation: ElementwiseMap) -> bool:
    """Whether pre-activations like ``x`` and this activation can be computed here; builds the kernels if need be."""
    form = activation.kernel_form()
    return (
        form is not None and x.device.type == "cpu" and x.dtype == torch.float32 and _library(form.family) is not None
    )


def forward(x: Tensor, bias: Tensor, activation: ElementwiseMap, out: Tensor) -> None:
    """As :meth:`finer_nerfstudio.inr.kernels.layers.ActivationKernel.forward`."""
    _call(activation, x, bias, None, out, None, None)


def backward(
    x: Tensor, bias: Tensor, grad: Tensor, activation: ElementwiseMap, value: Tensor, dx: Tensor, sums: Tensor
) -> None:
    """As :meth:`finer_nerfstudio.inr.kernels.layers.ActivationKernel.backward`."""
    _call(activation, x, bias, grad, value, dx, sums)


def _call(
    activation: ElementwiseMap,
    x: Tensor,
    bias: Tensor,
    grad: Tensor | None,
    z: Tensor,
    dx: Tensor | None,
    sums: Tensor | None,
) -> None:
    form = activation.kernel_form()
    assert form is not None
    library = _library(form.family)
    assert library is not None
    library.finer_activate(
        int(form.real_input),
        int(form.variable),
        form.omega,
        form.s,
        form.omega_f,
        2.0 if form.scale_gradient else 1.0,
        x.data_ptr(),
        bias.data_ptr(),
        None if grad is None else grad.data_ptr(),
        z.data_ptr(),
        None if dx is None else dx.data_ptr(),
        None if sums is None else sums.data_ptr(),
        x.shape[0],
        x.shape[1],
        torch.get_num_threads(),
    )


def _library(family: str) -> ctypes.CDLL | None:
    library = _build(family)
    return None if isinstance(library, str) else library


@functools.cache
def _build(family: str) -> ctypes.CDLL | str:
    """A family's library, or a line that says why there is none."""
    if os.environ.get("FINER_COMPILED_KERNELS") == "0":
        return "FINER_COMPILED_KERNELS=0 switches them off"
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        return "there is no C++ compiler (g++ or clang++); set CXX to name one"
    try:
        try:
            return _load(_compiled(compiler, family))
        except OSError:
            return _load(_compiled(compiler, family, anew=True))
    except subprocess.CalledProcessError as error:
        first = (error.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[0]
        return f"{compiler} cannot translate them: {first}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"they cannot be built or loaded: {error}"


def _compiled(compiler: str, family: str, *, anew: bool = False) -> Path:
    flags = [*_FLAGS, "-march=native", f"-DFINER_FAMILY={_FAMILIES[family]}"]
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append("-mprefer-vector-width=512")
    # macOS has no OpenMP of its own; there, one thread computes.
    if platform.system() == "Linux":
        flags.append("-fopenmp")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    key = hashlib.sha256(b"\0".join([_SOURCE.read_bytes(), version, " ".join(flags).encode(), _processor()]))
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finer_nerfstudio" / "kernels"
    library = folder / f"{family}-{key.hexdigest()[:16]}.so"
    if library.exists() and not anew:
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=folder, suffix=".so")
    except OSError:
        # A home folder that cannot be written: the library then lives as long as the process.
        folder = Path(_temporary_folder().name)
        library = folder / library.name
        handle, unfinished = tempfile.mkstemp(dir=folder, suffix=".so")
    os.close(handle)
    try:
        command = [compiler, *flags, "-o", unfinished, str(_SOURCE)]
        subprocess.run(command, capture_output=True, check=True, timeout=300)
        os.replace(unfinished, library)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    return library


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="finer_nerfstudio-")


def _processor() -> bytes:
    """What tells processors apart that share a home folder: instructions of one may be unknown to another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(
            sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
        ).encode()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}".encode()


def _load(path: Path) -> ctypes.CDLL:
    # After torch, so that both share one OpenMP runtime and its threads.
    library = ctypes.CDLL(str(path))
    pointer, number, whole = ctypes.c_void_p, ctypes.c_float, ctypes.c_int
    library.finer_activate.argtypes = [
        *(whole, whole),
        *(number, number, number, number),
        *(pointer, pointer, pointer, pointer, pointer, pointer),
        *(ctypes.c_int64, ctypes.c_int64, whole),
    ]
    library.finer_activate.restype = None
    return library
