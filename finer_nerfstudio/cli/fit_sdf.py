"""Fit a signed distance field to a mesh or a point cloud, and extract the surface again.

    finer fit-sdf --mesh bunny.obj --minutes 10
    finer fit-sdf --mesh scan.ply --method finer-sine --steps 5000 --resolution 512

Without --mesh a generated sample is fitted. Whatever is not given comes from the paper's protocol: 200,000 steps of
10,000 points, which take a processor many hours; --minutes bounds them. The output folder gets mesh.ply in the units
and the place of the input, model.safetensors, metrics.json, curve.csv and report.html.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from finer_nerfstudio.tasks.sdf.options import ShapeOptions


@dataclass(frozen=True)
class FitShape(ShapeOptions):
    """Shape, method and length of a fit, and where results go."""

    mesh: Annotated[Path | None, tyro.conf.arg(aliases=["-m"])] = None
    """A mesh (obj, ply, stl, off, glb, gltf or another format of trimesh), or a point cloud with normals (ply, or lines
    of x y z nx ny nz in xyz, asc, csv, pts or txt)."""
    resolution: int | None = None
    """Grid points per axis of the extracted mesh; the paper's is 512. Unless given it is 256, and after a training of
    less than about a minute lower, as are the numbers of points that the surface is measured with: a training of
    seconds is not worth minutes of measuring."""
    double: bool = False
    """Write mesh.ply in double precision, which few viewers show, instead of single precision around an origin near the
    shape, which its header states."""
    output_dir: Path | None = None
    """Folder for the results; outputs/sdf/<name of the mesh>-<method> unless given."""
    resume: bool = False
    """Go on with the run in the output folder, from its last checkpoint."""
    overwrite: bool = False
    """Replace the run in the output folder; its old metrics.json gets the ending .previous."""


def run(command: FitShape) -> None:
    from finer_nerfstudio.runs.processor import prepare_processor
    from finer_nerfstudio.runs.progress import stages
    from finer_nerfstudio.runs.summary import print_summary
    from finer_nerfstudio.runs.training import require_not_written
    from finer_nerfstudio.tasks.sdf.run import run_shape
    from finer_nerfstudio.tasks.sdf.shape import read_shape, sample_shape

    prepare_processor()
    name = command.mesh.stem if command.mesh is not None else "sample"
    folder = command.output_dir or Path("outputs/sdf") / f"{name}-{command.method}"
    require_not_written(command.mesh, folder)
    with stages() as stage:
        stage(f"reading {name}", 0, 1)
        shape = sample_shape() if command.mesh is None else read_shape(command.mesh)
    if command.mesh is None:
        print("note: no --mesh is given: a generated shape is fitted.", flush=True)
    options = ShapeOptions(**{item.name: getattr(command, item.name) for item in fields(ShapeOptions)})
    result = run_shape(
        shape,
        options,
        folder,
        resolution=command.resolution,
        double=command.double,
        resume=command.resume,
        overwrite=command.overwrite,
    )
    columns = {
        "iou": "IoU",
        "normal_consistency": "normal consistency",
        "chamfer": "Chamfer",
        "chamfer_paper": "Chamfer (paper's frame)",
        "steps": "steps",
        "seconds": "seconds",
    }
    files = [folder / name for name in ("mesh.ply", "report.html", "metrics.json")]
    view = f"open {folder / 'report.html'} in a browser, or {folder / 'mesh.ply'} in any viewer of meshes"
    print_summary({command.method: result}, columns, notes=result["notes"], files=files, next_command=view)


OPTIONS = FitShape
