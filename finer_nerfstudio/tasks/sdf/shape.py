"""Meshes and point clouds from files, what is wrong with them, and the frame that networks see them in."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finer_nerfstudio.errors import InputError, in_one_line
from finer_nerfstudio.files.meshes.raw import RawShape
from finer_nerfstudio.files.meshes.reading import read_raw
from finer_nerfstudio.tasks.sdf.cleaning import merged, without_doubles, without_flat
from finer_nerfstudio.tasks.sdf.cloud import disagree, look_inward
from finer_nerfstudio.tasks.sdf.orientation import Oriented, open_edges, oriented
from finer_nerfstudio.tasks.sdf.polygons import triangles_of
from finer_nerfstudio.tasks.sdf.union import Union, union_of

# Where the paper puts the lowest and the highest coordinate.
_HALF_EXTENT = 0.45
# A shape flatter than this, relative to its longest side, has no inside worth the name.
_FLATTEST = 1e-4
# Beyond these, squares of lengths are no numbers any more, and single precision has none.
_LARGEST, _SMALLEST = 1e30, 1e-30
# Where neighbouring numbers of single precision are farther apart than this share of a shape, its surface has steps.
_COARSEST = 1e-4
# Of what is wrong with a file, so much is said; it may quote the file.
_LONGEST_REASON = 250


@dataclass(frozen=True)
class Shape:
    """A surface in the units of its file.

    Attributes:
        vertices: ``[n_vertices, 3]`` float64.
        faces: ``[n_faces, 3]`` int64, oriented outward where there is an outward; no rows for a point cloud.
        normals: ``[n_vertices, 3]`` unit vectors of a point cloud, None for meshes.
        watertight: whether it is closed around every edge.
        notes: sentences on what was found and what was done about it.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None
    watertight: bool
    notes: tuple[str, ...] = ()

    @property
    def is_cloud(self) -> bool:
        return len(self.faces) == 0

    @property
    def description(self) -> dict[str, Any]:
        """Counts and a digest: enough to tell whether two runs saw the same shape."""
        digest = hashlib.blake2b(self.vertices.tobytes(), digest_size=16)
        digest.update(self.faces.tobytes())
        if self.normals is not None:
            digest.update(self.normals.tobytes())
        return {"vertices": len(self.vertices), "faces": len(self.faces), "blake2": digest.hexdigest()}


