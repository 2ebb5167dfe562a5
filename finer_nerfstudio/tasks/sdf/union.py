"""The surface of what is inside a mesh whose parts lie within one another, overlap or touch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finer_nerfstudio.tasks.sdf.cutting import cut_faces
from finer_nerfstudio.tasks.sdf.orientation import both_sides, winding_of

# A look at so many of a patch's faces says on which side of the others the patch is.
_LOOKS = 32


@dataclass(frozen=True)
class Union:
    """The faces between inside and outside.

    Attributes:
        vertices: ``[n_vertices, 3]``.
        faces: ``[n_faces, 3]``. Where faces were cut, neighbouring pieces do not share vertices.
        buried: how many faces are wholly inside, and were left out.
        cut: how many were cut, because others cross or touch them.
        uncut: how many others cross in so many places that they were not cut, and are there or not as a whole.
    """

    vertices: np.ndarray
    faces: np.ndarray
    buried: int
    cut: int
    uncut: int


def union_of(vertices: np.ndarray, faces: np.ndarray, patches: np.ndarray) -> Union:
    """Leave out what is inside: the boundary of where the winding number exceeds one half.

    Args:
        vertices: ``[n_vertices, 3]`` in a frame where the longest side of the shape is 1.
        faces: ``[n_faces, 3]`` that look outward.
        patches: ``[n_faces]``, in which of the patches that hang together by edges each face is.
    """
    several = bool(patches.max() > 0)
    found = cut_faces(vertices, faces, touching=several)
    corners, face = found.corners, found.face
    if not several and not len(face):
        return Union(vertices, faces, 0, 0, found.uncut)
    whole = np.ones(len(faces), bool)
    whole[face] = False
    kept = _exposed_patches(vertices, faces, whole)
    pieces = np.arange(3 * len(face)).reshape(-1, 3)
    exposed = _exposed(vertices, faces, corners.reshape(-1, 3), pieces)
    exposed &= ~_repeated(vertices, faces, corners, face, found.flush)
    # Of a face whose pieces all stay, itself.
    cut = np.unique(face)
    complete = np.bincount(face, ~exposed, len(faces))[cut] == 0
    kept[cut[complete]] = True
    shown = exposed & ~np.isin(face, cut[complete])
    partly = np.unique(face[shown])
    together = np.concatenate([vertices, corners[shown].reshape(-1, 3)])
    numbered = len(vertices) + np.arange(3 * int(shown.sum())).reshape(-1, 3)
    left = np.concatenate([faces[kept], numbered])
    # Parts may have had a face in common.
    left = left[np.sort(np.unique(np.sort(left, axis=1), axis=0, return_index=True)[1])]
    used, renumbered = np.unique(left, return_inverse=True)
    buried = len(faces) - int(kept.sum()) - len(partly)
    return Union(together[used], renumbered.reshape(-1, 3), buried, len(partly), found.uncut)


def _exposed(vertices: np.ndarray, faces: np.ndarray, corners: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """Which pieces are not inside on both sides, nor outside where something is less than outside."""
    if not len(pieces):
        return np.zeros(0, bool)
    front, back = both_sides(corners, pieces)
    numbers = winding_of(vertices, faces, np.concatenate([front, back])).reshape(2, -1)
    return (numbers.min(axis=0) < 0.5) & (numbers.min(axis=0) > -0.5)


def _exposed_patches(vertices: np.ndarray, faces: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Which of the faces that were not cut are exposed: what hangs together is so together."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    mine = np.flatnonzero(whole)
    exposed = np.zeros(len(faces), bool)
    if not len(mine):
        return exposed
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, edge, count = np.unique(edges, axis=0, return_inverse=True, return_counts=True)
    edge = edge.reshape(-1)
    # Two faces, neither of which is cut, and no third one.
    owner = np.repeat(np.arange(len(faces)), 3)
    joining = (count[edge] == 2) & (np.bincount(edge, whole[owner])[edge] == 2)
    order = np.argsort(edge[joining], kind="stable")
    joined = owner[joining][order].reshape(-1, 2)
    graph = coo_matrix((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=2 * (len(faces),))
    patch = connected_components(graph, directed=False)[1][mine]
    # The first faces of each patch, by falling area.
    corners = vertices[faces[mine]]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    order = np.lexsort((-areas, patch))
    first = np.flatnonzero(np.concatenate([[True], np.diff(patch[order]) > 0]))
    place = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    looked = order[place < _LOOKS]
    votes = np.where(_exposed(vertices, faces, vertices, faces[mine[looked]]), 1, -1)
    exposed[mine] = np.bincount(patch[looked], votes, int(patch.max()) + 1)[patch] >= 0
    return exposed


def _repeated(
    vertices: np.ndarray, faces: np.ndarray, corners: np.ndarray, face: np.ndarray, flush: np.ndarray
) -> np.ndarray:
    """Which pieces lie in a face of the same plane that comes before theirs, which has them too."""
    repeated = np.zeros(len(face), bool)
    flush = flush[flush[:, 1] < flush[:, 0]]
    if not len(flush) or not len(face):
        return repeated
    flush = flush[np.argsort(flush[:, 0], kind="stable")]
    first, last = np.searchsorted(flush[:, 0], face, "left"), np.searchsorted(flush[:, 0], face, "right")
    piece = np.repeat(np.arange(len(face)), last - first)
    within = np.arange(len(piece)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
    before = flush[first[piece] + within, 1]
    middle = corners[piece].mean(axis=1)
    a, b, c = np.moveaxis(vertices[faces[before]], 1, 0)
    normal = np.cross(b - a, c - a)
    sides = [np.einsum("ij,ij->i", np.cross(q - p, middle - p), normal) for p, q in ((a, b), (b, c), (c, a))]
    inside = (np.stack(sides) > 0).all(axis=0)
    repeated[piece[inside]] = True
    return repeated
