"""Looking features up in a multiresolution grid: in C++ on processors, by tensor functions everywhere else."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.inr.kernels import building

FEATURES = 2
"""Numbers of an entry."""

_PRIMES = (1, 2654435761, 805459861)


@dataclass(frozen=True)
class Level:
    """One of the grids.

    Attributes:
        resolution: cells per axis.
        entries: of its table; a power of two where corners share them.
        first: its first entry in the table of all levels.
    """

    resolution: int
    entries: int
    first: int

    @property
    def is_shared(self) -> bool:
        """Whether there are more corners than entries."""
        return (self.resolution + 1) ** 3 > self.entries


def look_up(
    points: Float[Tensor, "points 3"],
    table: Float[Tensor, "entries 2"],
    levels: Sequence[Level],
    *,
    with_points: bool = False,
) -> Float[Tensor, "points features"]:
    """Return the features of points, two of each level, interpolated between the corners around them.

    Differentiable once by the table and by the points in C++, and any number of times by the table otherwise.

    Args:
        points: in [-1, 1]; those outside count to the nearest face.
        table: of all levels.
        levels: where each has its entries.
        with_points: whether the three coordinates of a point come before its features.
    """
    on_processor = points.device.type == "cpu" and points.dtype == table.dtype == torch.float32
    if not on_processor or _library() is None:
        features = looked_up_by_tensors(points, table, levels)
        return torch.cat([points, features], dim=1) if with_points else features
    return _LookUp.apply(points, table, levels, 3 if with_points else 0)  # pyright: ignore[reportReturnType]


def looked_up_by_tensors(
    points: Float[Tensor, "points 3"], table: Float[Tensor, "entries 2"], levels: Sequence[Level]
) -> Float[Tensor, "points features"]:
    """Return what :func:`look_up` does, by tensor functions."""
    features = []
    for level in levels:
        place = ((points + 1.0) * (0.5 * level.resolution)).clamp(0.0, float(level.resolution))
        low = place.detach().long().clamp(max=level.resolution - 1)
        fraction = place - low
        total = torch.zeros(len(points), FEATURES, dtype=table.dtype, device=table.device)
        for corner in range(8):
            upper = [corner >> 2, corner >> 1 & 1, corner & 1]
            x, y, z = (low[:, axis] + upper[axis] for axis in range(3))
            if level.is_shared:
                entry = (x * _PRIMES[0] ^ y * _PRIMES[1] ^ z * _PRIMES[2]) & (level.entries - 1)
            else:
                entry = (x * (level.resolution + 1) + y) * (level.resolution + 1) + z
            weight = torch.ones_like(fraction[:, 0])
            for axis in range(3):
                weight = weight * (fraction[:, axis] if upper[axis] else 1.0 - fraction[:, axis])
            # Whose backward pass adds up in the same order each time, on a GPU too.
            total = total + weight[:, None] * torch.nn.functional.embedding(entry + level.first, table)
        features.append(total)
    return torch.cat(features, dim=1)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, levels: Sequence[Level], lead: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        library = _library()
        assert library is not None
        points, table = points.contiguous(), table.contiguous()
        features = torch.empty(len(points), lead + FEATURES * len(levels))
        library.finer_grid_forward(
            points.data_ptr(),
            len(points),
            _as_c(tuple(levels)),
            len(levels),
            table.data_ptr(),
            features.data_ptr(),
            lead,
            torch.get_num_threads(),
        )
        ctx.save_for_backward(points, table)
        ctx.levels, ctx.lead = tuple(levels), lead
        return features

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        library = _library()
        assert library is not None
        points, table = ctx.saved_tensors
        grad, levels, threads = grad.contiguous(), _as_c(ctx.levels), torch.get_num_threads()
        by_points = by_table = None
        if ctx.needs_input_grad[0]:
            by_points = torch.empty_like(points)
            library.finer_grid_point_gradient(
                points.data_ptr(),
                len(points),
                levels,
                len(ctx.levels),
                table.data_ptr(),
                grad.data_ptr(),
                by_points.data_ptr(),
                ctx.lead,
                threads,
            )
        if ctx.needs_input_grad[1]:
            by_table = torch.zeros_like(table)
            library.finer_grid_table_gradient(
                points.data_ptr(),
                len(points),
                levels,
                len(ctx.levels),
                grad.data_ptr(),
                by_table.data_ptr(),
                ctx.lead,
                threads,
            )
        return by_points, by_table, None, None


class _CLevel(ctypes.Structure):
    _fields_ = (("resolution", ctypes.c_int32), ("entries", ctypes.c_uint32), ("first", ctypes.c_int64))


@functools.cache
def _as_c(levels: tuple[Level, ...]) -> Any:
    return (_CLevel * len(levels))(*[_CLevel(level.resolution, level.entries, level.first) for level in levels])


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = building.build(Path(__file__).with_name("feature_grid.cpp"), "feature_grid")
    if isinstance(library, str):
        return None
    pointer, whole, long, levels = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.POINTER(_CLevel)
    library.finer_grid_forward.argtypes = [pointer, long, levels, whole, pointer, pointer, whole, ctypes.c_int]
    library.finer_grid_table_gradient.argtypes = [pointer, long, levels, whole, pointer, pointer, whole, ctypes.c_int]
    library.finer_grid_point_gradient.argtypes = [pointer, long, levels, whole, *[pointer] * 3, whole, ctypes.c_int]
    for function in ("forward", "table_gradient", "point_gradient"):
        getattr(library, f"finer_grid_{function}").restype = None
    return library
