"""From a trained run to a baked file, and to the JSON and the picture beside it that say how good it is."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finer_nerfstudio.errors import InputError, UsageError, argument, in_one_line
from finer_nerfstudio.files.atomic import write_json
from finer_nerfstudio.nerf.data.views import View, evenly, view_of
from finer_nerfstudio.nerf.export.comparison import Comparison, compare, mean_quality, write_comparison
from finer_nerfstudio.nerf.export.grid import GridRenderer, read_grid, write_grid
from finer_nerfstudio.nerf.export.grid_baking import bake_grid, picture_of_grid
from finer_nerfstudio.nerf.export.gsplat_rasterizer import rasterizer_for
from finer_nerfstudio.nerf.export.initialization import splats_on
from finer_nerfstudio.nerf.export.options import GridOptions, SplatOptions
from finer_nerfstudio.nerf.export.placement import Placement, placement_of
from finer_nerfstudio.nerf.export.refinement import refine
from finer_nerfstudio.nerf.export.scene import Picture, pictures_of, scene_of_model
from finer_nerfstudio.nerf.export.splat_file import write_splats
from finer_nerfstudio.nerf.export.surface import appearance, surface_points
from finer_nerfstudio.nerf.export.viewing import Viewpoint, as_vector, description_file
from finer_nerfstudio.nerf.model import FinerModel
from finer_nerfstudio.nerf.run_folder import run_config
from finer_nerfstudio.nerf.scene import Scene
from finer_nerfstudio.nerf.training.trained_run import load_run
from finer_nerfstudio.runs.progress import Stage
from finer_nerfstudio.runs.results import software_versions

# On a processor, and on CUDA, where everything is some hundred times faster.
_SPLATS = (20_000, 100_000)
_REFINE_STEPS = (300, 5_000)
_VIEW_SIZE = (100, 400)
# Pictures of the field that splats are fitted to.
_FITTED_VIEWS = 100
_VIEWS_PER_POINT = 12
_PATH = argument("path", option="--output-path")


@dataclass(frozen=True)
class LoadedScene:
    """A trained run, ready to be exported.

    Attributes:
        config: its config.yml.
        method: its method.
        steps: that it was trained for.
        scene: what it shows.
        placement: from its coordinates to those of the data.
        training: the cameras it was trained on.
        held_out: others, of the size in which pictures are compared.
    """

    config: Path
    method: str
    steps: int
    scene: Scene
    placement: Placement
    training: list[View]
    held_out: list[View]

    @property
    def placed(self) -> Placement:
        """Where splats are written: as the data were, but for an offset that their single precision has no room for."""
        return self.placement.near_the_origin(float((self.scene.field.aabb[1] - self.scene.field.aabb[0]).max()))[0]


@dataclass
class Clock:
    """Seconds of the parts of a run.

    Attributes:
        seconds: by the name of the part.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        """Count the time since the last lap as this part's."""
        now = time.perf_counter()
        self.seconds[name] = round(now - self._since, 2)
        self._since = now


