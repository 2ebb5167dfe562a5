"""All of space in a box, for photographs whose surroundings have no end (Barron et al. 2022, mip-NeRF 360, §2).

Positions are in units of the scene's box, [-1, 1]^3, which keeps its shape; what lies outside is squeezed around it,
ever stronger with distance. Distances along rays have a contraction of their own, so that equal steps in it become
longer the farther they are.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Reciprocal of the largest coordinate that expand() gives: the faces of the contracted box lie at infinity.
_NEAREST_TO_INFINITY = 1e-6
_SKY_IN_REACHES = 1000.0


def contract(positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """All of space to (-1, 1)^3: the box [-1, 1]^3 becomes [-0.5, 0.5]^3, and infinity the faces.

    This is half of Nerfstudio's ``SceneContraction`` by the largest coordinate, with a finite gradient at the origin.
    """
    largest = positions.abs().amax(dim=-1, keepdim=True).clamp(min=1.0)
    return positions * ((1.0 - 0.5 / largest) / largest)


def shrinkage(positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """Return the contraction of lengths that point away from the box over that inside it, in (0, 1]."""
    return positions.abs().amax(dim=-1).clamp(min=1.0).reciprocal().square()


def expand(contracted: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """The inverse of :func:`contract`, up to 1e6; the faces of the contracted box go there."""
    doubled = 2.0 * contracted
    largest = doubled.abs().amax(dim=-1, keepdim=True).clamp(min=1.0)
    return doubled / (largest * (2.0 - largest).clamp(min=_NEAREST_TO_INFINITY))


def far_away(reach: float) -> float:
    """Distance of the sky; its neighbours in contracted space are the same from wherever in the box one looks."""
    return _SKY_IN_REACHES * reach


def progress_at(distances: Float[Tensor, "*batch"] | float, reach: float) -> Float[Tensor, "*batch"]:
    """Distances [0, inf) to [0, 2): in proportion as far as ``reach``, which becomes 1, by their reciprocals beyond."""
    distances = torch.as_tensor(distances)
    return torch.where(distances <= reach, distances / reach, 2.0 - reach / distances.clamp(min=reach))


def distance_at(progress: Float[Tensor, "*batch"], reach: float) -> Float[Tensor, "*batch"]:
    """The inverse of :func:`progress_at`; 2 becomes infinity."""
    return torch.where(progress <= 1.0, reach * progress, reach / (2.0 - progress.clamp(min=1.0)))
