"""Where a signal is looked at: evenly spaced coordinates of boxes, images and saved models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files.checkpoint import SavedModel, load_model
from finer_nerfstudio.tasks.signal.grid import coordinates


def lattice(points: int, dimensions: int) -> Float[Tensor, "n dimensions"]:
    """Evenly spaced points of [-1, 1]^dimensions, about so many."""
    side = max(2, round(points ** (1.0 / dimensions)))
    axis = torch.linspace(-1.0, 1.0, side, dtype=torch.float64)
    return torch.stack(torch.meshgrid(*[axis] * dimensions, indexing="ij"), dim=-1).reshape(-1, dimensions)


def grid_points(shape: Sequence[int], most: int) -> Float[Tensor, "n 2"]:
    """Evenly spaced coordinates of an image, all of its pixels or about ``most``.

    Args:
        shape: height and width in pixels.
        most: not many more points than these.
    """
    height, width = shape
    thinning = min(1.0, math.sqrt(most / (height * width)))
    rows = max(1, int(height * thinning))
    columns = max(1, min(int(width * thinning), most // rows))
    axes = [
        (torch.arange(count, dtype=torch.float64) + 0.5) * (size / count)
        for count, size in ((rows, height), (columns, width))
    ]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 2)
    return coordinates(positions, shape).float()


def points_of_model(model: Path, most: int) -> Float[Tensor, "n dimensions"]:
    """Where a saved model's signal is: an image's pixels, or the box that shapes lie in.

    Args:
        model: a file that :func:`finer_nerfstudio.files.checkpoint.save_model` wrote.
        most: about so many points.

    Raises:
        InputError: for a file that cannot be read, or does not say how large its image is.
    """
    saved = load_model(model)
    dimensions = saved.network.in_dim
    if saved.task == "image" and dimensions == 2:
        return grid_points(image_shape(saved, model), most)
    half = 0.5 if saved.task == "sdf" else 1.0
    return (half * lattice(most, dimensions)).float()


def image_shape(saved: SavedModel, model: Path) -> tuple[int, int]:
    """Height and width in pixels of the image that a model was fitted to.

    Args:
        saved: the model.
        model: its file, for the error.

    Raises:
        InputError: where the file does not say.
    """
    height, width = saved.signal.get("height"), saved.signal.get("width")
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) >= 1):
        raise InputError(f"{model} does not say the height and width of its image in pixels.")
    return height, width