def prepare_file(path: Path, *suffixes: str, overwrite: bool) -> None:
    """Refuse a file that could not be written when it is ready, or that is there already.

    Args:
        path: of the file.
        suffixes: one of which it has to end in.
        overwrite: replace what is there.

    Raises:
        UsageError: for another ending, and for a file that is in the way.
        InputError: where the folder cannot be written to.
    """
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{_PATH} must end in {' or '.join(suffixes)}, it is {path}.")
    for file in (path, description_file(path), picture_file(path)):
        if file.is_dir():
            raise UsageError(f"{file} is a folder: choose another {_PATH}.")
        if file.exists() and not overwrite:
            raise UsageError(
                f"{file} is there already: replace it by {argument('overwrite', True)}, or choose another {_PATH}."
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = path.with_name(f".{path.name}.{os.getpid()}.trial")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise InputError(f"cannot write {path} ({in_one_line(error)}): choose another {_PATH}.") from error


def picture_file(path: Path) -> Path:
    """The picture beside an exported file."""
    return path.with_name(f"{path.name}.png")


def load_scene(
    run: Path, *, view_size: int | None, held_out: int, scene_of: Callable[[FinerModel], Scene] = scene_of_model
) -> LoadedScene:
    """Load a run and its cameras.

    Args:
        run: its folder or config.yml.
        view_size: longer side in pixels of the held-out views; what suits the machine unless given.
        held_out: how many of the evaluation cameras to take, evenly spread; 0 for all.
        scene_of: gives what a model shows, or refuses it.

    Raises:
        InputError: where the run cannot be loaded, or is refused.
    """
    config = run_config(run)
    method, steps, model, data = load_run(config)
    model.eval()
    assert data.train_dataset is not None
    cameras, others = data.train_dataset.cameras, data.eval_dataset.cameras
    training = [view_of(cameras, index) for index in range(len(cameras))]
    held = [view_of(others, index) for index in evenly(len(others), held_out)]
    size = _for_device(_VIEW_SIZE, model.device) if view_size is None else view_size
    placement = placement_of(data.train_dataparser_outputs)
    resized = [view.resized(size) for view in held]
    return LoadedScene(config, method, steps, scene_of(model), placement, training, resized)


def _for_device(choices: tuple[int, int], device: torch.device | str) -> int:
    return choices[torch.device(device).type == "cuda"]


def bake_splats_to(path: Path, run: Path, options: SplatOptions, *, overwrite: bool, report: Stage) -> dict[str, Any]:
    """Bake a run into splats and write them, in the coordinates of the data.

    Args:
        path: .ply file.
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
    prepare_file(path, ".ply", overwrite=overwrite)
    clock = Clock()
    loaded = load_scene(run, view_size=options.view_size, held_out=options.held_out)
    scene, device = loaded.scene, loaded.scene.device
    count = _for_device(_SPLATS, device) if options.splats is None else options.splats
    steps = _for_device(_REFINE_STEPS, device) if options.refine_steps is None else options.refine_steps
    generator = torch.Generator().manual_seed(options.seed)
    clock.lap("load")
    points = surface_points(scene, loaded.training, count, generator=generator, report=report)
    look = appearance(scene, points, loaded.training, per_point=_VIEWS_PER_POINT, generator=generator, report=report)
    splats = splats_on(points, look, degree=options.degree)
    if not len(splats):
        raise InputError(
            f"no point of a surface is seen by any view: train the field longer, or raise {argument('splats')}."
        )
    clock.lap("initialise")
    held_out = pictures_of(scene, loaded.held_out, report)
    draw, drawn_by = rasterizer_for(splats)
    compared = compare(lambda view: Picture(view, *draw(splats, view)), held_out, report)
    before = mean_quality(compared)
    clock.lap("measure")
    if steps:
        size = max(loaded.held_out[0].height, loaded.held_out[0].width)
        chosen = evenly(len(loaded.training), min(_FITTED_VIEWS, steps))
        fitted = pictures_of(scene, [loaded.training[i].resized(size) for i in chosen], report)
        clock.lap("render views")
        aabb = scene.field.aabb
        refined = refine(
            splats,
            fitted,
            steps=steps,
            extent=0.5 * float((aabb[1] - aabb[0]).max()),
            generator=generator,
            report=report,
            draw=draw,
        )
        splats = refined
        compared = compare(lambda view: Picture(view, *draw(refined, view)), held_out, report)
        clock.lap("refine")
    write_splats(path, loaded.placed.splats(splats))
    found = {
        "kind": "splats",
        "splats": len(splats),
        "degree": options.degree,
        "refine_steps": steps,
        "before_refinement": before,
        "drawn_by": drawn_by,
        "seed": options.seed,
    }
    return _finish_baked(path, loaded, found, compared, clock)


def bake_grid_to(path: Path, run: Path, options: GridOptions, *, overwrite: bool, report: Stage) -> dict[str, Any]:
    """Bake a run into a sparse grid and write it, in the coordinates of the field; see :func:`bake_splats_to`.

    Args:
        path: .npz file.
        run: folder or config.yml of the run.
        options: how.
        overwrite: replace what is there.
        report: progress callback: (description, completed, total).
    """
    options.require_possible()
    prepare_file(path, ".npz", overwrite=overwrite)
    clock = Clock()
    loaded = load_scene(run, view_size=options.view_size, held_out=options.held_out)
    clock.lap("load")
    grid = bake_grid(
        loaded.scene,
        loaded.training,
        resolution=options.resolution,
        degree=options.degree,
        per_voxel=_VIEWS_PER_POINT,
        generator=torch.Generator().manual_seed(options.seed),
        report=report,
    )
    write_grid(path, grid)
    clock.lap("bake")
    # As whoever reads the file sees it, in half precision.
    renderer = GridRenderer(read_grid(path).to(loaded.scene.device))
    held_out = pictures_of(loaded.scene, loaded.held_out, report)
    compared = compare(partial(picture_of_grid, renderer), held_out, report)
    clock.lap("measure")
    found = {
        "kind": "grid",
        "voxels": len(grid),
        "resolution": options.resolution,
        "degree": options.degree,
        "drawn_by": "PyTorch",
        "seed": options.seed,
    }
    return _finish_baked(path, loaded, found, compared, clock)


def _finish_baked(
    path: Path, loaded: LoadedScene, found: dict[str, Any], compared: Sequence[Comparison], clock: Clock
) -> dict[str, Any]:
    """The same of a file that is looked at in the browser, from a first viewpoint."""
    # A grid lies along the axes of the field's box.
    viewpoint, offset = viewpoint_on(loaded.held_out[0], loaded.scene.field.aabb), None
    if found["kind"] == "splats":
        viewpoint = loaded.placed.viewpoint(viewpoint)
        offset = (loaded.placement.shift - loaded.placed.shift).tolist()
    found = {**found, "offset_to_data": offset, "viewpoint": asdict(viewpoint)}
    return finish(path, loaded, found, compared, clock)


def finish(
    path: Path, loaded: LoadedScene, found: dict[str, Any], compared: Sequence[Comparison], clock: Clock
) -> dict[str, Any]:
    """Write picture and JSON beside an exported file, and return the content of the latter.

    Args:
        path: of the file.
        loaded: what it was made from.
        found: what there is to say of it; its ``kind`` stands in the picture.
        compared: with the field, at least one view.
        clock: of the work.
    """
    write_comparison(picture_file(path), compared, found["kind"])
    view = loaded.held_out[0]
    device = loaded.scene.device
    content = {
        **found,
        "field_to_data": loaded.placement.matrix.tolist(),
        **mean_quality(compared),
        "psnr_by_view": [view.psnr for view in compared],
        "bytes": path.stat().st_size,
        "seconds": clock.seconds,
        "measured_on": {"held_out_views": len(loaded.held_out), "width": view.width, "height": view.height},
        "run": str(loaded.config),
        "method": loaded.method,
        "trained_steps": loaded.steps,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "processor",
        "versions": software_versions(),
    }
    write_json(description_file(path), content)
    return content


def viewpoint_on(view: View, aabb: torch.Tensor) -> Viewpoint:
    """A camera as the browser has it, that turns around what is nearest to the middle of the scene's box."""
    pose = np.array(view.pose).reshape(3, 4)
    position, forward = pose[:, 3], -pose[:, 2]
    middle = aabb.mean(dim=0).cpu().numpy()
    distance = max(float((middle - position) @ forward), 0.05 * float((aabb[1] - aabb[0]).max()))
    look_at = position + distance * forward
    fov = 2.0 * math.atan(0.5 * view.height / view.focal[1])
    return Viewpoint(as_vector(position), as_vector(look_at), fov=fov)
