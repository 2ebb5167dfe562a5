"""The demo scene as its users meet it: the real script, run at a small size."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finer_nerfstudio.demo import folder
from finer_nerfstudio.demo.cameras import look_at_origin, scattered_poses
from finer_nerfstudio.demo.objects import distance_to_scene, solids
from finer_nerfstudio.demo.tracing import _shade, render_view

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_demo_scene.py"
VIEWS = {"train": 4, "val": 2, "test": 3}
SMALL = (
    "--size",
    "32",
    "--supersampling",
    "2",
    "--train-views",
    "4",
    "--val-views",
    "2",
    "--test-views",
    "3",
)


def command(output: Path, *options: str) -> list[str]:
    """The command line that makes a scene in ``output``."""
    return [sys.executable, str(SCRIPT), "--output-dir", str(output), *options]


def run(output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The finished command with its captured output."""
    return subprocess.run(command(output, *options), capture_output=True, text=True, timeout=120, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def frames(scene: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Every frame of the scene: its split, pose [4, 4] and RGBA image [height, width, 4] of 8 bits."""
    found = []
    for split in VIEWS:
        for frame in json.loads((scene / f"transforms_{split}.json").read_text())["frames"]:
            with Image.open(scene / f"{frame['file_path']}.png") as image:
                assert image.mode == "RGBA"
                found.append((split, np.array(frame["transform_matrix"]), np.array(image)))
    return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished scene; tests must not change it."""
    output = tmp_path_factory.mktemp("demo") / "made" / "scene"
    result = run(output, *SMALL)
    assert result.returncode == 0, result.stderr
    return output


def test_the_files_are_those_of_a_nerf_synthetic_scene(scene: Path) -> None:
    expected = {"scene.json"}
    for split, count in VIEWS.items():
        expected |= {f"transforms_{split}.json"} | {f"{split}/r_{i}.png" for i in range(count)}
        transforms = json.loads((scene / f"transforms_{split}.json").read_text())
        assert set(transforms) == {"camera_angle_x", "frames"}
        assert transforms["camera_angle_x"] == 0.6911112070083618
        assert [f["file_path"] for f in transforms["frames"]] == [f"./{split}/r_{i}" for i in range(count)]
        assert all(
            set(f) == {"file_path", "rotation", "transform_matrix"} and math.isfinite(f["rotation"])
            for f in transforms["frames"]
        )
    assert set(contents(scene)) == expected
    assert [p.name for p in scene.parent.iterdir()] == [scene.name], "no unfinished folder stays behind"


def test_images_have_solid_transparent_and_partly_covered_pixels(scene: Path) -> None:
    for _, _, image in frames(scene):
        alpha = image[..., 3]
        assert image.shape == (32, 32, 4)
        assert (alpha == 255).mean() > 0.05
        assert (alpha == 0).mean() > 0.2
        assert ((alpha > 0) & (alpha < 255)).any(), "edges are anti-aliased"
        assert alpha[1:-1, 1:-1].sum() == alpha.sum(), "nothing is cut off by the frame"
        assert not image[alpha == 0].any()
        assert image[alpha == 255][:, :3].std(axis=0).min() > 20, "the solids are textured"


def test_colour_is_not_darkened_by_partial_alpha() -> None:
    # Were alpha premultiplied, the colour of a pixel would fall in proportion to its coverage.
    pose = look_at_origin(np.array([2.6, -2.6, 1.6]))
    image = render_view(pose, 48, 60.0, 4)
    thin = (image[..., 3] > 0) & (image[..., 3] < 0.3)
    solid = image[..., 3] == 1
    assert image[thin][:, :3].mean() > 0.5 * image[solid][:, :3].mean()


def test_cameras_are_upright_look_at_the_origin_and_differ(scene: Path) -> None:
    positions = []
    for _, pose, _ in frames(scene):
        rotation, position = pose[:3, :3], pose[:3, 3]
        np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) == pytest.approx(1)
        np.testing.assert_array_equal(pose[3], [0, 0, 0, 1])
        assert np.linalg.norm(position) == pytest.approx(4.03)
        np.testing.assert_allclose(rotation[:, 2], position / np.linalg.norm(position), atol=1e-9)
        assert rotation[2, 0] == pytest.approx(0), "the horizon is level"
        assert rotation[2, 1] > 0, "z is up"
        assert position[2] > -0.15 * 4.03
        positions.append(position)
    separation = np.linalg.norm(np.array(positions)[:, None] - np.array(positions)[None], axis=-1)
    assert separation[~np.eye(len(positions), dtype=bool)].min() > 0.01


@pytest.mark.parametrize(("stride", "widest"), [(1, 30), (2, 45), (3, 50), (4, 55)])
def test_every_kth_view_still_covers_all_sides(stride: int, widest: float) -> None:
    cameras = scattered_poses(60, np.random.default_rng(0))[::stride, :3, 3] / 4.03
    turn = np.linspace(0, 2 * math.pi, 90)
    height = np.linspace(0, 0.95, 40)[:, None]
    flat = np.sqrt(1 - height**2)
    sides = np.stack([flat * np.cos(turn), flat * np.sin(turn), height + 0 * turn], axis=-1)
    nearest = np.degrees(np.arccos(np.clip(sides @ cameras.T, -1, 1))).min(axis=-1)
    assert nearest.max() < widest


def scene_distance(points: np.ndarray) -> np.ndarray:
    """Of points ``[*batch, 3]``."""
    rows = np.ascontiguousarray(points.reshape(-1, 3).T.astype(np.float32))
    return distance_to_scene(rows).reshape(points.shape[:-1])


def test_pixels_cover_exactly_what_the_distance_says_is_solid(scene: Path) -> None:
    generator = np.random.default_rng(1)
    points = generator.uniform(-1.1, 1.1, (400_000, 3))
    solid = points[scene_distance(points) < -2e-3]
    assert len(solid) > 1000
    for _, pose, image in frames(scene):
        size = image.shape[0]
        focal = 0.5 * size / math.tan(0.5 * 0.6911112070083618)
        x, y, z = ((solid - pose[:3, 3]) @ pose[:3, :3]).T
        assert (z < 0).all(), "an OpenGL camera looks down -z"
        column = np.floor(size / 2 - focal * x / z).astype(int)
        row = np.floor(size / 2 + focal * y / z).astype(int)
        assert min(column.min(), row.min()) >= 0
        assert max(column.max(), row.max()) < size
        covered = np.zeros((size, size), dtype=bool)
        covered[row, column] = True
        alpha = image[..., 3]
        # A point may fall between the four rays of a pixel on a silhouette, so a few may be missed.
        assert (alpha[row, column] > 0).mean() > 0.995
        assert (covered | (alpha < 255)).mean() > 0.98, "what is opaque has solid points behind it"


def test_distances_are_signed_and_bounded() -> None:
    generator = np.random.default_rng(2)
    points = generator.uniform(-1.6, 1.6, (20, 500, 3))
    distance = scene_distance(points)
    assert scene_distance(np.array([0.0, 0.0, 0.28])) < -0.3, "the middle of the globe"
    assert distance[(np.abs(points) > 1.1).any(axis=-1)].min() > 0, "nothing sticks out of the documented box"
    # A step by the distance never crosses a surface if no two values differ by more than their points do.
    step = generator.normal(size=points.shape) * 0.05
    change = np.abs(scene_distance(points + step) - distance)
    assert (change <= np.linalg.norm(step, axis=-1) + 1e-5).all()


def test_no_object_is_cut_off_by_the_sphere_that_is_said_to_hold_it() -> None:
    directions = np.random.default_rng(3).normal(size=(3, 20_000)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    for solid in solids():
        on_bound = directions * np.float32(solid.bound)
        assert solid.distance(on_bound).min() > 0, solid


def test_highlights_move_with_the_camera() -> None:
    # The same spot on the globe, seen from two sides, must not have one colour.
    towards_light = np.array([0.35, -0.42, 1.0])
    spot = np.array([0.0, 0.0, 0.28]) + 0.36 * towards_light / np.linalg.norm(towards_light)
    colours = []
    for position in ([1.4, -1.7, 3.4], [-1.7, 1.4, 3.4]):
        camera = np.array(position, dtype=np.float32)[:, None]
        towards = spot.astype(np.float32)[:, None] - camera
        towards /= np.linalg.norm(towards)
        globe = np.array([2], dtype=np.int8)
        colours.append(_shade(spot.astype(np.float32)[:, None], towards, globe)[:, 0])
    assert np.abs(colours[0] - colours[1]).max() > 0.05


def test_two_runs_give_identical_files_and_another_seed_other_views(scene: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "again", *SMALL).returncode == 0
    assert contents(tmp_path / "again") == contents(scene)
    assert run(tmp_path / "other", *SMALL, "--seed", "1").returncode == 0
    other, first = contents(tmp_path / "other"), contents(scene)
    assert other.keys() == first.keys()
    assert all(other[name] != first[name] for name in first)


def test_a_second_run_changes_nothing_and_says_so(scene: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in scene.rglob("*")}
    result = run(scene, *SMALL)
    assert result.returncode == 0
    assert "nothing to do" in result.stdout
    assert result.stderr == ""
    assert {p: p.stat().st_mtime_ns for p in scene.rglob("*")} == before


def assert_one_sentence(result: subprocess.CompletedProcess[str], code: int) -> None:
    """Check that the command failed with ``code`` and nothing but one line on stderr."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\.\n", result.stderr), result.stderr


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    output = tmp_path / "mine"
    output.mkdir()
    (output / "notes.txt").write_text("precious")
    assert_one_sentence(run(output, *SMALL), 2)
    assert contents(tmp_path) == {"mine/notes.txt": b"precious"}


def test_a_file_in_the_way_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    assert_one_sentence(run(tmp_path / "mine", *SMALL), 2)
    assert contents(tmp_path) == {"mine": b"precious"}


def test_a_scene_made_with_other_options_is_refused(scene: Path) -> None:
    before = contents(scene)
    assert_one_sentence(run(scene, *SMALL, "--seed", "7"), 2)
    assert contents(scene) == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    result = run(tmp_path, "--size", "8", "--train-views", "1", "--val-views", "1", "--test-views", "1")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "scene.json").is_file()


def test_an_unwritable_place_is_reported(tmp_path: Path) -> None:
    # A file as the parent folder is unwritable for everyone, the superuser included.
    (tmp_path / "file").write_text("")
    assert_one_sentence(run(tmp_path / "file" / "demo", *SMALL), 1)


@pytest.mark.parametrize(
    "options",
    [
        ("--size", "7"),
        ("--train-views", "0"),
        ("--train-views", "999999999999"),
        ("--val-views", "-1"),
        ("--test-views", "0"),
        ("--supersampling", "0"),
        ("--supersampling", "17"),
        ("--seed", "-1"),
    ],
)
def test_bad_values_are_named_and_nothing_is_made(tmp_path: Path, options: tuple[str, str]) -> None:
    result = run(tmp_path / "demo", *options)
    assert_one_sentence(result, 2)
    assert options[0] in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_scene(tmp_path: Path, how: signal.Signals) -> None:
    # Enough views that the run cannot end before the signal comes.
    process = subprocess.Popen(
        command(tmp_path / "demo", "--size", "48", "--train-views", "2000"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell that runs the tests in the background has them, and all they start, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        limit = time.monotonic() + 60
        while not any(tmp_path.rglob("*.png")):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        process.send_signal(how)
        assert process.wait(timeout=60) != 0
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "demo").exists()
    if how != signal.SIGKILL:  # nothing can tidy up after that one
        assert list(tmp_path.iterdir()) == []


def test_help_needs_no_torch() -> None:
    shown = subprocess.check_output([sys.executable, str(SCRIPT), "--help"], text=True)
    assert all(f"--{name}" in shown for name in ("output-dir", "size", "supersampling", "seed"))
    imports = "import sys, finer_nerfstudio.cli.demo_scene; print([m for m in sys.modules])"
    loaded = subprocess.check_output([sys.executable, "-c", imports], text=True)
    assert not re.search(r"'(torch|nerfstudio)'", loaded)


def test_progress_in_a_pipe_is_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(folder, "_SECONDS_OF_SILENCE", 0.0)
    folder.draw_all(lambda name, index: None, [("a", 0), ("b", 1)])
    assert capsys.readouterr().err.splitlines()[-1] == "rendering: 2 of 2 pictures"
