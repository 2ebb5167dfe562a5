"""The room of the demo capture: its files, its geometry by Nerfstudio's cameras, its exposures and its light."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from numpy.typing import NDArray
from PIL import Image

from finer_nerfstudio.demo import room
from finer_nerfstudio.demo.capture import DemoCapture, make_demo_capture, pixel_directions, poses_and_exposures
from finer_nerfstudio.demo.furnishings import (
    HEIGHT,
    LENGTH,
    RECESS,
    WIDTH,
    WINDOW_LEFT,
    WINDOW_RIGHT,
    WINDOW_TOP,
)
from finer_nerfstudio.demo.lightmaps import LightMaps, Window
from finer_nerfstudio.demo.patterns import plain
from finer_nerfstudio.demo.solids import Ball, Box, Cylinder, Solid, nearest, place, to_own, to_world

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_demo_capture.py"
Floats = NDArray[np.floating]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> DemoCapture:
    """A capture of 18 pictures, with one ray for each pixel."""
    folder = tmp_path_factory.mktemp("room") / "capture"
    made = DemoCapture(output_dir=folder, scene="room", width=96, views=18, supersampling=1)
    assert make_demo_capture(made)
    return made


def test_another_process_makes_the_same_files(options: DemoCapture, tmp_path: Path) -> None:
    arguments = ["--scene", "room", "--width", "96", "--views", "18", "--supersampling", "1"]
    command = [sys.executable, str(SCRIPT), "--output-dir", str(tmp_path / "again"), *arguments]
    subprocess.run(command, capture_output=True, timeout=300, check=True)
    names = sorted(path.relative_to(options.output_dir) for path in options.output_dir.rglob("*") if path.is_file())
    assert len(names) == 18 + 2
    for name in names:
        assert (options.output_dir / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    with Image.open(options.output_dir / "images" / "frame_00001.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (96, 128))
        assert not picture.getexif()


def photographs(options: DemoCapture) -> Iterator[tuple[Floats, Callable[[Floats], Floats]]]:
    """Each picture, and a function that projects points [n, 3] of the room onto it by Nerfstudio's cameras."""
    for split in ("train", "test"):
        parsed = NerfstudioDataParserConfig(data=options.output_dir).setup().get_dataparser_outputs(split)
        for index, path in enumerate(parsed.image_filenames):
            yield picture_of(path), functools.partial(project, parsed, index)


def project(parsed: DataparserOutputs, index: int, points: Floats) -> Floats:
    """Pixels [n, 2] of points [n, 3] of the room, in float64; -1 if some are behind the camera."""
    cameras, move = parsed.cameras, parsed.dataparser_transform.double().numpy()
    pose = cameras.camera_to_worlds[index].double().numpy()
    fx, fy, cx, cy = (float(getattr(cameras, name)[index]) for name in ("fx", "fy", "cx", "cy"))
    assert cameras.distortion_params is not None
    k1, k2, k3, k4, p1, p2 = cameras.distortion_params[index].double().tolist()
    assert (k3, k4) == (0, 0)
    moved = (points @ move[:, :3].T + move[:, 3]) * parsed.dataparser_scale
    seen = np.asarray((moved - pose[:, 3]) @ pose[:, :3] * np.array([1.0, -1.0, -1.0]), dtype=np.float64)
    if (seen[:, 2] <= 0.1 * np.linalg.norm(seen, axis=1)).any():
        return np.full((len(points), 2), -1.0)
    matrix, still = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), np.zeros(3)
    pixels, _ = cv2.projectPoints(seen, still, still, matrix, np.array([k1, k2, p1, p2]))
    return pixels[:, 0].astype(np.float64)


def picture_of(path: Path) -> Floats:
    with Image.open(path) as picture:
        return np.asarray(picture, dtype=np.float64) / 255


def inside(pixels: Floats, picture: Floats, margin: int) -> bool:
    height, width = picture.shape[:2]
    return bool(
        (pixels > margin).all() and (pixels[:, 0] < width - margin).all() and (pixels[:, 1] < height - margin).all()
    )


