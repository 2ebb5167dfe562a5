"""Stanford PLY, as text and binary of both byte orders: polygons, triangle strips, clouds with normals."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finer_nerfstudio.files.meshes.raw import RawShape, no_polygons

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8", "int64": "i8", "uint64": "u8",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
# As Stanford, PCL and others call them.
_NORMALS = (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"), ("normalx", "normaly", "normalz"))
_POLYGONS = ("vertex_indices", "vertex_index")


@dataclass
class _Property:
    name: str
    type: str
    count_type: str | None  # of a list's length; None for a single number


@dataclass
class _Element:
    name: str
    count: int
    properties: list[_Property] = field(default_factory=list)


def read_ply(content: bytes) -> RawShape:
    """Read the polygons of a PLY file; without any, its vertices as a cloud.

    Raises:
        ValueError: saying what is not as it should be.
    """
    elements, order, start = _header(content)
    body: _Text | _Binary = _Text(content[start:]) if order == "" else _Binary(content, start, order)
    vertices, normals, corners, sizes = np.empty((0, 3)), None, no_polygons(), no_polygons()
    for element in elements:
        columns = body.read(element)
        if element.name == "vertex":
            if {"f_dc_0", "opacity", "scale_0", "rot_0"} <= columns.keys():
                raise ValueError("it holds Gaussian splats, which have no surface; finer view shows them")
            missing = [axis for axis in "xyz" if axis not in columns]
            if missing:
                raise ValueError(f"its vertices have no {', '.join(missing)}")
            vertices = _table(columns, ("x", "y", "z"))
            lower = {name.lower(): values for name, values in columns.items()}
            names = next((names for names in _NORMALS if all(name in lower for name in names)), None)
            normals = None if names is None else _table(lower, names)
        elif element.name in ("face", "tristrips"):
            name = next((name for name in _POLYGONS if name in columns), None)
            if name is None:
                if element.count:
                    raise ValueError(f"its {element.name} element has no list vertex_indices")
                continue
            found = columns[name]
            if not isinstance(found, tuple) or found[0].dtype.kind not in "iu":
                raise ValueError(f"{name} of its {element.name} element is no list of integers")
            found = found[0].astype(np.int64), found[1]
            if element.name == "tristrips":
                found = _unrolled(*found)
            corners, sizes = np.concatenate([corners, found[0]]), np.concatenate([sizes, found[1]])
    return RawShape(vertices, corners, sizes, normals)


def _header(content: bytes) -> tuple[list[_Element], str, int]:
    """Elements, byte order (none for text) and where the data begins."""
    if not re.match(rb"ply\s", content):
        raise ValueError("it does not begin with ply")
    end = re.search(rb"\nend_header[ \t]*(\r\n|\n|\r)", content) or re.search(rb"\rend_header[ \t]*\r", content)
    if end is None:
        raise ValueError("its header does not end")
    elements: list[_Element] = []
    order = None
    for line in re.split(r"\r\n|\n|\r", content[: end.start()].decode("ascii", "replace")):
        words = line.split()
        try:
            if words[:1] == ["format"]:
                order = _ORDERS[words[1]]
            elif words[:1] == ["element"]:
                elements.append(_Element(words[1], int(words[2])))
                if elements[-1].count < 0:
                    raise ValueError
            elif words[:2] == ["property", "list"]:
                elements[-1].properties.append(_Property(words[4], _TYPES[words[3]], _TYPES[words[2]]))
            elif words[:1] == ["property"]:
                elements[-1].properties.append(_Property(words[2], _TYPES[words[1]], None))
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"its header says {line[:60]!r}, which is not understood") from error
    if order is None:
        raise ValueError("its header has no format")
    return elements, order, end.end()


Columns = dict[str, Any]
"""Of an element's properties: numbers ``[count]``, and of lists a pair of all their entries and of their lengths."""


class _Text:
    """The data of a text file, line by line."""

    def __init__(self, content: bytes) -> None:
        self._lines = iter(
            [words for line in content.decode("ascii", "replace").splitlines() if (words := line.split())]
        )

    def read(self, element: _Element) -> Columns:
        rows = [words for _, words in zip(range(element.count), self._lines, strict=False)]
        if len(rows) < element.count:
            raise ValueError(f"it has {len(rows):,} of {element.count:,} lines of the element {element.name}")
        lists = [item for item in element.properties if item.count_type is not None]
        try:
            if not lists:
                width = len(element.properties)
                table = np.array([row[:width] for row in rows], np.float64).reshape(element.count, width)
                return {item.name: table[:, i] for i, item in enumerate(element.properties)}
            singles: dict[str, list[float]] = {item.name: [] for item in element.properties if item.count_type is None}
            entries: dict[str, list[str]] = {item.name: [] for item in lists}
            lengths: dict[str, list[int]] = {item.name: [] for item in lists}
            for row in rows:
                at = 0
                for item in element.properties:
                    if item.count_type is None:
                        singles[item.name].append(float(row[at]))
                        at += 1
                        continue
                    length = int(row[at])
                    if not 0 <= length < len(row) - at:
                        raise ValueError(f"a list of {length} entries in a line of {len(row)}")
                    entries[item.name] += row[at + 1 : at + 1 + length]
                    lengths[item.name].append(length)
                    at += 1 + length
            columns: Columns = {name: np.array(values) for name, values in singles.items()}
            for item in lists:
                kind = np.float64 if item.type[0] == "f" else np.int64
                columns[item.name] = np.array(entries[item.name], kind), np.array(lengths[item.name], np.int64)
            return columns
        except (ValueError, IndexError, OverflowError) as error:
            raise ValueError(f"its element {element.name}: {error}") from error


