"""Marching by tensor functions: a dense table of rays and steps, for every device."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def occupied_table(
    start: Float[Tensor, "rays 3"],
    per_step: Float[Tensor, "rays 3"],
    offsets: Float[Tensor, " rays"],
    length: Float[Tensor, " rays"],
    occupied: Bool[Tensor, " cells"],
    *,
    step: float,
    columns: int,
    resolution: int,
) -> tuple[Bool[Tensor, "rays columns"], Bool[Tensor, "rays columns"]]:
    """Return which steps of each ray fall into occupied cells, and which there are at all.

    Args:
        start: where each ray begins, in cells.
        per_step: cells that a step passes.
        offsets: place of the sample within a step, in steps.
        length: of each ray, world units.
        occupied: the grid's cells.
        step: length of a step, world units.
        columns: at least as many steps as any ray has.
        resolution: cells per axis.
    """
    along = torch.arange(columns, device=start.device, dtype=start.dtype) + offsets[:, None]
    inside = along * step < length[:, None]
    # Cell coordinates are affine along a ray: three fused multiply-adds per candidate, no [rays, steps, 3] table.
    cell = torch.zeros_like(along, dtype=torch.int32)
    for axis in range(3):
        coordinate = torch.addcmul(start[:, axis : axis + 1], per_step[:, axis : axis + 1], along)
        cell.mul_(resolution).add_(coordinate.to(torch.int32).clamp_(0, resolution - 1))
    return occupied.index_select(0, cell.view(-1)).view(inside.shape).logical_and_(inside), inside
