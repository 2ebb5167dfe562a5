"""A function without arguments or result, repeated on a GPU as a CUDA graph."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import torch

# Kernels are compiled and checked, and libraries set up, in the first calls; none of that may be captured.
_CALLS_BEFORE_CAPTURE = 3
_SWITCH = "FINER_CUDA_GRAPHS"


class NotCaptured(RuntimeError):
    """A function could not be captured, which leaves the GPU unusable for this process."""


def on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make a GPU the present one: streams, events and graphs belong to whichever that is."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class Repeated:
    """Calls a function; on a GPU, from the fourth call on, launches what it did then all at once.

    The function works on tensors that stay where they are, its shapes are the same each time, and it asks the GPU
    nothing. FINER_CUDA_GRAPHS=0 in the environment has it called each time.

    Args:
        function: what to repeat.
        device: where it computes.
        pool: handle of memory that several captured functions share, which never run at the same time.
    """

    def __init__(self, function: Callable[[], None], device: torch.device, pool: Any = None) -> None:
        self._function, self._device, self._pool = function, device, pool
        self._calls, self._may_capture = 0, os.environ.get(_SWITCH) != "0"
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def is_captured(self) -> bool:
        """Return whether calls launch a graph."""
        return self._graph is not None

    def __call__(self) -> None:
        """Do what the function does.

        Raises:
            NotCaptured: when the GPU refuses to capture it.
        """
        if self._device.type != "cuda" or not self._may_capture:
            self._function()
        elif self._calls < _CALLS_BEFORE_CAPTURE:
            self._calls += 1
            with on(self._device):
                self._function()
        else:
            with on(self._device):
                self._graph = self._graph or self._captured()
                self._graph.replay()

    def _captured(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            # Nothing is computed yet. What other threads ask of the GPU meanwhile, such as pictures, is theirs.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                self._function()
        except RuntimeError as error:
            reason = (str(error).splitlines() or ["no more is known"])[0]
            raise NotCaptured(
                f"a training step could not be captured as a graph on {self._device} ({reason}): set {_SWITCH}=0 to "
                "train without graphs"
            ) from error
        return graph
