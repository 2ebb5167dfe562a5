"""Textures of ns-export have the field's colours on the surface."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from finer_nerfstudio.nerf.training.texturing import SurfaceColors


class Colors:
    """A field whose colour is the place, and in blue how far downwards one looks."""

    def hidden_features(self, positions: Tensor) -> Tensor:
        return positions

    def color(self, hidden: Tensor, directions: Tensor) -> Tensor:
        return torch.cat([hidden[..., :2], 0.5 - 0.5 * directions[..., 2:]], dim=-1)


def rays(**ends: Any) -> RayBundle:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(4, 5, 3, generator=generator)
    directions /= directions.norm(dim=-1, keepdim=True)
    return RayBundle(torch.rand(4, 5, 3, generator=generator), directions, torch.ones(4, 5, 1), **ends)


def model_that_renders(rendered: dict[str, Tensor]) -> Any:
    return SimpleNamespace(
        get_outputs_for_camera_ray_bundle=lambda bundle: rendered,
        scene=lambda: SimpleNamespace(field=Colors()),
        config=SimpleNamespace(eval_num_rays_per_chunk=7),
    )


def test_short_rays_have_the_color_of_their_middle() -> None:
    bundle = rays(nears=torch.full((4, 5, 1), 0.01), fars=torch.full((4, 5, 1), 0.03))
    found = SurfaceColors(cast(Any, model_that_renders({})))(bundle)
    surface = bundle.origins + 0.02 * bundle.directions
    torch.testing.assert_close(found["rgb"][..., :2], surface[..., :2])
    torch.testing.assert_close(found["rgb"][..., 2], 0.5 - 0.5 * bundle.directions[..., 2])
    assert bool((found["accumulation"] == 1).all())
    assert found["accumulation"].shape == (4, 5, 1)


def test_cameras_rays_are_rendered_as_ever() -> None:
    rendered = {"rgb": torch.rand(4, 5, 3)}
    assert SurfaceColors(cast(Any, model_that_renders(rendered)))(rays()) is rendered
