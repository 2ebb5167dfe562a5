"""Point clouds: whether their normals are some, agree and look outward."""

from __future__ import annotations

import numpy as np

# Where more of the pairs of neighbours than this look opposite ways, it is not for thin walls.
_MOST_OPPOSITE = 0.1
_NEIGHBOURS = 4
_LOOKED_AT = 20_000
_DIRECTIONS = 200


def disagreement(points: np.ndarray, normals: np.ndarray) -> float:
    """The share in [0, 1] of neighbouring points whose normals look opposite ways.

    Args:
        points: ``[n_points, 3]``.
        normals: ``[n_points, 3]``.
    """
    from scipy.spatial import KDTree

    some = np.linspace(0, len(points) - 1, min(len(points), _LOOKED_AT)).astype(int)
    count = min(_NEIGHBOURS, len(points) - 1)
    _, nearest = KDTree(points).query(points[some], k=count + 1, workers=-1)
    cosines = np.einsum("ij,ikj->ik", normals[some], normals[np.asarray(nearest)[:, 1:]])
    return float((cosines < 0).mean())


def disagree(points: np.ndarray, normals: np.ndarray) -> float | None:
    """The share of disagreeing neighbours where it is too large for a surface, None elsewhere."""
    share = disagreement(points, normals)
    return share if share > _MOST_OPPOSITE else None


def look_inward(points: np.ndarray, normals: np.ndarray) -> bool:
    """Whether normals look inward: whether the outermost points in most directions look back.

    Args:
        points: ``[n_points, 3]``.
        normals: ``[n_points, 3]``.
    """
    directions = np.random.default_rng(0).normal(size=(_DIRECTIONS, 3))
    outermost = (points @ directions.T).argmax(axis=0)
    return bool((np.einsum("ij,ij->i", normals[outermost], directions) < 0).mean() > 0.75)
