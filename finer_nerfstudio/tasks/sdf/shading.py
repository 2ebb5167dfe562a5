"""Pictures of surfaces, drawn by ray casting on the processor: no display and no GPU are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finer_nerfstudio.files.meshes.mesh import vertex_normals
from finer_nerfstudio.runs.raycasting import as_open3d, scene_of

# Degrees between the direction of view and the light, to the left and up.
_LIGHT_AZIMUTH, _LIGHT_ELEVATION = -35.0, 40.0
_SURFACE = np.array([0.80, 0.78, 0.74])
_SAMPLES_PER_SIDE = 2


@dataclass(frozen=True)
class View:
    """A direction of view on a shape whose y axis points up, in degrees."""

    azimuth: float
    elevation: float = 12.0


VIEWS: tuple[View, ...] = (View(0.0), View(90.0), View(180.0), View(270.0, 35.0))
"""Front, side, back, and from above on the other side."""


@dataclass(frozen=True)
class Scalars:
    """Values on vertices that colour a surface.

    Attributes:
        values: ``[n_vertices]``.
        lowest: the value of the colour map's lower end.
        highest: the value of its upper end.
        colormap: a name that matplotlib knows.
    """

    values: np.ndarray
    lowest: float
    highest: float
    colormap: str = "viridis"


def render(
    vertices: np.ndarray,
    faces: np.ndarray,
    view: View,
    *,
    center: np.ndarray,
    radius: float,
    size: int = 384,
    scalars: Scalars | None = None,
) -> np.ndarray:
    """A shaded picture of a mesh, ``[size, size, 3]`` uint8, on white, in parallel projection.

    Args:
        vertices: ``[n_vertices, 3]``.
        faces: ``[n_faces, 3]``.
        view: from where.
        center: ``[3]``, the point in the middle of the picture.
        radius: of the ball around it that the picture shows.
        size: pixels per side.
        scalars: colours of the surface, which is grey without.
    """
    scene = scene_of(vertices, faces)
    right, up, backward = _axes(view.azimuth, view.elevation)
    side = size * _SAMPLES_PER_SIDE
    steps = ((np.arange(side) + 0.5) / side * 2.0 - 1.0) * radius
    origins = center + steps[None, :, None] * right - steps[:, None, None] * up + 2.0 * radius * backward
    rays = np.concatenate([origins, np.broadcast_to(-backward, origins.shape)], axis=-1)
    hits = scene.cast_rays(as_open3d(rays, np.float32))
    visible = np.isfinite(hits["t_hit"].numpy())
    triangles = faces[hits["primitive_ids"].numpy()[visible].astype(np.int64)]
    second, third = hits["primitive_uvs"].numpy()[visible].T
    weights = np.stack([1.0 - second - third, second, third], axis=-1)

    normals = np.einsum("nk,nkd->nd", weights, vertex_normals(vertices, faces)[triangles])
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    # Both sides of a surface are lit, so that an open mesh shows its inside.
    normals *= np.where(normals @ backward < 0, -1.0, 1.0)[:, None]
    _, _, light = _axes(view.azimuth + _LIGHT_AZIMUTH, view.elevation + _LIGHT_ELEVATION)
    lit = 0.32 + 0.58 * np.clip(normals @ light, 0.0, 1.0) + 0.18 * np.clip(normals @ backward, 0.0, 1.0)
    color = _SURFACE if scalars is None else _colors(np.einsum("nk,nk->n", weights, scalars.values[triangles]), scalars)
    picture = np.ones((side, side, 3))
    picture[visible] = np.clip(lit[:, None] * color, 0.0, 1.0)
    smaller = picture.reshape(size, _SAMPLES_PER_SIDE, size, _SAMPLES_PER_SIDE, 3).mean(axis=(1, 3))
    return (255.0 * smaller).round().astype(np.uint8)


def radius_in_view(vertices: np.ndarray, center: np.ndarray, views: Sequence[View] = VIEWS) -> float:
    """Half the side of the smallest picture around ``center`` that shows all of the shape from every view."""
    offsets = vertices - center
    sideways = [np.abs(offsets @ axis).max() for view in views for axis in _axes(view.azimuth, view.elevation)[:2]]
    return float(max(sideways))


def _axes(azimuth: float, elevation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right, up and toward the viewer."""
    turn, rise = np.radians(azimuth), np.radians(elevation)
    backward = np.array([np.sin(turn) * np.cos(rise), np.sin(rise), np.cos(turn) * np.cos(rise)])
    right = np.array([np.cos(turn), 0.0, -np.sin(turn)])
    return right, np.cross(backward, right), backward


def _colors(values: np.ndarray, scalars: Scalars) -> np.ndarray:
    import matplotlib

    span = max(scalars.highest - scalars.lowest, 1e-30)
    return matplotlib.colormaps[scalars.colormap]((values - scalars.lowest) / span)[:, :3]
