"""Which way faces look: neighbours the same way, and parts outward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# An open part looks one way or the other where the mean winding number on its surface, which is 1/2 on a closed part,
# is farther from zero than this. A half ball has about 0.3.
_CLEAR = 0.25
# Where a side of a face is looked at, relative to the longest side of the shape.
STEP_ASIDE = 1e-5
_LOOKS = 256
_LOOKS_WITHIN = 8
# A part of fewer faces encloses nothing.
_FEWEST_FACES = 4


@dataclass(frozen=True)
class Oriented:
    """Faces that look outward.

    Attributes:
        faces: ``[n_faces, 3]``.
        patches: ``[n_faces]``, the number of the patch that each is in: faces that hang together by edges which two
            faces have.
        disagreed: how many faces were turned to agree with their neighbours.
        turned: how many patches looked inward and were turned.
    """

    faces: np.ndarray
    patches: np.ndarray
    disagreed: int
    turned: int


def oriented(vertices: np.ndarray, faces: np.ndarray) -> Oriented:
    """Turn faces so that neighbours agree and parts look outward.

    Every part is decided by itself, whatever the origin: a closed one by its volume, an open one by its winding number,
    and where that says nothing it stays as it is. A part that looks inward within another that looks outward is a
    cavity and stays one; where the outer part is turned, what is within it is turned with it.

    Args:
        vertices: ``[n_vertices, 3]`` in a frame where the longest side of the shape is 1.
        faces: ``[n_faces, 3]`` without doubles.
    """
    import igl

    agreeing, patches = igl.bfs_orient(np.ascontiguousarray(faces, np.int64))
    agreeing, patches = np.asarray(agreeing, np.int64), np.asarray(patches, np.int64).reshape(-1)
    corners = vertices[faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    smallest = faces.argmin(axis=1)
    rows = np.arange(len(faces))
    other = agreeing[rows, (agreeing.argmin(axis=1) + 1) % 3] != faces[rows, (smallest + 1) % 3]
    # The larger area keeps its side.
    count = int(patches.max()) + 1
    mostly = np.bincount(patches, areas * other, count) > 0.5 * np.bincount(patches, areas, count)
    agreeing[mostly[patches]] = agreeing[mostly[patches]][:, ::-1]
    disagreed = int((other ^ mostly[patches]).sum())
    turn = _inward(vertices, agreeing, patches, count)
    agreeing[turn[patches]] = agreeing[turn[patches]][:, ::-1]
    return Oriented(agreeing, patches, disagreed, int(turn.sum()))


def winding_of(vertices: np.ndarray, faces: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Generalised winding numbers of points ``[n, 3]``, with errors of about a hundredth."""
    import igl

    tree = igl.FastWindingNumberBVH()
    tree.init(np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int64))
    return np.asarray(tree.winding_number(np.ascontiguousarray(points, np.float64))).reshape(-1)


def both_sides(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points ``[n_faces, 3]`` in front of the middles of faces and behind them."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    middles = corners.mean(axis=1)
    return middles + STEP_ASIDE * normals, middles - STEP_ASIDE * normals


def _inward(vertices: np.ndarray, faces: np.ndarray, patches: np.ndarray, count: int) -> np.ndarray:
    """Which patches are to be turned."""
    order = np.argsort(patches, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(patches, minlength=count))[:-1])
    outward = np.array([_sign(vertices, faces[mine]) for mine in members])
    turn = np.zeros(count, bool)
    vague = np.flatnonzero(outward == 0)
    # Pieces that say nothing one by one may enclose something together.
    if len(vague) > 1 and _sign(vertices, faces[np.concatenate([members[i] for i in vague])]) < 0:
        turn[vague] = True
    clear = np.flatnonzero(outward)
    volumes = np.array([abs(_volume(vertices, faces[members[i]])) for i in clear])
    clear = clear[np.argsort(-volumes, kind="stable")]
    around = _containers(vertices, faces, [members[i] for i in clear])
    signs = np.zeros(len(clear), int)
    for i, patch in enumerate(clear):
        # The smallest one, which comes last, takes what is in it along.
        turn[patch] = bool(around[i]) and turn[clear[around[i][-1]]]
        signs[i] = -outward[patch] if turn[patch] else outward[patch]
        if signs[i] < 0 and signs[around[i]].sum() <= 0:  # an inside there that is less than nothing
            turn[patch] = not turn[patch]
            signs[i] = 1
    return turn


def _sign(vertices: np.ndarray, faces: np.ndarray) -> int:
    """1 for faces that look outward, -1 for inward, 0 where they cannot be said to do either."""
    if len(faces) < _FEWEST_FACES:
        return 0
    if not open_edges(faces):
        return int(np.sign(_volume(vertices, faces)))
    corners = vertices[faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).cumsum()
    looks = np.searchsorted(areas, (np.arange(_LOOKS) + 0.5) / _LOOKS * areas[-1])
    front, back = both_sides(vertices, faces[np.minimum(looks, len(faces) - 1)])
    numbers = winding_of(vertices, faces, np.concatenate([front, back]))
    mean = float(numbers.mean())
    return int(np.sign(mean)) if abs(mean) > _CLEAR else 0


def open_edges(faces: np.ndarray) -> int:
    """How many edges are not gone along as often one way as the other; a closed surface has none."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ahead = np.where(edges[:, 0] < edges[:, 1], 1, -1)
    _, edge = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True)
    return int((np.bincount(edge.reshape(-1), ahead) != 0).sum())


def _volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    corners = vertices[faces] - vertices[faces].mean(axis=(0, 1))
    return float(np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6.0)


def _containers(vertices: np.ndarray, faces: np.ndarray, members: list[np.ndarray]) -> list[list[int]]:
    """Of every part, given by falling size, which of those before it hold its larger half."""
    within: list[list[int]] = [[] for _ in members]
    if len(members) < 2:
        return within
    corners = [vertices[faces[mine]] for mine in members]
    low = np.array([part.min(axis=(0, 1)) for part in corners])
    high = np.array([part.max(axis=(0, 1)) for part in corners])
    some = np.stack([part[np.linspace(0, len(part) - 1, _LOOKS_WITHIN).astype(int), 0] for part in corners])
    for j in range(len(members) - 1):
        near = (low[j + 1 :] <= high[j]).all(axis=1) & (high[j + 1 :] >= low[j]).all(axis=1)
        inner = np.flatnonzero(near) + j + 1
        if len(inner):
            numbers = winding_of(vertices, faces[members[j]], some[inner].reshape(-1, 3)).reshape(len(inner), -1)
            for i in inner[(np.abs(numbers) > 0.5).mean(axis=1) > 0.5]:
                within[i].append(j)
    return within
