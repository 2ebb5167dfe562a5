"""Point clouds as lines of numbers: .xyz and its siblings, as CloudCompare, MeshLab and others write them."""

from __future__ import annotations

import re

import numpy as np

from finer_nerfstudio.files.meshes.raw import RawShape

_AXES = (("x",), ("y",), ("z",))
_NORMAL_AXES = tuple((f"n{axis}", f"normal_{axis}", f"normal{axis}") for axis in "xyz")
# Rounding to two decimals moves a unit vector's length by this much at most.
_UNIT_TOLERANCE = 0.01
# A comma within a number, where numbers are apart by something else.
_DECIMAL_COMMA = re.compile(r"\d,\d+[\s;]+[-+]?\d*,?\d")


def read_text_cloud(content: bytes) -> RawShape:
    """Read lines of x y z and more numbers, of which three may be a normal.

    Numbers stand between spaces, tabs, commas or semicolons. A first line may name them (``//X Y Z Nx Ny Nz``) or say
    how many lines follow; comments begin with #. Without names, normals are the last three of six numbers, and of more
    those three neighbours that are of length one.

    Raises:
        ValueError: for lines that are something else, and for colours where normals are needed.
    """
    names, rows = _lines(content.decode("utf-8-sig", "replace"))
    if names is not None:
        at = [[names.index(name) for name in axis if name in names] for axis in (*_AXES, *_NORMAL_AXES)]
        if all(at[:3]):
            normals = rows[:, [columns[0] for columns in at[3:]]] if all(at[3:]) else None
            return RawShape(rows[:, [columns[0] for columns in at[:3]]], normals=normals)
    if rows.shape[1] < 6:
        return RawShape(rows[:, :3])
    return RawShape(rows[:, :3], normals=_normals(rows[:, 3:]))


def _lines(text: str) -> tuple[list[str] | None, np.ndarray]:
    """The names of the columns, if there are some, and the numbers ``[n_lines, n_columns]``."""
    names: list[str] | None = None
    rows: list[list[float]] = []
    counted = None
    for number, line in enumerate(text.split("\n"), 1):
        words = [word for word in re.split(r"[\s,;]+", line.strip().strip('"')) if word]
        if not words:
            continue
        comment = words[0].startswith(("#", "//"))
        try:
            if comment:
                raise ValueError
            values = [float(word) for word in words]
        except ValueError as error:
            if rows and not comment:
                raise ValueError(f"line {number}: {line.strip()[:60]!r} is no line of numbers") from error
            named = [word.strip("#/\"'").lower() for word in words]
            if not rows and {"x", "y", "z"} <= set(named):
                names = [name for name in named if name]
            elif not comment:
                raise ValueError(f"line {number}: {line.strip()[:60]!r} is no line of numbers") from error
            continue
        if not rows and len(values) == 1 and counted is None and values[0].is_integer():
            counted = int(values[0])
            continue
        if not rows and _DECIMAL_COMMA.search(line):
            raise ValueError(f"line {number} has commas within its numbers: write them with points")
        if rows and len(values) != len(rows[0]):
            raise ValueError(f"line {number} has {len(values)} numbers, and the first has {len(rows[0])}")
        rows.append(values)
    if rows and len(rows[0]) < 3:
        raise ValueError(f"it has {len(rows[0])} numbers per line, and x y z nx ny nz are needed")
    if counted is not None and counted > len(rows):
        raise ValueError(f"it promises {counted:,} points and has {len(rows):,}: is it cut short?")
    if names is not None and rows and len(names) != len(rows[0]):
        names = None
    return names, np.array(rows, np.float64).reshape(len(rows), len(rows[0]) if rows else 3)


def _normals(columns: np.ndarray) -> np.ndarray | None:
    """The three neighbouring columns that are normals.

    Raises:
        ValueError: where the only three are colours.
    """
    for start in range(columns.shape[1] - 3, -1, -1):
        candidates = columns[:, start : start + 3]
        lengths = np.linalg.norm(candidates, axis=1)
        if np.mean(np.abs(lengths - 1.0) < _UNIT_TOLERANCE) > 0.99:
            return candidates
    if columns.shape[1] != 3:
        return None
    if (columns >= 0).all():
        raise ValueError(
            "the last three of its six numbers are nowhere negative and not of length one: they look like colours, and "
            "normals (x y z nx ny nz) are needed, which say where outside is"
        )
    return columns
