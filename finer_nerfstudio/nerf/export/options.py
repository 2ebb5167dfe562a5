"""Options of baking."""

from __future__ import annotations

from dataclasses import dataclass

from finer_nerfstudio.errors import UsageError, argument

_HIGHEST_DEGREE = 3
_MOST_SPLATS = 10_000_000
_LARGEST_RESOLUTION = 512


@dataclass(frozen=True)
class BakeOptions:
    """Options that splats and grids share."""

    degree: int = 2
    """Of the colours' spherical harmonics, 0 (the same from everywhere) to 3."""
    view_size: int | None = None
    """Longer side in pixels of the pictures of the field that the result is measured on (and splats are fitted to);
    100 on a processor, 400 on CUDA unless given."""
    held_out: int = 8
    """Evaluation cameras to measure from, evenly spread; 0 for all."""
    seed: int = 0
    """Of everything random."""

    def require_possible(self) -> None:
        """Refuse numbers out of range.

        Raises:
            UsageError: for the first one.
        """
        if not 0 <= self.degree <= _HIGHEST_DEGREE:
            raise UsageError(f"{argument('degree')} must lie between 0 and {_HIGHEST_DEGREE}, it is {self.degree}.")
        if self.view_size is not None and self.view_size < 1:
            raise UsageError(f"{argument('view_size')} must be at least 1, not {self.view_size}.")
        if self.held_out < 0:
            raise UsageError(f"{argument('held_out')} must not be negative, it is {self.held_out}.")


@dataclass(frozen=True)
class SplatOptions(BakeOptions):
    """How splats are made."""

    splats: int | None = None
    """Splats at most: more show finer detail. 20,000 on a processor, 100,000 on CUDA unless given."""
    refine_steps: int | None = None
    """Steps of fitting all splats to pictures of the field; 300 on a processor, 5,000 on CUDA unless given, 0 for
    none."""

    def require_possible(self) -> None:
        super().require_possible()
        if self.splats is not None and not 1 <= self.splats <= _MOST_SPLATS:
            raise UsageError(f"{argument('splats')} must lie between 1 and {_MOST_SPLATS:,}, not {self.splats}.")
        if self.refine_steps is not None and self.refine_steps < 0:
            raise UsageError(f"{argument('refine_steps')} must not be negative, it is {self.refine_steps}.")


@dataclass(frozen=True)
class GridOptions(BakeOptions):
    """How a grid is made."""

    resolution: int = 128
    """Voxels along each axis of the scene's box."""

    def require_possible(self) -> None:
        super().require_possible()
        if not 2 <= self.resolution <= _LARGEST_RESOLUTION:
            raise UsageError(
                f"{argument('resolution')} must lie between 2 and {_LARGEST_RESOLUTION}, not {self.resolution}."
            )
