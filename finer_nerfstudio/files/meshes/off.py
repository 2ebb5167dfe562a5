"""Object File Format: OFF, and its variants with colours (COFF), normals (NOFF) and texture coordinates (STOFF)."""

from __future__ import annotations

import re
from array import array

import numpy as np

from finer_nerfstudio.files.meshes.raw import RawShape

# The counts may follow without a space: "OFF8 12 0".
_HEADER = re.compile(r"\s*(?:ST)?C?(?P<normals>N)?(?P<weights>4)?(?P<dimension>n)?OFF")


def read_off(content: bytes) -> RawShape:
    """Read the polygons of an OFF file; without any, its vertices as a cloud.

    Raises:
        ValueError: saying in which line is something else than it should be.
    """
    text = content.decode("utf-8-sig", "replace")
    header = _HEADER.match(text)
    if header is None:
        raise ValueError("it does not begin with OFF")
    rest = text[header.end() :]
    if header["dimension"] or rest.split(maxsplit=1)[:1] == ["BINARY"]:
        raise ValueError("binary OFF and nOFF are not read: save it as text with three coordinates, or as PLY")
    lines = [
        (number, words)
        for number, line in enumerate(rest.split("\n"), 1 + header[0].count("\n"))
        if (words := line.partition("#")[0].split())
    ]
    if not lines:
        raise ValueError("it ends after its first line")
    number, words = lines[0]
    try:
        vertex_count, face_count = int(words[0]), int(words[1])
    except (ValueError, IndexError) as error:
        raise ValueError(f"line {number}: the numbers of vertices and faces are needed") from error
    if min(vertex_count, face_count) < 0 or len(lines) - 1 < vertex_count + face_count:
        raise ValueError(
            f"line {number} promises {vertex_count:,} vertices and {face_count:,} faces, and {len(lines) - 1:,} lines "
            "follow"
        )
    coordinates = 4 if header["weights"] else 3
    columns = coordinates + (3 if header["normals"] else 0)
    rows, corners, sizes = array("d"), array("q"), array("q")
    at = number
    try:
        for at, words in lines[1 : 1 + vertex_count]:  # noqa: B007
            if len(words) < columns:
                raise ValueError(f"a vertex of {len(words)} numbers, and {columns} are needed")
            rows.extend([float(word) for word in words[:columns]])
        for at, words in lines[1 + vertex_count : 1 + vertex_count + face_count]:  # noqa: B007
            size = int(words[0])
            if not 0 <= size < len(words):
                raise ValueError(f"a face of {size} corners that names {len(words) - 1}")
            corners.extend([int(word) for word in words[1 : 1 + size]])
            sizes.append(size)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"line {at}: {error}") from error
    table = np.array(rows).reshape(vertex_count, columns)
    vertices = table[:, :3]
    if header["weights"]:
        with np.errstate(divide="ignore", invalid="ignore"):
            vertices = vertices / table[:, 3:4]
    normals = table[:, coordinates:] if header["normals"] else None
    return RawShape(vertices, np.array(corners, np.int64), np.array(sizes, np.int64), normals)
