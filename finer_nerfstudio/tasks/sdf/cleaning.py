"""Faces of a mesh that should not be there: without area, given twice, given both ways round."""

from __future__ import annotations

import numpy as np

# Vertices that are nearer than this, relative to the longest side of the shape, are one.
_SAME_PLACE = 1e-8


def merged(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join vertices that are in one place, and leave out those that no face has.

    Formats such as STL repeat a vertex for every face, and then no edge would have two faces.

    Args:
        vertices: ``[n_vertices, 3]`` in a frame where the longest side of the shape is 1.
        faces: ``[n_faces, 3]``.
    """
    used = np.unique(faces)
    places = np.round(vertices[used] / _SAME_PLACE).astype(np.int64)
    _, first, inverse = np.unique(places, axis=0, return_index=True, return_inverse=True)
    renumbered = np.zeros(len(vertices), np.int64)
    renumbered[used] = inverse.reshape(-1)
    return vertices[used[first]], renumbered[faces]


def without_flat(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces that have three different vertices and an area.

    Faces without an area stay where leaving them out would open the mesh: between three vertices on a line, they hold
    a long edge and two short ones together.
    """
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces = faces[distinct]
    corners = vertices[faces]
    flat = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) == 0
    if flat.any() and not flat.all() and _single_edges(faces[~flat]) > _single_edges(faces):
        return faces
    return faces[~flat]


def without_doubles(faces: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Every face once.

    Of a face that is given both ways round, which by themselves would cancel, one stays. But where two closed parts
    touch, such a pair is a wall between them that is inside both: neither stays. A face that is given twice the same
    way round stays twice where two closed parts have it.

    Returns:
        The faces; how many of them were given both ways round; and how many such pairs were walls.
    """
    ordered = np.sort(faces, axis=1)
    # Whether the smallest vertex is followed by the middle one.
    rows = np.arange(len(faces))
    ahead = faces[rows, (faces.argmin(axis=1) + 1) % 3] == ordered[:, 1]
    unique, group = np.unique(ordered, axis=0, return_inverse=True)
    group = group.reshape(-1)
    both = np.zeros((len(unique), 2), bool)
    both[group, ahead.astype(int)] = True
    twin = both.all(axis=1)
    wall = np.zeros(len(unique), bool)
    if twin.any() and not twin.all():
        wall[twin] = _between_parts(unique[twin], unique[~twin])
    _, first = np.unique(group, return_index=True)
    again = np.ones(len(faces), bool)
    again[first] = False
    again &= ~twin[group]
    keep = np.zeros(len(faces), bool)
    keep[first[~wall]] = True
    if again.any():
        keep[np.flatnonzero(again)[_needed(faces[again], faces[keep | again])]] = True
    return faces[keep], int((twin & ~wall).sum()), int(wall.sum())


def _needed(copies: np.ndarray, everything: np.ndarray) -> np.ndarray:
    """Which copies are in a patch of copies without which more edges would be open."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    sides = np.concatenate([copies, everything])[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    edges, edge = np.unique(np.sort(sides, axis=1), axis=0, return_inverse=True)
    ahead = np.where(sides[:, 0] < sides[:, 1], 1, -1)
    mine, all_of_them = edge.reshape(-1)[: 3 * len(copies)], edge.reshape(-1)[3 * len(copies) :]
    balance = np.bincount(all_of_them, ahead[3 * len(copies) :], len(edges))
    face = np.repeat(np.arange(len(copies)), 3)
    touching = coo_matrix((np.ones(len(mine)), (face, mine)), shape=(len(copies), len(edges))).tocsr()
    count, patch = connected_components(touching @ touching.T, directed=False)
    share = coo_matrix((ahead[: len(mine)], (patch[face], mine)), shape=(count, len(edges))).tocsr().tocoo()
    without = np.abs(balance[share.col] - share.data) - np.abs(balance[share.col])
    return (np.bincount(share.row, without, count) > 0)[patch]


def _single_edges(faces: np.ndarray) -> int:
    """How many edges have one face only."""
    return int((np.unique(_edges(faces), axis=0, return_counts=True)[1] == 1).sum())


def _edges(faces: np.ndarray) -> np.ndarray:
    """``[3 * n_faces, 2]``, the smaller vertex first; those of face i are at i, n + i and 2 n + i."""
    return np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)


def _between_parts(twins: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the faces ``twins`` are in a patch of such faces that ends at edges which two other faces have, too."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(twins)
    edges, edge = np.unique(np.concatenate([_edges(twins), _edges(others)]), axis=0, return_inverse=True)
    edge = edge.reshape(-1)
    mine, theirs = edge[: 3 * count], np.bincount(edge[3 * count :], minlength=len(edges))
    face = np.tile(np.arange(count), 3)
    touching = coo_matrix((np.ones(3 * count), (face, mine)), shape=(count, len(edges))).tocsr()
    patches, patch = connected_components(touching @ touching.T, directed=False)
    ends = np.bincount(mine, minlength=len(edges))[mine] == 1
    ending = np.bincount(patch[face[ends]], minlength=patches)
    supported = np.bincount(patch[face[ends & (theirs[mine] >= 2)]], minlength=patches)
    return ((ending > 0) & (ending == supported))[patch]
