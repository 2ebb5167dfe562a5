"""Baked scenes in the browser, drawn there: viser sends them once, and no field is evaluated any more."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from viser import ClientHandle, ViserServer

from finer_nerfstudio.errors import InputError, UsageError, argument, in_one_line
from finer_nerfstudio.nerf.export import harmonics
from finer_nerfstudio.nerf.export.display import (
    DisplayedSplats,
    DisplayFrame,
    display_frame,
    displayed,
    frame_of_splats,
)
from finer_nerfstudio.nerf.export.grid import SparseGrid, read_grid
from finer_nerfstudio.nerf.export.splat_file import read_splats
from finer_nerfstudio.nerf.export.splat_formats import compressed_format, how_to_convert
from finer_nerfstudio.nerf.export.splats import Splats

# Of a grid, voxels of less opacity are haze that would hide what is behind it.
_FAINTEST_SHOWN = 0.3
# viser 0.2.7 adds this to all nine entries of each covariance before it takes the square root.
_ADDED_BY_VISER = 1e-7
# Where a camera stands first, display units.
_AWAY = 16.0


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


_NAME_ONE = "name a file that finer export wrote, or splats of another program"


def description_file(path: Path) -> Path:
    """The JSON file beside a baked one."""
    return path.with_name(f"{path.name}.json")


def read_baked(path: Path) -> tuple[Splats | SparseGrid, list[str]]:
    """Read splats or a grid, whichever the file holds, and sentences on what was left out.

    Raises:
        InputError: for anything else.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        compressed = compressed_format(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({in_one_line(error)}): {_NAME_ONE}.") from error
    if compressed:
        raise InputError(how_to_convert(path, compressed))
    if start.startswith(b"ply"):
        return read_splats(path)
    if start.startswith(b"PK"):
        return read_grid(path), []
    raise InputError(f"{path} is neither a .ply file with splats nor a baked grid (.npz): {_NAME_ONE}.")


def viewpoint_of(path: Path, frame: DisplayFrame) -> Viewpoint:
    """Where to look from first: as the file beside a baked one says, or else from outside at the middle.

    Args:
        path: of the baked file.
        frame: of what it holds.
    """
    try:
        content: Any = json.loads(description_file(path).read_text())["viewpoint"]
        position, look_at, up = (np.array(content[name], np.float64) for name in ("position", "look_at", "up"))
        fov = float(content["fov"])
        if np.isfinite([position, look_at, up]).all() and 0 < fov < math.pi:
            return Viewpoint(as_vector(position), as_vector(look_at), as_vector(up), fov)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    outside = frame.middle + _AWAY / frame.scale * np.array([0.7, -0.6, 0.4])
    return Viewpoint(as_vector(outside), as_vector(frame.middle))


def as_vector(values: np.ndarray) -> tuple[float, float, float]:
    """Three plain numbers."""
    x, y, z = values.tolist()
    return x, y, z


def show(
    path: Path, *, host: str = "127.0.0.1", port: int = 8080, note: Callable[[str], None] | None = None
) -> ViserServer:
    """Open a baked file for browsers; runs until ``stop()``.

    Args:
        path: that splats or a grid were written to.
        host: address to listen on.
        port: 0 for any free one.
        note: told sentences on what is not shown.

    Raises:
        InputError: where the file cannot be read.
        UsageError: for an address that cannot be had.
    """
    baked, notes = read_baked(path)
    if note is not None:
        for sentence in notes:
            note(sentence)
    frame = frame_of_splats(baked) if isinstance(baked, Splats) else display_frame(baked.centers().numpy())
    viewpoint = viewpoint_of(path, frame)
    server = ViserServer(host, _free_port(host, port), label=path.name, verbose=False)
    # Without its button to share, which this viser has in all layouts, its client falls over in narrow windows.
    server.gui.configure_theme(control_layout="collapsible", show_logo=False)

    @server.on_client_connect
    def _(client: ClientHandle) -> None:
        with client.atomic():
            client.camera.up_direction = viewpoint.up
            client.camera.position = as_vector(frame.points(np.array(viewpoint.position)))
            client.camera.look_at = as_vector(frame.points(np.array(viewpoint.look_at)))
            client.camera.fov = viewpoint.fov

    if isinstance(baked, Splats):
        _show_splats(server, displayed(baked, frame))
    else:
        _show_grid(server, baked, frame)
    return server


def _show_splats(server: ViserServer, splats: DisplayedSplats) -> None:
    # Not public yet in the version of viser that Nerfstudio asks for.
    server.scene._add_gaussian_splats(
        "/splats",
        centers=splats.centers,
        covariances=splats.covariances - _ADDED_BY_VISER,
        rgbs=splats.colors,
        opacities=splats.opacities,
    )


def _show_grid(server: ViserServer, grid: SparseGrid, frame: DisplayFrame) -> None:
    # Where there is nothing but haze, it is what there is to see.
    shown = grid.opacity > min(_FAINTEST_SHOWN, 0.5 * float(grid.opacity.max()))
    server.scene.add_point_cloud(
        "/voxels",
        points=frame.points(grid.centers()[shown].numpy()),
        colors=harmonics.colors_from_outside(grid.harmonics[shown], grid.normals[shown]).numpy(),
        point_size=frame.scale * float(grid.voxel.max()),
        point_shape="square",
    )


def _free_port(host: str, port: int) -> int:
    """``port``, or a free one for 0; viser would silently take another where it is in use."""
    if not 0 <= port < 1 << 16:
        raise UsageError(f"{argument('port')} must lie between 0 and 65535, it is {port}.")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return probe.getsockname()[1]
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port} ({in_one_line(error)}): choose another {argument('host')} or "
            f"{argument('port')}."
        ) from error
