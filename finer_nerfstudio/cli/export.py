"""Export a trained field: as a mesh, or baked into something that browsers draw at interactive rates without a GPU.

    finer export mesh --load-config RUN/config.yml
    finer export splats --load-config RUN/config.yml
    finer export grid --load-config RUN/config.yml --output-path demo.npz

A mesh is the field's surface in the capture's own coordinates. Splats are Gaussians in the usual .ply layout of 3D
Gaussian Splatting; a grid is a sparse one of voxels. A JSON file and a picture beside each say how much it looks like
the field. The verb "original" brings what ns-export wrote back to the coordinates of the data.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from finer_nerfstudio.cli.view import View
from finer_nerfstudio.cli.view import run as view
from finer_nerfstudio.nerf.export.options import GridOptions, MeshOptions, SplatOptions
from finer_nerfstudio.nerf.run_folder import run_config
from finer_nerfstudio.runs.processor import prepare_processor


@dataclass(frozen=True, kw_only=True)
class Export:
    load_config: Path
    """config.yml of the run, or its folder, which ns-train prints."""
    output_path: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The file to write: .glb or .ply for a mesh, .ply for splats, .npz for a grid. Its JSON and its picture are
    written beside it. In the run's folder unless given."""
    overwrite: bool = False
    """Replace these files if they are there."""


@dataclass(frozen=True, kw_only=True)
class Bake(Export):
    view: bool = False
    """Open it in the browser afterwards."""
    host: str = "127.0.0.1"
    """With --view: address to listen on; 0.0.0.0 for all of this machine's."""
    port: int = 8080
    """With --view: port to listen on, 0 for any free one."""


@dataclass(frozen=True, kw_only=True)
class Splats(SplatOptions, Bake):
    """Bake a run into Gaussian splats."""


@dataclass(frozen=True, kw_only=True)
class Grid(GridOptions, Bake):
    """Bake a run into a sparse grid of voxels."""


@dataclass(frozen=True, kw_only=True)
class SurfaceMesh(MeshOptions, Export):
    """Export the surface of a run as a mesh with colours, in the coordinates and units of the capture's own file.

    A bounded scene is taken whole; of a scene without end, what is in its box, or more by --region. The mesh has what
    the training cameras see. A .ply file holds the capture's coordinates and 8-bit sRGB colours. A .glb file holds the
    same coordinates in a node that turns z up to y up, as glTF wants it: Blender, which turns it back, shows the
    capture's coordinates, and viewers show it upright.
    """


@dataclass(frozen=True, kw_only=True)
class Original:
    """Bring a point cloud, a mesh or camera poses of ns-export back to the coordinates of the data."""

    file: tyro.conf.Positional[Path]
    """What ns-export wrote: .ply, .obj or .json."""
    load_config: Path
    """config.yml of the run, or its folder, which ns-train prints."""
    output_path: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The file to write, of the same kind; beside the other, with _original in its name, unless given."""
    overwrite: bool = False
    """Replace it if it is there."""


def original(command: Original) -> None:
    from finer_nerfstudio.nerf.export.original import placement_of_run, write_original

    source = command.file
    target = command.output_path or source.with_name(f"{source.stem}_original{source.suffix}")
    write_original(source, target, placement_of_run(run_config(command.load_config)), overwrite=command.overwrite)
    print(f"{target}, in the coordinates of the data")


def splats(command: Splats) -> None:
    target = _target(command, "splats.ply")
    from finer_nerfstudio.nerf.export.run import bake_splats_to
    from finer_nerfstudio.runs.progress import stages

    prepare_processor()
    with stages() as stage:
        found = bake_splats_to(target, command.load_config, command, overwrite=command.overwrite, report=stage)
    print(f"{found['splats']:,} splats, {found['bytes']:,} bytes")
    if found["refine_steps"]:
        print(f"before {found['refine_steps']:,} steps of refinement: " + _quality_in_words(found["before_refinement"]))
    _finish(command, target, found)


def grid(command: Grid) -> None:
    target = _target(command, "grid.npz")
    from finer_nerfstudio.nerf.export.run import bake_grid_to
    from finer_nerfstudio.runs.progress import stages

    prepare_processor()
    with stages() as stage:
        found = bake_grid_to(target, command.load_config, command, overwrite=command.overwrite, report=stage)
    print(f"{found['voxels']:,} voxels, {found['bytes']:,} bytes")
    _finish(command, target, found)


def mesh(command: SurfaceMesh) -> None:
    target = _target(command, "mesh.glb")
    from finer_nerfstudio.nerf.export.mesh_run import export_mesh_to
    from finer_nerfstudio.runs.progress import stages

    prepare_processor()
    with stages() as stage:
        found = export_mesh_to(target, command.load_config, command, overwrite=command.overwrite, report=stage)
    print(f"{found['vertices']:,} vertices, {found['faces']:,} triangles, {found['bytes']:,} bytes")
    low, high = found["bounds"]
    size = " x ".join(f"{b - a:.3g}" for a, b in zip(low, high, strict=True))
    print(f"surface at a density of {found['density']:.3g}, {size} units of the capture large")
    _say_quality(target, found)
    print(f"next: open {shlex.quote(str(target))}")


def _target(command: Export, name: str) -> Path:
    """The file to write; a run that is not there is said before Nerfstudio is imported, which takes its time."""
    config = run_config(command.load_config)
    print(f"opening {config}", flush=True)
    return config.parent / name if command.output_path is None else command.output_path


def _finish(command: Bake, target: Path, found: dict[str, Any]) -> None:
    _say_quality(target, found)
    if command.view:
        view(View(target, command.host, command.port))
    else:
        print(f"next: finer view {shlex.quote(str(target))}")


def _say_quality(target: Path, found: dict[str, Any]) -> None:
    from finer_nerfstudio.nerf.export.run import picture_file

    measured = found["measured_on"]
    size = f"{measured['width']}x{measured['height']}"
    print(f"against the field on {measured['held_out_views']} held-out views of {size}: {_quality_in_words(found)}")
    print(f"(drawn by {found['drawn_by']})")
    print(f"{target}, and beside it {picture_file(target).name}")


def _quality_in_words(found: dict[str, Any]) -> str:
    return f"PSNR {found['psnr']:.2f} dB, SSIM {found['ssim']:.3f}"


OPTIONS = (
    Annotated[Splats, tyro.conf.subcommand("splats", prefix_name=False)]
    | Annotated[Grid, tyro.conf.subcommand("grid", prefix_name=False)]
    | Annotated[SurfaceMesh, tyro.conf.subcommand("mesh", prefix_name=False)]
    | Annotated[Original, tyro.conf.subcommand("original", prefix_name=False)]
)
_VERBS: dict[type, Callable[[Any], None]] = {Splats: splats, Grid: grid, SurfaceMesh: mesh, Original: original}


def run(command: Splats | Grid | SurfaceMesh | Original) -> None:
    _VERBS[type(command)](command)
