"""From a scalar field to a mesh: marching cubes where the surface is, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

BLOCK = 8
"""Cells per side of a block. A block is evaluated whole or not at all."""
# Blocks are skipped where the field is so far from zero that it would have to change faster than this times the
# fastest change that was seen between corners of blocks nearby.
_SAFETY = 1.25

Field = Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]


def extract_surface(
    field: Field,
    resolution: int,
    *,
    candidates: Bool[np.ndarray, "blocks blocks blocks"] | None = None,
    points_at_once: int = 1 << 16,
    report: Callable[[str, int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The zero level of ``field`` over [-0.5, 0.5]^3 as a mesh in the unit frame.

    The same triangles as marching cubes on the whole grid, except for parts of the surface that slip between the
    corners of blocks of 8 cells. Memory grows with the surface, and so does time.

    Args:
        field: signed distances, negative inside, of float32 points; with ``candidates``, any values.
        resolution: grid points per axis, ends included; 2 at least.
        candidates: blocks, of :func:`blocks_across` along each axis, in which the surface has to be looked for; it is
            followed out of them, and the others are outside. Unless given, the field is taken for a distance, and
            blocks are chosen by its values at their corners.
        points_at_once: how many points ``field`` is asked for at a time.
        report: progress callback: (description, completed, total).

    Returns:
        ``[n_vertices, 3]`` float64 vertices and ``[n_faces, 3]`` int64 faces that look outward.

    Raises:
        ValueError: where the field has one sign everywhere, for a field that is not finite, and for a resolution
            below 2.
    """
    if resolution < 2:
        raise ValueError(f"the resolution must be at least 2, not {resolution}")
    grid = _Grid(field, resolution, points_at_once)
    inside = None
    if candidates is None:
        coarse = grid.coarse()
        candidates, inside = _may_be_crossed(grid, coarse), coarse[:-1, :-1, :-1] < 0
    blocks, values, inside = _blocks_at_surface(grid, candidates, inside, report)
    if not len(blocks) or not ((values < 0).any() and (values > 0).any()):
        raise ValueError("the field has the same sign everywhere: it has no surface")
    return _march(grid, inside, blocks, values, report)


