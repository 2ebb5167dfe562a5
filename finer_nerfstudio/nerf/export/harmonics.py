"""Colours that depend on the viewing direction, as real spherical harmonics in the order and signs of 3D Gaussian
Splatting (Kerbl et al. 2023): a colour is 0.5 plus the sum, and nothing is darker than black."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

HIGHEST_DEGREE = 3

# Of the clamped cosine (Ramamoorthi & Hanrahan 2001), by degree, relative to the first.
_COSINE_LOBE = (1.0, 2.0 / 3.0, 1.0 / 4.0, 0.0)


def terms(degree: int) -> int:
    """Number of harmonics up to ``degree``."""
    return (degree + 1) ** 2


def degree_of(count: int) -> int:
    """Degree of a colour with ``count`` harmonics."""
    return {terms(degree): degree for degree in range(HIGHEST_DEGREE + 1)}[count]


def basis(directions: Float[Tensor, "*batch 3"], degree: int) -> Float[Tensor, "*batch terms"]:
    """Harmonics of unit directions, up to ``degree`` (0 to 3), by degree and then by order."""
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, 0.28209479177387814)]
    if degree >= 1:
        values += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        values += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (3 * z * z - 1),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ]
    if degree >= 3:
        values += [
            -0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (5 * z * z - 1),
            0.3731763325901154 * z * (5 * z * z - 3),
            -0.4570457994644658 * x * (5 * z * z - 1),
            1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(values, dim=-1)


def colors(
    harmonics: Float[Tensor, "points terms 3"], directions: Float[Tensor, "points 3"]
) -> Float[Tensor, "points 3"]:
    """Colours seen along unit ``directions``, from 0 upwards."""
    values = basis(directions, degree_of(harmonics.shape[1]))
    return ((values[..., None] * harmonics).sum(dim=1) + 0.5).clamp(min=0.0)


def mean_colors(harmonics: Float[Tensor, "points terms 3"]) -> Float[Tensor, "points 3"]:
    """Mean colours in [0, 1] over all directions; the same however a scene is turned."""
    return (0.28209479177387814 * harmonics[:, 0] + 0.5).clamp(0.0, 1.0)


def colors_from_outside(
    harmonics: Float[Tensor, "points terms 3"], normals: Float[Tensor, "points 3"]
) -> Float[Tensor, "points 3"]:
    """Mean colours in [0, 1] over the directions that look at a surface, weighted by their cosine to its normal.

    For viewers that know one colour a point. Points without a normal (zeros) have the mean over all directions.
    """
    degree = degree_of(harmonics.shape[1])
    # A viewing direction points against the normal.
    values = basis(torch.nn.functional.normalize(-normals, dim=-1), degree)
    lobe = [_COSINE_LOBE[i] for i in range(degree + 1) for _ in range(2 * i + 1)]
    values = values * values.new_tensor(lobe)
    values[normals.norm(dim=-1) == 0, 1:] = 0.0
    return ((values[..., None] * harmonics).sum(dim=1) + 0.5).clamp(0.0, 1.0)


def fit(
    directions: Float[Tensor, "points views 3"],
    seen: Float[Tensor, "points views 3"],
    weights: Float[Tensor, "points views"],
    *,
    degree: int,
    stiffness: float = 0.0,
) -> Float[Tensor, "points terms 3"]:
    """Harmonics by weighted least squares.

    Args:
        directions: unit viewing directions.
        seen: the colours seen along them, in [0, 1].
        weights: how much each counts, not negative; of a point without any, the colour is grey.
        degree: 0 to 3.
        stiffness: pulls the harmonics of degree l > 0 towards zero, as much as ``stiffness * l^2`` times the weights'
            sum would: what no direction has seen then has about the mean colour.
    """
    values = basis(directions, degree)
    weighted = values * weights[..., None]
    normal_matrix = weighted.mT @ values
    penalty = [float(i * i) for i in range(degree + 1) for _ in range(2 * i + 1)]
    total = weights.sum(dim=1)[:, None]
    # The least of all ridges keeps points without any weight solvable.
    ridge = stiffness * total * values.new_tensor(penalty) + 1e-6 * total + 1e-12
    right_side = weighted.mT @ (seen - 0.5)
    return torch.linalg.solve(normal_matrix + torch.diag_embed(ridge), right_side)
