"""Compositing on processors, ray by ray in C++, where a compiler can be had: ``compositing.cpp``.

A step of training has some ten segments a ray, for which a tensor function takes longer to be called than to compute.
Sums along a ray are its own, and in double precision.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from finer_nerfstudio.inr.kernels import building
from finer_nerfstudio.nerf.sampling.segments import RaySegments


def usable(*tensors: Tensor) -> bool:
    """Return whether tensors like these can be composited here: float32 on a processor, with a compiler at hand."""
    on_processor = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    return on_processor and _library() is not None


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, thickness: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        thickness, counts = thickness.contiguous(), counts.contiguous()
        weights, behind = torch.empty_like(thickness), torch.empty_like(thickness)
        passed = thickness.new_empty(len(counts))
        _call(
            "weights", thickness, len(thickness), counts, len(counts), weights, behind, passed, torch.get_num_threads()
        )
        ctx.save_for_backward(weights, behind, passed, counts)
        return weights, passed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, passed_grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weights, behind, passed, counts = ctx.saved_tensors
        given, out = (grad.contiguous(), passed_grad.contiguous()), torch.empty_like(weights)
        extent = (len(weights), counts, len(counts), out, torch.get_num_threads())
        _call("weights_gradient", *given, weights, behind, passed, *extent)
        return out, None


def weights(
    thickness: Float[Tensor, " samples"], counts: Int[Tensor, " rays"]
) -> tuple[Float[Tensor, " samples"], Float[Tensor, " rays"]]:
    """Return the rendering weight of each segment, and what passes through all segments of each ray.

    Args:
        thickness: optical thickness of each segment; weights of those behind the last ray's are 0.
        counts: segments of each ray.
    """
    return _Weights.apply(thickness, counts)  # pyright: ignore[reportReturnType]


def heavier(
    weights: Float[Tensor, " samples"], ray_indices: Int[Tensor, " samples"], threshold: float, counted: int, rays: int
) -> tuple[Int[Tensor, " chosen"], Int[Tensor, " rays"]]:
    """Return the places of weights above a threshold, and how many of the first samples of each ray are above it.

    Args:
        weights: of samples in any order.
        ray_indices: ray of each.
        threshold: that is exceeded.
        counted: the first so many samples count to their ray.
        rays: number of rays.
    """
    places, chosen = torch.empty(len(weights) + 1, dtype=torch.int64), torch.zeros(rays, dtype=torch.int64)
    extent = (len(weights), counted, threshold, places, chosen)
    found = _call("heavier", weights.contiguous(), ray_indices.contiguous(), *extent)
    return places[:found], chosen


def slab(segments: RaySegments, slots: slice, passed: Float[Tensor, " rays"], threshold: float) -> RaySegments | None:
    """Return some segments of each ray on which light goes on, None where that is for tensor functions to do.

    Args:
        segments: of rays.
        slots: first number on a ray, and the one behind the last.
        passed: what passes through the segments before.
        threshold: rays of less have no more segments.
    """
    if not usable(segments.distances, segments.lengths, passed):
        return None
    counts, rays = segments.counts.contiguous(), segments.num_rays
    places, chosen = torch.empty(len(segments.distances), dtype=torch.int64), torch.empty(rays, dtype=torch.int64)
    extent = (counts, rays, slots.start, slots.stop, passed.contiguous(), threshold, places, chosen)
    places = places[: _call("slab", *extent)]
    return RaySegments(
        ray_indices=segments.ray_indices.index_select(0, places),
        slots=segments.slots.index_select(0, places),
        distances=segments.distances.index_select(0, places),
        lengths=segments.lengths.index_select(0, places),
        counts=chosen,
        candidates=segments.candidates,
    )


class _RowsAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(places)
        ctx.rows, width = values.shape
        out = values.new_empty(len(places), width)
        _call("rows", values.contiguous(), places, len(places), out, width, torch.get_num_threads())
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (places,) = ctx.saved_tensors
        # Often a part of wider rows.
        grad = grad if grad.stride(1) == 1 else grad.contiguous()
        out = grad.new_empty(ctx.rows, grad.shape[1])
        _call("rows_gradient", grad, grad.stride(0), places, len(places), out, *out.shape, torch.get_num_threads())
        return out, None


def rows_at(values: Float[Tensor, "rows width"], places: Int[Tensor, " chosen"]) -> Float[Tensor, "chosen width"]:
    """Return the rows at some places, which ascend; PyTorch's own gradient adds them up one by one."""
    return _RowsAt.apply(values, places.contiguous())  # pyright: ignore[reportReturnType]


