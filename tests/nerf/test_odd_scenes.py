"""Scenes of many programs and mistakes: training gets the true rays of every pixel, or the user one sentence.

The pictures hold what they have to be compared with: the colour of a pixel is the direction of its ray in the file's
coordinates, computed here in double precision, with 16 bits.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from PIL import Image
from scipy.optimize import least_squares

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files.png import write_image
from finer_nerfstudio.nerf.configs import finer_sine
from finer_nerfstudio.nerf.data.batches import SceneBatches
from finer_nerfstudio.nerf.data.depths import read_depth
from finer_nerfstudio.nerf.sampling.rays import camera_rays
from finer_nerfstudio.nerf.training.pipeline import FinerPipeline, FinerPipelineConfig

NONE = (0.0,) * 6


@dataclass(frozen=True)
class TrueLens:
    """A lens as it is, whatever a file says of it: k1, k2, k3, k4, p1 and p2 of OpenCV's models."""

    width: int = 24
    height: int = 18
    focal: float = 22.0
    model: str = "pinhole"
    distortion: tuple[float, ...] = NONE
    center: tuple[float, float] | None = None


@functools.cache
def directions(lens: TrueLens) -> np.ndarray:
    """Unit directions ``[height, width, 3]`` through the middles of pixels: x right, y up, looking along -z."""
    u, v = np.meshgrid(np.arange(lens.width) + 0.5, np.arange(lens.height) + 0.5)
    cx, cy = lens.center or (lens.width / 2, lens.height / 2)
    if lens.model == "equirectangular":
        longitude, latitude = (u / lens.width - 0.5) * 2 * np.pi, (0.5 - v / lens.height) * np.pi
        level = np.cos(latitude)
        return np.stack([level * np.sin(longitude), np.sin(latitude), -level * np.cos(longitude)], axis=-1)
    x, y = (u - cx) / lens.focal, (v - cy) / lens.focal
    if lens.model == "aria":
        return aria_directions(np.stack([x, y], axis=-1), lens.distortion)
    k1, k2, k3, k4, p1, p2 = lens.distortion
    if lens.model == "fisheye":
        bent = np.hypot(x, y)
        angle = bent.copy()
        for _ in range(200):  # the angle of which the polynomial is the distance in the picture
            square = angle**2
            angle = bent / (1 + square * (k1 + square * (k2 + square * (k3 + square * k4))))
        across = np.where(bent > 0, np.sin(angle) / np.where(bent > 0, bent, 1.0), 1.0)
        return np.stack([x * across, -y * across, -np.cos(angle)], axis=-1)
    straight_x, straight_y = x.copy(), y.copy()
    for _ in range(500):
        square = straight_x**2 + straight_y**2
        radial = 1 + square * (k1 + square * (k2 + square * (k3 + square * k4)))
        product = straight_x * straight_y
        straight_x, straight_y = (
            (x - 2 * p1 * product - p2 * (square + 2 * straight_x**2)) / radial,
            (y - p1 * (square + 2 * straight_y**2) - 2 * p2 * product) / radial,
        )
    ray = np.stack([straight_x, -straight_y, -np.ones_like(x)], axis=-1)
    return ray / np.linalg.norm(ray, axis=-1, keepdims=True)


def aria_directions(seen: np.ndarray, numbers: tuple[float, ...]) -> np.ndarray:
    """Directions that Project Aria's formula puts at places: of its angles by least squares, from its own words."""
    k, (p0, p1, s0, s1, s2, s3) = numbers[:6], numbers[6:]

    def misses(angles: np.ndarray, place: np.ndarray) -> np.ndarray:
        theta = np.hypot(*angles)
        x, y = angles * (1 + sum(k[i] * theta ** (2 * i + 2) for i in range(6)))
        r2 = x * x + y * y
        tangential = np.array([p0 * (2 * x * x + r2) + 2 * p1 * x * y, p1 * (2 * y * y + r2) + 2 * p0 * x * y])
        return np.array([x, y]) + tangential + np.array([s0 * r2 + s1 * r2**2, s2 * r2 + s3 * r2**2]) - place

    found = []
    for place in seen.reshape(-1, 2):
        angles = least_squares(misses, place, args=(place,), xtol=1e-15, ftol=1e-15, gtol=1e-15).x
        theta = np.hypot(*angles)
        x, y = angles * np.sinc(theta / np.pi)
        found.append([x, -y, -np.cos(theta)])
    return np.array(found).reshape(*seen.shape[:2], 3)


def camera_pose(index: int, center: np.ndarray) -> np.ndarray:
    """A camera three units from ``center``, which it looks at."""
    turn, height = 2.4 * index, 0.2 + 0.5 * math.sin(1.7 * index)
    back = np.array([math.cos(turn) * math.cos(height), math.sin(turn) * math.cos(height), math.sin(height)])
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, center + 3.0 * back], axis=1)
    return pose


Write = Callable[[Path, np.ndarray], None]


def write_16_bits(path: Path, colors: np.ndarray) -> None:
    write_image(path, np.rint(65535 * colors).astype(np.uint16))


def write_jpeg(path: Path, colors: np.ndarray) -> None:
    Image.fromarray(np.rint(255 * colors).astype(np.uint8)).save(path, quality=100, subsampling=0)


@dataclass
class Scene:
    """What a test writes, and what is true of it."""

    folder: Path
    lenses: list[TrueLens]
    center: np.ndarray = field(default_factory=lambda: np.zeros(3))

    @property
    def poses(self) -> list[np.ndarray]:
        return [camera_pose(index, self.center) for index in range(len(self.lenses))]

    def write_picture(self, index: int, path: Path, *, alpha: bool, write: Write = write_16_bits) -> None:
        colors = 0.5 + 0.5 * directions(self.lenses[index]) @ self.poses[index][:3, :3].T
        if alpha:
            height, width = colors.shape[:2]
            row, column = np.ogrid[:height, :width]
            inside = np.hypot(row + 0.5 - height / 2, column + 0.5 - width / 2) < 5
            colors = np.concatenate([colors, inside[..., None].astype(float)], axis=2)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, colors)


Change = Callable[[dict[str, Any]], object]


def capture(
    folder: Path,
    lenses: list[TrueLens],
    *,
    center: np.ndarray | None = None,
    change: Change = lambda content: None,
    write: Write = write_16_bits,
    alpha: bool = False,
) -> Scene:
    """A transforms.json in Nerfstudio's format, and its pictures."""
    scene = Scene(folder, lenses, np.zeros(3) if center is None else center)
    frames = []
    for index, pose in enumerate(scene.poses):
        name = f"images/{index:03d}.png"
        scene.write_picture(index, folder / name, alpha=alpha, write=write)
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    first = lenses[0]
    content = {
        "w": first.width,
        "h": first.height,
        "fl_x": first.focal,
        "fl_y": first.focal,
        "cx": first.width / 2,
        "cy": first.height / 2,
        "frames": frames,
    }
    change(content)
    (folder / "transforms.json").write_text(json.dumps(content))
    return scene


