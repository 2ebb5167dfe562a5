"""Which reader a file needs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from finer_nerfstudio.files.meshes.gltf import read_gltf
from finer_nerfstudio.files.meshes.obj import read_obj
from finer_nerfstudio.files.meshes.off import read_off
from finer_nerfstudio.files.meshes.ply import read_ply
from finer_nerfstudio.files.meshes.raw import RawShape, of_triangles
from finer_nerfstudio.files.meshes.stl import read_stl
from finer_nerfstudio.files.meshes.text_cloud import read_text_cloud

_READERS: dict[str, Callable[[bytes], RawShape]] = {
    ".obj": read_obj,
    ".off": read_off,
    ".ply": read_ply,
    ".stl": read_stl,
    **dict.fromkeys((".xyz", ".asc", ".csv", ".pts", ".txt"), read_text_cloud),
}


def read_raw(path: Path) -> RawShape:
    """Read a file by its ending; formats that this package has no reader for go to trimesh.

    Raises:
        ValueError: saying what is wrong with it.
        OSError: where it cannot be opened.
    """
    suffix = path.suffix.lower()
    with np.errstate(all="ignore"):  # numbers that are not finite are found by whoever uses them
        if suffix in (".glb", ".gltf"):
            return read_gltf(path.read_bytes(), path.parent)
        if suffix in _READERS:
            return _READERS[suffix](path.read_bytes())
        return _read_by_trimesh(path)


def _read_by_trimesh(path: Path) -> RawShape:
    import trimesh

    log = logging.getLogger("trimesh")
    level = log.level
    try:
        log.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded: Any = trimesh.load(path, process=False)
            # A scene's parts, each where the scene puts it.
            geometry = loaded.to_geometry() if isinstance(loaded, trimesh.Scene) else loaded
    except Exception as error:  # trimesh's readers raise whatever their format's parser raises
        if isinstance(error, NotImplementedError):
            raise ValueError(
                f"no format of meshes or point clouds ends in {path.suffix}; obj, ply, stl, off, glb, gltf and xyz do"
            ) from error
        lines = str(error).strip().splitlines() or [""]
        raise ValueError(f"{type(error).__name__}: {lines[0][:120]}") from error
    finally:
        log.setLevel(level)
    if isinstance(geometry, trimesh.Trimesh):
        return of_triangles(np.asarray(geometry.vertices), np.asarray(geometry.faces))
    if isinstance(geometry, trimesh.PointCloud):
        return RawShape(np.asarray(geometry.vertices, np.float64))
    raise ValueError(f"it holds {type(geometry).__name__}, and a mesh or a point cloud is needed")
