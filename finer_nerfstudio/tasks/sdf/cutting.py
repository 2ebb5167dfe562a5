"""Cutting the faces of a mesh where other faces of it cross or touch them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Where surfaces are nearer than this, relative to the longest side of the shape, they touch.
TOUCHING = 2e-5
# Cuts shorter than this are none, and pieces thinner.
_SHORTEST = 1e-9
# Where triangles cross each other without end, their pieces grow with the cube of their number.
_MOST_PIECES = 200_000

Point = tuple[float, float]


@dataclass(frozen=True)
class Pieces:
    """Faces in pieces, each of which is on one side of all others.

    Pieces meet as the faces did, but they do not share vertices.

    Attributes:
        corners: ``[n_pieces, 3, 3]`` of triangles.
        face: ``[n_pieces]``, which face each is a piece of; faces that meet no others have none.
        flush: ``[n, 2]`` pairs of faces that lie in one plane and look the same way.
        uncut: how many faces so many others cross that they were not cut.
    """

    corners: np.ndarray
    face: np.ndarray
    flush: np.ndarray
    uncut: int


def cut_faces(vertices: np.ndarray, faces: np.ndarray, *, touching: bool) -> Pieces:
    """Cut every face along its intersections with others.

    Args:
        vertices: ``[n_vertices, 3]`` in a frame where the longest side of the shape is 1.
        faces: ``[n_faces, 3]``.
        touching: cut also where faces only touch, or nearly so.
    """
    pairs = _meeting(vertices, faces, touching)
    mine, other = np.concatenate([pairs, pairs[:, ::-1]]).T
    origin, axes = _frames(vertices, faces)
    segments, owners, flush = _cuts(vertices, faces, mine, other, origin, axes)
    pieces, of_face, uncut = [], [], 0
    order = np.argsort(owners, kind="stable")
    rows_of_faces = np.split(order, np.flatnonzero(np.diff(owners[order])) + 1) if len(order) else []
    shuffle = np.random.default_rng(0)
    for rows in sorted(rows_of_faces, key=len):
        face = owners[rows[0]]
        flat = (vertices[faces[face]] - origin[face]) @ axes[face, :2].T
        cuts = segments[shuffle.permutation(rows)]
        polygons = _pieces([(float(x), float(y)) for x, y in flat], cuts.tolist(), _MOST_PIECES - len(pieces))
        uncut += not polygons
        for polygon in polygons:
            corners = np.array(polygon) @ axes[face, :2] + origin[face]
            for k in range(1, len(polygon) - 1):
                pieces.append(corners[[0, k, k + 1]])
                of_face.append(face)
    same_way = np.einsum("ij,ij->i", axes[flush[:, 0], 2], axes[flush[:, 1], 2]) > 0
    return Pieces(np.array(pieces).reshape(-1, 3, 3), np.array(of_face, np.int64), flush[same_way], uncut)


def _meeting(vertices: np.ndarray, faces: np.ndarray, touching: bool) -> np.ndarray:
    """Pairs ``[n, 2]`` of faces that cross or touch otherwise than as neighbours do."""
    import igl.predicates

    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outward = np.stack(
        [np.bincount(faces.reshape(-1), np.repeat(normals[:, i], 3), len(vertices)) for i in range(3)], axis=1
    )
    outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-300)
    found = []
    # Surfaces that rounding keeps apart meet where both are a little larger.
    for moved in (vertices, vertices + TOUCHING * outward)[: 1 + touching]:
        _, pairs, _ = igl.predicates.find_self_intersections(
            np.ascontiguousarray(moved, np.float64), np.ascontiguousarray(faces, np.int64)
        )
        found.append(np.asarray(pairs, np.int64).reshape(-1, 2))
    if touching:
        found.append(_at_busy_edges(faces))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _at_busy_edges(faces: np.ndarray) -> np.ndarray:
    """Pairs ``[n, 2]`` of faces with a common edge that more than two faces have."""
    sides = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, edge, counts = np.unique(sides, axis=0, return_inverse=True, return_counts=True)
    edge = edge.reshape(-1)
    busy = np.flatnonzero(counts[edge] > 2)
    busy = busy[np.argsort(edge[busy], kind="stable")]
    face = busy // 3
    pairs = [
        np.stack([face[:-k], face[k:]], axis=1)[edge[busy[:-k]] == edge[busy[k:]]]
        for k in range(1, int(counts.max(initial=0)))
    ]
    return np.concatenate(pairs) if len(busy) else np.empty((0, 2), np.int64)


def _frames(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every face its first corner and ``[n_faces, 3, 3]`` two axes in its plane and its normal."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    first = corners[:, 1] - corners[:, 0]
    first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-300)
    return corners[:, 0], np.stack([first, np.cross(normals, first), normals], axis=1)


def _cuts(
    vertices: np.ndarray, faces: np.ndarray, mine: np.ndarray, other: np.ndarray, origin: np.ndarray, axes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the faces ``other`` meet the planes of the faces ``mine``.

    Returns:
        Segments ``[n, 2, 2]`` in the frames of their faces, these faces ``[n]``, and pairs of faces in one plane.
    """
    there = np.einsum("nij,nkj->nki", axes[mine], vertices[faces[other]] - origin[mine][:, None])
    flat, height = there[..., :2], there[..., 2]
    side = np.where(np.abs(height) <= TOUCHING, 0, np.sign(height)).astype(int)
    within = (side == 0).all(axis=1)
    segments, owners = [], []
    for i, j in ((0, 1), (1, 2), (2, 0)):
        k = 3 - i - j
        # A side of the other face that lies in the plane.
        along = (side[:, i] == 0) & (side[:, j] == 0)
        segments.append(flat[along][:, [i, j]])
        owners.append(mine[along])
        # Both other sides cross the plane at the corner k, or one of them at another corner.
        apex = side[:, k] * side[:, i] * side[:, j] != 0
        apex &= (side[:, i] == side[:, j]) & (side[:, i] != side[:, k])
        segments.append(np.stack([_crossing(flat, height, apex, k, i), _crossing(flat, height, apex, k, j)], axis=1))
        owners.append(mine[apex])
        through = (side[:, k] == 0) & (side[:, i] * side[:, j] == -1)
        segments.append(np.stack([flat[through, k], _crossing(flat, height, through, i, j)], axis=1))
        owners.append(mine[through])
    # A face that is there several times lies in the plane of the first one.
    _, first, group = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_inverse=True)
    first = first[group.reshape(-1)]
    again = np.flatnonzero(first != np.arange(len(faces)))
    flush = np.concatenate([np.stack([mine[within], other[within]], axis=1), np.stack([again, first[again]], axis=1)])
    return np.concatenate(segments), np.concatenate(owners), flush


