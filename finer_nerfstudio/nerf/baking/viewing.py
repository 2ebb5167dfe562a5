"""Baked scenes in the browser, drawn there: viser sends them once, and no field is evaluated any more."""

from __future__ import annotations

import json
import math
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from viser import ClientHandle, ViserServer

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.nerf.baking import harmonics
from finer_nerfstudio.nerf.baking.grid import SparseGrid, read_grid
from finer_nerfstudio.nerf.baking.splat_file import read_splats
from finer_nerfstudio.nerf.baking.splats import Splats

# Of a grid, voxels of less opacity are haze that would hide what is behind it.
_FAINTEST_SHOWN = 0.3
# viser's own arithmetic needs covariances that are not flatter than this, in scene sizes.
_FLATTEST = 1e-5


@dataclass(frozen=True)
class Viewpoint:
    """A camera in the browser.

    Attributes:
        position: world units.
        look_at: what is in the middle of the picture, world units.
        up: unit vector.
        fov: vertical angle of view, radians.
    """

    position: tuple[float, float, float]
    look_at: tuple[float, float, float]
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    fov: float = math.radians(45.0)


def description_file(path: Path) -> Path:
    """The JSON file beside a baked one."""
    return path.with_name(f"{path.name}.json")


def read_baked(path: Path) -> Splats | SparseGrid:
    """Read splats or a grid, whichever the file holds.

    Raises:
        InputError: for anything else.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from error
    if start.startswith(b"ply"):
        return read_splats(path)
    if start.startswith(b"PK"):
        return read_grid(path)
    raise InputError(f"{path} is neither a .ply file with splats nor a baked grid (.npz).")


def viewpoint_of(path: Path, positions: np.ndarray) -> Viewpoint:
    """Where to look from first: as the file beside a baked one says, or else from outside at the middle.

    Args:
        path: of the baked file.
        positions: ``[n, 3]`` of what it holds.
    """
    try:
        content: Any = json.loads(description_file(path).read_text())["viewpoint"]
        position, look_at, up = (np.array(content[name], np.float64) for name in ("position", "look_at", "up"))
        fov = float(content["fov"])
        if np.isfinite([position, look_at, up]).all() and 0 < fov < math.pi:
            return Viewpoint(as_vector(position), as_vector(look_at), as_vector(up), fov)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    middle = np.median(positions, axis=0)
    radius = float(np.quantile(np.linalg.norm(positions - middle, axis=1), 0.95)) or 1.0
    outside = middle + 3.0 * radius * np.array([0.7, -0.6, 0.4])
    return Viewpoint(as_vector(outside), as_vector(middle))


def as_vector(values: np.ndarray) -> tuple[float, float, float]:
    """Three plain numbers."""
    x, y, z = values.tolist()
    return x, y, z


def show(path: Path, *, host: str = "127.0.0.1", port: int = 8080) -> ViserServer:
    """Open a baked file for browsers; runs until ``stop()``.

    Args:
        path: that splats or a grid were written to.
        host: address to listen on.
        port: 0 for any free one.

    Raises:
        InputError: where the file cannot be read.
        UsageError: for an address that cannot be had.
    """
    baked = read_baked(path)
    positions = (baked.means if isinstance(baked, Splats) else baked.centers()).numpy()
    viewpoint = viewpoint_of(path, positions)
    server = ViserServer(host, _free_port(host, port), label=path.name, verbose=False)
    # Without its button to share, which this viser has in all layouts, its client falls over in narrow windows.
    server.gui.configure_theme(control_layout="collapsible", show_logo=False)

    @server.on_client_connect
    def _(client: ClientHandle) -> None:
        with client.atomic():
            client.camera.up_direction = viewpoint.up
            client.camera.position = viewpoint.position
            client.camera.look_at = viewpoint.look_at
            client.camera.fov = viewpoint.fov

    if isinstance(baked, Splats):
        _show_splats(server, baked, positions)
    else:
        _show_grid(server, baked)
    return server


def _show_splats(server: ViserServer, splats: Splats, positions: np.ndarray) -> None:
    flattest = math.log(_FLATTEST * float(np.ptp(positions, axis=0).max() or 1.0))
    solid = Splats(
        splats.means,
        splats.normals,
        splats.rotations.double(),
        splats.log_scales.double().clamp(min=flattest),
        splats.opacity_logits,
        splats.harmonics,
    )
    # Not public yet in the version of viser that Nerfstudio asks for.
    server.scene._add_gaussian_splats(
        "/splats",
        centers=positions,
        covariances=solid.covariances().numpy(),
        rgbs=harmonics.colors_from_outside(splats.harmonics, splats.normals).numpy(),
        opacities=torch.sigmoid(splats.opacity_logits)[:, None].numpy(),
    )


def _show_grid(server: ViserServer, grid: SparseGrid) -> None:
    # Where there is nothing but haze, it is what there is to see.
    shown = grid.opacity > min(_FAINTEST_SHOWN, 0.5 * float(grid.opacity.max()))
    server.scene.add_point_cloud(
        "/voxels",
        points=grid.centers()[shown].numpy(),
        colors=harmonics.colors_from_outside(grid.harmonics[shown], grid.normals[shown]).numpy(),
        point_size=float(grid.voxel.max()),
        point_shape="square",
    )


def _free_port(host: str, port: int) -> int:
    """``port``, or a free one for 0; viser would silently take another where it is in use."""
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port must lie between 0 and 65535, it is {port}.")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return probe.getsockname()[1]
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another --port."
        ) from error
