"""Options of a fit to a shape; nothing here needs PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from finer_nerfstudio.runs.options import SignalOptions


@dataclass(frozen=True)
class ShapeOptions(SignalOptions):
    """How to fit a shape."""

    batch_size: int | None = None
    """Points per step, half of them close to the surface; 10,000 unless given, but 3,000 with --minutes, because a
    short run gains more from more steps."""
