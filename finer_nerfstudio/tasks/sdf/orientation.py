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
    agreeing, patches = _agreeing(vertices, faces)
    count = int(patches.max()) + 1
    disagreed = int((agreeing != faces).any(axis=1).sum())
    turn = _inward(vertices, agreeing, patches, count)
    agreeing[turn[patches]] = agreeing[turn[patches]][:, ::-1]
    return Oriented(agreeing, patches, disagreed, int(turn.sum()))


def _agreeing(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Faces that look the same way as their neighbours, and the patch ``[n_faces]`` that each is in.

    What is closed as it is stays as it is. Elsewhere faces are turned, of each patch those with the smaller area.
    """
    import igl

    edges, edge, ahead, face = _edges(faces)
    whole, pieces = _connected(face, edge, len(faces), len(edges))
    closed = np.bincount(pieces[face], np.abs(np.bincount(edge, ahead, len(edges)))[edge], whole)[pieces] == 0
    agreeing, patches = faces.copy(), np.zeros(len(faces), np.int64)
    if closed.any():
        patches = _solids(vertices, faces, closed)
    loose = np.flatnonzero(~closed)
    if len(loose):
        turned, patch = igl.bfs_orient(np.ascontiguousarray(faces[loose], np.int64))
        turned, patch = np.array(turned, np.int64), np.asarray(patch, np.int64).reshape(-1)
        corners = vertices[faces[loose]]
        areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        smallest, rows = faces[loose].argmin(axis=1), np.arange(len(loose))
        same = turned[rows, (turned.argmin(axis=1) + 1) % 3] == faces[loose][rows, (smallest + 1) % 3]
        mostly = np.bincount(patch, areas * np.where(same, 1, -1)) < 0
        turn = same == mostly[patch]
        agreeing[loose[turn]] = faces[loose[turn]][:, ::-1]
        patches[loose] = patch + patches.max() + 1
    return agreeing, np.unique(patches, return_inverse=True)[1].reshape(-1)


def _edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Edges ``[n, 2]``; and of every side of a face its edge, 1 or -1 for its direction, and its face."""
    sides = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    edges, edge = np.unique(np.sort(sides, axis=1), axis=0, return_inverse=True)
    return edges, edge.reshape(-1), np.where(sides[:, 0] < sides[:, 1], 1, -1), np.repeat(np.arange(len(faces)), 3)


def _connected(left: np.ndarray, right: np.ndarray, count: int, others: int) -> tuple[int, np.ndarray]:
    """How many sets of things hang together by having others in common, and the set ``[count]`` of each."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(left), bool), (left, count + right)), shape=2 * (count + others,))
    sets, labels = connected_components(graph, directed=False)
    return sets, labels[:count]


def _solids(vertices: np.ndarray, faces: np.ndarray, closed: np.ndarray) -> np.ndarray:
    """The solid ``[n_faces]`` that each of the closed faces bounds.

    At an edge where several solids meet, those two faces belong together that have a wedge of inside between them.
    """
    edges, edge, ahead, face = _edges(faces)
    counts = np.bincount(edge, minlength=len(edges))
    simple = closed[face] & (counts[edge] == 2)
    left, right = [face[simple]], [edge[simple]]
    more = len(edges)
    busy = np.flatnonzero(closed[face] & (counts[edge] > 2))
    busy = busy[np.argsort(edge[busy], kind="stable")]
    for sides in np.split(busy, np.flatnonzero(np.diff(edge[busy])) + 1) if len(busy) else []:
        start, end = vertices[edges[edge[sides[0]]]]
        along = (end - start) / max(float(np.linalg.norm(end - start)), 1e-300)
        middles = vertices[faces[face[sides]]].mean(axis=1) - start
        first = middles[0] - (middles[0] @ along) * along
        angles = np.round(np.arctan2(middles @ np.cross(along, first), middles @ first), 9) % np.round(2 * np.pi, 9)
        # Faces that go back along the edge have the inside ahead, those that go ahead have it behind.
        order = np.lexsort((face[sides], ahead[sides], angles))
        signs = -ahead[sides][order]
        order = np.roll(order, -(int(signs.cumsum().argmin()) + 1))
        begun: list[int] = []
        for side in sides[order]:
            if ahead[side] < 0:
                begun.append(int(face[side]))
            else:
                left.append(np.array([begun.pop(0), face[side]]))
                right.append(np.array([more, more]))
                more += 1
    return _connected(np.concatenate(left), np.concatenate(right), len(faces), more)[1]


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
    _, edge, ahead, _ = _edges(faces)
    return int((np.bincount(edge, ahead) != 0).sum())


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
