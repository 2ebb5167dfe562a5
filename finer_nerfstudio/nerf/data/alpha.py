"""Pictures with straight alpha over a background."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def over(image: Float[Tensor, "*batch channels"], background: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Straight-alpha RGBA over ``background``; RGB is returned as it is. Values in [0, 1]."""
    if image.shape[-1] == 3:
        return image
    rgb, alpha = image[..., :3], image[..., 3:]
    return rgb * alpha + background * (1.0 - alpha)


def over_white(image: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch 3"]:
    """Straight-alpha RGBA over white."""
    return over(image, torch.ones_like(image[..., :3]))