def blender(
    folder: Path,
    lenses: list[TrueLens],
    *,
    center: np.ndarray | None = None,
    change: Change = lambda content: None,
    write: Write = write_16_bits,
    suffix: str = ".png",
    alpha: bool = True,
) -> Scene:
    """A scene in Blender format, whose validation and test views are its training views."""
    scene = Scene(folder, lenses, np.zeros(3) if center is None else center)
    for split in ("train", "val", "test"):
        frames = []
        for index, pose in enumerate(scene.poses):
            scene.write_picture(index, folder / split / f"r_{index}{suffix}", alpha=alpha, write=write)
            frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": pose.tolist()})
        content = {"camera_angle_x": 2 * math.atan(lenses[0].width / 2 / lenses[0].focal), "frames": frames}
        change(content)
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))
    return scene


def pipeline_of(data: Path, *, nerfstudio_data: bool, depth_loss_weight: float = 0.0, **options: Any) -> FinerPipeline:
    config = copy.deepcopy(finer_sine.config.pipeline)
    assert isinstance(config, FinerPipelineConfig)
    assert isinstance(config.datamanager, VanillaDataManagerConfig)
    if nerfstudio_data:
        config.datamanager.dataparser = NerfstudioDataParserConfig(**options)
    config.datamanager.data = data
    config.model.field.width = config.model.grid_resolution = 8
    config.model.depth_loss_weight = depth_loss_weight
    pipeline = config.setup(device="cpu", test_mode="val")
    assert isinstance(pipeline, FinerPipeline)
    return pipeline


def assert_true_rays(
    scene: Scene, *, nerfstudio_data: bool, tolerance: float = 1e-4, data: Path | None = None, **options: Any
) -> FinerPipeline:
    """Draw pixels as training does, and compare their colours with their rays, and these with the cameras."""
    pipeline = pipeline_of(data or scene.folder, nerfstudio_data=nerfstudio_data, **options)
    manager = pipeline.datamanager
    assert isinstance(manager, SceneBatches)
    assert manager.train_pixel_sampler is not None
    manager.train_pixel_sampler.set_num_rays_per_batch(1501)
    rays, batch = manager.next_train(0)
    outputs = manager.train_dataparser_outputs
    transform = outputs.dataparser_transform.double().numpy()
    turn, shift = transform[:, :3], transform[:, 3]
    directions = rays.directions.double().numpy() @ turn
    origins = (rays.origins.double().numpy() / outputs.dataparser_scale - shift) @ turn
    seen = batch["image"].double().numpy()
    assert seen.shape == (1501, 4 if pipeline.model.unbounded is False and seen.shape[1] == 4 else 3)
    coded = 2 * seen[:, :3] - 1
    coded /= np.linalg.norm(coded, axis=1, keepdims=True)
    np.testing.assert_allclose(directions, coded, atol=tolerance)
    # In the order of the files' names, as all of them are used or the last ones are left out.
    names = [path.stem.split("_")[-1] for path in manager.train_dataset.image_filenames]
    positions = np.array([scene.poses[int(name)][:3, 3] for name in names])
    np.testing.assert_allclose(origins, positions[batch["indices"][:, 0].numpy()], atol=1e-5)
    return pipeline


