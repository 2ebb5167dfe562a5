"""Where a signed distance field is looked at in training (spec of the FINER++ paper's SDF experiment)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.tasks.sdf.shape import Shape

COARSE_SCALE = 0.1
"""Laplace scale of the noise of even rows, in the unit frame."""
FINE_SCALE = 0.001
"""Laplace scale of the noise of odd rows."""


class SurfaceSampler:
    """Draws points of a surface quickly, again and again.

    Args:
        shape: the surface.
    """

    def __init__(self, shape: Shape) -> None:
        vertices = torch.from_numpy(np.array(shape.vertices, np.float64))
        self._cloud = shape.is_cloud
        if self._cloud:
            assert shape.normals is not None
            self._points = vertices
            self._normals = torch.from_numpy(np.array(shape.normals, np.float64))
            return
        self._corners = vertices[torch.from_numpy(np.array(shape.faces))]
        first, second, third = self._corners.unbind(dim=1)
        cross = torch.linalg.cross(second - first, third - first)
        doubled = cross.norm(dim=1)
        self._normals = cross / doubled.clamp_min(1e-300)[:, None]
        self._cumulative = doubled.cumsum(0)

    def points_and_normals(
        self, count: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "count 3"], Float[Tensor, "count 3"]]:
        """Random points and the normals there, float32."""
        if self._cloud:
            chosen = torch.randint(len(self._points), (count,), generator=generator)
            return self._points[chosen].float(), self._normals[chosen].float()
        draws = torch.rand(count, 3, dtype=torch.float64, generator=generator)
        chosen = torch.searchsorted(self._cumulative, draws[:, 0] * self._cumulative[-1])
        chosen = chosen.clamp_max(len(self._cumulative) - 1)
        # Uniform in a triangle (Osada et al. 2002, eq. 1).
        root = draws[:, 1].sqrt()
        weights = torch.stack([1.0 - root, root * (1.0 - draws[:, 2]), root * draws[:, 2]], dim=1)
        return (weights[:, :, None] * self._corners[chosen]).sum(1).float(), self._normals[chosen].float()


def training_points(surface: Float[Tensor, "n 3"], generator: torch.Generator) -> Float[Tensor, "n 3"]:
    """Move surface points away from the surface: even rows far (coarse), odd rows a little (fine).

    Laplace noise on every coordinate; what leaves [-0.5, 0.5] comes back in on the other side.

    Args:
        surface: points in the unit frame.
        generator: source of randomness.
    """
    uniform = torch.rand(surface.shape, dtype=torch.float64, generator=generator) - 0.5
    # The inverse of the Laplace distribution's cumulative function; rand is below 1, but it may be 0.
    noise = -uniform.sign() * torch.log1p(-2.0 * uniform.abs().clamp_max(0.5 - 1e-16))
    noise[0::2] *= COARSE_SCALE
    noise[1::2] *= FINE_SCALE
    moved = surface.double() + noise
    return (moved - torch.floor(moved + 0.5)).float()
