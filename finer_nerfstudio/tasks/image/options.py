"""Options of a fit to an image; nothing here needs PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from finer_nerfstudio.runs.options import BatchSize, SignalOptions


@dataclass(frozen=True)
class ImageOptions(SignalOptions):
    """How to fit an image."""

    batch_size: BatchSize = "full"
    """Pixels per step: full (all of them, as in the paper), auto (all up to 512x512, that many random ones of larger
    images), or a number. Memory is bounded in any case."""