def assert_sentence(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert "Traceback" not in line
    for word in words:
        assert word in line


PLAIN = [TrueLens()] * 6
FISHEYE = [TrueLens(20, 20, 7.0, "fisheye")] * 6


def each(**values: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        for frame in content["frames"]:
            frame.update(values)

    return change


def all_of(**values: Any) -> Change:
    return lambda content: content.update(values)


def without(*names: str) -> Change:
    return lambda content: [content.pop(name) for name in names]


def both(first: Change, second: Change) -> Change:
    return lambda content: (first(content), second(content))


def poses(do: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(content: dict[str, Any]) -> None:
        for frame in content["frames"]:
            frame["transform_matrix"] = do(np.array(frame["transform_matrix"])).tolist()

    return change


def names(do: Callable[[str], str]) -> Change:
    def change(content: dict[str, Any]) -> None:
        for frame in content["frames"]:
            frame["file_path"] = do(frame["file_path"])

    return change


DISTORTION = dict(zip(("k1", "k2", "k3", "k4", "p1", "p2"), (0.05, -0.02, 0.01, 0.02, 0.002, -0.001), strict=True))
TWICE = {"w": 48, "h": 36, "fl_x": 44.0, "fl_y": 44.0, "cx": 24.0, "cy": 18.0}
INTRINSICS = ("w", "h", "fl_x", "fl_y", "cx", "cy")
AXES = np.array([[0.0, 0, 1, 2], [1, 0, 0, -1], [0, 1, 0, 0.5], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("lenses", "change"),
    [
        pytest.param(PLAIN, lambda content: None, id="as it should be"),
        pytest.param(PLAIN, names(lambda name: name.replace("/", "\\")), id="backslashes"),
        pytest.param(PLAIN, names(lambda name: name.removesuffix(".png")), id="no suffix"),
        pytest.param(PLAIN, both(without(*INTRINSICS), all_of(camera_angle_x=2 * math.atan(12 / 22))), id="angle only"),
        pytest.param(
            PLAIN, both(without(*INTRINSICS), all_of(camera_angle_y=2 * math.atan(9 / 22))), id="upright angle only"
        ),
        pytest.param(PLAIN, both(without(*INTRINSICS), each(fl_x=22.0)), id="focal length of frames only"),
        pytest.param(
            PLAIN, both(all_of(**TWICE), each(fl_x=22.0, fl_y=22.0, w=24, h=18, cx=12, cy=9)), id="frames win"
        ),
        pytest.param(PLAIN, all_of(**TWICE), id="scaled pictures"),
        pytest.param(PLAIN, poses(lambda pose: pose[:3]), id="3x4"),
        pytest.param(PLAIN, poses(lambda pose: pose @ np.diag([2.0, 2, 2, 1])), id="scaled cameras"),
        pytest.param(PLAIN, all_of(camera_model="PINHOLE", k1=0.0), id="pinhole"),
        pytest.param(PLAIN, each(time=0.5), id="one time"),
        pytest.param(FISHEYE, all_of(is_fisheye=True), id="is_fisheye"),
        pytest.param(FISHEYE, each(is_fisheye=True), id="is_fisheye of frames"),
        pytest.param(FISHEYE, each(camera_model="OPENCV_FISHEYE"), id="model of frames"),
        pytest.param(
            [TrueLens(distortion=(0.0, 0, 0, 0.9, 0, 0))] * 6, all_of(camera_model="OPENCV", k4=0.9), id="k4 alone"
        ),
        pytest.param(
            [TrueLens(distortion=(0.0, 0, 0, 0.9, 0, 0))] * 6, both(all_of(k4=0.1), each(k4=0.9)), id="k4 of frames"
        ),
        pytest.param([TrueLens(distortion=tuple(DISTORTION.values()))] * 6, all_of(**DISTORTION), id="OpenCV"),
        pytest.param(
            [TrueLens(distortion=tuple(DISTORTION.values()))] * 6,
            all_of(distortion_params=list(DISTORTION.values())),
            id="distortion in a list",
        ),
        pytest.param(
            [TrueLens(20, 20, 9.0, "fisheye", (0.02, -0.005, 0.001, -0.0002, 0, 0))] * 6,
            all_of(camera_model="OPENCV_FISHEYE", k1=0.02, k2=-0.005, k3=0.001, k4=-0.0002),
            id="fish eye with distortion",
        ),
        pytest.param(
            [TrueLens(24, 12, model="equirectangular")] * 6,
            both(without("fl_x", "fl_y", "cx", "cy"), all_of(camera_model="EQUIRECTANGULAR")),
            id="all round",
        ),
        pytest.param(
            [TrueLens(24, 12, model="equirectangular")] * 6,
            all_of(fl_x=12.0, fl_y=12.0, camera_model="EQUIRECTANGULAR"),
            id="all round as Nerfstudio writes it",
        ),
        pytest.param(
            PLAIN, both(poses(lambda pose: AXES @ pose), all_of(applied_transform=AXES[:3].tolist())), id="axes"
        ),
    ],
)
def test_captures(tmp_path: Path, lenses: list[TrueLens], change: Change) -> None:
    assert_true_rays(capture(tmp_path, lenses, change=change), nerfstudio_data=True)


def test_lenses_of_every_kind_in_one_capture(tmp_path: Path) -> None:
    """Sizes, lengths, kinds and distortions of each frame."""
    lenses = [
        TrueLens(24, 18, 20.0, "pinhole", center=(11.5, 9.25)),
        TrueLens(18, 24, 25.0, "pinhole", (0.03, -0.01, 0, 0.02, 0, 0)),
        TrueLens(20, 20, 7.0, "fisheye"),
        TrueLens(16, 20, 9.0, "fisheye", (0.02, 0, 0, 0, 0, 0)),
    ] * 2

    def change(content: dict[str, Any]) -> None:
        for name in INTRINSICS:
            content.pop(name)
        for frame, lens in zip(content["frames"], lenses, strict=True):
            cx, cy = lens.center or (lens.width / 2, lens.height / 2)
            model = {"pinhole": "OPENCV", "fisheye": "OPENCV_FISHEYE"}[lens.model]
            frame.update(w=lens.width, h=lens.height, fl_x=lens.focal, fl_y=lens.focal, cx=cx, cy=cy)
            frame.update(camera_model=model, **dict(zip(("k1", "k2", "k3", "k4"), lens.distortion[:4], strict=True)))

    assert_true_rays(capture(tmp_path, lenses, change=change), nerfstudio_data=True)


ARIA = [
    (0.4, -0.3, 0.1, 0.02, -0.01, 0.001, 0.001, -0.002, 0.003, -0.001, 0.002, 0.0005),
    (0.0,) * 12,
    (-0.05, 0.02, 0, 0, 0, 0, -0.002, 0.001, 0, 0, 0, 0),
]


def test_lenses_of_project_aria_beside_others(tmp_path: Path) -> None:
    """Each with numbers of its own; the second sees up to 115 degrees from its axis, which is the middle of a pixel."""
    lenses = [
        TrueLens(12, 10, 6.0, "aria", ARIA[0]),
        TrueLens(11, 9, 3.5, "aria", ARIA[1]),
        TrueLens(12, 12, 7.0, "aria", ARIA[2], center=(5.6, 6.3)),
        TrueLens(24, 18, 22.0, "pinhole", (0.03, -0.01, 0, 0.02, 0, 0)),
    ] * 2

    def change(content: dict[str, Any]) -> None:
        for name in INTRINSICS:
            content.pop(name)
        for frame, lens in zip(content["frames"], lenses, strict=True):
            cx, cy = lens.center or (lens.width / 2, lens.height / 2)
            model = {"pinhole": "OPENCV", "aria": "FISHEYE624"}[lens.model]
            frame.update(w=lens.width, h=lens.height, fl_x=lens.focal, fl_y=lens.focal, cx=cx, cy=cy)
            frame.update(camera_model=model, distortion_params=list(lens.distortion))

    pipeline = assert_true_rays(capture(tmp_path, lenses, change=change), nerfstudio_data=True)
    # All pixels of a view, as evaluation has them.
    cameras = pipeline.datamanager.train_dataset.cameras
    outputs = pipeline.datamanager.train_dataparser_outputs
    turn = outputs.dataparser_transform.double().numpy()[:, :3]
    for index, lens in enumerate(lenses[:4]):
        seen = camera_rays(cameras[index : index + 1]).directions.double().numpy() @ turn
        expected = directions(lens) @ camera_pose(index, np.zeros(3))[:3, :3].T
        np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_orthophotos_are_in_units_of_the_file(tmp_path: Path) -> None:
    """Rays are parallel, and begin where pixels are, ``fl_x`` of them in a unit."""
    capture(tmp_path, PLAIN, change=all_of(camera_model="ORTHOPHOTO", fl_x=4.0, fl_y=5.0))
    manager = pipeline_of(tmp_path, nerfstudio_data=True).datamanager
    rays, batch = manager.next_train(0)
    outputs = manager.train_dataparser_outputs
    transform = outputs.dataparser_transform.double().numpy()
    origins = (rays.origins.double().numpy() / outputs.dataparser_scale - transform[:, 3]) @ transform[:, :3]
    camera, row, column = batch["indices"].numpy().T
    poses = np.stack([camera_pose(index, np.zeros(3)) for index in range(6)])[camera]
    local = np.stack([(column + 0.5 - 12) / 4.0, -(row + 0.5 - 9) / 5.0, 0.0 * row, 1.0 + 0 * row], axis=1)
    np.testing.assert_allclose(origins, np.einsum("nij,nj->ni", poses, local)[:, :3], atol=1e-4)
    np.testing.assert_allclose(rays.directions.double().numpy() @ transform[:, :3], -poses[:, :3, 2], atol=1e-5)


@pytest.mark.parametrize("center_method", ["poses", "focus"])
def test_survey_coordinates_keep_their_millimetres(tmp_path: Path, center_method: str) -> None:
    center = np.array([512345.678, 5432109.876, 312.5])
    assert_true_rays(capture(tmp_path, PLAIN, center=center), nerfstudio_data=True, center_method=center_method)


@pytest.mark.parametrize("method", ["pca", "up", "vertical", "none"])
def test_options_of_nerfstudios_parser(tmp_path: Path, method: str) -> None:
    options = {"orientation_method": method, "center_method": "none", "scale_factor": 0.7, "auto_scale_poses": False}
    assert_true_rays(capture(tmp_path, PLAIN), nerfstudio_data=True, **options)


def test_an_opaque_alpha_channel_bounds_nothing(tmp_path: Path) -> None:
    def opaque(path: Path, colors: np.ndarray) -> None:
        write_16_bits(path, np.concatenate([colors, np.ones_like(colors[..., :1])], axis=2))

    assert assert_true_rays(capture(tmp_path, PLAIN, write=opaque), nerfstudio_data=True).model.unbounded
    scene = capture(tmp_path / "cut out", PLAIN, alpha=True)
    assert not assert_true_rays(scene, nerfstudio_data=True).model.unbounded


def test_a_file_may_be_named_in_place_of_its_folder(tmp_path: Path) -> None:
    scene = capture(tmp_path / "a", PLAIN)
    assert_true_rays(scene, nerfstudio_data=True, data=scene.folder / "transforms.json")
    assert_true_rays(scene, nerfstudio_data=False, data=scene.folder / "transforms.json")
    assert_true_rays(scene, nerfstudio_data=False)
    scene = blender(tmp_path / "b", PLAIN)
    assert_true_rays(scene, nerfstudio_data=False, data=scene.folder / "transforms_train.json")


def test_smaller_copies_are_used_as_ns_process_data_makes_them(tmp_path: Path) -> None:
    """A third of 25x19 pixels is 8x6, whose pixels are a little larger than three."""
    (tmp_path / "images").mkdir()
    large = TrueLens(25, 19, 22.0)
    frames = []
    for index in range(6):
        pose = camera_pose(index, np.zeros(3))
        (tmp_path / "images" / f"{index:03d}.png").write_bytes(b"is not looked at")
        x, y = np.meshgrid((np.arange(8) + 0.5) * 25 / 8, (np.arange(6) + 0.5) * 19 / 6)
        ray = np.stack([(x - 12.5) / 22.0, -(y - 9.5) / 22.0, -np.ones_like(x)], axis=-1)
        ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        (tmp_path / "images_3").mkdir(exist_ok=True)
        write_16_bits(tmp_path / "images_3" / f"{index:03d}.png", 0.5 + 0.5 * ray @ pose[:3, :3].T)
        frames.append({"file_path": f"images/{index:03d}.png", "transform_matrix": pose.tolist()})
    content = {"w": 25, "h": 19, "fl_x": 22.0, "fl_y": 22.0, "cx": 12.5, "cy": 9.5, "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    assert_true_rays(Scene(tmp_path, [large] * 6), nerfstudio_data=True, downscale_factor=3)


ZOOM = [TrueLens(20, 20, 22.0 + 4 * index) for index in range(6)]


def zoomed(*changed: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        for frame, lens in zip(content["frames"], ZOOM, strict=True):
            values = {
                "fl_x": lens.focal,
                "fl_y": lens.focal,
                "camera_angle_x": 2 * math.atan(10 / lens.focal),
                "w": 20,
                "h": 20,
                "cx": 10,
                "cy": 10,
            }
            frame.update({name: values[name] for name in changed})

    return change


def float_tiff(path: Path, colors: np.ndarray) -> None:
    import tifffile

    tifffile.imwrite(path, colors.astype(np.float32), photometric="rgb")


@pytest.mark.parametrize(
    ("lenses", "options"),
    [
        pytest.param(PLAIN, {}, id="as it should be"),
        pytest.param(ZOOM, {"change": zoomed("fl_x", "fl_y", "camera_angle_x")}, id="zoom"),
        pytest.param(ZOOM, {"change": zoomed("camera_angle_x")}, id="zoom by angle beside the file's focal length"),
        pytest.param(
            ZOOM, {"change": both(without("camera_angle_x"), zoomed("fl_x", "w", "h", "cx", "cy"))}, id="zoom only"
        ),
        pytest.param(
            FISHEYE,
            {"change": both(without("camera_angle_x"), all_of(fl_x=7.0, k1=0.0, camera_model="OPENCV_FISHEYE"))},
            id="fish eye",
        ),
        pytest.param(PLAIN, {"suffix": ".jpg", "write": write_jpeg, "alpha": False}, id="jpeg"),
        pytest.param(PLAIN, {"suffix": ".JPG", "write": write_jpeg, "alpha": False}, id="jpeg of a camera"),
        pytest.param(PLAIN, {"change": names(lambda name: name.replace("/", "\\"))}, id="backslashes"),
        pytest.param(PLAIN, {"suffix": ".tif", "write": float_tiff, "alpha": False}, id="floating"),
    ],
)
def test_blender_scenes(tmp_path: Path, lenses: list[TrueLens], options: dict[str, Any]) -> None:
    tolerance = 0.03 if options.get("suffix", "").lower() == ".jpg" else 1e-4
    assert_true_rays(blender(tmp_path, lenses, **options), nerfstudio_data=False, tolerance=tolerance)


def test_zoom_beside_the_files_focal_length(tmp_path: Path) -> None:
    """A frame's angle counts more than the focal length of all."""
    change = both(both(without("camera_angle_x"), all_of(fl_x=99.0)), zoomed("camera_angle_x"))
    assert_true_rays(blender(tmp_path, ZOOM, change=change), nerfstudio_data=False)


def test_poses_without_pictures_are_no_views_to_evaluate_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the add-on BlenderNeRF writes: pictures of training views, and a camera path under the name of a test."""
    scene = blender(tmp_path, PLAIN)
    for path in (tmp_path / "val", tmp_path / "test"):
        for picture in path.iterdir():
            picture.unlink()
    (tmp_path / "transforms_val.json").unlink()
    pipeline = assert_true_rays(scene, nerfstudio_data=False)
    assert len(pipeline.datamanager.eval_dataset) == len(PLAIN)
    said = capsys.readouterr().out
    assert "6 of 6 views of" in said
    assert "those of training are used in their place" in said


def test_some_views_to_evaluate_on_may_be_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = blender(tmp_path, PLAIN)
    (tmp_path / "val" / "r_2.png").unlink()
    assert len(assert_true_rays(scene, nerfstudio_data=False).datamanager.eval_dataset) == 5
    assert "1 of 6 views of" in capsys.readouterr().out


def put(value: Any, *place: Any) -> Change:
    """Put a value into the file's content."""

    def change(content: Any) -> None:
        for step in place[:-1]:
            content = content[step]
        content[place[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(all_of(camera_model="FULL_OPENCV"), ["FULL_OPENCV", "frame 0"], id="model unknown"),
        *(
            pytest.param(all_of(camera_model=model), [model, "two eyes"], id=model)
            for model in ("OMNIDIRECTIONALSTEREO_L", "OMNIDIRECTIONALSTEREO_R", "VR180_L", "VR180_R")
        ),
        pytest.param(all_of(camera_model="EQUIRECTANGULAR", k1=0.1), ['"k1"', "EQUIRECTANGULAR"], id="all round bent"),
        pytest.param(all_of(camera_model="ORTHOPHOTO", p2=0.1), ['"p2"', "ORTHOPHOTO"], id="orthophoto bent"),
        pytest.param(all_of(camera_model="FISHEYE624"), ["distortion_params", "12"], id="Aria without numbers"),
        pytest.param(
            both(
                all_of(camera_model="ORTHOPHOTO"),
                lambda content: content["frames"][2].update(camera_model="FISHEYE624", distortion_params=[0.0] * 12),
            ),
            ["ORTHOPHOTO and FISHEYE624"],
            id="orthophoto beside Aria",
        ),
        pytest.param(all_of(camera_model=7), ["camera_model", "7"], id="model is a number"),
        pytest.param(all_of(camera_model="OPENCV", is_fisheye=True), ["OPENCV", "FISHEYE"], id="two models"),
        pytest.param(each(is_fisheye="no"), ["is_fisheye", "true or false"], id="flag is a text"),
        pytest.param(poses(lambda pose: np.eye(4)), ["one place", "all 6 frames"], id="one place"),
        pytest.param(lambda c: c.update(frames=c["frames"][:1]), ["one place", "its only frame"], id="one frame"),
        pytest.param(all_of(frames=[]), ["no frames"], id="no frames"),
        pytest.param(all_of(frames={}), ["no frames"], id="frames is an object"),
        pytest.param(put("a", "frames", 3), ["frame 3", "object"], id="a frame is a text"),
        pytest.param(put(math.nan, "frames", 3, "transform_matrix", 0, 3), ["frame 3", "NaN"], id="NaN in a pose"),
        pytest.param(put(10**400, "frames", 3, "transform_matrix", 0, 3), ["frame 3", "matrix"], id="digits in a pose"),
        pytest.param(put(1e200, "frames", 3, "transform_matrix", 0, 3), ["frame 3", "1e+200"], id="far away"),
        pytest.param(put("x", "frames", 3, "transform_matrix", 0, 3), ["frame 3", "matrix of numbers"], id="letter"),
        pytest.param(put([[1, 2]], "frames", 3, "transform_matrix"), ["frame 3", "1x2"], id="2 numbers"),
        pytest.param(put(None, "frames", 3, "transform_matrix"), ["frame 3", "transform_matrix"], id="no pose"),
        pytest.param(poses(lambda pose: pose.T), ["frame 0", "transposed"], id="transposed"),
        pytest.param(poses(lambda pose: np.diag([1.0, 1, -1, 1]) @ pose), ["mirrors"], id="left-handed"),
        pytest.param(poses(lambda pose: pose @ np.diag([1.0, 1, 3, 1])), ["stretches"], id="stretched"),
        pytest.param(all_of(fl_x=10**400), ["fl_x", "finite"], id="digits"),
        pytest.param(all_of(fl_x="22"), ["fl_x", "number"], id="number in quotes"),
        pytest.param(all_of(fl_x=True), ["fl_x", "number"], id="true"),
        pytest.param(all_of(fl_x=-22.0), ["fl_x", "positive"], id="negative"),
        pytest.param(all_of(fl_x=1e300), ["cannot be"], id="out of range"),
        pytest.param(all_of(k1=math.inf), ["k1", "finite"], id="infinite"),
        pytest.param(all_of(k1=-3.0), ["images/", "cannot be undone"], id="distortion of another lens"),
        pytest.param(without("fl_x", "fl_y"), ["focal length is unknown"], id="no focal length"),
        pytest.param(all_of(w=18, h=24), ["18x24", "24x18", "EXIF"], id="turned pictures"),
        pytest.param(all_of(w=30, h=18), ["30x18", "24x18"], id="cut pictures"),
        pytest.param(all_of(distortion_params=[0.1, 0.2]), ["distortion_params", "6 numbers"], id="short list"),
        pytest.param(put("a" * 5000, "frames", 2, "file_path"), ["frame 2", "1024"], id="long name"),
        pytest.param(
            put("a" * 900, "frames", 2, "file_path"), ["frame 2", "missing"], id="longer than the disk's names"
        ),
        pytest.param(put("a\u001b[31m", "frames", 2, "file_path"), ["frame 2", "\\x1b"], id="orders to the terminal"),
        pytest.param(put("\ud800", "frames", 2, "file_path"), ["frame 2", "\\ud800"], id="half a letter"),
        pytest.param(put(5, "frames", 2, "file_path"), ["frame 2", "file_path"], id="name is a number"),
        pytest.param(put("gone.png", "frames", 2, "file_path"), ["gone.png", "frame 2", "missing"], id="one gone"),
        pytest.param(names(lambda name: "x" + name), ["5 more of 6"], id="all gone"),
        pytest.param(put("gone.png", "frames", 2, "mask_path"), ["mask", "gone.png", "frame 2"], id="mask gone"),
        pytest.param(all_of(orientation_override="sideways"), ["orientation_override", "pca"], id="orientation"),
        pytest.param(all_of(applied_transform=[[1]]), ["applied_transform", "1x1"], id="applied transform"),
        pytest.param(all_of(applied_scale=0), ["applied_scale", "positive"], id="applied scale"),
        pytest.param(all_of(train_filenames=["nothing.png"]), ["train_filenames", "nothing.png"], id="list of others"),
        pytest.param(all_of(train_filenames="images"), ["train_filenames", "list"], id="list is a text"),
        pytest.param(all_of(train_filenames=[1]), ["train", "1"], id="list of numbers"),
        pytest.param(all_of(train_filenames=[]), ["no picture to train on"], id="nothing to train on"),
    ],
)
def test_captures_that_cannot_be_read(
    tmp_path: Path, change: Change, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capture(tmp_path, PLAIN, change=change)
    with pytest.raises(SystemExit) as stop:
        pipeline_of(tmp_path, nerfstudio_data=True)
    assert stop.value.code == 1
    assert_sentence(capsys, *words)


def test_corners_where_a_lens_formula_turns_back_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """r (1 + k1 r²) is nowhere more than 2/3 / sqrt(-3 k1) = 0.6, and the corners are at 0.65."""
    capture(tmp_path, PLAIN, change=all_of(k1=-0.41))
    pipeline_of(tmp_path, nerfstudio_data=True)
    assert "rays are wrong there" in capsys.readouterr().out
    capture(tmp_path / "mild", [TrueLens(distortion=(-0.2, 0.0, 0, 0, 0, 0))] * 6, change=all_of(k1=-0.2))
    pipeline_of(tmp_path / "mild", nerfstudio_data=True)
    assert "cannot be undone" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"frames": [{"file_path": ', "not valid JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "not valid JSON"),
        (b'{"w": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"\xff\xfe{\x00}\x00", "cannot be read"),
        (b"[1, 2]", "JSON object"),
        (b"", "not valid JSON"),
    ],
)
def test_files_that_are_no_json(tmp_path: Path, content: bytes, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "transforms.json").write_bytes(content)
    with pytest.raises(SystemExit):
        pipeline_of(tmp_path, nerfstudio_data=True)
    assert_sentence(capsys, words, "transforms.json")


def test_a_mark_at_the_beginning_is_no_fault(tmp_path: Path) -> None:
    scene = capture(tmp_path, PLAIN)
    path = tmp_path / "transforms.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert_true_rays(scene, nerfstudio_data=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(each(k1=0.3), ['distortion ("k1")', "frame 0"], id="distortion of frames"),
        pytest.param(poses(lambda pose: np.diag([1.0, 1, -1, 1]) @ pose), ["mirrors"], id="left-handed"),
        pytest.param(put("gone", "frames", 2, "file_path"), ["gone.png", "frame 2", "missing"], id="picture gone"),
        pytest.param(all_of(camera_angle_x=4.0), ["camera_angle_x", "pi"], id="angle"),
        pytest.param(all_of(camera_model="OPENCV_FISHEYE"), ["camera_angle_x", "FISHEYE"], id="fish eye by angle"),
    ],
)
def test_blender_scenes_that_cannot_be_read(
    tmp_path: Path, change: Change, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    blender(tmp_path, PLAIN, change=change)
    with pytest.raises(SystemExit) as stop:
        pipeline_of(tmp_path, nerfstudio_data=False)
    assert stop.value.code == 1
    assert_sentence(capsys, *words)


@pytest.mark.parametrize("nerfstudio_data", [False, True])
def test_times_of_a_scene_that_moves_are_said_to_be_ignored(
    tmp_path: Path, nerfstudio_data: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(content: dict[str, Any]) -> None:
        for index, frame in enumerate(content["frames"]):
            frame["time"] = index / 5

    scene = (capture if nerfstudio_data else blender)(tmp_path, PLAIN, change=change)
    assert_true_rays(scene, nerfstudio_data=nerfstudio_data)
    assert "times from 0 to 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lists", "train", "evaluated"),
    [
        ({"train": range(4)}, 4, 2),
        ({"test": range(4, 6)}, 4, 2),
        ({"train": range(6)}, 6, 6),
        ({"train": range(3), "val": [3], "test": [4, 5]}, 3, 1),
        ({"train": range(3), "test": [4, 5]}, 3, 2),
    ],
)
def test_lists_of_files_may_be_incomplete(
    tmp_path: Path, lists: dict[str, Any], train: int, evaluated: int, capsys: pytest.CaptureFixture[str]
) -> None:
    change = all_of(
        **{f"{split}_filenames": [f"images/{i:03d}.png" for i in numbers] for split, numbers in lists.items()}
    )
    pipeline = assert_true_rays(capture(tmp_path, PLAIN, change=change), nerfstudio_data=True)
    assert (len(pipeline.datamanager.train_dataset), len(pipeline.datamanager.eval_dataset)) == (train, evaluated)
    assert ("metrics say how well these are fitted" in capsys.readouterr().out) == (train == evaluated == 6)


def test_few_pictures_are_trained_on_and_evaluated(tmp_path: Path) -> None:
    """Nine tenths of nine and less are all of them."""
    pipeline = assert_true_rays(capture(tmp_path, PLAIN), nerfstudio_data=True)
    assert len(pipeline.datamanager.train_dataset) == len(pipeline.datamanager.eval_dataset) == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"downscale_factor": 0}, "--downscale-factor"),
        ({"eval_mode": "interval", "eval_interval": 0}, "--eval-interval"),
        ({"scale_factor": math.nan}, "--scale-factor"),
        ({"scene_scale": -1.0}, "--scene-scale"),
        ({"train_split_fraction": 0.0}, "--train-split-fraction"),
        ({"eval_mode": "filename"}, "--eval-mode filename"),
        ({"downscale_factor": 2}, "no copies of 1/2 of their size"),
        ({"eval_mode": "interval", "eval_interval": 1}, "no picture to train on"),
    ],
)
def test_options_that_cannot_be(
    tmp_path: Path, options: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capture(tmp_path, PLAIN)
    with pytest.raises(SystemExit):
        pipeline_of(tmp_path, nerfstudio_data=True, **options)
    assert_sentence(capsys, words)


@pytest.mark.parametrize("nerfstudio_data", [False, True])
def test_names_that_are_too_long_for_the_machine(
    tmp_path: Path, nerfstudio_data: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        pipeline_of(tmp_path / ("n" * 5000), nerfstudio_data=nerfstudio_data)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: the scene cannot be read (File name too long)")
    assert len(message) < 400


def half(width: int, height: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    return mask


def with_masks(
    save: Callable[[np.ndarray, Path], None], suffix: str = ".png", every: int = 1
) -> Callable[[Path], Change]:
    def into(folder: Path) -> Change:
        def change(content: dict[str, Any]) -> None:
            (folder / "masks").mkdir()
            for index, frame in enumerate(content["frames"]):
                if index % every == 0:
                    with Image.open(folder / frame["file_path"]) as picture:
                        save(half(*picture.size), folder / "masks" / f"{index}{suffix}")
                    frame["mask_path"] = f"masks\\{index}{suffix}"

        return change

    return into


MASKS = {
    "grey": with_masks(lambda mask, path: Image.fromarray(mask).save(path)),
    "colour": with_masks(lambda mask, path: Image.fromarray(mask).convert("RGB").save(path)),
    "red": with_masks(lambda mask, path: Image.fromarray(np.stack([mask, 0 * mask, 0 * mask], axis=2)).save(path)),
    "bilevel": with_masks(lambda mask, path: Image.fromarray(mask).convert("1").save(path)),
    "0 and 1": with_masks(lambda mask, path: Image.fromarray(mask // 255).save(path)),
    "16 bits": with_masks(lambda mask, path: Image.fromarray(mask.astype(np.uint16) * 257).save(path)),
    "alpha": with_masks(lambda mask, path: Image.fromarray(np.stack([0 * mask + 255, mask], axis=2), "LA").save(path)),
    "small": with_masks(lambda mask, path: Image.fromarray(mask[::2, ::2]).save(path)),
    "large": with_masks(lambda mask, path: Image.fromarray(mask.repeat(3, axis=0).repeat(3, axis=1)).save(path)),
    "some": with_masks(lambda mask, path: Image.fromarray(mask).save(path), every=2),
    "jpeg": with_masks(lambda mask, path: Image.fromarray(mask).save(path, quality=60), suffix=".jpg"),
}


@pytest.mark.parametrize("sizes", ["one size", "several sizes"])
@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_every_kind_leave_the_left_half(tmp_path: Path, kind: str, sizes: str) -> None:
    lenses = [TrueLens(24, 18), TrueLens(20, 24) if sizes == "several sizes" else TrueLens(24, 18)] * 3
    content = both(without("w", "h", "cx", "cy"), MASKS[kind](tmp_path))
    scene = capture(tmp_path, lenses, change=content)
    manager = assert_true_rays(scene, nerfstudio_data=True).datamanager
    _, batch = manager.next_train(0)
    camera, column = batch["indices"][:, 0], batch["indices"][:, 2]
    middle = manager.train_dataset.cameras.width[camera, 0] // 2
    masked = (camera % 2 == 0) | (kind != "some")
    assert bool((column < middle)[masked].all())
    assert bool((column >= middle)[~masked].any()) == (kind == "some")


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (lambda mask, path: Image.fromarray(0 * mask).save(path), ["no pixel of any picture"]),
        (lambda mask, path: Image.fromarray(mask[:, :9]).save(path), ["masks/", "9x18", "24x18"]),
        (lambda mask, path: path.write_text("none"), ["masks/", "cannot be read"]),
    ],
)
def test_masks_that_cannot_be(
    tmp_path: Path, save: Callable[[np.ndarray, Path], None], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capture(tmp_path, PLAIN, change=with_masks(save)(tmp_path))
    with pytest.raises(SystemExit):
        pipeline_of(tmp_path, nerfstudio_data=True)
    assert_sentence(capsys, *words)


@pytest.mark.parametrize("sizes", ["one size", "several sizes"])
def test_masked_pixels_are_in_no_metric(tmp_path: Path, sizes: str) -> None:
    """ns-eval's means, those at the end of a training, and those of an image and a batch of rays during it.

    What is masked is magenta, which nothing in the scene is; of one of the views nothing is left at all.
    """
    lenses = [TrueLens(24, 18), TrueLens(20, 24) if sizes == "several sizes" else TrueLens(24, 18)] * 3

    def change(content: dict[str, Any]) -> None:
        MASKS["grey"](tmp_path)(content)
        for name in ("w", "h", "cx", "cy"):
            content.pop(name)
        for index, frame in enumerate(content["frames"]):
            with Image.open(tmp_path / frame["file_path"]) as picture:
                size = picture.size
            masked = half(*size) == 0
            colors = 0.5 + 0.5 * directions(lenses[index]) @ camera_pose(index, np.zeros(3))[:3, :3].T
            write_16_bits(tmp_path / frame["file_path"], np.where(masked[..., None], [1.0, 0.0, 1.0], colors))
        files = [frame["file_path"] for frame in content["frames"]]
        content.update(train_filenames=files[:3], val_filenames=files[3:], test_filenames=files[3:])
        Image.new("L", (2, 2)).resize(size).save(tmp_path / "masks" / "5.png")

    capture(tmp_path, lenses, change=change)
    pipeline = pipeline_of(tmp_path, nerfstudio_data=True)
    pipeline.eval()
    errors = []
    for index in (3, 4):
        camera = pipeline.datamanager.eval_dataset.cameras[index - 3 : index - 2]
        rendered = pipeline.model.get_outputs_for_camera(camera)["rgb"].double().numpy()
        truth = 0.5 + 0.5 * directions(lenses[index]) @ camera_pose(index, np.zeros(3))[:3, :3].T
        left = (rendered - truth)[:, : lenses[index].width // 2]
        errors.append(float(np.square(left).mean()))
    expected = -10 * np.log10(errors)
    assert pipeline.get_average_eval_image_metrics()["psnr"] == pytest.approx(expected.mean(), abs=1e-3)
    quality = pipeline.test_quality(seconds=1e9)
    assert (quality.measured, quality.views) == (2, 2)
    assert quality.psnr == pytest.approx(expected.mean(), abs=1e-3)
    pipeline.eval()
    for index in (0, 1):
        camera, batch = pipeline.datamanager.fixed_indices_eval_dataloader.get_camera(index)
        values, _ = pipeline.model.get_image_metrics_and_images(pipeline.model.get_outputs_for_camera(camera), batch)
        assert values["psnr"] == pytest.approx(expected[index], abs=1e-3)
    assert pipeline.datamanager.eval_pixel_sampler is not None
    pipeline.datamanager.eval_pixel_sampler.set_num_rays_per_batch(4000)
    _, _, values = pipeline.get_eval_loss_dict(0)
    # Of pixels drawn at random from the two views, as often as they have some.
    shares = np.array([lenses[index].width * lenses[index].height for index in (3, 4)])
    assert float(values["psnr"]) == pytest.approx(-10 * np.log10(np.average(errors, weights=shares)), abs=0.3)


def test_evaluation_views_that_are_masked_throughout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(content: dict[str, Any]) -> None:
        content["frames"][5]["mask_path"] = "none.png"
        files = [frame["file_path"] for frame in content["frames"]]
        content.update(train_filenames=files[:5], val_filenames=files[5:], test_filenames=files[5:])
        Image.new("L", (24, 18)).save(tmp_path / "none.png")

    capture(tmp_path, PLAIN, change=change)
    with pytest.raises(SystemExit):
        pipeline_of(tmp_path, nerfstudio_data=True)
    assert_sentence(capsys, "no pixel of any picture to evaluate on")


def with_depths(folder: Path, lenses: list[TrueLens], height: float, unit: float, suffix: str, shrink: int) -> Change:
    """Depth maps of the plane z = ``height`` below the cameras, of the file: 0 where none is seen, or every 7th pixel.

    Along the axis for perspective cameras, and along the ray for others.
    """

    def change(content: dict[str, Any]) -> None:
        (folder / "depths").mkdir()
        for index, frame in enumerate(content["frames"]):
            pose, lens = np.array(frame["transform_matrix"]), lenses[index]
            rays = directions(lens) @ pose[:3, :3].T
            with np.errstate(divide="ignore"):
                distance = (height - pose[2, 3]) / rays[..., 2]
            if lens.model == "pinhole":
                distance = distance * -(rays @ pose[:3, 2])
            distance = np.where((distance > 0) & (distance < 60), distance, 0.0)
            distance.flat[::7] = 0.0
            values = (distance / unit)[::shrink, ::shrink]
            name = f"depths/{index}{suffix}"
            if suffix == ".npy":
                np.save(folder / name, values.astype(np.float32))
            else:
                write_image(folder / name, np.rint(values).astype(np.uint16)[..., None])
            if index != 1:
                frame["depth_file_path"] = name.replace("/", "\\")

    return change


@pytest.mark.parametrize(
    ("suffix", "unit", "tolerance"), [(".npy", 1e-3, 1e-3), (".png", 1e-3, 2e-3), (".npy", 0.5, 1e-3)]
)
def test_depth_maps_are_where_rays_meet_something(tmp_path: Path, suffix: str, unit: float, tolerance: float) -> None:
    """Points at the depths of rays lie on the plane that was measured, in the file's coordinates, for every lens."""
    lenses = [
        TrueLens(24, 18, 20.0, "pinhole", center=(11.5, 9.25)),
        TrueLens(24, 18),
        TrueLens(18, 24, 25.0, "pinhole", (0.03, -0.01, 0, 0.02, 0, 0)),
        TrueLens(20, 20, 7.0, "fisheye"),
        TrueLens(12, 10, 6.0, "aria", ARIA[0]),
    ] * 2

    def change(content: dict[str, Any]) -> None:
        for name in INTRINSICS:
            content.pop(name)
        for frame, lens in zip(content["frames"], lenses, strict=True):
            cx, cy = lens.center or (lens.width / 2, lens.height / 2)
            model = {"pinhole": "OPENCV", "fisheye": "OPENCV_FISHEYE", "aria": "FISHEYE624"}[lens.model]
            frame.update(w=lens.width, h=lens.height, fl_x=lens.focal, fl_y=lens.focal, cx=cx, cy=cy)
            frame.update(camera_model=model, distortion_params=list(lens.distortion))
        with_depths(tmp_path, lenses, -1.5, unit, suffix, 1)(content)

    capture(tmp_path, lenses, change=change)
    pipeline = pipeline_of(tmp_path, nerfstudio_data=True, depth_unit_scale_factor=unit, eval_mode="all")
    manager = pipeline.datamanager
    assert isinstance(manager, SceneBatches)
    manager.read_depths()
    assert manager.train_pixel_sampler is not None
    manager.train_pixel_sampler.set_num_rays_per_batch(3000)
    rays, batch = manager.next_train(0)
    depth, outputs = rays.metadata["depth"].double().numpy(), manager.train_dataparser_outputs
    camera, row, column = batch["indices"].numpy().T
    widths = np.array([lens.width for lens in lenses])[camera]
    known = depth[:, 0] > 0
    assert not known[(camera == 1) | ((row * widths + column) % 7 == 0)].any()
    for number in (0, 2, 3, 4):
        assert known[camera == number].sum() > 10
    transform = outputs.dataparser_transform.double().numpy()
    points = rays.origins.double().numpy() + depth * rays.directions.double().numpy()
    there = (points / outputs.dataparser_scale - transform[:, 3]) @ transform[:, :3]
    np.testing.assert_allclose(there[known, 2], -1.5, atol=tolerance)


def test_smaller_depth_maps_are_stretched_and_others_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture(tmp_path, PLAIN, change=with_depths(tmp_path, PLAIN, -1.5, 1e-3, ".png", 2))
    manager = pipeline_of(tmp_path, nerfstudio_data=True).datamanager
    assert "depth-loss-weight 0.1 trains on them" in capsys.readouterr().out
    assert isinstance(manager, SceneBatches)
    manager.read_depths()
    assert manager.depths is not None
    written = read_depth(tmp_path / "depths" / "0.png")
    seen = manager.depths.maps[0]
    assert seen is not None
    unit = 1e-3 * manager.train_dataparser_outputs.dataparser_scale
    np.testing.assert_allclose(seen.numpy(), unit * written.repeat(2, axis=0).repeat(2, axis=1), rtol=1e-5)

    for values, words in (
        (np.zeros((5, 5), np.uint16), "differ in shape"),
        (np.zeros((18, 24, 3), np.uint8), "one number for each pixel"),
    ):
        write_image(tmp_path / "depths" / "0.png", values if values.ndim == 3 else values[..., None])
        with pytest.raises(InputError, match=words):
            manager.read_depths()
    (tmp_path / "depths" / "0.png").unlink()
    pipeline_of(tmp_path, nerfstudio_data=True)  # which does not ask for depths
    with pytest.raises(SystemExit):
        pipeline_of(tmp_path, nerfstudio_data=True, depth_loss_weight=0.1)
    assert_sentence(capsys, "depths/0.png", "is missing")


def test_depths_are_trained_on(tmp_path: Path) -> None:
    """A grey floor that colours say nothing about lies after training where its depth maps have it."""

    def grey(path: Path, colors: np.ndarray) -> None:
        write_16_bits(path, np.full_like(colors, 0.5))

    capture(tmp_path, PLAIN, change=with_depths(tmp_path, PLAIN, -1.0, 1e-3, ".npy", 1), write=grey)
    pipeline = pipeline_of(tmp_path, nerfstudio_data=True, depth_loss_weight=1.0)
    manager, model = pipeline.datamanager, pipeline.model
    assert manager.train_pixel_sampler is not None

    def error() -> float:
        """Mean error of rendered depths, in distances that were measured."""
        assert manager.train_pixel_sampler is not None
        rays, _ = manager.next_train(0)
        measured = rays.metadata["depth"].squeeze(-1)
        model.eval()
        with torch.no_grad():
            seen = model(rays)["depth"].squeeze(-1)
        model.train()
        known = measured > 0
        return float(((seen - measured).abs() / measured)[known].clamp(max=1.0).mean())

    before = error()
    groups = model.get_param_groups()
    optimizer = torch.optim.Adam([{"params": groups[name], "lr": 5e-3} for name in ("fields", "feature_grid")])
    callbacks = pipeline.get_training_callbacks(
        TrainingCallbackAttributes(optimizers=None, grad_scaler=None, pipeline=pipeline, trainer=None)
    )
    for step in range(120):
        for callback in callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        _, losses, _ = pipeline.get_train_loss_dict(step)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        for callback in callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
    after = error()
    assert before > 0.3
    assert after < 0.15


def test_depths_that_are_missing_are_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture(tmp_path, PLAIN)
    with pytest.raises(SystemExit):
        pipeline_of(tmp_path, nerfstudio_data=True, depth_loss_weight=0.1)
    assert_sentence(capsys, "--pipeline.model.depth-loss-weight", "depth_file_path")


def test_a_fish_eye_shows_a_circle(tmp_path: Path) -> None:
    lenses = [TrueLens(20, 20, 7.0, "fisheye")] * 6
    change = all_of(camera_model="OPENCV_FISHEYE", fisheye_crop_radius=8.0)
    manager = assert_true_rays(capture(tmp_path, lenses, change=change), nerfstudio_data=True).datamanager
    _, batch = manager.next_train(0)
    distance = torch.hypot(*(batch["indices"][:, 1:].T + 0.5 - 10))
    assert 7 < float(distance.max()) <= 8


@pytest.mark.parametrize("nerfstudio_data", [False, True])
def test_what_lies_outside_the_box_is_not_trained_on(
    tmp_path: Path, nerfstudio_data: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten units away, and between cameras that all stand on one side of it."""
    if nerfstudio_data:
        change = poses(lambda pose: pose @ np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 8], [0, 0, 0, 1]]))
        lenses, close = [TrueLens()] * 6, []
        scene = capture(tmp_path, lenses, change=change, alpha=True)
        content = json.loads((tmp_path / "transforms.json").read_text())
        for index, frame in enumerate(content["frames"]):
            pose = np.eye(4)
            pose[:3, 3] = (0.3 * math.cos(index), 0.3 * math.sin(index), 0.0)
            toward = np.array([0.0, 0, -6]) - pose[:3, 3]
            back = -toward / np.linalg.norm(toward)
            right = np.cross([0.0, 1, 0], back)
            right /= np.linalg.norm(right)
            pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
            frame["transform_matrix"] = pose.tolist()
            close.append(frame)
        (scene.folder / "transforms.json").write_text(json.dumps({**content, "frames": close}))
    else:
        blender(tmp_path, PLAIN, center=np.array([10.0, 0.0, 0.0]))
    with pytest.raises(SystemExit):
        pipeline_of(tmp_path, nerfstudio_data=nerfstudio_data)
    place = "(0, 0, -6)" if nerfstudio_data else "(10, 0, 0)"
    assert_sentence(capsys, "% of the rays", place, "--pipeline.model.unbounded yes")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pictures_of_a_scene_keep_their_depth(tmp_path: Path, dtype: type) -> None:
    """The image that is trained on is the one that was written, to the last bit of single precision."""
    import tifffile

    generator = np.random.default_rng(0)
    full = 1.0 if dtype is np.float32 else float(np.iinfo(dtype).max)
    written = []

    def write(path: Path, colors: np.ndarray) -> None:
        values = generator.random(colors.shape) * full
        written.append((values if dtype is np.float32 else np.rint(values)).astype(dtype))
        tifffile.imwrite(path, written[-1], photometric="rgb", planarconfig="contig")

    blender(tmp_path, PLAIN, write=write, suffix=".tif", alpha=False)
    dataset = pipeline_of(tmp_path, nerfstudio_data=False).datamanager.train_dataset
    for index in range(6):
        expected = written[index].astype(np.float64) / full
        np.testing.assert_allclose(dataset[index]["image"].double().numpy(), expected, atol=6e-8)


def grey_float_tiff(path: Path, values: np.ndarray) -> None:
    """By the words of TIFF 6.0, without a library."""
    height, width = values.shape
    data = values.astype("<f4").tobytes()
    tags = [(256, 3, width), (257, 3, height), (258, 3, 32), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 3, height), (279, 4, len(data)), (339, 3, 3)]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    start = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    path.write_bytes(start + data + struct.pack("<H", len(tags)) + directory + bytes(4))


def test_floating_pictures_are_cut_off_at_white_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(path: Path, colors: np.ndarray) -> None:
        values = np.full(colors.shape[:2], 0.25)
        values[:2] = 3.0
        grey_float_tiff(path, values)

    blender(tmp_path, PLAIN, write=write, suffix=".tif", alpha=False)
    image = pipeline_of(tmp_path, nerfstudio_data=False).datamanager.train_dataset[0]["image"]
    assert bool((image[:2] == 1).all())
    assert bool((image[2:] == 0.25).all())
    assert "above 1" in capsys.readouterr().out


@pytest.mark.parametrize("values", [np.full((18, 24), 200.0), np.full((18, 24), np.nan)])
def test_floating_pictures_of_another_range_are_refused(
    tmp_path: Path, values: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    blender(tmp_path, PLAIN, write=lambda path, _: grey_float_tiff(path, values), suffix=".tif", alpha=False)
    with pytest.raises(SystemExit):
        pipeline_of(tmp_path, nerfstudio_data=False)
    assert_sentence(capsys, ".tif", "finite" if np.isnan(values).any() else "200")


def test_a_scene_that_does_not_fit_into_memory_is_refused_before_it_is_decoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    blender(tmp_path, PLAIN, alpha=False)
    monkeypatch.setattr("finer_nerfstudio.nerf.data.batches.available_memory", lambda: 6 * 24 * 18 * 3 * 4)
    monkeypatch.setattr(
        "finer_nerfstudio.nerf.data.images.read_stored_image", lambda *_, **__: pytest.fail("a picture was decoded")
    )
    with pytest.raises(SystemExit):
        pipeline_of(tmp_path, nerfstudio_data=False)
    assert_sentence(capsys, "6 pictures", "memory", "--downscale-factor")
