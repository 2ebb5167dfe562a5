"""STL, binary and as text: triangles, each with corners of its own."""

from __future__ import annotations

import re

import numpy as np

from finer_nerfstudio.files.meshes.raw import RawShape, of_triangles

_HEADER_BYTES = 84
_TRIANGLE = np.dtype([("normal", "<f4", (3,)), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def read_stl(content: bytes) -> RawShape:
    """Read the triangles of an STL file.

    Of a binary file whose length does not fit to the number of triangles that it promises, the whole triangles are
    read, and a note says how many there should be.

    Raises:
        ValueError: saying what is no STL.
    """
    promised = int.from_bytes(content[80:_HEADER_BYTES], "little") if len(content) >= _HEADER_BYTES else None
    # Programs write binary files whose header begins with "solid" like those of text; the length tells them apart.
    if promised is None or len(content) != _HEADER_BYTES + _TRIANGLE.itemsize * promised:
        text = content.decode("ascii", "replace")
        if text[:512].lstrip().lower().startswith("solid") and "\0" not in text and "facet" in text.lower():
            return _read_text(text)
    if promised is None:
        raise ValueError(f"{len(content)} bytes are too short for a binary STL, and it is none of text")
    there = (len(content) - _HEADER_BYTES) // _TRIANGLE.itemsize
    surplus = len(content) - _HEADER_BYTES - _TRIANGLE.itemsize * promised
    notes: tuple[str, ...] = ()
    count = min(there, promised)
    if surplus < 0:
        notes = (
            f"The file is cut short: it promises {promised:,} triangles, and the {there:,} that are whole were read.",
        )
    elif promised == 0 and there > 0:
        # Writers that stream leave the number at zero.
        count = there
        notes = (f"The file promises no triangle, and the {there:,} that it has were read.",)
    elif surplus > 0:
        notes = (f"The last {surplus:,} bytes of the file, behind its {promised:,} triangles, were not looked at.",)
    table = np.frombuffer(content, _TRIANGLE, count, _HEADER_BYTES)
    return of_triangles(table["corners"].reshape(-1, 3), np.arange(3 * count), notes)


def _read_text(text: str) -> RawShape:
    """Triangles between ``facet`` and ``endfacet``, of all solids of the file."""
    corners: list[tuple[float, float, float]] = []
    in_facet: list[tuple[float, float, float]] = []
    incomplete = 0
    lines = text.lower().split("\n")
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        try:
            if words[0] == "vertex":
                in_facet.append((float(words[1]), float(words[2]), float(words[3])))
        except (ValueError, IndexError) as error:
            if number == len(lines):  # where the file is cut short
                continue
            raise ValueError(f"line {number}: {' '.join(words)[:60]!r} is no vertex of three numbers") from error
        if words[0] == "endfacet":
            if len(in_facet) == 3:
                corners += in_facet
            else:
                incomplete += 1
            in_facet = []
    incomplete += bool(in_facet)
    ended = re.search(r"endsolid[^\n]*\s*\Z", text, re.IGNORECASE) is not None
    notes = []
    if not ended:
        notes.append(f"The file is cut short: the {len(corners) // 3:,} triangles that are whole were read.")
    elif incomplete:
        notes.append(f"{incomplete:,} facets without three vertices were left out.")
    return of_triangles(np.array(corners, np.float64).reshape(-1, 3), np.arange(len(corners)), tuple(notes))