def test_the_window_is_where_nerfstudios_cameras_see_it(options: DemoCapture) -> None:
    y = 0.5 * WIDTH + 0.1  # of the frame's middle; it is 6 centimetres wide
    left, right, top = WINDOW_LEFT + 0.06, WINDOW_RIGHT - 0.06, WINDOW_TOP - 0.06
    corners = np.array([[left, y, top], [right, y, top]])
    views = 0
    for picture, project_onto in photographs(options):
        expected = project_onto(corners)
        if not inside(expected, picture, 6):
            continue
        views += 1
        bright = np.argwhere(picture.min(axis=2) > 0.97)[:, ::-1] + 0.5
        bright = bright[np.abs(bright - expected.mean(axis=0)).max(axis=1) < 40]
        # The pane's upper corners are its extremes along the two diagonals.
        upper_left, upper_right = bright[bright.sum(axis=1).argmin()], bright[(bright[:, 0] - bright[:, 1]).argmax()]
        np.testing.assert_allclose(upper_left, expected[0], atol=2.0)
        np.testing.assert_allclose(upper_right, expected[1], atol=2.0)
    assert views >= 2


def test_the_round_print_is_where_nerfstudios_cameras_see_it(options: DemoCapture) -> None:
    middle = np.array([[0.85, -0.5 * WIDTH + 0.03, 1.6]])
    angles = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    rim = middle + 0.225 * np.stack([np.cos(angles), np.zeros(24), np.sin(angles)], axis=1)
    views = 0
    for picture, project_onto in photographs(options):
        outline = project_onto(rim)
        if not inside(outline, picture, 4):
            continue
        views += 1
        x, y = np.meshgrid(np.arange(picture.shape[1]) + 0.5, np.arange(picture.shape[0]) + 0.5)
        near = np.hypot(x - outline[:, 0].mean(), y - outline[:, 1].mean()) < 1.2 * np.ptp(outline, axis=0).max() / 2
        # The paper is pale, and the rings are blue and orange.
        paper = np.median(picture[near], axis=0)
        printed = near & (np.abs(picture / picture.sum(axis=2, keepdims=True) - paper / paper.sum()).max(axis=2) > 0.06)
        found = np.array([x[printed].mean(), y[printed].mean()])
        np.testing.assert_allclose(found, outline.mean(axis=0), atol=0.5)
    assert views >= 2


def test_every_ray_meets_a_wall_furniture_or_the_window(options: DemoCapture) -> None:
    pixels = pixel_directions(options)[::4, ::4, 0].reshape(-1, 3)
    poses, _ = poses_and_exposures(options)
    shining = 0
    for pose in poses:
        origin = pose[:3, 3:].astype(np.float32)
        directions = (pixels @ pose[:3, :3].T.astype(np.float32)).T
        t, light = room.see(origin, directions)
        ends = origin + t * directions
        assert np.isfinite(t).all()
        assert (t > 0.3).all()
        assert (light >= 0).all()
        limits = np.array([[0.5 * LENGTH], [0.5 * WIDTH + RECESS], [HEIGHT]]) + 1e-4
        assert (np.abs(ends) <= limits).all()
        assert (ends[1] >= -0.5 * WIDTH - 1e-4).all()
        assert (ends[2] >= -1e-4).all()
        shining += int((light.min(axis=0) > 1.5).sum())
        # A standing person's height.
        assert 1.0 < pose[2, 3] < 1.8
    assert shining > 100


def test_exposures_are_of_training_views_only_and_scale_the_light(options: DemoCapture) -> None:
    _, stops = poses_and_exposures(options)
    trained = options.trained
    assert trained.sum() == 16
    assert (stops[~trained] == 0).all()
    assert abs(stops[trained].mean()) < 1e-12
    assert 2 * room.EXPOSURE_SPREAD >= np.ptp(stops) > room.EXPOSURE_SPREAD
    recipe = json.loads((options.output_dir / "scene.json").read_text())
    assert recipe["scene"] == "room"

    poses, _ = poses_and_exposures(options)
    pixels = pixel_directions(options)[:, :, 0].reshape(-1, 3)
    for index in (4, 5, int(stops.argmax()), int(stops.argmin())):
        picture = picture_of(options.output_dir / "images" / f"frame_{index + 1:05d}.png")
        directions = (pixels @ poses[index, :3, :3].T.astype(np.float32)).T
        light = room.see(poses[index, :3, 3:].astype(np.float32), directions)[1].T.reshape(picture.shape)
        # Undo the encoding: toned = 1.15 x (1 + x / 6) / (1 + 0.75 x), a quadratic equation in x.
        toned = picture**2.2 / 1.15
        b = 1 - 0.75 * toned
        exposed = 3 * (-b + np.sqrt(b * b + 2 / 3 * toned))
        clear = (picture > 0.25) & (picture < 0.95)
        assert clear.mean() > 0.3
        ratio = np.log2(exposed[clear] / light[clear])
        assert abs(np.median(ratio) - stops[index]) < 0.01
        assert np.abs(ratio - stops[index]).max() < 0.1


