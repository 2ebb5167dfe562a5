"""Fitting splats to pictures of the field that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from finer_nerfstudio.nerf.export.rasterizer import Rasterizer
from finer_nerfstudio.nerf.export.scene import Picture
from finer_nerfstudio.nerf.export.splats import Splats
from finer_nerfstudio.runs import metrics
from finer_nerfstudio.runs.progress import Stage

# As in 3D Gaussian Splatting, whose rates for positions are for scenes of about unit size.
_SSIM_SHARE = 0.2
_RATES = {"means": 1.6e-4, "rotations": 1e-3, "log_scales": 5e-3, "opacity_logits": 5e-2, "harmonics": 2.5e-3}
_LAST_RATE = 0.1
# Smaller pictures have no structural similarity.
_SSIM_WINDOW = 11


def refine(
    splats: Splats,
    pictures: Sequence[Picture],
    *,
    steps: int,
    extent: float,
    generator: torch.Generator,
    report: Stage,
    draw: Rasterizer,
) -> Splats:
    """Fit all parameters of splats to pictures, one picture a step, before backgrounds of random colours.

    Args:
        splats: to start from; their number stays.
        pictures: to fit, on the splats' device.
        steps: of Adam.
        extent: size of the scene, world units; steps of the positions are as large relative to it as in the original.
        generator: source of the order of pictures and of backgrounds, on the processor.
        report: progress callback.
        draw: what draws the splats.
    """
    parameters = {name: getattr(splats, name).clone().requires_grad_() for name in _RATES}
    rates = {**_RATES, "means": extent * _RATES["means"]}
    optimizer = torch.optim.Adam(
        [{"params": [value], "lr": rates[name]} for name, value in parameters.items()], eps=1e-15
    )
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, _LAST_RATE ** (1.0 / max(1, steps)))
    order: list[int] = []
    for step in range(steps):
        report("refining", step, steps)
        if not order:
            order = torch.randperm(len(pictures), generator=generator).tolist()
        picture = pictures[order.pop()]
        color, alpha = draw(replace(splats, **parameters), picture.view)
        background = torch.rand(3, generator=generator).to(color)
        shown, wanted = color + (1.0 - alpha[..., None]) * background, picture.over(background)
        loss = (1.0 - _SSIM_SHARE) * (shown - wanted).abs().mean()
        if min(wanted.shape[:2]) >= _SSIM_WINDOW:
            loss = loss + _SSIM_SHARE * (1.0 - metrics.ssim(shown, wanted))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    refined = replace(splats, **{name: value.detach() for name, value in parameters.items()})
    return replace(refined, normals=refined.normals_by_shape())
