"""glTF 2.0, as JSON and as GLB: the triangles of a scene where its nodes put them."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from finer_nerfstudio.files.meshes.raw import RawShape, of_triangles

_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_MOST_TRIANGLES = 1 << 24
# So many triangles may be repetitions; others take bytes.
_MOST_REPEATED = 1 << 21
_POINTS, _TRIANGLES, _STRIP, _FAN = 0, 4, 5, 6
# Compressions of geometry, by the extension's name.
_COMPRESSIONS = {
    "KHR_draco_mesh_compression": "Draco",
    "EXT_meshopt_compression": "meshopt",
    "KHR_meshopt_compression": "meshopt",
}


def read_gltf(content: bytes, folder: Path) -> RawShape:
    """Read the triangles of a glTF file's scene; without any, its points as a cloud.

    Lines and, beside triangles, points are left out, and so are materials and textures. Shapes are as they were
    modelled: without skins' poses and morph targets' weights.

    Args:
        content: of the ``.glb`` or ``.gltf`` file.
        folder: where files are that it refers to.

    Raises:
        ValueError: saying what is not as it should be.
    """
    try:
        return _File(content, folder).shape()
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"its JSON is not that of a glTF file ({type(error).__name__}: {error})") from error


class _File:
    def __init__(self, content: bytes, folder: Path) -> None:
        self._folder = folder
        self._chunk: bytes | None = None
        if content[:4] == b"glTF":
            text, self._chunk = _chunks(content)
        else:
            text = content
        self._json: dict[str, Any] = json.loads(text.decode("utf-8-sig"))
        if not isinstance(self._json, dict) or not isinstance(self._json.get("asset"), dict):
            raise ValueError("it is JSON, but not that of a glTF file")
        if str(self._json["asset"].get("version", "2.0")).split(".")[0] != "2":
            raise ValueError(f"it is glTF {self._json['asset']['version']}, and 2.0 is read")
        for name in self._json.get("extensionsRequired", ()):
            self._refuse(name)
        self._buffers: dict[int, bytes] = {}
        self._bytes = len(content)

    def shape(self) -> RawShape:
        vertices, faces, clouds, normals, count, total = [], [], [], [], 0, 0
        lines = points = deformed = 0
        for node, matrix in self._placed():
            if "EXT_mesh_gpu_instancing" in node.get("extensions", {}):
                raise ValueError("it repeats a mesh by EXT_mesh_gpu_instancing, which is not read: export every copy")
            mesh = self._json["meshes"][_index(node["mesh"])]
            deformed += "skin" in node or any(node.get("weights", mesh.get("weights", ())))
            for primitive in mesh["primitives"]:
                mode = primitive.get("mode", _TRIANGLES)
                if mode not in (_POINTS, _TRIANGLES, _STRIP, _FAN):
                    lines += 1
                    continue
                positions = self._accessor(primitive, primitive["attributes"]["POSITION"]).reshape(-1, 3)
                # A small file may repeat a mesh any number of times.
                total += len(positions)
                self._require_bounded(total)
                placed = positions @ matrix[:3, :3].T + matrix[:3, 3]
                if mode == _POINTS:
                    points += 1
                    clouds.append(placed)
                    if "NORMAL" in primitive["attributes"]:
                        found = self._accessor(primitive, primitive["attributes"]["NORMAL"]).reshape(-1, 3)
                        normals.append(found @ _cofactors(matrix[:3, :3]).T)
                    continue
                if "indices" in primitive:
                    index = self._accessor(primitive, primitive["indices"]).astype(np.int64)
                else:
                    index = np.arange(len(positions))
                if len(index) and not 0 <= index.min() <= index.max() < len(positions):
                    raise ValueError("it has faces of vertices that are not there")
                triangles = _triangles(index.reshape(-1), mode)
                total += max(0, len(triangles) - len(placed))
                self._require_bounded(total)
                if np.linalg.det(matrix[:3, :3]) < 0:  # a mirror turns faces, and the format turns them back
                    triangles = triangles[:, ::-1]
                vertices.append(placed)
                faces.append(triangles + count)
                count += len(placed)
        notes = []
        if deformed:
            notes.append(f"{deformed:,} skinned or morphed meshes are as they were modelled, without their pose.")
        if faces:
            if left_out := lines + points:
                notes.append(f"{left_out:,} sets of lines or points beside the triangles were left out.")
            return of_triangles(np.concatenate(vertices), np.concatenate(faces), tuple(notes))
        if clouds:
            together = np.concatenate(clouds)
            known = np.concatenate(normals) if normals and sum(map(len, normals)) == len(together) else None
            return RawShape(together, normals=known, notes=tuple(notes))
        if lines:
            raise ValueError("it holds lines, and a mesh or a point cloud is needed")
        raise ValueError("its scene has no mesh")

    def _require_bounded(self, total: int) -> None:
        most = min(_MOST_TRIANGLES, max(_MOST_REPEATED, self._bytes))
        if total > most:
            raise ValueError(f"its nodes put together more than {most:,} triangles: simplify it")

    def _placed(self) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """The nodes of the scene that have a mesh, and their matrices to the scene's units."""
        nodes, scenes = self._json.get("nodes", []), self._json.get("scenes", [])
        if scenes:
            roots = scenes[_index(self._json.get("scene", 0))].get("nodes", [])
        else:
            below = {_index(child) for node in nodes for child in node.get("children", ())}
            roots = [i for i in range(len(nodes)) if i not in below]
        todo = [(_index(root), np.eye(4)) for root in reversed(roots)]
        seen: set[int] = set()
        while todo:
            i, above = todo.pop()
            if i in seen:
                raise ValueError(f"its node {i} is below more than one node")
            seen.add(i)
            node = nodes[i]
            matrix = above @ _matrix(node)
            if "mesh" in node:
                yield node, matrix
            todo += [(_index(child), matrix) for child in reversed(node.get("children", []))]

    def _accessor(self, primitive: dict[str, Any], number: Any) -> np.ndarray:
        """Values ``[count, width]`` of an accessor, integers that stand for fractions as these."""
        accessor = self._json["accessors"][_index(number)]
        count, width = _index(accessor["count"]), _WIDTHS[accessor["type"]]
        kind = _COMPONENTS[accessor["componentType"]]
        if "bufferView" not in accessor and "sparse" not in accessor:
            for name in primitive.get("extensions", ()):
                self._refuse(name)
            raise ValueError("it has an accessor without data")
        if "bufferView" in accessor:
            values = self._values(accessor["bufferView"], accessor.get("byteOffset", 0), kind, count, width)
        else:
            if count > _MOST_TRIANGLES:
                raise ValueError(f"it has an accessor of {count:,} zeros")
            values = np.zeros((count, width), kind)
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            changed = _index(sparse["count"])
            where, what = sparse["indices"], sparse["values"]
            at = self._values(
                where["bufferView"], where.get("byteOffset", 0), _COMPONENTS[where["componentType"]], changed, 1
            )
            values = values.copy()
            values[at[:, 0].astype(np.int64)] = self._values(
                what["bufferView"], what.get("byteOffset", 0), kind, changed, width
            )
        if kind == "<u4":
            return values.astype(np.int64)
        numbers = values.astype(np.float64)
        if accessor.get("normalized", False) and kind[1] in "iu":
            numbers = np.maximum(numbers / np.iinfo(kind).max, -1.0)
        return numbers

    def _values(self, view_number: Any, offset: Any, kind: str, count: int, width: int) -> np.ndarray:
        view = self._json["bufferViews"][_index(view_number)]
        buffer_number = _index(view["buffer"])
        for name in view.get("extensions", ()):
            if name in _COMPRESSIONS and "uri" not in self._json["buffers"][buffer_number]:
                self._refuse(name)
        buffer = self._buffer(buffer_number)
        item = np.dtype(kind).itemsize * width
        stride = _index(view.get("byteStride", item)) or item
        first = _index(view.get("byteOffset", 0)) + _index(offset)
        end = first + (count - 1) * stride + item
        if count == 0:
            return np.empty((0, width), kind)
        if end > len(buffer):
            raise ValueError(f"its data ends at {len(buffer):,} bytes, and {end:,} are needed: is it cut short?")
        return np.ndarray((count, width), kind, buffer, first, (stride, np.dtype(kind).itemsize))

    def _buffer(self, number: int) -> bytes:
        if number not in self._buffers:
            uri = self._json["buffers"][number].get("uri")
            if uri is None:
                if number != 0 or self._chunk is None:
                    raise ValueError(f"its buffer {number} has no data")
                self._buffers[number] = self._chunk
            elif uri.startswith("data:"):
                try:
                    self._buffers[number] = base64.b64decode(uri.partition(",")[2], validate=True)
                except binascii.Error as error:
                    raise ValueError(f"its buffer {number} is no base64") from error
            else:
                self._buffers[number] = self._file(unquote(uri))
                self._bytes += len(self._buffers[number])
        return self._buffers[number]

    def _file(self, name: str) -> bytes:
        path = self._folder / name
        try:
            inside = path.resolve().is_relative_to(self._folder.resolve())
            if "://" in name or not inside:
                raise ValueError(f"its data is to be at {name[:80]!r}, and only files beside it are read")
            return path.read_bytes()
        except (OSError, RuntimeError) as error:
            raise ValueError(f"its data, {name[:80]!r}, is not beside it") from error

    def _refuse(self, extension: str) -> None:
        if extension in _COMPRESSIONS:
            raise ValueError(
                f"its geometry is compressed by {_COMPRESSIONS[extension]} ({extension}), which is not read: export it "
                "without compression, as Blender does where that box is not ticked"
            )


