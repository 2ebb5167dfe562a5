"""Rays and nearest points against triangles, computed by Embree through Open3D."""

from __future__ import annotations

from typing import Any

import numpy as np


def scene_of(vertices: np.ndarray, faces: np.ndarray) -> Any:
    """An Open3D ``RaycastingScene`` of one mesh, ``[n_vertices, 3]`` and ``[n_faces, 3]``."""
    import open3d

    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(as_open3d(vertices, np.float32), as_open3d(faces, np.uint32))
    return scene


def as_open3d(values: np.ndarray, dtype: type) -> Any:
    """An array as Open3D's own kind of tensor, which its functions insist on."""
    import open3d

    return open3d.core.Tensor(np.ascontiguousarray(values, dtype))  # pyright: ignore[reportCallIssue, reportArgumentType]
