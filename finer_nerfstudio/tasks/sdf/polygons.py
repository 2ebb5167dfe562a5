"""From polygons to triangles, also where polygons are not convex."""

from __future__ import annotations

import numpy as np

# The time of ear clipping grows with the square of a polygon's corners.
_MOST_CORNERS = 10_000


def triangles_of(vertices: np.ndarray, corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """``[n_faces, 3]`` triangles of polygons, in their order: of one with n corners n - 2, by clipping ears.

    Every corner stays a corner, also one in the middle of a straight side, because a neighbour may have it too.

    Args:
        vertices: ``[n_vertices, 3]`` finite numbers.
        corners: ``[n_corners]`` vertices at the corners, polygon after polygon.
        sizes: ``[n_polygons]`` corners of each polygon; those with fewer than three have no triangle.

    Raises:
        ValueError: for a polygon of more than ten thousand corners.
    """
    import igl.predicates

    if len(sizes) and sizes.max() > _MOST_CORNERS:
        raise ValueError(f"it has a polygon of {sizes.max():,} corners: split it into triangles")
    starts = np.cumsum(sizes) - sizes
    simple = np.flatnonzero(sizes == 3)
    polygon = np.flatnonzero(sizes > 3)
    faces, owners = [corners[starts[simple][:, None] + np.arange(3)]], [simple]
    if len(polygon):
        mine = np.repeat(sizes > 3, sizes)
        ends = np.concatenate([[0], np.cumsum(sizes[polygon])])
        clipped, owner = igl.predicates.polygons_to_triangles(
            np.ascontiguousarray(vertices, np.float64), corners[mine].astype(np.int64), ends.astype(np.int64)
        )
        faces.append(np.asarray(clipped, np.int64))
        owners.append(polygon[np.asarray(owner)])
    order = np.argsort(np.concatenate(owners), kind="stable")
    return np.concatenate(faces)[order]
