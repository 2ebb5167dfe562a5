"""Subjects of streams: images and shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from finer_nerfstudio.errors import InputError, argument
from finer_nerfstudio.inr.growth import GrowingNetwork
from finer_nerfstudio.runs import metrics
from finer_nerfstudio.streams.header import StreamHeader
from finer_nerfstudio.streams.reader import Stream
from finer_nerfstudio.tasks.image.files import SourceImage
from finer_nerfstudio.tasks.image.fit import decode_image, measure, signal_of
from finer_nerfstudio.tasks.streaming.encode import StreamOptions, Subject
from finer_nerfstudio.tasks.streaming.stage_training import grid_problem, shape_problem

# The paper's batch for shapes.
_SHAPE_BATCH = 10_000
_LARGEST_SIDE = 1 << 20


def image_subject(image: SourceImage, options: StreamOptions) -> Subject:
    """An image; its quality is that of :func:`finer_nerfstudio.tasks.image.fit.measure`."""
    height, width, channels = image.pixels.shape
    return Subject(
        "image",
        2,
        channels,
        {"height": height, "width": width, "maximum": image.maximum},
        image.description,
        lambda network, generator: grid_problem(network, signal_of(image), options.batch_size, generator),
        lambda network: measure(network.merged(), image)[0],
    )


def shape_subject(shape: Any, options: StreamOptions) -> Subject:
    """A mesh or a cloud of points with normals; quality is the IoU of a 128^3 grid over the unit frame."""
    from finer_nerfstudio.tasks.sdf.fit import distance_to, field_of, in_unit_frame, inside_of_distance, inside_of_field
    from finer_nerfstudio.tasks.sdf.sampling import SurfaceSampler

    unit, normalization = in_unit_frame(shape)
    surface, distance = SurfaceSampler(unit), distance_to(unit)
    count = options.batch_size if isinstance(options.batch_size, int) else _SHAPE_BATCH
    truth: list[np.ndarray] = []

    def quality(network: GrowingNetwork) -> dict[str, float | None]:
        if not truth:
            truth.append(inside_of_distance(distance, 0.5, closed=shape.watertight))
        return {"iou": metrics.iou(inside_of_field(field_of(network.merged()), 0.5), truth[0])}

    return Subject(
        "sdf",
        3,
        1,
        {"center": [float(value) for value in normalization.center], "scale": float(normalization.scale)},
        shape.description,
        lambda network, generator: shape_problem(network, surface, distance, count, generator),
        quality,
    )


def image_size(header: StreamHeader) -> tuple[int, int, int]:
    """Height, width and the value of full intensity of the image that a header describes.

    Raises:
        InputError: for a stream of something else, and for sizes that cannot be.
    """
    if header.task != "image":
        raise InputError(f"the stream holds a signal of the task {header.task!r} and no image.")
    sizes = [header.signal.get(name) for name in ("height", "width", "maximum")]
    height, width, maximum = (size if type(size) is int else 0 for size in sizes)
    network = header.networks[0]
    if not (1 <= height <= _LARGEST_SIDE and 1 <= width <= _LARGEST_SIDE and maximum in (255, 65535)):
        raise InputError("the stream's header describes no possible image.")
    if len(header.networks) != 1 or network.in_dim != 2 or network.out_dim > 4:
        raise InputError("the stream's network is none of an image.")
    return height, width, maximum


def picture_of(
    stream: Stream,
    *,
    stages: int | None = None,
    resolution: tuple[int, int] | None = None,
    largest: int = 1 << 25,
    report: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Pixels ``[height, width, channels]``, uint8 or uint16, that the stages of a stream show.

    Args:
        stream: of an image, with a stage at least.
        stages: use only so many; all that there are unless given.
        resolution: rows and columns; those of the image unless given.
        largest: pixels of four bytes that memory may be set aside for.
        report: progress callback: (completed, total) pixels.

    Raises:
        InputError: where there is nothing to show yet, for other signals and for larger pictures.
    """
    height, width, maximum = image_size(stream.header)
    rows, columns = resolution or (height, width)
    if rows * columns * stream.networks[0].out_dim * (1 if maximum == 255 else 2) > 4 * largest:
        raise InputError(
            f"the picture has {rows:,} x {columns:,} pixels, more than the {largest:,} that are allowed: give a "
            f"smaller {argument('size')}, or a larger {argument('max_pixels')}."
        )
    stages = stream.stages if stages is None else stages
    if not 1 <= stages <= stream.stages:
        raise InputError(f"the stream has {stream.stages} complete stages; there is no picture of {stages}.")
    network = stream.networks[0].merged(stages)
    return decode_image(network, height=height, width=width, maximum=maximum, resolution=resolution, report=report)


def surface_in_units(stream: Stream, resolution: int, *, stages: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Vertices in the shape's own units, and faces.

    Raises:
        InputError: for other signals, and where there is no surface.
    """
    from finer_nerfstudio.tasks.sdf.fit import surface_of
    from finer_nerfstudio.tasks.sdf.shape import Normalization

    if stream.header.task != "sdf" or len(stream.networks) != 1 or stream.header.networks[0].in_dim != 3:
        raise InputError(f"the stream holds a signal of the task {stream.header.task!r} and no shape.")
    center, scale = stream.header.signal.get("center"), stream.header.signal.get("scale")
    if not (_numbers(center, 3) and _numbers([scale], 1) and scale > 0):  # pyright: ignore[reportOptionalOperand]
        raise InputError("the stream's header describes no possible shape.")
    stages = stream.stages if stages is None else stages
    if not 1 <= stages <= stream.stages:
        raise InputError(f"the stream has {stream.stages} complete stages; there is no surface of {stages}.")
    vertices, faces = surface_of(stream.networks[0].merged(stages), resolution)
    return Normalization((center[0], center[1], center[2]), float(scale)).to_source(vertices), faces  # pyright: ignore


def _numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) == count
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )
