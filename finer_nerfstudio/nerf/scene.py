"""A field that can be looked at: what evaluation, baking and decoded streams render."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from finer_nerfstudio.nerf.field import FinerField
from finer_nerfstudio.nerf.sampling.sampler import Sampler


@dataclass(frozen=True)
class Scene:
    """A field, and what there is to know about looking at it.

    Attributes:
        field: what to look at.
        sampler: says where it may hold matter.
        near_plane: nothing nearer to a camera is sampled, world units.
        weight_threshold: samples of less rendering weight have no colour.
    """

    field: FinerField
    sampler: Sampler
    near_plane: float
    weight_threshold: float

    @property
    def device(self) -> torch.device:
        """Where the field is."""
        return self.field.aabb.device
