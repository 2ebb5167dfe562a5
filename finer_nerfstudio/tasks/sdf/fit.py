"""Fit a signed distance field to a shape, extract its surface and measure it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.errors import InputError, UsageError, argument
from finer_nerfstudio.inr.methods import precision_in_words, training_rounding
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.runs import metrics
from finer_nerfstudio.runs.isosurface import Field, affordable_resolution, extract_surface
from finer_nerfstudio.runs.options import device_named, preset_of, protocol_of, settings_of
from finer_nerfstudio.runs.progress import Stage
from finer_nerfstudio.runs.training import Backward, Report, Schedule, Training, train
from finer_nerfstudio.tasks.sdf.distance import SignedDistance, cloud_distance, mesh_distance
from finer_nerfstudio.tasks.sdf.effort import Effort
from finer_nerfstudio.tasks.sdf.loss import DistanceLoss, WeightedDraws
from finer_nerfstudio.tasks.sdf.options import ShapeOptions
from finer_nerfstudio.tasks.sdf.pool import PointPool, PooledDraws
from finer_nerfstudio.tasks.sdf.sampling import SurfaceSampler
from finer_nerfstudio.tasks.sdf.shape import Normalization, Shape, normalization_of

# The published rate and batch belong to 200,000 steps; runs by the clock are shorter. Found on the Armadillo, with
# finer-wavelet on two processor cores for one and a half and for ten minutes.
_SHORT_RUN_LEARNING_RATE = 3e-4
_SHORT_RUN_BATCH = 3_000

HALVES = (0.5, 1.0)
"""Half the sides of the grids of the two IoUs: the tight one and the paper's, in the unit frame."""

TrueInside = Mapping[float, np.ndarray]
"""For either of :data:`HALVES`, which points of its grid are inside the shape."""

# Points per side of the blocks in which a true distance is looked at.
_BLOCK = 8


@dataclass(frozen=True)
class FittedShape:
    """Result of :func:`fit_shape`.

    Attributes:
        network: from points ``[*batch, 3]`` of the unit frame to signed distances there ``[*batch, 1]``.
        normalization: between the shape's units and the unit frame.
        training: steps, seconds and the losses on the way.
        settings: everything that decided the result.
    """

    network: CoordinateNetwork
    normalization: Normalization
    training: Training
    settings: dict[str, Any]


def in_unit_frame(shape: Shape) -> tuple[Shape, Normalization]:
    """The shape as the network sees it, and the map that takes it there."""
    normalization = normalization_of(shape.vertices)
    vertices = normalization.to_unit(shape.vertices)
    return Shape(vertices, shape.faces, shape.normals, shape.watertight, shape.notes), normalization


def distance_to(shape: Shape) -> SignedDistance:
    """Signed distances to a shape, in its own frame."""
    if shape.is_cloud:
        assert shape.normals is not None
        return cloud_distance(shape.vertices, shape.normals)
    return mesh_distance(shape.vertices, shape.faces)


def require_possible(options: ShapeOptions) -> None:
    """Find out what :func:`fit_shape` would refuse, before anything is written.

    Raises:
        UsageError: for options that cannot mean anything.
    """
    device_named(options.device)
    chosen, protocol = preset_of(options, "sdf"), protocol_of(options, "sdf")
    Schedule(protocol.steps, chosen.learning_rate, minutes=options.minutes)
    if options.batch_size is not None and options.batch_size < 2:
        raise UsageError(f"{argument('batch_size')} must be at least 2, not {options.batch_size}.")


