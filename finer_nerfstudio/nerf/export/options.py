"""Options of exports."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finer_nerfstudio.errors import UsageError, argument

_HIGHEST_DEGREE = 3
_MOST_SPLATS = 10_000_000
_LARGEST_RESOLUTION = 512
# Points of a mesh's grid; of what surfaces cross, that is a gigabyte.
_FINEST_MESH = 1024


@dataclass(frozen=True)
class ExportOptions:
    """Options of everything that is exported."""

    view_size: int | None = None
    """Longer side in pixels of the pictures of the field that the result is measured on (and splats are fitted to);
    100 on a processor, 400 on CUDA unless given."""
    held_out: int = 8
    """Evaluation cameras to measure from, evenly spread; 0 for all."""

    def require_possible(self) -> None:
        """Refuse numbers out of range.

        Raises:
            UsageError: for the first one.
        """
        if self.view_size is not None and self.view_size < 1:
            raise UsageError(f"{argument('view_size')} must be at least 1, not {self.view_size}.")
        if self.held_out < 0:
            raise UsageError(f"{argument('held_out')} must not be negative, it is {self.held_out}.")


@dataclass(frozen=True)
class BakeOptions(ExportOptions):
    """Options that splats and grids share."""

    degree: int = 2
    """Of the colours' spherical harmonics, 0 (the same from everywhere) to 3."""
    seed: int = 0
    """Of everything random."""

    def require_possible(self) -> None:
        super().require_possible()
        if not 0 <= self.degree <= _HIGHEST_DEGREE:
            raise UsageError(f"{argument('degree')} must lie between 0 and {_HIGHEST_DEGREE}, it is {self.degree}.")


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


@dataclass(frozen=True)
class MeshOptions(ExportOptions):
    """How a mesh is made."""

    resolution: int = 256
    """Points of the grid along the longest side of the scene's box, of which triangles are a step in size."""
    region: float = 1.0
    """Of a scene without end, how many times the scene's box to take: 1 is the box, inf all that there is. Far away
    triangles are larger, as the field is coarser there."""
    density: float | None = None
    """Density at which the surface is taken to be, per unit of length of the field. Unless given, it is found from
    the views: that at which their rays have lost half of their light."""
    faces: int | None = None
    """Simplify to so many triangles."""

    def require_possible(self) -> None:
        super().require_possible()
        if not 8 <= self.resolution <= _FINEST_MESH:
            raise UsageError(f"{argument('resolution')} must lie between 8 and {_FINEST_MESH}, not {self.resolution}.")
        if not self.region >= 1.0:
            raise UsageError(f"{argument('region')} must be at least 1, it is {self.region:g}.")
        if self.density is not None and not 0.0 < self.density < math.inf:
            raise UsageError(f"{argument('density')} must be a positive number, it is {self.density:g}.")
        if self.faces is not None and self.faces < 4:
            raise UsageError(f"{argument('faces')} must be at least 4, not {self.faces}.")
