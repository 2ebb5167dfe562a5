"""Wavefront OBJ: vertices and faces; materials, textures and curves are not looked at."""

from __future__ import annotations

from array import array

import numpy as np

from finer_nerfstudio.files.meshes.raw import RawShape


def read_obj(content: bytes) -> RawShape:
    """Read the polygons of an OBJ file; without any, its vertices as a cloud.

    Faces may count vertices from the file's beginning (1, 2, ...) or backwards from the vertex before the face
    (-1, -2, ...), in every mixture.

    Raises:
        ValueError: saying in which line is something else than it should be.
    """
    positions, normals, corners, sizes = array("d"), array("d"), array("q"), array("q")
    text = content.decode("utf-8-sig", "replace").replace("\\\r\n", " ").replace("\\\n", " ")
    for number, line in enumerate(text.split("\n"), 1):
        words = (line.partition("#")[0] if "#" in line else line).split()
        if not words:
            continue
        try:
            if words[0] == "v":
                positions.extend((float(words[1]), float(words[2]), float(words[3])))
            elif words[0] == "vn":
                normals.extend((float(words[1]), float(words[2]), float(words[3])))
            elif words[0] in ("f", "fo"):
                so_far = len(positions) // 3
                for word in words[1:]:
                    index = int(word.partition("/")[0])
                    if index == 0:
                        raise ValueError("vertices are counted from 1")
                    if index < -so_far:
                        raise ValueError(f"there are {so_far:,} vertices before it, and it goes back {-index:,}")
                    corners.append(index - 1 if index > 0 else so_far + index)
                sizes.append(len(words) - 1)
        except IndexError as error:
            raise ValueError(f"line {number}: {words[0]} has {len(words) - 1} numbers, and 3 are needed") from error
        except (ValueError, OverflowError) as error:
            raise ValueError(f"line {number}: {error}") from error
    return RawShape(
        np.array(positions).reshape(-1, 3),
        np.array(corners, np.int64),
        np.array(sizes, np.int64),
        np.array(normals).reshape(-1, 3) if len(normals) == len(positions) else None,
    )