def _crossing(flat: np.ndarray, height: np.ndarray, rows: np.ndarray, i: int, j: int) -> np.ndarray:
    """Where the sides from corner i to corner j cross the plane."""
    low, high = height[rows, i], height[rows, j]
    share = (low / (low - high))[:, None]
    return flat[rows, i] + share * (flat[rows, j] - flat[rows, i])


def _pieces(triangle: list[Point], cuts: list[list[list[float]]], most: int) -> list[list[Point]]:
    """Cut a convex polygon along segments; each cut goes on to the ends of the piece that it is in.

    A tree of halves: every cut goes down to the pieces that it reaches and nowhere else. None where there would be more
    than ``most``.
    """
    count = 1
    if count > most:
        return []
    root: list = [triangle]  # a leaf has its polygon; a fork its line and the two sides
    for (x0, y0), (x1, y1) in cuts:
        todo = [(root, (x0, y0), (x1, y1))]
        while todo:
            node, start, end = todo.pop()
            length = ((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5
            if length < _SHORTEST:
                continue
            if len(node) == 1:
                nx, ny = (start[1] - end[1]) / length, (end[0] - start[0]) / length
                line = nx, ny, nx * start[0] + ny * start[1]
                left, right = _halves(node[0], line)
                if left and right and _reaches(node[0], line, start, end):
                    node[:] = [line, [left], [right]]
                    count += 1
                    if count > most:
                        return []
                continue
            (nx, ny, at), left, right = node
            first, second = nx * start[0] + ny * start[1] - at, nx * end[0] + ny * end[1] - at
            if abs(first) <= _SHORTEST and abs(second) <= _SHORTEST:
                continue
            if min(first, second) >= -_SHORTEST:
                todo.append((left, start, end))
            elif max(first, second) <= _SHORTEST:
                todo.append((right, start, end))
            else:
                share = first / (first - second)
                middle = start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])
                todo.append((left if first > 0 else right, start, middle))
                todo.append((left if second > 0 else right, middle, end))
    leaves, forks = [], [root]
    while forks:
        node = forks.pop()
        if len(node) == 1:
            leaves.append(node[0])
        else:
            forks += [node[2], node[1]]
    return leaves


def _halves(polygon: list[Point], line: tuple[float, float, float]) -> tuple[list[Point], list[Point]]:
    """The parts of a convex polygon on the two sides of a line; one is empty where the line does not cut it."""
    nx, ny, at = line
    heights = [nx * x + ny * y - at for x, y in polygon]
    if max(heights) <= _SHORTEST or min(heights) >= -_SHORTEST:
        return [], []
    left, right = [], []
    for i, (point, height) in enumerate(zip(polygon, heights, strict=True)):
        if height >= -_SHORTEST:
            left.append(point)
        if height <= _SHORTEST:
            right.append(point)
        following, after = heights[(i + 1) % len(polygon)], polygon[(i + 1) % len(polygon)]
        if (height > _SHORTEST and following < -_SHORTEST) or (height < -_SHORTEST and following > _SHORTEST):
            share = height / (height - following)
            crossing = point[0] + share * (after[0] - point[0]), point[1] + share * (after[1] - point[1])
            left.append(crossing)
            right.append(crossing)
    return left, right


def _reaches(polygon: list[Point], line: tuple[float, float, float], start: Point, end: Point) -> bool:
    """Whether a segment of the line has a part within the polygon, and not only its continuation."""
    nx, ny, at = line
    along = [(ny * x - nx * y, nx * x + ny * y - at) for x, y in polygon]
    crossings = []
    for (t0, h0), (t1, h1) in zip(along, along[1:] + along[:1], strict=True):
        if (h0 > 0) != (h1 > 0):
            crossings.append(t0 + h0 / (h0 - h1) * (t1 - t0))
    low, high = sorted((ny * start[0] - nx * start[1], ny * end[0] - nx * end[1]))
    return len(crossings) >= 2 and min(high, max(crossings)) - max(low, min(crossings)) > _SHORTEST
