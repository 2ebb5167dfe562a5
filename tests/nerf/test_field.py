"""The radiance field's networks in half precision."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from finer_nerfstudio import METHODS
from finer_nerfstudio.nerf.field import FinerFieldConfig

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


@pytest.mark.parametrize("encoding", ["raw", "spherical-harmonics"])
@pytest.mark.parametrize("method", METHODS)
def test_a_half_precision_step_is_close_to_a_float32_one(
    method: str, encoding: Literal["raw", "spherical-harmonics"]
) -> None:
    """By the autocast that --mixed-precision asks for, which Nerfstudio itself switches off on a CPU."""
    config = FinerFieldConfig(method=method, width=32, direction_encoding=encoding)
    field = config.setup(aabb=BOX, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    positions = torch.rand(512, 3, generator=generator) * 2 - 1
    directions = F.normalize(torch.randn(512, 3, generator=generator), dim=-1)

    def step(half: bool) -> tuple[Tensor, Tensor, Tensor]:
        field.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            hidden = field.hidden_features(positions)
            assert hidden.dtype == torch.float32  # phases would drown in half precision
            density, color = field.density(hidden), field.color(hidden, directions)
            loss = density.square().mean() + (color - 0.3).square().mean()
        loss.backward()
        gradients = [parameter.grad for parameter in field.parameters()]
        assert all(gradient is not None for gradient in gradients)
        return density.detach(), color.detach(), torch.cat([g.flatten() for g in gradients if g is not None])

    density, color, gradient = step(half=True)
    expected_density, expected_color, expected_gradient = step(half=False)
    assert density.dtype == color.dtype == torch.float32, "rendering adds up many small numbers"
    assert torch.isfinite(gradient).all()
    # A bfloat16 number has 8 significant bits.
    assert float((density / expected_density - 1.0).abs().mean()) < 0.02
    # Without an inner sine to bound them, pre-activations of these two reach a colour network whose bumps are as narrow
    # as the rounding; the other methods are close.
    if method not in ("gauss", "wire"):
        assert float((color - expected_color).abs().max()) < 2e-3
        assert float(F.cosine_similarity(gradient, expected_gradient, dim=0)) > 0.999
