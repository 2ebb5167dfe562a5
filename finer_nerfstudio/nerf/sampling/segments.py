"""Pieces of rays at which a field is evaluated, one after the other for all rays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Segments(Protocol):
    """What compositing needs of pieces of rays, flat, ordered by ray and then by distance."""

    @property
    def ray_indices(self) -> Int[Tensor, " samples"]:
        """Return the ray of each segment."""
        ...

    @property
    def distances(self) -> Float[Tensor, " samples"]:
        """Return the distance of the middle of each from its ray's origin, world units."""
        ...

    @property
    def lengths(self) -> Float[Tensor, " samples"]:
        """Return the length of each, world units; 0 for padding."""
        ...

    @property
    def counts(self) -> Int[Tensor, " rays"]:
        """Return the number of segments of each ray."""
        ...

    @property
    def num_rays(self) -> int:
        """Return the number of rays."""
        ...


@dataclass
class RaySegments:
    """Occupied pieces of rays, flat, ordered by ray and then by distance.

    Attributes:
        ray_indices: ``[samples]`` the ray of each segment.
        slots: ``[samples]`` its place among the segments of its ray, from 0.
        distances: ``[samples]`` distance of its middle from the ray's origin, world units.
        lengths: ``[samples]`` its length, world units; of a scene without end contracted outside the box.
        counts: ``[rays]`` number of segments of each ray.
        candidates: ``[rays]`` number of steps of each ray through the box, occupied or not.
    """

    ray_indices: Int[Tensor, " samples"]
    slots: Int[Tensor, " samples"]
    distances: Float[Tensor, " samples"]
    lengths: Float[Tensor, " samples"]
    counts: Int[Tensor, " rays"]
    candidates: Int[Tensor, " rays"]

    @property
    def num_rays(self) -> int:
        return self.counts.shape[0]

    def only(self, chosen: Int[Tensor, " chosen"]) -> RaySegments:
        """Return the segments of these indices, which ascend, of the same rays."""
        rays = self.ray_indices[chosen]
        return RaySegments(
            rays,
            self.slots[chosen],
            self.distances[chosen],
            self.lengths[chosen],
            torch.bincount(rays, minlength=self.num_rays),
            self.candidates,
        )

    @property
    def num_slots(self) -> int:
        """The largest number of segments on one ray, at least 1."""
        return max(1, int(self.counts.max())) if self.num_rays else 1
