"""A function without arguments or result, repeated on a GPU as a CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

# Kernels are compiled and checked, and libraries set up, in the first calls; none of that may be captured.
_CALLS_BEFORE_CAPTURE = 3


class Repeated:
    """Calls a function; on a GPU, from the fourth call on, launches what it did then all at once.

    The function works on tensors that stay where they are, its shapes are the same each time, and it asks the GPU
    nothing. Where it cannot be captured, it goes on being called, and a warning says why.

    Args:
        function: what to repeat.
        device: where it computes.
        pool: handle of memory that several captured functions share, which never run at the same time.
    """

    def __init__(self, function: Callable[[], None], device: torch.device, pool: Any = None) -> None:
        self._function, self._device, self._pool = function, device, pool
        self._calls, self._may_capture = 0, True
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
            if self._graph is None and self._may_capture:
                self._capture()
            if self._graph is None:
                self._function()
            else:
                self._graph.replay()

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Nothing is computed yet. What other threads ask of the GPU meanwhile, such as pictures, is theirs.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                self._function()
            self._graph = graph
        except RuntimeError as error:
            self._may_capture = False
            reason = (str(error).splitlines() or ["no more is known"])[0]
            warnings.warn(f"Steps are not captured as graphs on {self._device}: {reason}.", stacklevel=2)
