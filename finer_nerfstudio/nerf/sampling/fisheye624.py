"""The lens of Project Aria's glasses, Nerfstudio's FISHEYE624: radial, tangential and thin-prism distortion.

Numbers of a lens are k0 to k5, p0, p1 and s0 to s3, as in Project Aria's documentation ("Camera Intrinsic Models").
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Newton's method doubles the digits in each; the first ones may go astray.
_ITERATIONS = 20


def project(directions: Float[Tensor, "*batch 3"], distortion: Float[Tensor, "*batch 12"]) -> Float[Tensor, "*batch 2"]:
    """Return where a lens puts directions, in focal lengths from the principal point, x right and y down.

    Args:
        directions: x right, y down, z along the axis; of any length.
        distortion: numbers of the lens.
    """
    across = directions[..., :2].norm(dim=-1, keepdim=True)
    angle = torch.atan2(across, directions[..., 2:])
    bent = angle * _polynomial(angle, distortion, derivative=False)
    unit = directions[..., :2] / across.clamp(min=torch.finfo(across.dtype).tiny)
    return _with_prism(bent * unit, distortion)


def unproject(points: Float[Tensor, "*batch 2"], distortion: Float[Tensor, "*batch 12"]) -> Float[Tensor, "*batch 3"]:
    """Return unit directions that a lens puts at points: the inverse of :func:`project`.

    Args:
        points: in focal lengths from the principal point, x right and y down.
        distortion: numbers of the lens.
    """
    p0, p1, s0, s1, s2, s3 = distortion[..., 6:].unbind(dim=-1)
    radial = points.clone()
    for _ in range(_ITERATIONS):
        x, y = radial.unbind(dim=-1)
        square = x * x + y * y
        along, beside = 2 * (s0 + 2 * s1 * square), 2 * (s2 + 2 * s3 * square)
        xx, xy = 1 + 6 * x * p0 + 2 * y * p1 + x * along, 2 * (y * p0 + x * p1) + y * along
        yx, yy = 2 * (x * p1 + y * p0) + x * beside, 1 + 6 * y * p1 + 2 * x * p0 + y * beside
        u, v = (points - _with_prism(radial, distortion)).unbind(dim=-1)
        step = torch.stack([yy * u - xy * v, xx * v - yx * u], dim=-1)
        radial = radial + step / (xx * yy - xy * yx)[..., None]
    bent = radial.norm(dim=-1, keepdim=True)
    angle = bent.clone()
    for _ in range(_ITERATIONS):
        miss = angle * _polynomial(angle, distortion, derivative=False) - bent
        angle = angle - miss / _polynomial(angle, distortion, derivative=True)
    # Towards the axis the sine over the angle becomes 1.
    share = torch.where(bent > 0, torch.sin(angle) / bent.clamp(min=torch.finfo(bent.dtype).tiny), 1.0)
    return torch.cat([radial * share, torch.cos(angle)], dim=-1)


def _polynomial(angle: Tensor, distortion: Tensor, *, derivative: bool) -> Tensor:
    """1 + k0 a² + ... + k5 a¹², or the derivative of a times that."""
    square, value = angle * angle, torch.zeros_like(angle)
    for power in range(6, 0, -1):
        value = (value + distortion[..., power - 1 : power] * (2 * power + 1 if derivative else 1)) * square
    return 1 + value


def _with_prism(radial: Tensor, distortion: Tensor) -> Tensor:
    p0, p1, s0, s1, s2, s3 = distortion[..., 6:].unbind(dim=-1)
    x, y = radial.unbind(dim=-1)
    square = x * x + y * y
    u = x + (2 * x * x + square) * p0 + 2 * x * y * p1 + s0 * square + s1 * square**2
    v = y + (2 * y * y + square) * p1 + 2 * x * y * p0 + s2 * square + s3 * square**2
    return torch.stack([u, v], dim=-1)
