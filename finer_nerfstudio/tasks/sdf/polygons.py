"""From polygons to triangles, also where polygons are not convex."""

from __future__ import annotations

import numpy as np

# The time of ear clipping grows with the square of a polygon's corners.
_MOST_CORNERS = 10_000
# Corners whose sine is below this are straight.
_STRAIGHT = 1e-10


def triangles_of(vertices: np.ndarray, corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """``[n_faces, 3]`` triangles of polygons, in their order: of one with n corners n - 2, by clipping ears.

    Every corner stays a corner, also one in the middle of a straight side, because a neighbour may have it too.
    Polygons that cross themselves become fans.

    Args:
        vertices: ``[n_vertices, 3]`` finite numbers.
        corners: ``[n_corners]`` vertices at the corners, polygon after polygon.
        sizes: ``[n_polygons]`` corners of each polygon; those with fewer than three have no triangle.

    Raises:
        ValueError: for a polygon of more than ten thousand corners.
    """
    if len(sizes) and sizes.max() > _MOST_CORNERS:
        raise ValueError(f"it has a polygon of {sizes.max():,} corners: split it into triangles")
    starts = np.cumsum(sizes) - sizes
    of_polygon = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.maximum(sizes - 2, 0)
    owner = np.repeat(np.arange(len(sizes)), counts)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    local = np.stack([np.zeros_like(place), place + 1, place + 2], axis=1)  # fans
    first_face = np.cumsum(counts) - counts
    for polygon in np.flatnonzero(_needs_clipping(vertices[corners], of_polygon, starts, sizes)):
        mine = slice(first_face[polygon], first_face[polygon] + counts[polygon])
        points = vertices[corners[starts[polygon] : starts[polygon] + sizes[polygon]]]
        local[mine] = _clipped(_flattened(points))
    return corners[starts[owner][:, None] + local]


def _needs_clipping(points: np.ndarray, of_polygon: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which polygons have more than three corners, and one among them that does not turn as the others do."""
    if not len(points):
        return np.zeros(len(sizes), bool)
    at = np.arange(len(points)) - starts[of_polygon]
    after = points[starts[of_polygon] + (at + 1) % sizes[of_polygon]] - points
    before = points - points[starts[of_polygon] + (at - 1) % sizes[of_polygon]]
    turns = np.cross(before, after)
    relative = points - points[starts[of_polygon]]
    normals = np.stack([np.bincount(of_polygon, np.cross(relative, after)[:, i], len(sizes)) for i in range(3)], axis=1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    sines = np.einsum("ij,ij->i", turns, normals[of_polygon])
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    return (np.bincount(of_polygon, sines <= _STRAIGHT * lengths, len(sizes)) > 0) & (sizes > 3)


def _flattened(points: np.ndarray) -> np.ndarray:
    """``[n, 2]`` the corners in the plane that they are nearest to, so that they go round counter-clockwise."""
    points = points - points.mean(axis=0)
    normal = np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0)
    length = np.linalg.norm(normal)
    if length == 0:
        return points[:, :2]
    normal = normal / length
    first = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    first /= np.linalg.norm(first)
    return points @ np.stack([first, np.cross(normal, first)], axis=1)


def _clipped(flat: np.ndarray) -> np.ndarray:
    """``[n - 2, 3]`` triangles of a polygon that goes round counter-clockwise."""
    count = len(flat)
    x, y = flat[:, 0].tolist(), flat[:, 1].tolist()
    before, after = [count - 1, *range(count - 1)], [*range(1, count), 0]

    def turn(i: int, j: int, k: int) -> float:
        """The sine of the corner j."""
        ux, uy, vx, vy = x[j] - x[i], y[j] - y[i], x[k] - x[j], y[k] - y[j]
        return (ux * vy - uy * vx) / max(((ux * ux + uy * uy) * (vx * vx + vy * vy)) ** 0.5, 1e-300)

    # Only these can lie in an ear, or on the side that it is cut off at.
    blunt = np.array([turn(before[i], i, after[i]) <= _STRAIGHT for i in range(count)])

    def is_ear(i: int, j: int, k: int) -> bool:
        if turn(i, j, k) <= _STRAIGHT:
            return False
        others = flat[blunt]
        within = np.ones(len(others), bool)
        for p, q in ((i, j), (j, k), (k, i)):
            side, offset = flat[q] - flat[p], others - flat[p]
            within &= side[0] * offset[:, 1] - side[1] * offset[:, 0] >= -_STRAIGHT * (side @ side)
            within &= (offset != 0).any(axis=1)
        return not within.any()

    triangles, corner, tried, left = [], 0, 0, count
    while left > 3 and tried <= left:
        i, k = before[corner], after[corner]
        if not is_ear(i, corner, k):
            corner, tried = k, tried + 1
            continue
        triangles.append((i, corner, k))
        after[i], before[k], left, tried = k, i, left - 1, 0
        blunt[corner] = False
        for end in (i, k):
            blunt[end] = turn(before[end], end, after[end]) <= _STRAIGHT
        corner = after[k]
    rest = [corner]
    while after[rest[-1]] != corner:
        rest.append(after[rest[-1]])
    triangles += [(rest[0], rest[i], rest[i + 1]) for i in range(1, len(rest) - 1)]
    return np.array(triangles)
