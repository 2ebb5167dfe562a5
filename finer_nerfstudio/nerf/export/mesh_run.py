"""From a trained run to a file with a mesh, and to the JSON and the picture beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.errors import UsageError, argument
from finer_nerfstudio.files.meshes.writing import write_glb, write_ply
from finer_nerfstudio.nerf.export.comparison import compare
from finer_nerfstudio.nerf.export.mesh import mesh_of
from finer_nerfstudio.nerf.export.mesh_picture import MeshRenderer
from finer_nerfstudio.nerf.export.options import MeshOptions
from finer_nerfstudio.nerf.export.run import Clock, finish, load_scene, prepare_file
from finer_nerfstudio.nerf.export.scene import Picture, pictures_of
from finer_nerfstudio.nerf.model import FinerModel
from finer_nerfstudio.runs.progress import Stage

_WRITERS = {".glb": write_glb, ".ply": write_ply}


def export_mesh_to(path: Path, run: Path, options: MeshOptions, *, overwrite: bool, report: Stage) -> dict[str, Any]:
    """Write the surface of a run as a mesh, in the coordinates and units of the capture's own file.

    Args:
        path: .glb or .ply file; see :mod:`finer_nerfstudio.files.meshes.writing` for what they hold.
        run: folder or config.yml of the run.
        options: how.
        overwrite: replace what is there.
        report: progress callback: (description, completed, total).

    Returns:
        What the JSON file beside ``path`` holds.

    Raises:
        UsageError: for options out of range, and for a file that is in the way.
        InputError: where the run cannot be loaded, holds no surface, or the file cannot be written.
    """
    options.require_possible()
    prepare_file(path, *_WRITERS, overwrite=overwrite)
    clock = Clock()
    loaded = load_scene(run, view_size=options.view_size, held_out=options.held_out, scene_of=FinerModel.scene)
    scene = loaded.scene
    if options.region != 1.0 and not scene.field.unbounded:
        raise UsageError(
            f"{argument('region')} is for scenes without end, and there is nothing outside of this one's box: leave it "
            f"out."
        )
    clock.lap("load")
    made = mesh_of(scene, loaded.training, options, report)
    placed = loaded.placement.mesh(made.mesh)
    origin = _WRITERS[path.suffix.lower()](path, placed)
    clock.lap("extract")
    renderer = MeshRenderer(made.mesh, scene.device)
    pictures = pictures_of(scene, loaded.held_out, report)
    if scene.field.unbounded:
        pictures = [_where(renderer.picture(picture.view).alpha, picture) for picture in pictures]
    compared = compare(renderer.picture, pictures, report)
    clock.lap("measure")
    found = {
        "kind": "mesh",
        "vertices": len(placed.vertices),
        "faces": len(placed.faces),
        "bounds": [placed.vertices.min(axis=0).tolist(), placed.vertices.max(axis=0).tolist()],
        "origin": origin.tolist(),
        "density": made.density,
        "density_is_per": "unit of length of the field, of contracted length outside the scene's box",
        "resolution": options.resolution,
        "region": options.region,
        "spacing": made.spacing * loaded.placement.scale,
        "box": loaded.placement.points(scene.field.aabb.cpu().numpy()).tolist(),
        "left_out": made.left_out,
        "drawn_by": "Open3D",
    }
    return finish(path, loaded, found, compared, clock)


def _where(covered: Float[Tensor, "height width"], picture: Picture) -> Picture:
    """The part of a picture that a mesh covers: the surroundings of a scene without end are no part of it."""
    return Picture(picture.view, picture.color * covered[..., None], picture.alpha * covered)
