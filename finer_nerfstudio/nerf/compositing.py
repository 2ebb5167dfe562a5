"""Compositing: from densities and colours of segments to what their rays show, in training, pictures and baking.

Needs PyTorch alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from finer_nerfstudio.nerf import compiled_compositing, kernels_at_work
from finer_nerfstudio.nerf.radiance import Radiance
from finer_nerfstudio.nerf.sampling.segments import Segments


@dataclass(frozen=True)
class Composite:
    """What the segments of rays show.

    Attributes:
        rgb: ``[rays, 3]`` colour times weight, summed along each ray, with the sky if there is one.
        weights: ``[samples]`` rendering weight of each segment.
        thickness: ``[samples]`` its optical thickness.
        passed: ``[rays]`` what passes through all segments of each ray.
        colored: ``[rays]`` how many segments of each ray are heavy enough to have a colour.
    """

    rgb: Float[Tensor, "rays 3"]
    weights: Float[Tensor, " samples"]
    thickness: Float[Tensor, " samples"]
    passed: Float[Tensor, " rays"]
    colored: Int[Tensor, " rays"]


def composite(
    field: Radiance[Any],
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    segments: Segments,
    *,
    weight_threshold: float,
    transmittance: Float[Tensor, " rays"] | None = None,
    sky: float | None = None,
    neuron_mask: Float[Tensor, " units"] | None = None,
    appearance: Float[Tensor, "rays code"] | None = None,
    most_colored: int | None = None,
) -> Composite:
    """Evaluate a field at segments of rays and put them together, front to back (Max 1995).

    Args:
        field: density, and colour where it matters.
        origins: world units, of as many rays as the segments have.
        directions: of unit length.
        segments: of these rays.
        weight_threshold: segments of less weight have no colour, which is most of the work; nor has the sky where less
            than that passes.
        transmittance: what arrives at the first segment of each ray; all of it unless given.
        sky: distance of the sky, whose colour takes what passes through all segments; there is none unless given. Not
            together with a transmittance.
        neuron_mask: factors for the first-layer neurons of the density network, of fields that can silence them.
        appearance: code of each ray's picture, of fields that have codes; the mean of all unless given.
        most_colored: evaluate this number of colours exactly, for the leading segments that need one, so that nobody
            has to ask the GPU how many these are. The sum of ``colored`` up to a ray tells whether it had all of its.
            Not together with a sky.
    """
    rays, distances, samples = segments.ray_indices, segments.distances, len(segments.lengths)
    if sky is not None:
        rays = torch.cat([rays, torch.arange(segments.num_rays, device=rays.device)])
        distances = torch.cat([distances, distances.new_full((segments.num_rays,), sky)])
    positions, along = along_rays(origins, directions, rays, distances)
    hidden_at: Any = field.hidden_features
    hidden = hidden_at(positions) if neuron_mask is None else hidden_at(positions, neuron_mask)
    thickness = field.density(hidden)[:samples] * segments.lengths
    weights, passed = weights_and_rest(thickness, segments.ray_indices, segments.counts)
    if transmittance is not None:
        weights = weights * transmittance.index_select(0, segments.ray_indices)
    shown = weights if sky is None else torch.cat([weights, passed])
    compiled = compiled_compositing.usable(shown, hidden) and most_colored is None
    if compiled:
        seen, colored = compiled_compositing.heavier(shown.detach(), rays, weight_threshold, samples, segments.num_rays)
    else:
        heavy = shown.detach() > weight_threshold
        seen = heavy.nonzero().squeeze(-1) if most_colored is None else leading_places(heavy, most_colored)
        colored = counts_of(heavy[:samples], segments.counts)
    codes = None if appearance is None else appearance.index_select(0, rays.index_select(0, seen))
    # Not by indexing, whose backward pass has to reckon with samples that are met twice.
    rows, towards = (
        compiled_compositing.rows_at(values, seen) if compiled else values.index_select(0, seen)
        for values in (hidden, along)
    )
    color = field.color(rows, towards, codes)
    if compiled and compiled_compositing.usable(color):
        rgb = compiled_compositing.color_sums(shown, color, seen, rays, segments.num_rays)
    else:
        weighted = shown.index_select(0, seen)[:, None] * color
        # Places of the sky follow those of all segments.
        rgb = sums_along_rays(weighted, colored)
        if sky is not None:
            number = int(colored.sum())
            rgb = rgb.index_add(0, rays.index_select(0, seen[number:]), weighted[number:])
    return Composite(rgb, weights, thickness, passed, colored)


def along_rays(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    ray_indices: Int[Tensor, " samples"],
    distances: Float[Tensor, " samples"],
) -> tuple[Float[Tensor, "samples 3"], Float[Tensor, "samples 3"]]:
    """Return positions on rays, and the directions of these rays.

    Args:
        origins: world units.
        directions: of unit length.
        ray_indices: ray of each position.
        distances: from the origin.
    """
    differentiated = torch.is_grad_enabled() and any(
        values.requires_grad for values in (origins, directions, distances)
    )
    if compiled_compositing.usable(origins, directions, distances) and not differentiated:
        return compiled_compositing.along_rays(origins, directions, ray_indices, distances)
    along = directions.index_select(0, ray_indices)
    return torch.addcmul(origins.index_select(0, ray_indices), along, distances[:, None]), along


def counts_of(chosen: Bool[Tensor, " samples"], counts: Int[Tensor, " rays"]) -> Int[Tensor, " rays"]:
    """Return how many of each ray's samples are chosen.

    Args:
        chosen: of all samples, in the order of rays.
        counts: samples of each ray; those behind the last one's are nobody's.
    """
    ends = counts.cumsum(0)
    up_to = torch.nn.functional.pad(chosen.cumsum(0), (1, 0))
    return up_to.index_select(0, ends) - up_to.index_select(0, ends - counts)


def leading_places(chosen: Bool[Tensor, " samples"], count: int) -> Int[Tensor, " count"]:
    """Return the places of the first chosen samples, exactly ``count`` of them, without waiting for the GPU.

    Where fewer are chosen, what follows are places that stand for themselves: distinct, so that sums into them do not
    queue, and of no account to who knows how many are chosen.

    Args:
        chosen: which samples, at least ``count``.
        count: of places.
    """
    number = chosen.cumsum(0) - 1
    # Whatever does not fit goes to a place behind the last one.
    target = torch.where(chosen & (number < count), number, count)
    everything = torch.arange(len(chosen), device=chosen.device)
    places = torch.arange(count + 1, device=chosen.device)
    return places.scatter_(0, target, everything)[:count]


def sums_along_rays(
    values: Float[Tensor, "samples channels"], counts: Int[Tensor, " rays"]
) -> Float[Tensor, "rays channels"]:
    """Return sums along rays, added up in the order of samples: the same each time, on a GPU too.

    Args:
        values: of the samples, in the order of rays; those behind the last ray's are left out.
        counts: samples of each ray.
    """
    inside = counts.cumsum(0).clamp(max=len(values))
    offsets = torch.nn.functional.pad(inside, (1, 0))
    # Its checks would wait for the GPU. Sums of none are 0.
    return torch.segment_reduce(values, "sum", offsets=offsets, axis=0, unsafe=True, initial=0)


class _RayWeights(torch.autograd.Function):
    """The derivative of a segment's weight by its own thickness is what passes through it; by an earlier one's, the
    weight itself taken away."""

    @staticmethod
    def forward(ctx: Any, thickness: Tensor, ray_indices: Tensor, counts: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.by_kernel = kernels_at_work.usable(thickness)
        if ctx.by_kernel:
            from finer_nerfstudio.nerf import triton_compositing

            weights, behind = triton_compositing.weights(thickness, counts)
            ctx.save_for_backward(behind, weights, counts)
            return weights
        # Padding counts to the last ray, which may have no segment, and none before it either.
        last = (counts.cumsum(0) - 1).clamp(min=0)
        # Sums run over all rays, of which each takes the difference: twice the precision keeps what is left of it.
        wide = thickness.double()
        before = wide.cumsum(0) - wide
        first = (counts.cumsum(0) - counts).index_select(0, ray_indices)
        transmittance = torch.exp(before.index_select(0, first) - before).to(thickness.dtype)
        weights = -transmittance * torch.expm1(-thickness)
        ctx.save_for_backward(transmittance - weights, weights, last.index_select(0, ray_indices))
        return weights

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.by_kernel:
            from finer_nerfstudio.nerf import triton_compositing

            behind, weights, counts = ctx.saved_tensors
            return triton_compositing.gradient(grad, weights, behind, counts), None, None
        behind, weights, last = ctx.saved_tensors
        through = (grad * weights).double().cumsum(0)
        later = (through.index_select(0, last) - through).to(grad.dtype)
        return grad * behind - later, None, None


def ray_weights(
    thickness: Float[Tensor, " samples"], ray_indices: Int[Tensor, " samples"], counts: Int[Tensor, " rays"]
) -> Float[Tensor, " samples"]:
    """Rendering weights of segments (Max 1995, eq. 27): opacity of each times what those before it let through.

    Args:
        thickness: optical thickness of each segment, at least 0, flat, ordered by ray and then by distance.
        ray_indices: ray of each, in ascending order.
        counts: number of segments of each ray.
    """
    if compiled_compositing.usable(thickness):
        return compiled_compositing.weights(thickness, counts)[0]
    return _RayWeights.apply(thickness, ray_indices, counts)  # pyright: ignore[reportReturnType]


def weights_and_rest(
    thickness: Float[Tensor, " samples"], ray_indices: Int[Tensor, " samples"], counts: Int[Tensor, " rays"]
) -> tuple[Float[Tensor, " samples"], Float[Tensor, " rays"]]:
    """Return the :func:`ray_weights` of segments, and what passes through all segments of each ray."""
    if compiled_compositing.usable(thickness):
        return compiled_compositing.weights(thickness, counts)
    passed = torch.exp(-sums_along_rays(thickness[:, None], counts)).squeeze(-1)
    return ray_weights(thickness, ray_indices, counts), passed
