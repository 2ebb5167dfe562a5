"""From points on surfaces to the splats that a refinement starts from."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.nerf.export import harmonics
from finer_nerfstudio.nerf.export.splats import Splats
from finer_nerfstudio.nerf.export.surface import Appearance, SurfacePoints

# Standard deviations along the surface, in distances between neighbours, and across it, in those along it. With the
# opacity, tried on the demo scene and Lego: narrower ones leave holes, wider ones blur.
_WIDTH = 0.45
_FLATNESS = 0.2
_OPACITY = 0.9
# Views of a point see mostly one side of it: the unseen ones get about the mean colour.
_STIFFNESS = 0.02
# Less weight than that in all views together is none of the surface.
_LEAST_SEEN = 0.5


def splats_on(points: SurfacePoints, look: Appearance, *, degree: int) -> Splats:
    """Flat Gaussians on a surface, those points left out that no view sees.

    Args:
        points: of the surface.
        look: of these points.
        degree: of their colours' harmonics, 0 to 3.
    """
    kept = (look.weights.sum(dim=1) > _LEAST_SEEN).nonzero().squeeze(-1)
    points = points[kept]
    along = _WIDTH * points.spacing
    scales = torch.stack([along, along, _FLATNESS * along], dim=-1)
    opacity = (_OPACITY * look.alpha[kept]).clamp(0.02, 0.98)
    colors = harmonics.fit(
        look.directions[kept], look.colors[kept], look.weights[kept], degree=degree, stiffness=_STIFFNESS
    )
    return Splats(
        points.positions, points.normals, turned_to(points.normals), scales.log(), torch.logit(opacity), colors
    )


def turned_to(normals: Float[Tensor, "splats 3"]) -> Float[Tensor, "splats 4"]:
    """Unit quaternions w x y z of the shortest turns that bring the z axis onto ``normals``."""
    x, y, z = normals.unbind(-1)
    # Half-way between z axis and normal; opposite to the axis any half turn will do.
    quaternions = torch.stack([1.0 + z, -y, x, torch.zeros_like(x)], dim=-1)
    opposite = z < -1.0 + 1e-6
    quaternions[opposite] = quaternions.new_tensor([0.0, 1.0, 0.0, 0.0])
    return torch.nn.functional.normalize(quaternions, dim=-1)
