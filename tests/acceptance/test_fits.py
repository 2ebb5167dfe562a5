"""The commands that fit images and shapes, as a user types them: results, resuming after a kill, bad input."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from finer_nerfstudio.files.png import write_image
from finer_nerfstudio.tasks.image.files import sample_image

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
SMALL = ["--width", "32", "--depth", "2"]

Command = Callable[..., "tuple[int, str]"]


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    write_image(path, sample_image(32).pixels)
    return path


@pytest.fixture(scope="session")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ball") / "ball.ply"
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=20.0)
    mesh.apply_translation([100.0, 0.0, -50.0])
    mesh.export(path)
    return path


# What the commands leave behind


def test_an_image_and_its_decoding(command: Command, picture: Path, tmp_path: Path) -> None:
    code, output = command("fit_image.py", "--image", picture, *SMALL, "--steps", "60", "--output-dir", "out")
    assert code == 0, output
    out = tmp_path / "out"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["psnr"] > 12
    assert metrics["lpips"] is None
    assert metrics["steps"] == 60
    assert metrics["configuration"]["method"] == "finer-sine"
    assert metrics["configuration"]["bias_range"] == pytest.approx(2**-0.5)
    assert {"finer_nerfstudio", "torch", "numpy", "python"} <= metrics["versions"].keys()
    assert (out / "curve.csv").read_text().startswith("step,psnr\n0,")
    assert (out / "report.html").read_text().count("data:image/png;base64,") == 6
    with Image.open(out / "reconstruction.png") as decoded:
        assert decoded.size == (32, 32)
        expected = np.asarray(decoded)

    code, output = command("render_image.py", "--model", out / "model.safetensors", "--output", "same.png")
    assert code == 0, output
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "same.png")), expected)
    code, output = command(
        "render_image.py", "--model", out / "model.safetensors", "--crop", "4", "0", "20", "8", "--scale", "3"
    )
    assert code == 0, output
    assert Image.open(tmp_path / "rendered.png").size == (48, 24)


def test_without_an_image_the_sample_is_fitted(command: Command, tmp_path: Path) -> None:
    code, output = command("fit_image.py", "--size", "24", *SMALL, "--steps", "3", "--method", "finer-wavelet")
    assert code == 0, output
    assert "generated sample" in output
    assert (tmp_path / "outputs" / "image" / "sample-finer-wavelet" / "report.html").exists()


def test_methods_side_by_side(command: Command, picture: Path, tmp_path: Path) -> None:
    options = ["--image", picture, *SMALL, "--steps", "5", "--compare", "siren", "finer-sine", "--output-dir", "both"]
    code, output = command("fit_image.py", *options)
    assert code == 0, output
    assert list(json.loads((tmp_path / "both" / "metrics.json").read_text())) == ["siren", "finer-sine"]
    first = (tmp_path / "both" / "siren" / "metrics.json").read_text()
    code, output = command("fit_image.py", *options, "--resume")
    assert code == 0, output
    assert (tmp_path / "both" / "siren" / "metrics.json").read_text() == first, "finished methods are not run again"


def test_a_shape_comes_back_in_its_place(command: Command, ball: Path, tmp_path: Path) -> None:
    code, output = command(
        "fit_sdf.py", "--mesh", ball, "--width", "48", "--depth", "2", "--steps", "250", "--learning-rate", "2e-3",
        "--batch-size", "2000", "--output-dir", "out",
    )  # fmt: skip
    assert code == 0, output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["iou"] > 0.8
    assert metrics["iou_paper"] > 0.8
    assert metrics["chamfer_paper"] == pytest.approx(metrics["chamfer"] * (0.9 / 40.0) ** 2, rel=0.01)
    mesh = trimesh.load(tmp_path / "out" / "mesh.ply", process=False)
    assert isinstance(mesh, trimesh.Trimesh)
    # Not the mean: a short training leaves specks in the corners of the box.
    center = np.median(mesh.vertices, axis=0)
    np.testing.assert_allclose(center, [100.0, 0.0, -50.0], atol=2.0)
    assert np.median(np.linalg.norm(mesh.vertices - center, axis=1)) == pytest.approx(20.0, rel=0.05)
    assert (tmp_path / "out" / "report.html").read_text().count("data:image/png;base64,") == 2


def test_a_shape_on_a_map_comes_back_around_a_stated_origin(command: Command, tmp_path: Path) -> None:
    place = np.array([512_345.678, 5_432_109.876, 312.5])
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=20.0)
    lines = ["v {!r} {!r} {!r}".format(*map(float, vertex)) for vertex in mesh.vertices + place]
    lines += ["f {} {} {}".format(*(face + 1)) for face in mesh.faces]
    (tmp_path / "map.obj").write_text("\n".join(lines))
    options = [
        "--mesh", "map.obj", "--width", "32", "--depth", "2", "--steps", "120", "--learning-rate", "2e-3",
        "--batch-size", "1000",
    ]  # fmt: skip
    code, output = command("fit_sdf.py", *options, "--output-dir", "single")
    assert code == 0, output
    assert "mesh.ply is around (51" in output
    assert "--resolution 256 measures in full" in output.replace("\n", " ")
    metrics = json.loads((tmp_path / "single" / "metrics.json").read_text())
    found = trimesh.load(tmp_path / "single" / "mesh.ply", process=False)
    assert isinstance(found, trimesh.Trimesh)
    np.testing.assert_allclose(np.median(found.vertices + metrics["mesh_origin"], axis=0), place, atol=5.0)


def test_a_table_and_its_second_run(command: Command, picture: Path, tmp_path: Path) -> None:
    options = [
        "table1", "--images", picture, "--methods", "siren", "finer-sine", "wire", "--steps", "4", "--size", "16",
    ]  # fmt: skip
    code, output = command("reproduce.py", *options)
    assert code == 0, output
    assert "finer-sine" in (tmp_path / "outputs" / "table1" / "table.md").read_text()
    cells = {path: path.read_text() for path in (tmp_path / "outputs" / "table1" / "cells").iterdir()}
    assert len(cells) >= 3 + 3, "the learning rates of wire are cells too"
    code, output = command("reproduce.py", *options)
    assert code == 0, output
    assert "from an earlier run" in output
    assert {path: path.read_text() for path in cells} == cells


# Resuming


def start(script: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / script), *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # One thread each: steps this small gain nothing from more, and other work on the machine makes them wait.
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        },
    )


def test_a_killed_fit_goes_on_to_the_same_end(picture: Path, tmp_path: Path) -> None:
    options = [
        "--image",
        picture,
        "--width",
        "64",
        "--method",
        "finer-wavelet",
        "--batch-size",
        "300",
        "--steps",
        "4000",
    ]
    killed = tmp_path / "killed"
    process = start("fit_image.py", *options, "--output-dir", killed)
    deadline = time.monotonic() + 200
    while not (killed / "checkpoint.safetensors").exists():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "metrics.json").exists()
    whole = tmp_path / "whole"
    for folder, resume in ((killed, ["--resume"]), (whole, [])):
        process = start("fit_image.py", *options, "--output-dir", folder, *resume)
        assert process.wait(timeout=300) == 0
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (killed, whole))
    for numbers in (first, second):
        del numbers["seconds"]
    assert first == second
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (killed / "curve.csv").read_text() == (whole / "curve.csv").read_text()


# Bad input


def images() -> dict[str, bytes]:
    import io

    content = io.BytesIO()
    Image.fromarray(sample_image(64).pixels).save(content, "PNG")
    whole = content.getvalue()
    cut = whole[: len(whole) // 2]
    return {"empty.png": b"", "text.png": b"no image", "cut.png": cut, "good.png": whole, "reconstruction.png": whole}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--image", "missing.png"], 1, "no image"),
        (["--image", "."], 1, "folder"),
        (["--image", "empty.png"], 1, "zero bytes"),
        (["--image", "text.png"], 1, "cannot be read"),
        (["--image", "cut.png"], 1, "cannot be read"),
        (["--image", "good.png", "--size", "0"], 2, "--size"),
        (["--image", "good.png", "--size", "65"], 2, "--size"),
        (["--image", "good.png", "--steps", "0"], 2, "--steps"),
        (["--image", "good.png", "--minutes", "0"], 2, "--minutes"),
        (["--image", "good.png", "--batch-size", "0"], 2, "--batch-size"),
        (["--image", "good.png", "--batch-size", "half"], 2, "batch-size"),
        (["--image", "good.png", "--width", "0"], 2, "width"),
        (["--image", "good.png", "--method", "relu"], 2, "method"),
        (["--image", "good.png", "--device", "abacus"], 2, "--device"),
        (["--image", "good.png", "--device", "cuda:99"], 2, "--device"),
        (["--image", "good.png", "--learning-rate", "-1"], 2, "learning_rate"),
        (
            ["--image", "good.png", "--learning-rate", "1e30", "--method", "finer-wavelet", "--steps", "50"],
            1,
            "diverged",
        ),
        (["--image", "good.png", "--method", "siren", "--omega-f", "2"], 2, "omega_f"),
        (["--image", "good.png", "--steps", "1", "--output-dir", "text.png"], 1, "is a file"),
        (["--image", "good.png", "--steps", "1", "--output-dir", "text.png/below"], 1, "text.png"),
        (["--image", "good.png", "--compare", "siren", "relu"], 2, "compare"),
        (["--size", "0"], 2, "--size"),
        (["--image", "good.png", "--seed", "100000000000000000000"], 2, "--seed"),
        (["--image", "good.png", "--width", "10000000000"], 2, "--width"),
        (["--image", "good.png", "--learning-rate", "1e38", "--steps", "1"], 1, "diverged"),
        (["--image", "reconstruction.png", "--output-dir", "."], 2, "overwritten"),
        (["--image", "good.png", "--bias-range", "auto", "--method", "siren"], 2, "FINER++"),
    ],
)
def test_what_is_wrong_with_an_image_run_is_said(
    arguments: list[str], code: int, words: str, command: Command, tmp_path: Path
) -> None:
    for name, content in images().items():
        (tmp_path / name).write_bytes(content)
    found, output = (
        command("fit_image.py", *SMALL, *arguments)
        if "--width" not in arguments
        else command("fit_image.py", *arguments)
    )
    assert found == code, output
    assert words in output.replace("\n", " ")
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--mesh", "missing.obj"], 1, "no shape"),
        (["--mesh", "empty.obj"], 1, "zero bytes"),
        (["--mesh", "text.obj"], 1, "text.obj"),
        (["--mesh", "plane.ply"], 1, "flat"),
        (["--mesh", "cloud.xyz"], 1, "without normals"),
        (["--mesh", "colours.xyz"], 1, "look like colours"),
        (["--mesh", "deep.gltf"], 1, "deep.gltf"),
        (["--mesh", "huge.obj"], 1, "use units"),
        (["--mesh", "x" * 3000 + ".obj"], 1, "cannot be opened"),
        (["--mesh", "ball.ply", "--steps", "0"], 2, "--steps"),
        (["--mesh", "ball.ply", "--batch-size", "1"], 2, "--batch-size"),
        (["--mesh", "ball.ply", "--resolution", "4"], 2, "--resolution"),
        (["--mesh", "ball.ply", "--resolution", "100000"], 2, "--resolution"),
        (["--mesh", "ball.ply", "--bias-range", "auto"], 2, "images"),
        (["--mesh", "ball.ply", "--steps", "1", "--resolution", "8", "--omega-0", "1e-9"], 1, "no surface"),
    ],
)
def test_what_is_wrong_with_a_shape_run_is_said(
    arguments: list[str], code: int, words: str, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "empty.obj").write_bytes(b"")
    (tmp_path / "text.obj").write_bytes(b"no mesh")
    trimesh.creation.icosphere(subdivisions=1).export(tmp_path / "ball.ply")
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], [[0, 1, 2], [1, 3, 2]])
    flat.export(tmp_path / "plane.ply")
    np.savetxt(tmp_path / "cloud.xyz", np.random.default_rng(0).normal(size=(20, 3)))
    np.savetxt(tmp_path / "colours.xyz", np.random.default_rng(0).uniform(0, 255, size=(20, 6)))
    (tmp_path / "deep.gltf").write_bytes(b'{"asset":' + b"[" * 100_000)
    trimesh.creation.icosphere(subdivisions=1, radius=1e170).export(tmp_path / "huge.obj", digits=3)
    found, output = command("fit_sdf.py", *SMALL, *arguments)
    assert found == code, output
    assert words in output.replace("\n", " ")
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ["--model", "missing.safetensors"],
            1,
            "there is no file missing.safetensors: name the model.safetensors that",
        ),
        (["--model", "text.safetensors"], 1, "text.safetensors cannot be read"),
        (["--model", "picture.png"], 1, "picture.png cannot be read"),
        (["--model", "empty"], 1, "there is no file empty/model.safetensors: name the model.safetensors that"),
        (["--model", "model.safetensors", "--scale", "0"], 2, "--scale"),
        (["--model", "model.safetensors", "--scale", "2", "--width", "10"], 2, "exclude"),
        (["--model", "model.safetensors", "--height", "0"], 2, "--height"),
        (["--model", "model.safetensors", "--scale", "1e6"], 2, "gigapixel"),
        (["--model", "model.safetensors", "--scale", "1e308"], 2, "--scale"),
        (["--model", "model.safetensors", "--crop", "0", "0", "99", "8"], 2, "--crop"),
        (["--model", "model.safetensors", "--crop", "5", "5", "5", "8"], 2, "--crop"),
        (["--model", "model.safetensors", "--output", "."], 2, "--output"),
    ],
)
def test_what_is_wrong_with_a_rendering_is_said(
    arguments: list[str], code: int, words: str, command: Command, tmp_path: Path
) -> None:
    from finer_nerfstudio import preset, save_model

    (tmp_path / "text.safetensors").write_text("no model")
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    network = preset("siren", "image").network(2, 3, width=8, depth=1)
    signal = {"height": 16, "width": 16, "maximum": 255}
    save_model(tmp_path / "model.safetensors", network, task="image", signal=signal, configuration={})
    found, output = command("render_image.py", *arguments)
    assert found == code, output
    assert words in output.replace("\n", " ")
    assert "Traceback" not in output


def test_a_run_is_neither_lost_nor_mixed_with_another(command: Command, picture: Path, tmp_path: Path) -> None:
    options = ["--image", picture, *SMALL, "--output-dir", "out"]
    assert command("fit_image.py", *options, "--steps", "3")[0] == 0
    before = (tmp_path / "out" / "metrics.json").read_text()
    code, output = command("fit_image.py", *options, "--steps", "3")
    assert code == 2
    assert "--resume" in output
    code, output = command("fit_image.py", *options, "--steps", "4", "--resume")
    assert code == 2
    assert "steps was 3, is 4" in output
    assert (tmp_path / "out" / "metrics.json").read_text() == before
    assert command("fit_image.py", *options, "--steps", "4", "--overwrite")[0] == 0
    assert (tmp_path / "out" / "metrics.json.previous").read_text() == before


def test_what_is_wrong_with_a_table_is_said(command: Command, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / picture.name).write_bytes(picture.read_bytes())
    for arguments, words in (
        (["table1", "--images", picture, tmp_path / "a"], "both be called"),
        (["table1", "--images", picture, "--steps", "0"], "--steps"),
        (["table1", "--images", picture, "--size", "0"], "--size"),
        (["table2", "--shapes", picture, "--resolution", "1"], "--resolution"),
        (["table1", "--images", "--quick"], "--images needs at least one"),
        (["table1", "--images", picture, "--methods"], "--methods needs at least one"),
        (["table3"], "--scenes"),
    ):
        code, output = command("reproduce.py", *arguments)
        assert code == 2, output
        assert words in output


def test_a_refused_command_leaves_the_run_alone(command: Command, picture: Path, tmp_path: Path) -> None:
    options = ["--image", picture, *SMALL, "--steps", "2", "--output-dir", "out"]
    assert command("fit_image.py", *options)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for wrong in (["--overwrite", "--omega-f", "5"], ["--compare", "siren", "gauss"]):
        code, output = command("fit_image.py", *options, *wrong)
        assert code == 2, output
    assert command("fit_image.py", *options, "--resume", "--compare", "siren")[0] == 2
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "out" / "checkpoint.safetensors").unlink()
    code, output = command("fit_image.py", *options, "--seed", "5", "--resume")
    assert code == 2, output
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before[tmp_path / "out" / "model.safetensors"]


def test_a_full_disk_is_said(command: Command, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    code, output = command("fit_image.py", "--image", picture, *SMALL, "--steps", "2")
    assert code == 1
    assert "No space left on device" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("command", ["fit_image.py", "fit_sdf.py", "render_image.py", "reproduce.py table2"])
def test_help_needs_no_nerfstudio(command: str) -> None:
    script, *words = command.split()
    code = (
        "import runpy, sys\n"
        f"sys.argv = {[script, *words, '--help']!r}\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPTS / script)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'nerfstudio', 'nerfacc', 'open3d', 'matplotlib', 'torchmetrics', 'trimesh', 'scipy', 'skimage'}\n"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert "default" in done.stdout
