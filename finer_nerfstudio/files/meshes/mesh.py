"""Triangles with colours, and what can be said of triangles alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Mesh:
    """Triangles.

    Attributes:
        vertices: ``[n_vertices, 3]``.
        faces: ``[n_faces, 3]`` vertices of each, anticlockwise as seen from outside.
        colors: ``[n_vertices, 3]`` in [0, 1], as pictures have them (sRGB), or None.
    """

    vertices: Float[np.ndarray, "n_vertices 3"]
    faces: Int[np.ndarray, "n_faces 3"]
    colors: Float[np.ndarray, "n_vertices 3"] | None = None

    def of_faces(self, kept: Bool[np.ndarray, " n_faces"]) -> Mesh:
        """Return the mesh of some faces, and of no other vertices than theirs."""
        faces = self.faces[kept]
        used = np.zeros(len(self.vertices), bool)
        used[faces] = True
        renumbered = np.cumsum(used) - 1
        return Mesh(self.vertices[used], renumbered[faces], None if self.colors is None else self.colors[used])


def face_areas(vertices: Float[np.ndarray, "n_vertices 3"], faces: Int[np.ndarray, "n_faces 3"]) -> np.ndarray:
    """Return the area of each face, ``[n_faces]``."""
    return 0.5 * np.linalg.norm(_crosses(vertices, faces), axis=1)


def vertex_normals(vertices: Float[np.ndarray, "n_vertices 3"], faces: Int[np.ndarray, "n_faces 3"]) -> np.ndarray:
    """``[n_vertices, 3]`` unit normals, the mean of the faces' around a vertex weighted by area; zero where none is."""
    cross = _crosses(vertices, faces)
    normals = np.stack(
        [np.bincount(faces.ravel(), np.repeat(cross[:, axis], 3), len(vertices)) for axis in range(3)], axis=-1
    )
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-300)


def _crosses(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = vertices[faces]
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def parts_of(faces: Int[np.ndarray, "n_faces 3"], n_vertices: int) -> Int[np.ndarray, " n_faces"]:
    """Return the connected part that each face belongs to, numbered from 0; faces of a part share vertices."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    starts, ends = faces.ravel(), faces[:, [1, 2, 0]].ravel()
    graph = coo_matrix((np.ones(len(starts), bool), (starts, ends)), shape=(n_vertices, n_vertices))
    _, part = connected_components(graph, directed=False)
    _, numbered = np.unique(part[faces[:, 0]], return_inverse=True)
    return numbered.reshape(-1)