def solids() -> list[Solid]:
    white = plain("ffffff")
    return [
        Box((0.3, -0.2, 0.5), (0.4, 0.2, 0.5), white, 25),
        Cylinder((-0.1, 0.4, 0.3), 0.35, 0.2, white, 40),
        Ball((0.2, 0.1, -0.3), 0.45, white, -70),
    ]


def outside_by(solid: Solid, own: Floats) -> Floats:
    """How far points [3, n] are outside a solid, at least; negative inside."""
    if isinstance(solid, Ball):
        return np.linalg.norm(own, axis=0) - solid.radius
    if isinstance(solid, Cylinder):
        return np.maximum(np.hypot(own[0], own[1]) - solid.radius, np.abs(own[2]) - solid.half_height)
    return (np.abs(own) - np.array(solid.half)[:, None]).max(axis=0)


@pytest.mark.parametrize("solid", solids(), ids=lambda solid: type(solid).__name__)
def test_rays_meet_solids_where_they_enter_them(solid: Solid) -> None:
    generator = np.random.default_rng(3)
    origins = 2.5 * generator.normal(size=(3, 3000))
    origins = origins[:, outside_by(solid, to_own(solid, origins - place(solid))) > 0.05]
    targets = np.array(solid.centre)[:, None] + 0.4 * generator.normal(size=origins.shape)
    directions = (targets - origins) / np.linalg.norm(targets - origins, axis=0)
    t, which = nearest((solid,), origins.astype(np.float32), directions.astype(np.float32))
    steps = np.linspace(0, 12, 3001)
    depths = np.stack([outside_by(solid, to_own(solid, origins + s * directions - place(solid))) for s in steps])
    met = np.isfinite(t)
    assert 0.2 < met.mean() < 0.95
    assert ((which == 0) == met).all()
    clearly = (depths < -2e-3).any(axis=0)
    assert met[clearly].all()
    first = steps[(depths < -2e-3).argmax(axis=0)]
    assert (t[clearly] <= first[clearly]).all()
    ends = to_own(solid, origins + np.where(met, t, 0) * directions - place(solid))
    assert np.abs(outside_by(solid, ends)[met]).max() < 1e-4
    assert (depths[:, met] > -1e-4)[steps[:, None] < t[met] - 1e-3].all()


@pytest.mark.parametrize("solid", solids(), ids=lambda solid: type(solid).__name__)
def test_places_on_faces_are_found_again_and_normals_point_outwards(solid: Solid) -> None:
    across = np.random.default_rng(4).uniform(0.2, 0.8, (2, 200)).astype(np.float32)
    for face in range(len(solid.faces)):
        own = solid.points(face, across)
        chart = solid.chart(own)
        assert (chart.face == face).all()
        np.testing.assert_allclose(chart.across, across, atol=1e-5)
        step = 1e-3 * chart.normals
        np.testing.assert_allclose(outside_by(solid, own + step), 1e-3, atol=2e-5)
        np.testing.assert_allclose(to_own(solid, to_world(solid, own)), own, atol=1e-6)


def test_the_windows_light_is_its_form_factor() -> None:
    shell = Box((0.0, 0.0, 1.3), (2.4, 2.0, 1.3), plain("ffffff"))
    window = Window((-0.5, 2.1, 1.0), (0.9, 2.1, 2.0))
    table = Box((0.0, -1.0, 0.1), (0.4, 0.4, 0.02), plain("ffffff"))
    light = LightMaps((table,), shell, window)
    floor = np.array([[0.0, 1.0, -1.5, 0.0], [0.2, 0.7, -1.2, -1.05], [-1.3, -1.3, -1.3, -1.3]])
    direct, bounced = light.on(1, shell, floor.astype(np.float32))
    points = floor + np.array([[0.0], [0.0], [1.3]])
    x, z = (low + (high - low) * (np.arange(400) + 0.5) / 400 for low, high in ((-0.5, 0.9), (1.0, 2.0)))
    towards = np.stack(np.broadcast_arrays(x[None, :], 2.1, z[:, None]))[..., None] - points[:, None, None]
    square = (towards**2).sum(axis=0)
    expected = (towards[2] * towards[1] / square**2).mean(axis=(0, 1)) * 1.4 / math.pi
    np.testing.assert_allclose(direct[:3], expected[:3], rtol=0.03)
    assert direct[3] < 0.3 * expected[3]  # below the table
    assert (bounced > 0).all()
    # The mean over what a point sees is less than the most there is.
    assert bounced.max() < light.direct.max()