def blocks_across(resolution: int) -> int:
    """Return how many blocks a grid of ``resolution`` points has along each axis; the last ones may be smaller."""
    return -(-(resolution - 1) // BLOCK)


def affordable_resolution(field: Field, resolution: int, most_points: int) -> int:
    """The largest resolution up to ``resolution`` at which :func:`extract_surface` asks for no more than about
    ``most_points`` points.

    A field with a surface everywhere, such as that of a network that has hardly been trained, is asked for at all
    points of the grid, and one with a single smooth surface at a small share of them.

    Args:
        field: signed distances, negative inside, of float32 points.
        resolution: grid points per axis, ends included.
        most_points: how many points may be looked at; half a grid of 17 points per axis or more.

    Raises:
        ValueError: for a field that is not finite.
    """
    while resolution > 2 * BLOCK + 1:
        grid = _Grid(field, resolution, points_at_once=1 << 16)
        if _may_be_crossed(grid, grid.coarse()).sum() * (BLOCK + 1) ** 3 <= most_points:
            break
        resolution -= max(1, resolution // (8 * BLOCK)) * BLOCK
    return resolution


class _Grid:
    """The field on the points of a regular grid, and the coarse grid of block corners."""

    def __init__(self, field: Field, resolution: int, points_at_once: int) -> None:
        self.field = field
        self.resolution = resolution
        self.points_at_once = points_at_once
        self.axis = np.linspace(-0.5, 0.5, resolution).astype(np.float32)
        self.blocks = blocks_across(resolution)
        self.corners = np.minimum(np.arange(self.blocks + 1) * BLOCK, resolution - 1)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Values at grid points ``[n, 3]``."""
        values = np.empty(len(indices), np.float32)
        for start in range(0, len(indices), self.points_at_once):
            part = slice(start, start + self.points_at_once)
            values[part] = self.field(torch.from_numpy(self.axis[indices[part]])).numpy()
        if not np.isfinite(values).all():
            raise ValueError("the field is not a finite number everywhere")
        return values

    def points_of(self, blocks: np.ndarray) -> np.ndarray:
        """Grid indices ``[n, 9, 9, 9, 3]`` of blocks ``[n, 3]``; beyond the grid's end its last point repeats."""
        steps = np.arange(BLOCK + 1)
        offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
        return np.minimum(blocks[:, None, None, None] * BLOCK + offsets, self.resolution - 1)

    def coarse(self) -> np.ndarray:
        """Values at the corners of all blocks."""
        corners = np.stack(np.meshgrid(self.corners, self.corners, self.corners, indexing="ij"), axis=-1)
        return self.at(corners.reshape(-1, 3)).reshape(corners.shape[:3])


def _blocks_at_surface(
    grid: _Grid,
    candidates: np.ndarray,
    known_inside: np.ndarray | None,
    report: Callable[[str, int, int], None] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks ``[n, 3]`` that the surface crosses, their values ``[n, 9, 9, 9]``, and which of the others are inside.

    Args:
        grid: the field.
        candidates: blocks ``[blocks, blocks, blocks]`` to look into.
        known_inside: on which side the other blocks are; unless given, they are outside, and whatever is inside is
            followed until it ends.
        report: progress callback.
    """
    inside = np.zeros(candidates.shape, bool) if known_inside is None else known_inside.copy()
    wanted, visited = candidates.copy(), np.zeros_like(candidates)
    found, values = [], []
    at_once = max(1, grid.points_at_once // (BLOCK + 1) ** 3)
    while (todo := np.argwhere(wanted & ~visited)).size:
        visited |= wanted
        for start in range(0, len(todo), at_once):
            part = todo[start : start + at_once]
            points = grid.points_of(part)
            fresh = grid.at(points.reshape(-1, 3)).reshape(points.shape[:-1])
            below = fresh < 0
            inside[tuple(part.T)] = below[:, 0, 0, 0]
            crossed = below.any(axis=(1, 2, 3)) & ~below.all(axis=(1, 2, 3))
            found.append(part[crossed])
            values.append(fresh[crossed])
            # Where the surface leaves a block, it is followed.
            for axis in range(3):
                for side, step in ((0, -1), (BLOCK, 1)):
                    face = np.take(below, side, axis=axis + 1).reshape(len(part), -1)
                    leaving = face.any(axis=1)
                    if known_inside is not None:
                        leaving &= ~face.all(axis=1)
                    beyond = part[leaving]
                    beyond[:, axis] += step
                    beyond = beyond[(beyond[:, axis] >= 0) & (beyond[:, axis] < grid.blocks)]
                    wanted[tuple(beyond.T)] = True
            if report is not None:
                report("evaluating", start + len(part), len(todo))
    if not found:
        return np.empty((0, 3), np.int64), np.empty((0, *3 * (BLOCK + 1,)), np.float32), inside
    return np.concatenate(found), np.concatenate(values), inside


def _may_be_crossed(grid: _Grid, coarse: np.ndarray) -> np.ndarray:
    """Which blocks ``[blocks, blocks, blocks]`` the surface may cross, as far as their corners tell."""
    spacing = BLOCK / (grid.resolution - 1)
    corners = _of_corners(coarse)
    # Every point of a block is within half a diagonal of one of its corners.
    reach = _SAFETY * _steepness(coarse, spacing) * 0.5 * np.sqrt(3.0) * spacing
    return (np.abs(corners).min(axis=0) <= reach) | ((corners < 0).any(axis=0) & (corners >= 0).any(axis=0))


def _of_corners(values: np.ndarray) -> np.ndarray:
    """The values at the eight corners of every block, ``[8, blocks, blocks, blocks]``."""
    x, y, z = (size - 1 for size in values.shape)
    return np.stack([values[i : i + x, j : j + y, k : k + z] for i in (0, 1) for j in (0, 1) for k in (0, 1)])


def _steepness(coarse: np.ndarray, spacing: float) -> np.ndarray:
    """For every block, the fastest change along the edges of the block and of those around it."""
    from scipy.ndimage import maximum_filter

    at_corners = np.zeros_like(coarse)
    for axis in range(3):
        change = np.abs(np.diff(coarse, axis=axis)) / spacing
        low = np.take(at_corners, range(coarse.shape[axis] - 1), axis=axis)
        at_corners[(slice(None),) * axis + (slice(None, -1),)] = np.maximum(low, change)
        high = np.take(at_corners, range(1, coarse.shape[axis]), axis=axis)
        at_corners[(slice(None),) * axis + (slice(1, None),)] = np.maximum(high, change)
    return maximum_filter(_of_corners(at_corners).max(axis=0), size=3)


def _march(
    grid: _Grid,
    inside: np.ndarray,
    blocks: np.ndarray,
    values: np.ndarray,
    report: Callable[[str, int, int], None] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Marching cubes slab by slab; a slab is one block thick."""
    from skimage.measure import marching_cubes

    resolution = grid.resolution
    signs = np.where(inside, np.float32(-1.0), np.float32(1.0))
    all_vertices, all_faces, count = [], [], 0
    for slab in range(grid.blocks):
        mine = np.flatnonzero(blocks[:, 0] == slab)
        first = slab * BLOCK
        thickness = min(BLOCK, resolution - 1 - first) + 1
        if report is not None:
            report("marching", slab + 1, grid.blocks)
        if len(mine) == 0:
            continue
        # The other blocks have one sign, and the value does not matter.
        volume = np.repeat(np.repeat(signs[slab], BLOCK, axis=0), BLOCK, axis=1)
        volume = np.pad(volume, ((0, 1), (0, 1)), mode="edge")[:resolution, :resolution]
        volume = np.repeat(volume[None], thickness, axis=0)
        points = grid.points_of(blocks[mine])
        points[..., 0] = np.minimum(points[..., 0] - first, thickness - 1)
        volume[tuple(np.moveaxis(points, -1, 0))] = values[mine]
        if not ((volume < 0).any() and (volume > 0).any()):
            continue
        vertices, faces, _, _ = marching_cubes(volume, 0.0, gradient_direction="descent")
        vertices = vertices.astype(np.float64)
        vertices[:, 0] += first
        all_vertices.append(vertices)
        all_faces.append(faces.astype(np.int64) + count)
        count += len(vertices)
    vertices, faces = _weld(np.concatenate(all_vertices), np.concatenate(all_faces))
    return vertices / (resolution - 1) - 0.5, faces


def _weld(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join the vertices that neighbouring slabs both have on the plane between them.

    Such a vertex lies on an edge of the grid, where both slabs put it in the same place to the last bit, because both
    computed it from the same two values.
    """
    unique, inverse = np.unique(vertices, axis=0, return_inverse=True)
    faces = inverse.reshape(-1)[faces]
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return unique, faces[distinct]
