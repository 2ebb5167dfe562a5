"""A shape as its file has it, before anything is judged or repaired."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


def no_polygons() -> np.ndarray:
    """An empty list of corners or sizes."""
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class RawShape:
    """Points, and polygons of any number of corners.

    Attributes:
        vertices: ``[n_vertices, 3]`` float64.
        corners: ``[n_corners]`` int64, the vertex at each corner, polygon after polygon.
        sizes: ``[n_polygons]`` int64, how many corners each polygon has; none for a point cloud.
        normals: ``[n_vertices, 3]`` as the file has them, or None.
        notes: sentences on what was left out.
    """

    vertices: np.ndarray
    corners: np.ndarray = field(default_factory=no_polygons)
    sizes: np.ndarray = field(default_factory=no_polygons)
    normals: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def of_triangles(vertices: np.ndarray, faces: np.ndarray, notes: tuple[str, ...] = ()) -> RawShape:
    """A shape of triangles ``[n_faces, 3]``."""
    corners = np.asarray(faces, np.int64).reshape(-1)
    return RawShape(np.asarray(vertices, np.float64), corners, np.full(len(corners) // 3, 3), None, notes)
