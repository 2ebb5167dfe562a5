"""A trained run exported from the command line; what was baked looks like the field in a real browser."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from playwright.sync_api import Browser, Page

from finer_nerfstudio.cli.export import Grid, Splats, SurfaceMesh, _target
from finer_nerfstudio.demo.objects import distance_to_scene
from finer_nerfstudio.nerf.export.run import load_scene
from finer_nerfstudio.nerf.export.scene import pictures_of
from finer_nerfstudio.nerf.export.splat_file import read_splats
from finer_nerfstudio.nerf.export.viewing import show

ROOT = Path(__file__).parents[2]
SIDE = 280

Command = Callable[..., "tuple[int, str]"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def opaque_run(small_scene: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Folder of a run in which matter is opaque already, of the method that gets there first."""
    output = tmp_path_factory.mktemp("opaque")
    options = ["--max-num-iterations", "700", "--vis", "tensorboard", "--pipeline.model.field.width", "48"]
    options += ["--pipeline.target-num-samples", "8000", "--optimizers.fields.optimizer.lr", "2e-3"]
    done = run("ns-train", "siren", "--data", small_scene, "--output-dir", output, *options)
    assert done.returncode == 0, done.stdout[-3000:]
    (config,) = output.rglob("config.yml")
    return config.parent


def baking(verb: str, run: Path, output: Path, *options: str) -> list[str]:
    command = [sys.executable, str(ROOT / "scripts" / "bake.py"), verb, "--load-config", str(run)]
    return [*command, "--output-path", str(output), "--held-out", "2", *options]