def fit_shape(
    shape: Shape,
    options: ShapeOptions,
    *,
    pool: PointPool | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    report: Report | None = None,
) -> FittedShape:
    """Fit a network to the signed distance of ``shape``.

    Args:
        shape: in its own units.
        options: method, length and hyper-parameters.
        pool: of the shape, to draw training points from; new ones are made at every step unless given.
        checkpoint: where the state of the run is kept.
        resume: go on from there.
        report: progress callback.

    Raises:
        UsageError: for options that cannot mean anything.
        InputError: when training diverges or a file cannot be read or written.
    """
    require_possible(options)
    device = device_named(options.device)
    protocol = protocol_of(options, "sdf")
    batch_size = options.batch_size
    if batch_size is None:
        batch_size = protocol.batch_size if options.minutes is None else _SHORT_RUN_BATCH
    assert batch_size is not None
    chosen = preset_of(options, "sdf")
    if options.minutes is not None and options.learning_rate is None:
        chosen = replace(chosen, learning_rate=_SHORT_RUN_LEARNING_RATE)
    schedule = Schedule(
        protocol.steps, chosen.learning_rate, minutes=options.minutes, max_gradient_norm=protocol.max_gradient_norm
    )
    unit, normalization = in_unit_frame(shape)
    generator = torch.Generator().manual_seed(options.seed)
    network = chosen.network(3, 1, width=protocol.width, depth=protocol.depth, generator=generator).to(device)
    rounding = training_rounding(options.method, options.precision, device)
    settings = {**settings_of(options, chosen, protocol), "products": precision_in_words(rounding)}
    settings |= {"batch_size": batch_size, "shape": shape.description}
    if pool is None:
        draws = DistanceLoss(SurfaceSampler(unit), distance_to(unit), batch_size, device)
    else:
        draws = PooledDraws(pool, batch_size, device)
        settings["pool"] = pool.description
    training = train(
        network,
        distance_error(network, draws),
        schedule,
        generator=generator,
        checkpoint=checkpoint,
        resume=resume,
        settings=settings,
        rounding=rounding,
        report=report,
    )
    return FittedShape(network, normalization, training, settings)


def distance_error(network: CoordinateNetwork, draws: WeightedDraws) -> Backward:
    """Return the backward pass of a draw's loss."""

    def backward(generator: torch.Generator) -> Tensor:
        loss = draws.weighted(lambda points: network(points)[:, 0], *draws.draw(generator)).sum()
        loss.backward()
        return loss.detach()

    return backward


