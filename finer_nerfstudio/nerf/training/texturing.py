"""Textures of ns-export: the colour of the field on the surface, where a mesh is given one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from finer_nerfstudio.nerf.model import FinerModel


class SurfaceColors:
    """Stands for a model's rendering of camera rays, and looks at surfaces where a mesh is textured.

    Nerfstudio's exporters render a ray through every pixel of a texture, about as long as two triangles, which ends as
    far behind the surface as it began before it. Most of them are nearer than this package's near plane and shorter
    than a step: they would be black. Of these rays, which alone have an end, the middle is looked at.

    Args:
        model: to look into.
    """

    def __init__(self, model: FinerModel) -> None:
        self._model = model
        self._render: Callable[[RayBundle], dict[str, Tensor]] = model.get_outputs_for_camera_ray_bundle

    @torch.no_grad()
    def __call__(self, camera_ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Return outputs ``[height, width, *]``: "rgb" and "accumulation" for rays that have an end."""
        rays = camera_ray_bundle
        if rays.nears is None or rays.fars is None:
            return self._render(rays)
        field, at_once = self._model.scene().field, self._model.config.eval_num_rays_per_chunk
        places = (rays.origins + rays.directions * 0.5 * (rays.nears + rays.fars)).view(-1, 3)
        directions = torch.nn.functional.normalize(rays.directions, dim=-1).view(-1, 3)
        colors = [
            field.color(field.hidden_features(place), direction)
            for place, direction in zip(places.split(at_once), directions.split(at_once), strict=True)
        ]
        rgb = torch.cat(colors).view(rays.origins.shape)
        return {"rgb": rgb, "accumulation": torch.ones_like(rgb[..., :1])}
