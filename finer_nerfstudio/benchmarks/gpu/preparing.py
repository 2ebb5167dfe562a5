"""Make a bundle from a scene, images and a mesh. It takes the extras ``nerf`` and ``sdf``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from finer_nerfstudio.benchmarks.gpu.bundle import Contents
from finer_nerfstudio.benchmarks.gpu.shapes import PreparedShape
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.captured.views import Views
from finer_nerfstudio.runs.progress import Stage
from finer_nerfstudio.tasks.image.files import SourceImage, read_image
from finer_nerfstudio.tasks.sdf.fit import distance_to, in_unit_frame, true_inside
from finer_nerfstudio.tasks.sdf.pool import make_pool
from finer_nerfstudio.tasks.sdf.sampling import SurfaceSampler
from finer_nerfstudio.tasks.sdf.shape import Shape, read_shape


@dataclass(frozen=True)
class BundleSizes:
    """How much of everything a bundle holds.

    Attributes:
        scene_side: pixels per side of the views at most; larger ones are averaged down to the paper's 200.
        train_view_stride: every n-th training view is kept, the paper's 25 of 100.
        test_views: the first so many; all unless given.
        image_side: longer side of the images at most; all of it unless given.
        points: of the shape's pool, of either kind.
        inside_resolution: points per axis of the grids of the IoU.
    """

    scene_side: int = 200
    train_view_stride: int = 4
    test_views: int | None = None
    image_side: int | None = None
    points: int = 1_500_000
    inside_resolution: int = 128


TOY = BundleSizes(scene_side=25, test_views=2, image_side=24, points=4_000, inside_resolution=24)
"""Sizes of a bundle whose cells take a processor seconds."""


def prepare(scene: Path, images: Sequence[Path], shape: Path, *, quick: bool, report: Stage, seed: int = 0) -> Contents:
    """Read everything, and compute what takes libraries for meshes.

    Args:
        scene: folder in Blender format.
        images: files.
        shape: a mesh.
        quick: make a toy of all of it.
        report: progress callback.
        seed: of the shape's training points.

    Raises:
        InputError: for what is missing or damaged, and for a shape without faces.
        UsageError: for options that cannot be.
    """
    sizes = TOY if quick else BundleSizes()
    report("views", 0, 3)
    views = {split: scene_views(scene, split, sizes) for split in ("train", "test")}
    report("images", 1, 3)
    pictures = {path.stem: _image(path, sizes.image_side) for path in images}
    report("shape", 2, 3)
    mesh = read_shape(shape)
    if mesh.is_cloud:
        raise InputError(f"{shape} is a point cloud: the queue takes a mesh.")
    prepared = prepare_shape(mesh, sizes, seed=seed, report=report)
    return Contents(scene.resolve().name, views, pictures, shape.stem, prepared, quick)


def _image(path: Path, side: int | None) -> SourceImage:
    image = read_image(path)
    return image if side is None or max(image.height, image.width) <= side else read_image(path, size=side)


def scene_views(scene: Path, split: str, sizes: BundleSizes) -> Views:
    """Read views as ``ns-train`` and ``ns-eval`` see them.

    Args:
        scene: folder in Blender format.
        split: "train" or "test".
        sizes: which views, and how large.

    Raises:
        InputError: for missing or damaged files, and images without the same focal length both ways.
    """
    from finer_nerfstudio.nerf.data.dataparser import BlenderViewsDataParserConfig
    from finer_nerfstudio.nerf.data.images import SceneImages

    config = BlenderViewsDataParserConfig(data=scene, train_view_stride=sizes.train_view_stride)
    side = int(config.setup().get_dataparser_outputs(split).cameras.height[0])
    config = replace(config, downscale_factor=max(1, side // sizes.scene_side))
    parsed = config.setup().get_dataparser_outputs(split)
    dataset, cameras = SceneImages(parsed), parsed.cameras
    count = len(dataset) if split == "train" else min(len(dataset), sizes.test_views or len(dataset))
    images = [dataset.get_numpy_image(number) for number in range(count)]
    if images[0].shape[2] == 3:
        images = [np.concatenate([image, np.full_like(image[..., :1], 255)], axis=2) for image in images]
    focal = float(cameras.fx[0])
    if not torch.allclose(cameras.fx, cameras.fy) or not torch.allclose(cameras.fx, cameras.fx[0]):
        raise InputError(f"{scene}: the views differ in their focal lengths: the queue takes scenes with one.")
    return Views(np.stack(images), cameras.camera_to_worlds[:count].numpy().astype(np.float32), focal)


def prepare_shape(mesh: Shape, sizes: BundleSizes, *, seed: int, report: Stage | None = None) -> PreparedShape:
    """Compute training points and what is inside a mesh.

    Args:
        mesh: in its own units.
        sizes: how many points, and how fine the grids are.
        seed: of the points.
        report: progress callback.
    """
    unit, _ = in_unit_frame(mesh)
    generator = torch.Generator().manual_seed(seed)
    pool = make_pool(SurfaceSampler(unit), distance_to(unit), sizes.points, generator, report=report)
    inside = true_inside(unit, sizes.inside_resolution, report=report)
    return PreparedShape(unit, pool, inside, sizes.inside_resolution)