class _Binary:
    """The data of a binary file."""

    def __init__(self, content: bytes, start: int, order: str) -> None:
        self._content = content
        self._at = start
        self._order = order

    def read(self, element: _Element) -> Columns:
        if not element.count or not element.properties:
            return {
                item.name: (no_polygons(), no_polygons()) if item.count_type else np.empty(0)
                for item in element.properties
            }
        return self._rows_of_one_length(element) or self._rows_of_many_lengths(element)

    def _rows_of_one_length(self, element: _Element) -> Columns | None:
        """All rows at once, where all lists are as long as those of the first row."""
        at, fields = self._at, []
        for i, item in enumerate(element.properties):
            if item.count_type is None:
                fields.append((f"{i}", self._order + item.type))
                at += np.dtype(item.type).itemsize
                continue
            length = self._number(item.count_type, at, element)
            if length * int(item.type[1]) > len(self._content) - at:
                raise self._cut(element)
            fields += [(f"{i}n", self._order + item.count_type), (f"{i}", self._order + item.type, (length,))]
            at += np.dtype(item.count_type).itemsize + length * np.dtype(item.type).itemsize
        kind = np.dtype(fields)
        if len(self._content) - self._at < element.count * kind.itemsize:
            if any(item.count_type for item in element.properties):
                return None
            raise self._cut(element)
        table = np.frombuffer(self._content, kind, element.count, self._at)
        columns: Columns = {}
        for i, item in enumerate(element.properties):
            if item.count_type is None:
                columns[item.name] = table[f"{i}"]
                continue
            lengths = table[f"{i}n"].astype(np.int64)
            if (lengths != lengths[0]).any():
                return None
            columns[item.name] = table[f"{i}"].reshape(-1), lengths
        self._at += element.count * kind.itemsize
        return columns

    def _rows_of_many_lengths(self, element: _Element) -> Columns:
        at = self._at
        starts: dict[str, list[int]] = {item.name: [] for item in element.properties}
        lengths: dict[str, list[int]] = {item.name: [] for item in element.properties}
        sizes = [np.dtype(item.type).itemsize for item in element.properties]
        for _ in range(element.count):
            for item, size in zip(element.properties, sizes, strict=True):
                length = 1
                if item.count_type is not None:
                    length = self._number(item.count_type, at, element)
                    at += np.dtype(item.count_type).itemsize
                starts[item.name].append(at)
                lengths[item.name].append(length)
                at += length * size
                if at > len(self._content):
                    raise self._cut(element)
        raw = np.frombuffer(self._content, np.uint8)
        columns: Columns = {}
        for item, size in zip(element.properties, sizes, strict=True):
            start, length = np.array(starts[item.name]), np.array(lengths[item.name])
            first = np.cumsum(length) - length
            within = np.arange(length.sum()) - np.repeat(first, length)
            places = (np.repeat(start, length) + within * size)[:, None] + np.arange(size)
            values = raw[places].reshape(-1).view(self._order + item.type)
            columns[item.name] = values if item.count_type is None else (values, length)
        self._at = at
        return columns

    def _number(self, type: str, at: int, element: _Element) -> int:
        size = int(type[1])
        if type[0] == "f":
            raise ValueError(f"its element {element.name} counts in fractions")
        if at + size > len(self._content):
            raise self._cut(element)
        big = self._order == ">"
        number = int.from_bytes(self._content[at : at + size], "big" if big else "little", signed=type[0] == "i")
        if number < 0:
            raise ValueError(f"its element {element.name} has a list of {number} entries")
        return number

    def _cut(self, element: _Element) -> ValueError:
        return ValueError(f"it ends within its {element.count:,} rows of the element {element.name}")


def _table(columns: Columns, names: tuple[str, ...]) -> np.ndarray:
    if any(isinstance(columns[name], tuple) for name in names):
        raise ValueError(f"its {', '.join(names)} are lists, and numbers are needed")
    return np.stack([np.asarray(columns[name], np.float64) for name in names], axis=1)


def _unrolled(entries: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles of strips, in each of which -1 begins a new one and every second triangle is turned."""
    triangles = []
    for strip in np.split(entries, np.cumsum(lengths)[:-1]):
        for part in np.split(strip, np.flatnonzero(strip < 0)):
            part = part[part >= 0]
            if len(part) >= 3:
                rows = np.lib.stride_tricks.sliding_window_view(part, 3).copy()
                rows[1::2] = rows[1::2, [1, 0, 2]]
                triangles.append(rows)
    corners = np.concatenate(triangles).reshape(-1) if triangles else no_polygons()
    return corners, np.full(len(corners) // 3, 3, np.int64)