def _chunks(content: bytes) -> tuple[bytes, bytes | None]:
    """The JSON and the binary chunk of a GLB."""
    try:
        version, _ = struct.unpack_from("<II", content, 4)
        length, kind = struct.unpack_from("<I4s", content, 12)
    except struct.error as error:
        raise ValueError("it ends within its header") from error
    if version != 2 or kind != b"JSON":
        raise ValueError(f"it is version {version} of GLB, and 2 is read")
    text, after = content[20 : 20 + length], 20 + length
    if len(text) < length:
        raise ValueError("it ends within its JSON")
    if len(content) < after + 8:
        return text, None
    length, kind = struct.unpack_from("<I4s", content, after)
    return text, content[after + 8 : after + 8 + length] if kind == b"BIN\0" else None


def _index(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise TypeError(f"{value!r:.40} is no count")
    return value


def _matrix(node: dict[str, Any]) -> np.ndarray:
    """``[4, 4]`` of a node, to the units of the one above."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0.0, 0.0, 0.0, 1.0)), np.float64).reshape(4)
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.array(node.get("scale", (1.0, 1.0, 1.0)), np.float64).reshape(3)
    matrix[:3, 3] = np.array(node.get("translation", (0.0, 0.0, 0.0)), np.float64).reshape(3)
    return matrix


def _cofactors(matrix: np.ndarray) -> np.ndarray:
    """Return the matrix that turns normals where ``matrix`` turns points."""
    return np.cross(matrix[[1, 2, 0]], matrix[[2, 0, 1]])


def _triangles(index: np.ndarray, mode: int) -> np.ndarray:
    if mode == _TRIANGLES:
        return index[: len(index) // 3 * 3].reshape(-1, 3)
    if len(index) < 3:
        return np.empty((0, 3), np.int64)
    if mode == _FAN:
        return np.stack([np.full(len(index) - 2, index[0]), index[1:-1], index[2:]], axis=1)
    strip = np.lib.stride_tricks.sliding_window_view(index, 3).copy()
    strip[1::2] = strip[1::2, [1, 0, 2]]
    return strip
