"""Point clouds, meshes and camera poses of ns-export in the coordinates that the data had.

Nerfstudio leaves them in those of the field. A run's folder says how the two differ, in a file that ns-train writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from plyfile import PlyData, PlyElement, PlyParseError

from finer_nerfstudio.errors import InputError, UsageError, argument, in_one_line
from finer_nerfstudio.files.atomic import replacing
from finer_nerfstudio.nerf.export.placement import Placement, placement_of

_TRANSFORMS = "dataparser_transforms.json"


def placement_of_run(config: Path) -> Placement:
    """Read how a run's coordinates become those of its data.

    Args:
        config: the run's config.yml.

    Raises:
        InputError: where the run's folder does not say it.
    """
    path = config.parent / _TRANSFORMS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        transform, scale = torch.tensor(content["transform"], dtype=torch.float64), float(content["scale"])
        if transform.shape not in ((3, 4), (4, 4)) or not bool(torch.isfinite(transform).all()) or not scale > 0:
            raise ValueError("it holds other numbers")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not say where the data were ({in_one_line(error)}): it is written by ns-train."
        ) from error
    outputs: Any = SimpleNamespace(dataparser_transform=transform[:3], dataparser_scale=scale)
    return placement_of(outputs)


def write_original(source: Path, target: Path, placement: Placement, *, overwrite: bool) -> None:
    """Write what ns-export wrote, moved to the data's coordinates.

    Args:
        source: a point cloud or mesh (.ply), a mesh (.obj), or camera poses (.json).
        target: file to write, of the same kind.
        placement: of the run.
        overwrite: replace what is there.

    Raises:
        UsageError: for other kinds of files, and for a file that is in the way.
        InputError: where ``source`` cannot be read, or ``target`` cannot be written.
    """
    kind = source.suffix.lower()
    if kind not in _WRITERS:
        raise UsageError(f"{source} is none of {', '.join(_WRITERS)}: name a file that ns-export wrote.")
    if target.suffix.lower() != kind:
        raise UsageError(f"{argument('path', option='--output-path')} must end in {kind}, it is {target}.")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} is there already: replace it by {argument('overwrite', True)}.")
    try:
        content = _WRITERS[kind](source, placement)
    except (OSError, ValueError, KeyError, TypeError, IndexError, PlyParseError) as error:
        raise InputError(
            f"{source} cannot be read ({in_one_line(error)}): name a file that ns-export wrote."
        ) from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as unfinished, unfinished.open("wb") as file:
            content(file)
    except OSError as error:
        raise InputError(f"cannot write {target} ({in_one_line(error)}).") from error


Write = Callable[[Any], object]


def _ply(source: Path, placement: Placement) -> Write:
    content = PlyData.read(str(source))
    before = content["vertex"].data
    # Survey coordinates do not fit into single precision.
    kinds = [(name, "f8" if name in ("x", "y", "z") else kind) for name, kind in before.dtype.descr]
    vertices = before.astype(kinds)
    for names, move in ((("x", "y", "z"), placement.points), (("nx", "ny", "nz"), placement.directions)):
        if names[0] == "x" or set(names) <= set(vertices.dtype.names):
            moved = move(np.stack([before[name].astype(np.float64) for name in names], axis=1))
            for name, column in zip(names, moved.T, strict=True):
                vertices[name] = column
    elements = [
        PlyElement.describe(vertices, "vertex") if element.name == "vertex" else element for element in content.elements
    ]
    return PlyData(elements, text=content.text, byte_order=content.byte_order).write


def _obj(source: Path, placement: Placement) -> Write:
    moves = {"v": placement.points, "vn": placement.directions}
    lines = []
    for line in source.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words and words[0] in moves:
            # What follows the three numbers is a colour.
            moved = moves[words[0]](np.array([words[1:4]], dtype=np.float64))[0]
            line = " ".join([words[0], *(f"{value:.12g}" for value in moved), *words[4:]])
        lines.append(line)
    text = "\n".join(lines) + "\n"
    return lambda file: file.write(text.encode())


def _cameras(source: Path, placement: Placement) -> Write:
    frames = json.loads(source.read_text(encoding="utf-8"))
    for frame in frames:
        pose = np.array(frame["transform"], dtype=np.float64)[:3]
        frame["transform"] = np.concatenate(
            [placement.turn @ pose[:, :3], placement.points(pose[None, :, 3]).T], axis=1
        ).tolist()
    text = json.dumps(frames, indent=4)
    return lambda file: file.write(text.encode())


_WRITERS = {".ply": _ply, ".obj": _obj, ".json": _cameras}
