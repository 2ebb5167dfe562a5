"""Gaussian splats in the parameters of 3D Gaussian Splatting (Kerbl et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.nerf.export import harmonics


@dataclass
class Splats:
    """Gaussians.

    Attributes:
        means: ``[splats, 3]`` world units.
        normals: ``[splats, 3]`` unit vectors out of the surface, zeros where unknown.
        rotations: ``[splats, 4]`` quaternions w x y z, of any length but zero; the columns of their matrices are the
            Gaussians' axes.
        log_scales: ``[splats, 3]`` logarithms of the standard deviations along these axes, world units.
        opacity_logits: ``[splats]``.
        harmonics: ``[splats, terms, 3]`` colours, see :mod:`finer_nerfstudio.nerf.export.harmonics`.
    """

    means: Float[Tensor, "splats 3"]
    normals: Float[Tensor, "splats 3"]
    rotations: Float[Tensor, "splats 4"]
    log_scales: Float[Tensor, "splats 3"]
    opacity_logits: Float[Tensor, " splats"]
    harmonics: Float[Tensor, "splats terms 3"]

    def __len__(self) -> int:
        return len(self.means)

    @property
    def degree(self) -> int:
        """Of the harmonics."""
        return harmonics.degree_of(self.harmonics.shape[1])

    def covariances(self) -> Float[Tensor, "splats 3 3"]:
        """Second moments, world units squared."""
        axes = rotation_matrices(self.rotations) * self.log_scales.exp()[:, None, :]
        return axes @ axes.mT

    def normals_by_shape(self) -> Float[Tensor, "splats 3"]:
        """The axes along which the Gaussians are thinnest, on the side of the normals so far."""
        thinnest = self.log_scales.argmin(dim=1)
        axes = rotation_matrices(self.rotations).mT[torch.arange(len(self), device=self.means.device), thinnest]
        return torch.where((axes * self.normals).sum(dim=-1, keepdim=True) < 0, -axes, axes)

    def to(self, device: torch.device | str) -> Splats:
        return Splats(*(getattr(self, field.name).to(device) for field in fields(self)))


def rotation_matrices(quaternions: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotations of quaternions w x y z of any length."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)