@dataclass(frozen=True)
class Normalization:
    """The map from a shape's units to the unit frame: ``unit = (source - center) * scale``.

    Attributes:
        center: ``[3]`` in units of the source.
        scale: length in the unit frame per length in the source.
    """

    center: tuple[float, float, float]
    scale: float

    def to_unit(self, points: np.ndarray) -> np.ndarray:
        """``[n, 3]`` points of the source in the unit frame."""
        return (points - np.asarray(self.center)) * self.scale

    def to_source(self, points: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`to_unit`."""
        return points / self.scale + np.asarray(self.center)


def normalization_of(points: np.ndarray) -> Normalization:
    """The paper's frame: the mean subtracted, then the range of all coordinates mapped to [-0.45, 0.45]."""
    mean = points.mean(axis=0)
    low, high = float((points - mean).min()), float((points - mean).max())
    scale = 2.0 * _HALF_EXTENT / (high - low)
    center = mean + 0.5 * (low + high)
    return Normalization((float(center[0]), float(center[1]), float(center[2])), scale)


def read_shape(path: Path) -> Shape:
    """Read a mesh, or a point cloud with normals.

    What is inside a mesh is the union of its parts: faces within it are left out, and those that other parts cross are
    cut there.

    Args:
        path: ``.obj``, ``.ply``, ``.stl``, ``.off``, ``.glb``, ``.gltf`` or any other format of trimesh, or lines of
            x y z nx ny nz (``.xyz``, ``.asc``, ``.csv``, ``.pts``, ``.txt``).

    Raises:
        InputError: for what is missing, damaged or no shape, and for shapes without an inside.
    """
    try:
        if not path.exists():
            raise InputError(f"there is no shape {path}: name a mesh, or a point cloud with normals.")
        if path.is_dir():
            raise InputError(f"{path} is a folder; name one mesh or point cloud.")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (zero bytes).")
        raw = read_raw(path)
        _require_points(path, raw.vertices)
        if len(raw.sizes):
            return _mesh(path, raw)
    except InputError:
        raise
    except OSError as error:  # also for paths that are too long
        raise InputError(f"{str(path)[:200]} cannot be opened ({in_one_line(error)}).") from error
    except ValueError as error:
        reason = "".join(letter if letter.isprintable() else "?" for letter in str(error))
        if len(reason) > _LONGEST_REASON:
            reason = f"{reason[:_LONGEST_REASON]}…"
        raise InputError(
            f"{path} cannot be read as a mesh or a point cloud: {reason}. Is it cut short, or of another kind?"
        ) from error
    return _cloud(path, raw)


def _mesh(path: Path, raw: RawShape) -> Shape:
    if len(raw.corners) and not 0 <= raw.corners.min() <= raw.corners.max() < len(raw.vertices):
        raise InputError(f"{path} has faces of vertices that are not there: is it cut short?")
    # A loose vertex far away is no part of the shape.
    used, corners = np.unique(raw.corners, return_inverse=True)
    points = raw.vertices[used]
    low = points.min(axis=0)
    extent = float(np.ptp(points, axis=0).max()) or 1.0
    # The tolerances of what follows are absolute.
    vertices = (points - low) / extent
    faces = triangles_of(vertices, corners.reshape(-1), raw.sizes)
    vertices, faces, notes_on_faces = _cleaned(path, vertices, faces)
    _require_inside(path, vertices)
    looking = oriented(vertices, faces)
    opened = open_edges(looking.faces)
    union = union_of(vertices, looking.faces, looking.patches)
    if len(union.faces) == 0:
        raise InputError(f"{path} has no inside: its faces cancel each other.")
    return Shape(
        np.ascontiguousarray(union.vertices * extent + low, np.float64),
        np.ascontiguousarray(union.faces, np.int64),
        None,
        not opened,
        (
            *raw.notes,
            *notes_on_faces,
            *_notes_on_sides(looking, opened),
            *_notes_on_union(union),
            *_precision(points, extent),
        ),
    )


def _cleaned(path: Path, vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Vertices and faces without those that have no area or are there twice, and sentences on what was left out."""
    count = len(faces)
    vertices, faces = merged(vertices, faces)
    faces = without_flat(vertices, faces)
    two_sided = walls = 0
    if len(faces):
        faces, two_sided, walls = without_doubles(faces)
    if len(faces) == 0:
        raise InputError(f"{path} has no face with an area.")
    notes = []
    if dropped := count - len(faces) - two_sided - 2 * walls:
        notes.append(f"{dropped:,} of {count:,} faces had no area or were there twice, and were left out.")
    if two_sided:
        notes.append(f"{two_sided:,} faces were there both ways round, and one of each was left out.")
    if walls:
        notes.append(f"{walls:,} pairs of faces where parts touch are walls inside the shape, and were left out.")
    return *merged(vertices, faces), notes


def _notes_on_sides(looking: Oriented, opened: int) -> list[str]:
    """Sentences on which side is out, and on edges at which the surface ends."""
    notes, parts = [], looking.patches.max() + 1
    if looking.disagreed:
        notes.append("Neighbouring faces disagreed on which side is out; they were turned to agree.")
    if looking.turned:
        notes.append(
            "The faces looked inward and were turned."
            if looking.turned == parts
            else f"{looking.turned:,} of {parts:,} parts looked inward and were turned."
        )
    if opened:
        notes.append(
            f"The mesh is not watertight ({opened:,} edges have no face on one side): where the surface is missing, "
            "inside is where the winding number exceeds one half, which closes holes smoothly; distances are those to "
            "the surface that is there."
        )
    if parts > 1:
        notes.append(
            f"The mesh has {parts:,} separate parts, and the shape is their union; a part that faces inward within "
            "another is a cavity."
        )
    return notes


def _notes_on_union(union: Union) -> list[str]:
    """Sentences on faces within the shape."""
    notes = []
    if union.buried:
        notes.append(f"{union.buried:,} faces are inside the shape and were left out.")
    if union.cut:
        notes.append(f"{union.cut:,} faces that others cross were cut there, and what is inside of them was left out.")
    if union.uncut:
        notes.append(
            f"{union.uncut:,} faces are crossed in too many places to be cut: they were kept or left out whole, and "
            "distances near them may be those to a surface inside the shape."
        )
    return notes


def _cloud(path: Path, raw: RawShape) -> Shape:
    points, normals = raw.vertices, raw.normals
    if normals is None:
        raise InputError(
            f"{path} has points but neither faces nor normals: give them normals (nx, ny, nz), which say where outside "
            "is. A point cloud without normals has no inside."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(normals, axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    notes = [
        *raw.notes,
        "Distances are those to the nearest point; the sign is that of the mean normal of the three nearest.",
    ]
    if not usable.any():
        raise InputError(f"{path} has normals of length zero only.")
    if not usable.all():
        notes.append(f"{int((~usable).sum()):,} of {len(points):,} points had no usable normal and were left out.")
    if usable.sum() < 4:
        raise InputError(f"{path} has {int(usable.sum())} points with normals: too few for a surface.")
    points, normals = points[usable], normals[usable] / lengths[usable, None]
    _require_inside(path, points)
    if (normals @ normals[0] > 1.0 - 1e-6).all():
        raise InputError(
            f"{path} has normals that all look the same way, which those of a surface with an inside do not: are they "
            "colours, or something else?"
        )
    if (share := disagree(points, normals)) is not None:
        notes.append(
            f"The normals disagree: {share:.0%} of neighbouring points look opposite ways, and inside and outside are "
            "mixed up there. Orient them in the program that made them."
        )
    elif look_inward(points, normals):
        normals = -normals
        notes.append("The normals looked inward and were turned.")
    notes += _precision(raw.vertices, float(np.ptp(points, axis=0).max()))
    return Shape(np.ascontiguousarray(points), np.empty((0, 3), np.int64), normals, False, tuple(notes))


def _precision(vertices: np.ndarray, extent: float) -> list[str]:
    """A sentence on coordinates that were rounded to single precision far from the origin."""
    farthest = vertices[:, np.abs(vertices).max(axis=0).argmax()]
    largest = float(np.abs(farthest).max())
    step = float(np.spacing(np.float32(largest)))
    if step < _COARSEST * extent or (farthest != farthest.astype(np.float32)).any():
        return []
    return [
        f"The coordinates are of single precision around {largest:.3g}, where numbers are {step:.2g} apart: the "
        "surface has steps of that size. Move the shape to the origin before it is saved."
    ]


def _require_points(path: Path, points: np.ndarray) -> None:
    if len(points) == 0:
        raise InputError(f"{path} has no vertices: name a mesh (obj, ply, stl, off, glb) or a point cloud.")
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        raise InputError(
            f"{path}: {int(bad.sum()):,} of {len(points):,} vertices are not finite numbers, the first is number "
            f"{int(np.argmax(bad))}."
        )
    reach, extent = float(np.abs(points).max()), float(np.ptp(points, axis=0).max())
    if reach > _LARGEST or 0 < extent < _SMALLEST:
        raise InputError(
            f"{path} reaches to {reach:.3g} and is {extent:.3g} large: use units in which these are between "
            f"{_SMALLEST:g} and {_LARGEST:g}."
        )


def _require_inside(path: Path, points: np.ndarray) -> None:
    centered = points - points.mean(axis=0)
    extents = np.linalg.svd(centered / max(float(np.abs(centered).max()), 1e-300), compute_uv=False)
    if not math.isfinite(extents[0]) or np.abs(centered).max() == 0:
        raise InputError(f"{path}: all vertices are in one place.")
    if extents[2] < _FLATTEST * extents[0]:
        raise InputError(f"{path} is flat: a plane or a line has no inside, and so no signed distance.")


def sample_shape(resolution: int = 128) -> Shape:
    """A generated shape with a hole, a thin part and a sharp edge: a ring, a bar through it, and a ball on a stem.

    Args:
        resolution: of the grid that its triangles come from.
    """
    import torch

    from finer_nerfstudio.runs.isosurface import extract_surface

    def box(points: torch.Tensor, center: tuple[float, float, float], half: tuple[float, float, float]) -> torch.Tensor:
        beyond = (points - torch.tensor(center)).abs() - torch.tensor(half)
        return beyond.clamp_min(0.0).norm(dim=1) + beyond.amax(dim=1).clamp_max(0.0)

    def field(points: torch.Tensor) -> torch.Tensor:
        around = torch.stack([points[:, :2].norm(dim=1) - 0.24, points[:, 2]], dim=1)
        parts = (
            around.norm(dim=1) - 0.07,
            box(points, (0.0, -0.03, 0.0), (0.06, 0.4, 0.06)),
            box(points, (0.0, 0.38, 0.0), (0.015, 0.05, 0.015)),
            (points - torch.tensor((0.0, 0.4, 0.0))).norm(dim=1) - 0.06,
        )
        return torch.stack(parts).amin(dim=0)

    vertices, faces = extract_surface(field, resolution)
    return Shape(vertices, faces, None, True, ("no mesh was given: this is the generated sample.",))
