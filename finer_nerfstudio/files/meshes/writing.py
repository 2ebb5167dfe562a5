"""Writing meshes that other programs open: binary PLY, and glTF 2.0 as one file (GLB)."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from finer_nerfstudio._version import __version__
from finer_nerfstudio.files.atomic import replacing
from finer_nerfstudio.files.meshes.mesh import Mesh, vertex_normals

# Steps of single precision up to this share of a mesh's size are far below those of any grid.
_FINEST = 1e-5
# A quarter turn about x: what has z up in the mesh has y up in the scene, as glTF 2.0 wants it (§3.4).
_Z_TO_Y_UP = [-(0.5**0.5), 0.0, 0.0, 0.5**0.5]
_FLOAT, _UNSIGNED_INT, _UNSIGNED_SHORT = 5126, 5125, 5123
_VERTICES_BUFFER, _INDICES_BUFFER = 34962, 34963


def write_ply(path: Path, mesh: Mesh, *, double: bool = False) -> np.ndarray:
    """Write a mesh as binary PLY.

    In single precision, which every viewer shows. Far from the origin that has no room for a surface: there, vertices
    are around another origin, which the header states as ``comment origin x y z``. Colours are 8 bits, sRGB.

    Args:
        path: the file.
        mesh: to write.
        double: write double precision around the origin of the vertices; few viewers show it.

    Returns:
        The origin ``[3]``, to be added to the vertices that were written.

    Raises:
        InputError: where the file cannot be written.
    """
    origin = np.zeros(3) if double else _origin_for(mesh.vertices)
    corners = np.empty(len(mesh.faces), [("count", "u1"), ("corners", "<i4", (3,))])
    corners["count"] = 3
    corners["corners"] = mesh.faces
    real = "<f8" if double else "<f4"
    rows = np.empty(
        len(mesh.vertices), [("place", real, (3,)), *([] if mesh.colors is None else [("color", "u1", (3,))])]
    )
    rows["place"] = mesh.vertices - origin
    if mesh.colors is not None:
        rows["color"] = np.round(255.0 * mesh.colors)
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *(["comment origin " + " ".join(repr(float(value)) for value in origin)] if origin.any() else []),
        f"element vertex {len(mesh.vertices)}",
        *(f"property {'double' if double else 'float'} {axis}" for axis in "xyz"),
        *(f"property uchar {name}" for name in (() if mesh.colors is None else ("red", "green", "blue"))),
        f"element face {len(mesh.faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    with replacing(path) as unfinished:
        unfinished.write_bytes("\n".join(header).encode() + b"\n" + rows.tobytes() + corners.tobytes())
    return origin


def write_glb(path: Path, mesh: Mesh) -> np.ndarray:
    """Write a mesh as binary glTF 2.0, with normals, and with colours that are shown without any light.

    The numbers of the vertices are those of ``mesh``, whose z axis is taken to point up. In glTF it is y that points
    up, so that the root node turns z to y: the mesh stands upright in viewers, and programs that have z up and turn
    what they import back, as Blender does, have the coordinates of ``mesh`` again. Far from the origin, where single
    precision has no room for a surface, vertices are around another origin, and a node moves them there.

    Colours are linear, as glTF wants them (§3.9.2), and meant to be drawn as they are (KHR_materials_unlit): pictures
    have their light in them. Both sides of a face are drawn.

    Args:
        path: the file.
        mesh: at least one face.

    Returns:
        The origin ``[3]``, to be added to the vertices that were written.

    Raises:
        InputError: where the file cannot be written.
    """
    origin = _origin_for(mesh.vertices)
    places = (mesh.vertices - origin).astype("<f4")
    normals = vertex_normals(mesh.vertices, mesh.faces)
    # Vertices of faces without an area have none, and the format wants a unit vector.
    normals[np.linalg.norm(normals, axis=1) < 0.5] = (0.0, 0.0, 1.0)
    buffer = _Buffer()
    attributes = {
        "POSITION": buffer.add(places, _FLOAT, bounds=True),
        "NORMAL": buffer.add(normals.astype("<f4"), _FLOAT),
    }
    if mesh.colors is not None:
        linear = np.ones((len(mesh.colors), 4))
        linear[:, :3] = linear_from_srgb(mesh.colors)
        # 16 bits: with 8, dark colours would be in steps that one sees. A fourth number fills rows up to whole words.
        attributes["COLOR_0"] = buffer.add(np.round(65535.0 * linear).astype("<u2"), _UNSIGNED_SHORT, normalized=True)
    indices = buffer.add(mesh.faces.astype("<u4").reshape(-1), _UNSIGNED_INT)
    shape: dict[str, Any] = {"mesh": 0}
    if origin.any():
        shape["translation"] = origin.tolist()
    material = {
        "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
        "doubleSided": True,
        "extensions": {"KHR_materials_unlit": {}},
    }
    content = {
        "asset": {"version": "2.0", "generator": f"finer_nerfstudio {__version__}"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "z up", "rotation": _Z_TO_Y_UP, "children": [1]}, shape],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": indices, "material": 0}]}],
        "materials": [material],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": buffer.length}],
    }
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data = b"".join(buffer.parts)
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(data)))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(data), b"BIN\0") + data)
    return origin


def linear_from_srgb(colors: np.ndarray) -> np.ndarray:
    """Return linear light in [0, 1] of sRGB colours in [0, 1] (IEC 61966-2-1)."""
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


class _Buffer:
    """The binary part of a GLB, and how it is divided."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []
        self.length = 0

    def add(self, values: np.ndarray, component: int, *, normalized: bool = False, bounds: bool = False) -> int:
        """Append rows of whole words, and return the number of their accessor."""
        content = values.tobytes()
        is_index = values.ndim == 1
        view = {"buffer": 0, "byteOffset": self.length, "byteLength": len(content)}
        self.views.append({**view, "target": _INDICES_BUFFER if is_index else _VERTICES_BUFFER})
        accessor: dict[str, Any] = {
            "bufferView": len(self.accessors),
            "componentType": component,
            "count": len(values),
            "type": "SCALAR" if is_index else f"VEC{values.shape[1]}",
        }
        if normalized:
            accessor["normalized"] = True
        if bounds:
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        self.accessors.append(accessor)
        self.parts.append(content)
        self.length += len(content)
        return len(self.accessors) - 1


def _origin_for(vertices: np.ndarray) -> np.ndarray:
    """Zero where single precision has room for the surface, otherwise a round place in its middle."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    extent, reach = float((high - low).max()), float(np.abs(vertices).max())
    if np.finfo(np.float32).eps * reach <= _FINEST * extent:
        return np.zeros(3)
    unit = 10.0 ** np.floor(np.log10(extent))
    return np.round(0.5 * (low + high) / unit) * unit