def field_of(network: CoordinateNetwork) -> Field:
    """The network as it is now, as a function from points of the unit frame on the CPU to distances."""
    evaluate = network.compile_for_inference()

    def field(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        return evaluate(points.to(network.device))[:, 0].cpu()

    return field


def surface_of(
    network: CoordinateNetwork, resolution: int, *, report: Stage | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The network's zero level as vertices in the unit frame and faces; see :func:`extract_surface`.

    Raises:
        InputError: when the network has no surface.
    """
    vertices, faces, _ = surface_within(network, Effort(resolution), report=report)
    return vertices, faces


def surface_within(
    network: CoordinateNetwork, effort: Effort, *, report: Stage | None = None
) -> tuple[np.ndarray, np.ndarray, Effort]:
    """The same at a bounded cost, and the effort with the resolution that it was enough for.

    Raises:
        InputError: when the network has no surface.
    """
    field = field_of(network)
    try:
        if effort.most_points is not None:
            effort = replace(effort, resolution=affordable_resolution(field, effort.resolution, effort.most_points))
        return *extract_surface(field, effort.resolution, report=report), effort
    except ValueError as error:
        raise InputError(f"no surface could be extracted ({error}): train longer, or with another method.") from error


def measure_shape(
    network: CoordinateNetwork,
    shape: Shape,
    vertices: np.ndarray,
    faces: np.ndarray,
    *,
    seed: int = 0,
    effort: Effort | None = None,
    inside: TrueInside | None = None,
    report: Stage | None = None,
) -> dict[str, float]:
    """Quality of an extracted surface.

    Chamfer distance and normal consistency of 300,000 random points of either surface, the IoU of 128^3 grids. The
    paper's frame is the unit frame, where its grid spans [-1, 1]^3. ``iou`` is over the tight grid [-0.5, 0.5]^3, which
    resolves the shape with eight times as many points. What lies outside that box is outside the network's shape.

    Args:
        network: what was fitted.
        shape: what it was fitted to, in its own units.
        vertices: of the extracted surface, in the unit frame.
        faces: of the extracted surface.
        seed: of the random points.
        effort: fewer points and a coarser grid than those.
        inside: what is inside the shape on either grid, where it is known already (:func:`true_inside`).
        report: progress callback.
    """
    effort = Effort() if effort is None else effort
    unit, normalization = in_unit_frame(shape)
    generator = torch.Generator().manual_seed(seed)
    if report is not None:
        report("comparing surfaces", 0, 2)
    points, normals = _samples(Shape(vertices, faces, None, False), effort.samples, generator)
    true_points, true_normals = _samples(unit, effort.samples, generator)
    again, _ = _samples(unit, effort.samples, generator)
    distance, consistency = metrics.chamfer_and_normal_consistency(points, normals, true_points, true_normals)
    if report is not None:
        report("comparing surfaces", 1, 2)
    least = metrics.chamfer(again, true_points)
    field, size = field_of(network), effort.iou_resolution
    truth = distance_to(unit) if inside is None else None
    tight, paper = (
        metrics.iou(
            inside_of_field(field, half, size, report=report),
            inside_of_distance(truth, half, size, closed=shape.watertight, report=report) if truth else inside[half],  # pyright: ignore[reportOptionalSubscript]
        )
        for half in HALVES
    )
    return {
        "chamfer": distance / normalization.scale**2,
        "iou": tight,
        "normal_consistency": consistency,
        "chamfer_paper": distance,
        "chamfer_paper_of_truth_with_itself": least,
        "iou_paper": paper,
    }


def _samples(shape: Shape, count: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    points, normals = SurfaceSampler(shape).points_and_normals(count, generator)
    return points.double().numpy(), normals.double().numpy()


def true_inside(shape: Shape, resolution: int = Effort.iou_resolution, *, report: Stage | None = None) -> TrueInside:
    """Return what is inside a shape on the grids of both IoUs, ``[n, n, n]`` each.

    Args:
        shape: in its own units.
        resolution: grid points per axis.
        report: progress callback.
    """
    truth = distance_to(in_unit_frame(shape)[0])
    return {
        half: inside_of_distance(truth, half, resolution, closed=shape.watertight, report=report) for half in HALVES
    }


def inside_of_field(
    field: Field, half: float, resolution: int = Effort.iou_resolution, *, report: Stage | None = None
) -> np.ndarray:
    """Where a field is negative on a grid over [-half, half]^3, without the points outside [-0.5, 0.5]^3."""
    inside = []
    points = _grid_points(half, resolution)
    for i, plane in enumerate(points):  # a plane at a time bounds memory
        inside.append((field(plane.reshape(-1, 3)) < 0).reshape(plane.shape[:-1]).numpy())
        if report is not None:
            report("what is inside the network's shape", i + 1, len(points))
    return np.stack(inside)


def inside_of_distance(
    distance: SignedDistance,
    half: float,
    resolution: int = Effort.iou_resolution,
    *,
    closed: bool,
    report: Stage | None = None,
) -> np.ndarray:
    """The same for a true distance. That of a closed surface need not be asked everywhere: around a point that is far
    from the surface, everything nearer than the surface is on the same side. Across a hole the side changes far from
    any surface.
    """
    if not closed:
        return inside_of_field(distance, half, resolution, report=report)
    points = _grid_points(half, resolution)
    count = len(points)
    inside = np.zeros(points.shape[:-1], bool)
    starts = range(0, count, _BLOCK)
    blocks = [
        tuple(slice(start, min(start + _BLOCK, count)) for start in corner) for corner in product(starts, repeat=3)
    ]
    corners = torch.stack(
        [torch.stack([points[block].amin((0, 1, 2)), points[block].amax((0, 1, 2))]) for block in blocks]
    )
    centers, radii = corners.mean(dim=1), 0.5 * (corners[:, 1] - corners[:, 0]).norm(dim=1)
    for i, (block, far, radius) in enumerate(zip(blocks, distance(centers), radii, strict=True)):
        if far.abs() > 1.001 * radius:
            inside[block] = bool(far < 0)
        else:
            part = points[block]
            inside[block] = (distance(part.reshape(-1, 3)) < 0).reshape(part.shape[:-1]).numpy()
        if report is not None:
            report("what is inside the true shape", i + 1, len(blocks))
    return inside


def _grid_points(half: float, resolution: int) -> Float[Tensor, "x y z 3"]:
    axis = torch.linspace(-half, half, resolution)
    axis = axis[axis.abs() <= 0.5]
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
