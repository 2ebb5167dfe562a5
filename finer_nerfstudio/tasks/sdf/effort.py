"""How much to spend on extracting and measuring a surface: as much as the training before it is worth."""

from __future__ import annotations

from dataclasses import dataclass

# Training on so many points, about a minute on two processor cores, is worth measuring in full.
_WORTH_ALL = 4_000_000
# The network may be asked for so many points in the extraction for each that it was trained on, which costs a
# sixth of the training or less, and for so many in any case.
_EXTRACTION_PER_POINT = 2
_FEWEST_POINTS = 500_000


@dataclass(frozen=True)
class Effort:
    """Bounds on what extracting and measuring cost.

    Attributes:
        resolution: grid points per axis of the extracted mesh.
        most_points: of the network in the extraction; a surface that needs more is extracted more coarsely. None for
            any number.
        iou_resolution: grid points per axis of the IoU.
        samples: random points of either surface for the Chamfer distance and the normals.
    """

    resolution: int = 256
    most_points: int | None = None
    iou_resolution: int = 128
    samples: int = 300_000


def effort_after(training_points: int, resolution: int | None = None) -> Effort:
    """Return the effort that a training on so many points is worth.

    Args:
        training_points: steps times points per step.
        resolution: the one that was asked for, which is measured in full.
    """
    full = Effort()
    if resolution is not None:
        return Effort(resolution)
    share = min(1.0, training_points / _WORTH_ALL)
    per_axis = share ** (1 / 3)
    return Effort(
        resolution=max(64, 8 * round(full.resolution * per_axis / 8)),
        most_points=max(_FEWEST_POINTS, _EXTRACTION_PER_POINT * training_points),
        iou_resolution=max(48, 8 * round(full.iou_resolution * per_axis / 8)),
        samples=max(20_000, round(full.samples * share)),
    )
