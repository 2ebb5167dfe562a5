"""Large memory of training steps, used again by the next one.

The C library asks the system for every tensor of many megabytes and gives it back when it is freed. The system clears
each page before it hands it out: for pre-activations of a large batch, a quarter of the time of a forward pass.
"""

from __future__ import annotations

import ctypes
import threading
import weakref

import torch
from torch import Tensor

# Bytes from which the C library asks the system each time (runs/processor.py).
_LARGE = 1 << 24
# A block serves for less than it holds down to this share, and so many blocks are kept that nobody uses.
_USED_AT_LEAST = 0.5
_MOST_KEPT = 4

_lock = threading.RLock()  # a finalizer may run while this thread holds it
_free: list[Tensor] = []


def empty_rows(like: Tensor, *shape: int) -> Tensor:
    """Return memory of a shape, uninitialised, of the type and on the device of a tensor.

    On processors, large memory comes back here as soon as no tensor uses it any more.

    Args:
        like: gives type and device.
        *shape: of the memory.
    """
    count = torch.Size(shape).numel()
    if like.device.type != "cpu" or like.dtype != torch.float32 or 4 * count < _LARGE:
        return like.new_empty(shape)
    block = _taken(count)
    # The tensor keeps this alive, and nothing else does.
    owner = (ctypes.c_float * count).from_address(block.data_ptr())
    weakref.finalize(owner, _give_back, block).atexit = False
    return torch.frombuffer(owner, dtype=torch.float32).view(shape)


def release() -> None:
    """Give memory that nobody uses back to the system."""
    with _lock:
        _free.clear()


def _taken(count: int) -> Tensor:
    with _lock:
        fitting = [block for block in _free if _USED_AT_LEAST * block.numel() <= count <= block.numel()]
        if not fitting:
            _free.clear()  # another size is at work now
            return torch.empty(count)
        chosen = min(fitting, key=Tensor.numel)
        _free[:] = [block for block in _free if block is not chosen]
        return chosen


def _give_back(block: Tensor) -> None:
    with _lock:
        _free.append(block)
        del _free[:-_MOST_KEPT]
