"""Pictures of meshes with colours, by ray casting on the processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from finer_nerfstudio.files.meshes.mesh import Mesh
from finer_nerfstudio.nerf.data.views import View
from finer_nerfstudio.nerf.export.scene import Picture, rays_of
from finer_nerfstudio.runs.raycasting import as_open3d, scene_of

# Along each side of a pixel.
_RAYS_PER_SIDE = 2


class MeshRenderer:
    """Draws the colours of a mesh, without light, as the mean of four rays through each pixel.

    Args:
        mesh: with colours, world units.
        device: of the pictures.
    """

    def __init__(self, mesh: Mesh, device: torch.device) -> None:
        assert mesh.colors is not None
        self._device = device
        self._faces, self._colors = mesh.faces, mesh.colors
        self._triangles: Any = scene_of(mesh.vertices, mesh.faces)

    def picture(self, view: View) -> Picture:
        """Return a view of the mesh."""
        finer = view.resized(_RAYS_PER_SIDE * max(view.height, view.width))
        rays = rays_of(finer, torch.device("cpu"))
        hits = self._triangles.cast_rays(
            as_open3d(torch.cat([rays.origins, rays.directions], dim=-1).numpy(), np.float32)
        )
        hit = np.isfinite(hits["t_hit"].numpy())
        corners = self._faces[hits["primitive_ids"].numpy()[hit].astype(np.int64)]
        second, third = hits["primitive_uvs"].numpy()[hit].T
        weights = np.stack([1.0 - second - third, second, third], axis=-1)
        pixels = np.zeros((len(hit), 4), np.float32)
        pixels[hit, :3] = np.einsum("nk,nkc->nc", weights, self._colors[corners])
        pixels[hit, 3] = 1.0
        blocks = (view.height, _RAYS_PER_SIDE, view.width, _RAYS_PER_SIDE, 4)
        picture = torch.from_numpy(pixels).to(self._device).view(blocks).mean(dim=(1, 3))
        return Picture(view, picture[..., :3], picture[..., 3])