class _ColorSums(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, weights: Tensor, colors: Tensor, places: Tensor, ray_indices: Tensor, rays: int
    ) -> Tensor:
        weights, colors, ray_indices = weights.contiguous(), colors.contiguous(), ray_indices.contiguous()
        sums = colors.new_zeros(rays, 3)
        _call("color_sums", weights, colors, places, ray_indices, len(places), sums)
        ctx.save_for_backward(weights, colors, places, ray_indices)
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weights, colors, places, ray_indices = ctx.saved_tensors
        by_weights, by_colors = torch.zeros_like(weights), torch.empty_like(colors)
        given = (grad.contiguous(), weights, colors, places, ray_indices, len(places))
        _call("color_sums_gradient", *given, by_weights, by_colors)
        return by_weights, by_colors, None, None, None


def color_sums(
    weights: Float[Tensor, " samples"],
    colors: Float[Tensor, "chosen 3"],
    places: Int[Tensor, " chosen"],
    ray_indices: Int[Tensor, " samples"],
    rays: int,
) -> Float[Tensor, "rays 3"]:
    """Return sums of weight times colour along rays.

    Args:
        weights: of samples in any order.
        colors: of some of them.
        places: which these are.
        ray_indices: ray of each sample.
        rays: number of rays.
    """
    return _ColorSums.apply(weights, colors, places.contiguous(), ray_indices, rays)  # pyright: ignore[reportReturnType]


def along_rays(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    ray_indices: Int[Tensor, " samples"],
    distances: Float[Tensor, " samples"],
) -> tuple[Float[Tensor, "samples 3"], Float[Tensor, "samples 3"]]:
    """Return positions on rays and the directions of these rays, which cannot be differentiated."""
    rays = (origins.contiguous(), directions.contiguous(), ray_indices.contiguous(), distances.contiguous())
    positions, along = torch.empty(len(distances), 3), torch.empty(len(distances), 3)
    _call("along_rays", *rays, len(distances), positions, along, torch.get_num_threads())
    return positions, along


def _call(function: str, *arguments: Tensor | float) -> int:
    library = _library()
    assert library is not None
    places = (each.data_ptr() if isinstance(each, Tensor) else each for each in arguments)
    return getattr(library, f"finer_{function}")(*places)


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = building.build(Path(__file__).with_name("compositing.cpp"), "compositing")
    if isinstance(library, str):
        return None
    pointer, long, whole = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    arguments = {
        "weights": [pointer, long, pointer, long, *[pointer] * 3, whole],
        "weights_gradient": [*[pointer] * 5, long, pointer, long, pointer, whole],
        "heavier": [pointer, pointer, long, long, ctypes.c_float, pointer, pointer],
        "slab": [pointer, long, long, long, pointer, ctypes.c_float, pointer, pointer],
        "rows": [pointer, pointer, long, pointer, long, whole],
        "rows_gradient": [pointer, long, pointer, long, pointer, long, long, whole],
        "color_sums": [*[pointer] * 4, long, pointer],
        "color_sums_gradient": [*[pointer] * 5, long, pointer, pointer],
        "along_rays": [*[pointer] * 4, long, pointer, pointer, whole],
    }
    for name, types in arguments.items():
        function = getattr(library, f"finer_{name}")
        function.argtypes, function.restype = types, None
    library.finer_heavier.restype = library.finer_slab.restype = long
    return library
