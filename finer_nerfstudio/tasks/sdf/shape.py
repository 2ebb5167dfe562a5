"""Meshes and point clouds from files, what is wrong with them, and the frame that networks see them in."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finer_nerfstudio.errors import InputError

if TYPE_CHECKING:
    from trimesh import Trimesh

# Where the paper puts the lowest and the highest coordinate.
_HALF_EXTENT = 0.45
# A shape flatter than this, relative to its longest side, has no inside worth the name.
_FLATTEST = 1e-4


@dataclass(frozen=True)
class Shape:
    """A surface in the units of its file.

    Attributes:
        vertices: ``[n_vertices, 3]`` float64.
        faces: ``[n_faces, 3]`` int64, oriented outward where there is an outward; no rows for a point cloud.
        normals: ``[n_vertices, 3]`` unit vectors of a point cloud, None for meshes.
        watertight: whether every edge has two faces.
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

    Args:
        path: any format of trimesh (obj, ply, stl, glb, off, ...), or ``.xyz`` with position and normal in each line.

    Raises:
        InputError: for what is missing, damaged or no shape, and for shapes without an inside.
    """
    import trimesh

    if not path.exists():
        raise InputError(f"there is no shape {path}.")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name one mesh or point cloud.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (zero bytes).")
    if path.suffix.lower() == ".xyz":
        return _read_xyz(path)
    try:
        loaded = trimesh.load(path, process=False)
        # A scene's parts, each where the scene puts it.
        geometry = loaded.to_geometry() if isinstance(loaded, trimesh.Scene) else loaded
    except Exception as error:  # trimesh's readers raise whatever their format's parser raises
        raise InputError(
            f"{path} cannot be read as a mesh ({_first_line(error)}): is it damaged, or something else?"
        ) from error
    if isinstance(geometry, trimesh.PointCloud):
        return _cloud(path, np.asarray(geometry.vertices, np.float64), _normals_of_ply(geometry))
    if not isinstance(geometry, trimesh.Trimesh):
        raise InputError(f"{path} holds {type(geometry).__name__}, and a mesh or a point cloud is needed.")
    if len(geometry.faces) == 0 and len(geometry.vertices) > 0:
        raise InputError(f"{path} has points but neither faces nor normals: a distance needs one of them for its sign.")
    return _mesh(path, geometry)


def _mesh(path: Path, mesh: Trimesh) -> Shape:
    _require_points(path, np.asarray(mesh.vertices))
    notes = []
    faces = len(mesh.faces)
    if faces and (int(mesh.faces.max()) >= len(mesh.vertices) or int(mesh.faces.min()) < 0):
        raise InputError(f"{path} has faces of vertices that are not there: is it cut short?")
    # The tolerances of what follows are absolute.
    low, extent = mesh.vertices.min(axis=0), float(np.ptp(mesh.vertices, axis=0).max())
    extent = extent if extent > 0 else 1.0
    mesh.vertices = (mesh.vertices - low) / extent
    # Formats such as STL repeat a vertex for every face, and then no edge would have two faces.
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    mesh.update_faces(mesh.nondegenerate_faces())
    mesh.update_faces(mesh.unique_faces())
    mesh.remove_unreferenced_vertices()
    if len(mesh.faces) == 0:
        raise InputError(f"{path} has no face with an area.")
    if dropped := faces - len(mesh.faces):
        notes.append(f"{dropped:,} of {faces:,} faces had no area or were there twice, and were left out.")
    _require_inside(path, np.asarray(mesh.vertices))
    if not mesh.is_winding_consistent:
        import trimesh

        trimesh.repair.fix_winding(mesh)
        notes.append("Neighbouring faces disagreed on which side is out; they were turned to agree.")
    watertight = bool(mesh.is_watertight)
    if mesh.volume < 0:
        mesh.invert()
        notes.append("The faces looked inward and were turned.")
    if not watertight:
        counts = np.unique(mesh.edges_unique_inverse, return_counts=True)[1]
        notes.append(
            f"The mesh is not watertight ({int((counts == 1).sum()):,} edges have one face only): where the surface is "
            "missing, inside is where the winding number exceeds one half, which closes holes smoothly; distances are "
            "those to the surface that is there."
        )
    components = int(mesh.body_count)
    if components > 1:
        notes.append(
            f"The mesh has {components:,} separate parts, which are kept as they face: a part that faces inward "
            "inside another is a cavity, and by itself it has no inside."
        )
    return Shape(
        np.ascontiguousarray(mesh.vertices * extent + low, np.float64),
        np.ascontiguousarray(mesh.faces, np.int64),
        None,
        watertight,
        tuple(notes),
    )


def _cloud(path: Path, points: np.ndarray, normals: np.ndarray | None) -> Shape:
    _require_points(path, points)
    if normals is None:
        raise InputError(
            f"{path} is a point cloud without normals: give it normals (nx, ny, nz), which say where outside is."
        )
    lengths = np.linalg.norm(normals, axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    notes = ["Distances are those to the nearest point; the sign is that of the mean normal of the three nearest."]
    if not usable.any():
        raise InputError(f"{path} has normals of length zero only.")
    if not usable.all():
        notes.append(f"{int((~usable).sum()):,} of {len(points):,} points had no usable normal and were left out.")
    if usable.sum() < 4:
        raise InputError(f"{path} has {int(usable.sum())} points with normals: too few for a surface.")
    points, normals = points[usable], normals[usable] / lengths[usable, None]
    _require_inside(path, points)
    return Shape(np.ascontiguousarray(points), np.empty((0, 3), np.int64), normals, False, tuple(notes))


def _read_xyz(path: Path) -> Shape:
    try:
        rows = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as lines of numbers ({_first_line(error)}).") from error
    if rows.shape[1] not in (3, 6):
        raise InputError(f"{path} has {rows.shape[1]} numbers per line; x y z nx ny nz are needed.")
    return _cloud(path, rows[:, :3], rows[:, 3:] if rows.shape[1] == 6 else None)


def _normals_of_ply(cloud: Any) -> np.ndarray | None:
    """The normals that trimesh leaves among the raw columns of a PLY file."""
    raw = cloud.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    if raw is None:
        return None
    try:
        # Columns of text files are [n, 1].
        return np.stack([np.asarray(raw[name], np.float64).reshape(-1) for name in ("nx", "ny", "nz")], axis=1)
    except (KeyError, ValueError, IndexError):
        return None


def _require_points(path: Path, points: np.ndarray) -> None:
    if len(points) == 0:
        raise InputError(f"{path} has no vertices.")
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        raise InputError(
            f"{path}: {int(bad.sum()):,} of {len(points):,} vertices are not finite numbers, the first is number "
            f"{int(np.argmax(bad))}."
        )


def _require_inside(path: Path, points: np.ndarray) -> None:
    centered = points - points.mean(axis=0)
    extents = np.linalg.svd(centered / max(float(np.abs(centered).max()), 1e-300), compute_uv=False)
    if not math.isfinite(extents[0]) or np.abs(centered).max() == 0:
        raise InputError(f"{path}: all vertices are in one place.")
    if extents[2] < _FLATTEST * extents[0]:
        raise InputError(f"{path} is flat: a plane or a line has no inside, and so no signed distance.")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def sample_shape(resolution: int = 128) -> Shape:
    """A generated shape with a hole, a thin part and a sharp edge: a ring, a bar through it, and a ball on a stem.

    Args:
        resolution: of the grid that its triangles come from.
    """
    import torch

    from finer_nerfstudio.tasks.sdf.extraction import extract_surface

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
    return Shape(vertices, faces, None, True, ("no --mesh was given: this is the generated sample.",))
