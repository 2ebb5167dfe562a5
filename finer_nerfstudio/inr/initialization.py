"""How weights and biases start out (FINER++ paper, §4.3).

A sine-style layer draws weights from ``U(-1/n_in, 1/n_in)`` if it is the first and from
``U(-sqrt(6/n_in)/omega, sqrt(6/n_in)/omega)`` otherwise; any other layer follows PyTorch's default,
``U(-1/sqrt(n_in), 1/sqrt(n_in))``. The bias range k of FINER++ concerns the first layer's bias alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def weight_bound(n_in: int, *, is_first: bool, omega: float | None) -> float:
    """Half-width of the uniform distribution of a layer's weights.

    Args:
        n_in: number of inputs of the layer (complex inputs count once).
        is_first: whether the layer reads the coordinates.
        omega: frequency of the sine-style scheme, or None for PyTorch's default.
    """
    if omega is None:
        return 1.0 / math.sqrt(n_in)
    return 1.0 / n_in if is_first else math.sqrt(6.0 / n_in) / omega


LARGEST_BIAS_RANGE = 1e30
"""Single precision has room for what is drawn from it."""


def require_bias_range(bias_range: float) -> None:
    """Refuse a k that no biases could be drawn from.

    Raises:
        ValueError: for numbers that are not positive or beyond :data:`LARGEST_BIAS_RANGE`.
    """
    if not 0 < bias_range <= LARGEST_BIAS_RANGE:
        raise ValueError(f"bias_range must be a positive number up to {LARGEST_BIAS_RANGE:g}, not {bias_range}")


def bias_bound(n_in: int, *, is_first: bool, bias_range: float | None) -> float:
    """Half-width of the uniform distribution of a layer's biases: k in the first layer of FINER++, else PyTorch's."""
    if is_first and bias_range is not None:
        return bias_range
    return 1.0 / math.sqrt(n_in)


def uniform_(tensor: Tensor, bound: float, generator: torch.Generator | None) -> Tensor:
    """Fill ``tensor`` in place with ``U(-bound, bound)``; complex numbers packed as real tensors fill alike."""
    with torch.no_grad():
        return tensor.uniform_(-bound, bound, generator=generator)


def shell_(tensor: Tensor, low: float, high: float, generator: torch.Generator | None) -> Tensor:
    """Fill ``tensor`` in place with ``U(-high, -low)`` or ``U(low, high)``, either half of the time."""
    with torch.no_grad():
        sides = torch.rand(tensor.shape, generator=generator, device=tensor.device) < 0.5
        tensor.uniform_(low, high, generator=generator)
        return tensor.copy_(torch.where(sides, -tensor, tensor))
