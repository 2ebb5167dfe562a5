"""Pictures of Gaussian splats by gsplat's CUDA kernels, where they work."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.nerf.data.views import View
from finer_nerfstudio.nerf.export.rasterizer import NEAR, Rasterizer, rasterize, world_to_camera
from finer_nerfstudio.nerf.export.splats import Splats


def rasterize_with_gsplat(
    splats: Splats, view: View
) -> tuple[Float[Tensor, "height width 3"], Float[Tensor, "height width"]]:
    """As :func:`finer_nerfstudio.nerf.export.rasterizer.rasterize`, for splats on a CUDA device."""
    from gsplat import rasterization

    to_camera, _ = world_to_camera(view, splats.means)
    matrix = torch.eye(4).to(to_camera)
    matrix[:3] = to_camera
    (fx, fy), (cx, cy) = view.focal, view.center
    intrinsics = to_camera.new_tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    color, alpha, _ = rasterization(
        splats.means,
        splats.rotations,
        splats.log_scales.exp(),
        torch.sigmoid(splats.opacity_logits),
        splats.harmonics,
        matrix[None],
        intrinsics[None],
        view.width,
        view.height,
        near_plane=NEAR,
        sh_degree=splats.degree,
        packed=False,
        rasterize_mode="antialiased",
    )
    return color[0], alpha[0, ..., 0]


def rasterizer_for(splats: Splats) -> tuple[Rasterizer, str]:
    """The fastest way to draw splats where they are, and its name or the reason why it is no other."""
    if splats.means.device.type != "cuda":
        return rasterize, "PyTorch, since gsplat's kernels need CUDA"
    probe = View(16, 16, (16.0, 16.0), (8.0, 8.0), (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    try:
        rasterize_with_gsplat(splats, probe)
    # It compiles its kernels when they are first used, which fails in many ways: no compiler, another CUDA, no disk.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return rasterize, f"PyTorch, since gsplat's kernels do not work here ({reason})"
    return rasterize_with_gsplat, "gsplat"
