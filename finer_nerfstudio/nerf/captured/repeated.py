"""A function without arguments or result, repeated on a GPU as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# Kernels are compiled and checked, and libraries set up, in the first calls; none of that may be captured.
_CALLS_BEFORE_CAPTURE = 3


class Repeated:
    """Calls a function; on a GPU, from the fourth call on, launches what it did then all at once.

    The function works on tensors that stay where they are, its shapes are the same each time, and it asks the GPU
    nothing.

    Args:
        function: what to repeat.
        device: where it computes.
        pool: handle of memory that several captured functions share, which never run at the same time.
    """

    def __init__(self, function: Callable[[], None], device: torch.device, pool: Any = None) -> None:
        self._function, self._device, self._pool = function, device, pool
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def is_captured(self) -> bool:
        """Return whether calls launch a graph."""
        return self._graph is not None

    def __call__(self) -> None:
        if self._device.type != "cuda":
            self._function()
        elif self._calls < _CALLS_BEFORE_CAPTURE:
            self._calls += 1
            self._function()
        else:
            if self._graph is None:
                self._graph = torch.cuda.CUDAGraph()
                # Captured, nothing is computed yet.
                with torch.cuda.graph(self._graph, pool=self._pool):
                    self._function()
            self._graph.replay()
