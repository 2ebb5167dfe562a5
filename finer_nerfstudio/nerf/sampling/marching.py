"""Marching rays through an occupancy grid on processors, in C++ where a compiler can be had."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from finer_nerfstudio.inr.kernels import building

_BITS = 64


def available(tensor: Tensor) -> bool:
    """Whether rays like ``tensor`` can be marched here."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and _library() is not None


def occupied_steps(
    start: Float[Tensor, "rays 3"],
    per_step: Float[Tensor, "rays 3"],
    offsets: Float[Tensor, " rays"],
    length: Float[Tensor, " rays"],
    occupied: Bool[Tensor, " cells"],
    *,
    step: float,
    columns: int,
    resolution: int,
) -> tuple[Int[Tensor, "rays words"], Int[Tensor, " rays"], Int[Tensor, " rays"]]:
    """Which steps of each ray fall into occupied cells, as bits; how many do, and how many steps there are.

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
    library = _library()
    assert library is not None
    num_rays, words = start.shape[0], -(-columns // _BITS)
    bits = torch.empty(num_rays, words, dtype=torch.int64)
    counts, candidates = torch.empty(num_rays, dtype=torch.int64), torch.empty(num_rays, dtype=torch.int64)
    kept = [tensor.contiguous() for tensor in (start, per_step, offsets, length, occupied)]
    places = [tensor.data_ptr() for tensor in kept]
    library.finer_march(
        *places[:4],
        step,
        places[4],
        resolution,
        num_rays,
        words,
        bits.data_ptr(),
        counts.data_ptr(),
        candidates.data_ptr(),
        torch.get_num_threads(),
    )
    return bits, counts, candidates


def segments_of(
    bits: Int[Tensor, "rays words"],
    counts: Int[Tensor, " kept"],
    nearest: Float[Tensor, " rays"],
    offsets: Float[Tensor, " rays"],
    *,
    step: float,
) -> tuple[Int[Tensor, " samples"], Int[Tensor, " samples"], Float[Tensor, " samples"]]:
    """Ray, number among those of the ray, and distance of each segment that :func:`occupied_steps` found.

    Args:
        bits: of all rays.
        counts: of the leading rays whose segments are wanted.
        nearest: distance at which each ray begins, world units.
        offsets: place of the sample within a step, in steps.
        step: length of a step, world units.
    """
    library = _library()
    assert library is not None
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    first = ends - counts
    ray_indices, slots = torch.empty(total, dtype=torch.int64), torch.empty(total, dtype=torch.int64)
    distances = torch.empty(total)
    nearest, offsets = nearest.contiguous(), offsets.contiguous()
    library.finer_segments(
        bits.data_ptr(),
        bits.shape[1],
        first.data_ptr(),
        nearest.data_ptr(),
        offsets.data_ptr(),
        step,
        len(counts),
        ray_indices.data_ptr(),
        slots.data_ptr(),
        distances.data_ptr(),
        torch.get_num_threads(),
    )
    return ray_indices, slots, distances


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = building.build(Path(__file__).with_name("marching.cpp"), "marching")
    if isinstance(library, str):
        return None
    pointer, whole, long, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
    library.finer_march.argtypes = [pointer] * 4 + [real, pointer, ctypes.c_int32, long, long] + [pointer] * 3 + [whole]
    library.finer_march.restype = None
    library.finer_segments.argtypes = [pointer, long] + [pointer] * 3 + [real, long] + [pointer] * 3 + [whole]
    library.finer_segments.restype = None
    return library
