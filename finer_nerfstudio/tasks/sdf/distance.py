"""Signed distances to a shape, negative inside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.runs.raycasting import as_open3d, scene_of

SignedDistance = Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]
"""From float32 points on the CPU to their signed distances."""


def mesh_distance(vertices: np.ndarray, faces: np.ndarray) -> SignedDistance:
    """Exact distances to triangles, with a sign that survives holes, overlaps and self-intersections.

    The magnitude is that of the nearest triangle (Embree, through Open3D), the sign that of the generalised winding
    number (Barill et al. 2018, through libigl): inside is where it exceeds one half.

    Args:
        vertices: ``[n_vertices, 3]``.
        faces: ``[n_faces, 3]`` triangles, oriented outward.
    """
    import igl

    scene = scene_of(vertices, faces)
    winding = igl.FastWindingNumberBVH()
    winding.init(np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int64))

    def distance(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        where = points.numpy()
        magnitude = scene.compute_distance(as_open3d(where, np.float32)).numpy()
        inside = np.asarray(winding.winding_number(where.astype(np.float64))) > 0.5
        return torch.from_numpy(np.where(inside, -magnitude, magnitude))

    return distance


def cloud_distance(points: np.ndarray, normals: np.ndarray) -> SignedDistance:
    """Distances to the nearest point; inside is behind the mean normal of the three nearest (the authors' rule).

    Args:
        points: ``[n_points, 3]``.
        normals: ``[n_points, 3]`` unit vectors that point outward.
    """
    from scipy.spatial import KDTree

    tree = KDTree(points)
    neighbours = min(3, len(points))

    def distance(queries: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        where = queries.numpy().astype(np.float64)
        lengths, nearest = tree.query(where, k=neighbours, workers=-1)
        lengths, nearest = lengths.reshape(len(where), -1), nearest.reshape(len(where), -1)
        # Seen from the middle of the three, so that one point's noise does not decide.
        offsets = where - points[nearest].mean(axis=1)
        outside = np.einsum("ij,ij->i", offsets, normals[nearest].mean(axis=1)) >= 0
        return torch.from_numpy(np.where(outside, lengths[:, 0], -lengths[:, 0]).astype(np.float32))

    return distance
