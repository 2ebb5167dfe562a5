"""Settings of processors and their threads, made once before anything is computed."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.inr.kernels import building, compiled


def prepare_processor() -> None:
    """Flush denormals to zero, have threads that wait give their core away, memory kept from step to step, and kernels
    built that are not there.

    Raises:
        UsageError: where FINER_VECTORS in the environment names no vectors of this processor.
    """
    try:
        building.require_known_vectors()
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    # NumPy looks at the smallest numbers when it is first asked about a type, and would warn that there are none.
    np.finfo(np.float32)
    np.finfo(np.float64)
    flush_denormals()
    stop_busy_waiting()
    keep_freed_memory()
    if compiled.build_in_background():
        print("note: kernels for this processor are built in the background, once.", file=sys.stderr, flush=True)


def flush_denormals() -> None:
    """Flush denormals to zero in this thread, and in all that compute for it, whatever they have computed before.

    A thread inherits the setting when it starts. Those of the pool that PyTorch's and our own kernels share may have
    started before, so each is told by itself. The pool belongs to the thread of Python that calls this: others that
    have computed already call it themselves.
    """
    torch.set_flush_denormal(True)
    libraries = Path(torch.__file__).parent / "lib"
    with suppress(OSError, AttributeError):  # where OpenMP is not GNU's or speaks its language, as on macOS
        # Looked up through PyTorch, which may bring an OpenMP of its own.
        run_in_pool = ctypes.CDLL(str(libraries / "libtorch_cpu.so")).GOMP_parallel
        run_in_pool.argtypes = [_InPool, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        run_in_pool.restype = None
        run_in_pool(_flush_in_this_thread, None, torch.get_num_threads(), 0)


_InPool = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@_InPool
def _flush_in_this_thread(_: int | None) -> None:
    torch.set_flush_denormal(True)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for what is allocated next, for the whole process.

    Tensors of a training step have some megabytes. GNU's library returns such memory to the system and asks for it
    again a moment later; the system then clears every page of it, for a sixth of the time of a step. Does nothing on
    systems with another library, and where the environment says how memory is kept.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, limit in _KEPT.items():
        mallopt(option, limit)


# Numbers of mallopt's options (malloc.h) and bytes: M_MMAP_THRESHOLD, from which memory is the system's own, and
# M_TRIM_THRESHOLD, from which it is given back. Twice as much is no faster, and takes more memory.
_KEPT = {-3: 1 << 24, -1: 1 << 27}


def stop_busy_waiting() -> None:
    """Have the threads of parallel operations sleep soon after they have nothing to do, for the whole process.

    GNU's OpenMP, which PyTorch uses on Linux, has a thread that waits for the others spin for some milliseconds, longer
    than a training step. Beside any other program that keeps a thread from its core, and all cores wait with it.
    ``OMP_WAIT_POLICY`` changes that, but is read when PyTorch is imported, before anything of ours. The runtime also
    spins a thousandth as long while it manages more threads than there are cores; threads that never get any work
    make that true. Does nothing where the environment names a policy, or where one thread computes.
    """
    if _HELD or "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return
    per_pool = torch.get_num_threads() - 1
    if per_pool < 1:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Each Python thread that computes in parallel has a pool of its own: as many as outnumber the cores by themselves.
    for _ in range(cores // per_pool):
        opened = threading.Event()
        threading.Thread(target=_hold_pool, args=(opened,), daemon=True).start()
        opened.wait()
    _HELD.append(per_pool)


# Sizes of the pools held: not empty once the setting is made, which counts for the whole process.
_HELD: list[int] = []


def _hold_pool(opened: threading.Event) -> None:
    torch.zeros(1 << 20).add_(1.0)  # long enough to be shared between threads
    opened.set()
    threading.Event().wait()