@pytest.fixture(scope="module")
def splats(opaque_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Splats that a command has baked, and the address at which the same command shows them."""
    path = tmp_path_factory.mktemp("baked") / "demo.ply"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--splats", "5000", "--refine-steps", "40", "--view-size", "64", "--view", "--port", str(port)]
    log = path.with_suffix(".log")
    command = baking("splats", opaque_run, path, *options)
    with log.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT) as shown:
        try:
            address, deadline = f"http://127.0.0.1:{port}/", time.monotonic() + 300
            while address not in log.read_text():
                assert shown.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, "nothing is shown"
                time.sleep(0.5)
            yield path, address
        finally:
            shown.kill()


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    # The panel beside the picture takes 320 pixels.
    page = browser.new_page(viewport={"width": SIDE + 320, "height": SIDE})
    page.set_default_timeout(120_000)
    yield page
    page.close()


def picture(page: Page) -> np.ndarray:
    """What the browser draws, in [0, 1]."""
    shot = page.screenshot(clip={"x": 0, "y": 0, "width": SIDE, "height": SIDE})
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), dtype=np.float64) / 255.0


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return -10.0 * float(np.log10(np.mean((a - b) ** 2)))


def shrunk(pixels: np.ndarray, side: int = 56) -> np.ndarray:
    return pixels.reshape(side, SIDE // side, side, SIDE // side, 3).mean(axis=(1, 3))


def comes_to_look_like_the_field(page: Page, run: Path, *, at_least: float) -> None:
    """The browser starts at the first held-out camera, and fades the scene in; another camera sees something else."""
    loaded = load_scene(run, view_size=SIDE, held_out=2)
    same, other = (
        shrunk(seen.over(torch.ones(3)).numpy()) for seen in pictures_of(loaded.scene, loaded.held_out, lambda *_: None)
    )
    deadline = time.monotonic() + 180
    while psnr(drawn := shrunk(picture(page)), same) < at_least:
        assert time.monotonic() < deadline, f"the picture has {psnr(drawn, same):.1f} dB"
        time.sleep(0.5)
    assert psnr(drawn, other) < at_least - 2.0, "it is this camera and no other"


def test_splats_come_with_json_and_picture(splats: tuple[Path, str]) -> None:
    path, _ = splats
    content = json.loads(path.with_name("demo.ply.json").read_text())
    assert content["splats"] == len(read_splats(path)[0])
    assert content["bytes"] == path.stat().st_size
    assert content["psnr"] == pytest.approx(np.mean(content["psnr_by_view"]))
    assert content["psnr"] > content["before_refinement"]["psnr"] + 1.0
    assert content["psnr"] > 20.0
    if not torch.cuda.is_available():
        assert "PyTorch" in content["drawn_by"]
    log = path.with_suffix(".log").read_text()
    assert f"PSNR {content['psnr']:.2f} dB" in log
    assert "on 2 held-out views of 64x64" in log
    with Image.open(path.with_name("demo.ply.png")) as drawing:
        assert drawing.convert("L").getextrema() != (255, 255)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        *["demo.log", "demo.ply", "demo.ply.json", "demo.ply.png"]
    ], "nothing else is left"


def test_splats_look_like_the_field_in_the_browser(splats: tuple[Path, str], opaque_run: Path, page: Page) -> None:
    page.goto(splats[1])
    comes_to_look_like_the_field(page, opaque_run, at_least=22.0)


def test_a_grid_looks_like_the_field_in_its_numbers_and_in_the_browser(
    opaque_run: Path, command: Command, tmp_path: Path, page: Page
) -> None:
    path = tmp_path / "demo.npz"
    _, script, *arguments = baking("grid", opaque_run, path, "--resolution", "48", "--view-size", "64")
    code, output = command(Path(script).name, *arguments)
    assert code == 0, output
    content = json.loads(path.with_name("demo.npz.json").read_text())
    assert content["psnr"] > 22.0
    assert f"{content['voxels']:,} voxels" in output
    server = show(path, port=0)
    try:
        page.goto(f"http://127.0.0.1:{server.get_port()}/")
        comes_to_look_like_the_field(page, opaque_run, at_least=17.0)
    finally:
        server.stop()


def near_the_scene(vertices: np.ndarray, distance: float) -> float:
    """The share of points, in the scene's own units, that are so near to a surface of it."""
    return float(np.mean(np.abs(distance_to_scene(vertices.T.astype(np.float32))) < distance))


def test_a_mesh_lies_on_the_scene_in_its_own_units(opaque_run: Path, command: Command, tmp_path: Path) -> None:
    """After so short a training the field itself is blurred; docs/meshes.md has what a longer one gives."""
    meshes = []
    for name in ("mesh.ply", "mesh.glb"):
        path = tmp_path / name
        _, script, *arguments = baking("mesh", opaque_run, path, "--resolution", "129", "--view-size", "64")
        code, output = command(Path(script).name, *arguments)
        assert code == 0, output
        content = json.loads(path.with_name(f"{name}.json").read_text())
        assert f"{content['vertices']:,} vertices, {content['faces']:,} triangles" in output
        assert content["psnr"] > 17.0
        np.testing.assert_allclose(content["field_to_data"], np.diag([1.25, 1.25, 1.25, 1.0]), atol=1e-6)
        with Image.open(path.with_name(f"{name}.png")) as drawing:
            assert drawing.convert("L").getextrema() != (255, 255)
        loaded = trimesh.load(path, process=False)
        mesh = next(iter(loaded.geometry.values())) if isinstance(loaded, trimesh.Scene) else loaded
        assert isinstance(mesh, trimesh.Trimesh)
        assert (len(mesh.vertices), len(mesh.faces)) == (content["vertices"], content["faces"])
        np.testing.assert_allclose(mesh.bounds, content["bounds"], atol=1e-5)
        meshes.append(mesh)
    ply, glb = meshes
    np.testing.assert_allclose(ply.vertices, glb.vertices, atol=1e-6)
    np.testing.assert_array_equal(ply.faces, glb.faces)
    # The scene is 1.96 large.
    assert near_the_scene(ply.vertices, 0.02 * 1.96) > 0.65
    # In the field's units, or with the axes that glTF has, it would be elsewhere.
    assert near_the_scene(0.8 * ply.vertices, 0.02 * 1.96) < 0.45
    assert near_the_scene(ply.vertices[:, [0, 2, 1]], 0.02 * 1.96) < 0.45
    # No camera looks at the table from below.
    assert (ply.face_normals @ np.array([0.0, 0.0, -1.0]) > 0.9).mean() < 0.1


def test_bad_input_gets_a_sentence(splats: tuple[Path, str], opaque_run: Path, command: Command) -> None:
    def refused(code: int, sentence: str, *arguments: str | Path) -> None:
        found, output = command("bake.py", *arguments)
        assert found == code, output
        assert sentence in output
        assert "Traceback" not in output

    path, _ = splats
    before = path.read_bytes()
    run = ("--load-config", opaque_run, "--output-path")
    refused(2, "--overwrite", "splats", *run, path)
    assert path.read_bytes() == before
    refused(2, "must end in .npz", "grid", *run, "demo.ply")
    refused(2, "--degree must lie", "splats", *run, "new.ply", "--degree", "4")
    refused(2, "--resolution must lie", "grid", *run, "new.npz", "--resolution", "1")
    refused(2, "must end in .glb or .ply", "mesh", *run, "new.obj")
    refused(2, "--resolution must lie", "mesh", *run, "new.glb", "--resolution", "2")
    refused(2, "--region is for scenes without end", "mesh", *run, "new.glb", "--region", "2")
    refused(1, "another --density", "mesh", *run, "new.glb", "--density", "1e12", "--resolution", "33")
    refused(1, "no trained run", "splats", "--load-config", "nowhere", "--output-path", "new.ply")
    refused(1, "cannot be read", "view", "nowhere.ply")
    refused(1, "neither", "view", opaque_run / "config.yml")
    refused(2, "--port must lie", "view", path, "--port", "70000")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused(2, "choose another --host or --port", "view", path, "--port", str(taken.getsockname()[1]))


def test_what_is_baked_lies_beside_the_run_unless_told(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.touch()
    assert _target(Splats(load_config=config), "splats.ply") == tmp_path / "splats.ply"
    assert _target(Grid(load_config=tmp_path), "grid.npz") == tmp_path / "grid.npz"
    assert _target(SurfaceMesh(load_config=config), "mesh.glb") == tmp_path / "mesh.glb"
    assert _target(Splats(load_config=config, output_path=Path("a.ply")), "splats.ply") == Path("a.ply")
