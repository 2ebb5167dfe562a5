"""Every command of the README, the tasks and the installation, run as it stands there, only shorter and smaller."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from finer_nerfstudio import preset, save_model
from finer_nerfstudio.files.png import write_image
from finer_nerfstudio.nerf.export.splat_file import write_splats
from finer_nerfstudio.nerf.export.splats import Splats
from finer_nerfstudio.tasks.image.files import sample_image

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
README, TASKS, INSTALLATION, PYTHON = (
    (ROOT / page).read_text() for page in ("README.md", "docs/tasks.md", "docs/installation.md", "docs/python.md")
)
PAGES = README + TASKS + INSTALLATION
PROGRAMS = ("make", "finer", "pip", "ns-train", "ns-eval", "ns-viewer", "ns-render", "ns-export")


def commands() -> list[str]:
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGES, flags=re.DOTALL))
    for block in re.findall(r"```bash\n(.*?)```", PAGES, flags=re.DOTALL):
        spans += block.splitlines()
    return list(dict.fromkeys(span for span in spans if span.split()[0] in PROGRAMS and len(span.split()) > 1))


# Run by other means, or not possible here.
ELSEWHERE = {
    "make test": "is what runs this test",
    "make demo": "has its own test below",
    "make help": "has its own test below",
    "ns-train finer-sine --help": "test_commands.py reads ns-train's help",
    "finer VERB --help": "stands for each verb; tests/cli/test_main.py reads their help",
}
SHORT_TRAINING = "--max-num-iterations 20 --vis tensorboard"
SMALL_SCENE = "--size 48 --train-views 12 --val-views 2 --test-views 2 --supersampling 2"
SMALL_CAPTURE = "--width 48 --views 12 --supersampling 1"


def shell(command: str, folder: Path, **variables: str) -> str:
    environment = {**os.environ, **variables, "TERM": "dumb"}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def programs(nerfstudio_commands: Path) -> Iterator[None]:
    """Have the commands of this environment found first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.pathsep.join([str(nerfstudio_commands), str(BIN), os.environ["PATH"]]))
        yield


def place_of(command: str) -> str:
    """A folder's name for what a command writes."""
    return re.sub(r"\W+", "-", command)


def shortened(command: str) -> str:
    program, *arguments = shlex.split(command.replace("$", "@"))
    if program == "ns-train":
        if "--max-num-iterations" in arguments:
            place = arguments.index("--max-num-iterations")
            del arguments[place : place + 2]
        parsers = [place for place, word in enumerate(arguments) if word in ("blender-views", "nerfstudio-data")]
        place = parsers[0] if parsers else len(arguments)
        arguments[place:place] = SHORT_TRAINING.split()
        if "--downscale-factor" in arguments:  # steps of the paper's size take a CPU minutes
            arguments[place:place] = ["--pipeline.target-num-samples", "4096", "--pipeline.model.grid-resolution", "16"]
    elif command.startswith("finer compare"):
        arguments[arguments.index("--minutes") + 1] = "0.02"
        arguments += ["--methods", "finer-sine"]
    elif command.startswith("finer fit-"):
        # A shape needs a surface before it can be extracted.
        steps = "3" if "fit-image" in command else "60"
        for option, value in (("--minutes", None), ("--steps", steps), ("--size", None)):
            if option in arguments:
                place = arguments.index(option)
                del arguments[place : place + 2]
            arguments += [option, value] if value else []
        arguments += ["--width", "32", "--output-dir", f"outputs/{place_of(command)}"]
        if "fit-sdf" in command:
            arguments += ["--batch-size", "500", "--learning-rate", "1e-3"]
    elif command.startswith("finer reproduce"):
        arguments += ["--steps", "2", "--output-dir", f"outputs/{place_of(command)}"]
        # The IoU of a shape takes millions of points, however small the rest is.
        arguments += ["--methods", "siren", *(["finer-sine"] if "table1" in command else [])]
        sizes = {"table1": ["--size", "16"], "table2": ["--resolution", "16"], "table3": []}
        arguments += sizes[arguments[1]]
    elif command.startswith("finer benchmark"):
        arguments += [
            "--points",
            "64",
            "--repeats",
            "1",
            "--methods",
            "finer-sine",
            "--fit-steps",
            "2",
            "--fit-size",
            "16",
        ]
        arguments += ["--output-dir", f"outputs/{place_of(command)}"]
    elif command.startswith("finer gpu-queue"):
        arguments += ["--quick", "--only", "quick-kernels-*-64", "--output-dir", f"outputs/{place_of(command)}"]
    elif command.startswith("finer stream") and arguments[1] in ("encode", "compare"):
        for option in ("--size", "--steps"):
            if option in arguments:
                place = arguments.index(option)
                del arguments[place : place + 2]
        arguments += ["--steps", "3", "--widths", "6", "12", "--output-dir", f"outputs/{place_of(command)}"]
    elif command.startswith("finer stream") and arguments[1] == "pack":
        arguments += ["--views", "1", "--precision", "float16", "--output-dir", f"outputs/{place_of(command)}"]
    elif command.startswith("finer analyze"):
        training = ["--size", "16", "--steps", "3", "--width", "16"]
        sizes = {
            "initialization": [*training, "--bias-ranges", "1", "5"],
            "gap": [*training, "--scale-parameters", "1", "2"],
            "robustness": [*training, "--scales", "10", "30", "--cells-dir", "outputs/cells"],
            "utilization": [*training, "--methods", "siren", "finer-sine"],
            "ntk": ["--points", "32", "--width", "16"],
        }
        arguments += [*sizes.get(arguments[1], []), "--output-dir", f"outputs/{place_of(command)}"]
    elif command.startswith("finer export") and arguments[1] != "original":
        arguments += ["--view-size", "32", "--held-out", "1"]
        sizes = {"splats": ["--splats", "1000", "--refine-steps", "5"], "grid": ["--resolution", "24"]}
        sizes["mesh"] = ["--resolution", "33"]
        arguments += sizes[arguments[1]]
    if "--num-points" in arguments:
        arguments[arguments.index("--num-points") + 1] = "2000"
    return " ".join([program, *arguments]).replace("@", "$")


@pytest.fixture(scope="module")
def workplace(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's scene and a run trained by the README's own command."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    shell(f"finer demo-scene --output-dir data/demo {SMALL_SCENE}", folder)
    # Long enough for opaque surfaces: ns-export goes on until it has met as many points as it was asked for.
    shell("ns-train finer-wavelet --data data/demo --max-num-iterations 300 --vis tensorboard", folder)
    shell("ns-train finer-sine-stream --data data/demo --max-num-iterations 60 --vis tensorboard", folder)
    shell(f"finer demo-capture --output-dir data/capture {SMALL_CAPTURE}", folder)
    shutil.copy(ROOT / "tests" / "streams" / "version-1-finer-sine-int8.finer", folder / "picture.finer")
    matrix = np.eye(4)
    matrix[2, 3] = 3.0
    frame = {"camera_to_world": matrix.flatten().tolist(), "fov": 40.0, "aspect": 1.0}
    path = {"camera_path": [frame] * 2, "render_height": 32, "render_width": 32, "fps": 2, "seconds": 1.0}
    (folder / "camera_path.json").write_text(json.dumps(path))
    (folder / "pictures").mkdir()
    write_image(folder / "pictures" / "picture.png", sample_image(24).pixels)
    trimesh.creation.torus(1.0, 0.4).export(folder / "torus.ply")
    means, up = torch.rand(50, 3), torch.tensor([[0.0, 0.0, 1.0]]).expand(50, 3)
    rotations = torch.nn.functional.pad(means, (1, 0), value=1.0)
    write_splats(folder / "scan.ply", Splats(means, up, rotations, means - 4.0, means[:, 0], means[:, None]))
    network = preset("siren", "image").network(2, 3, width=8, depth=1)
    signal = {"height": 24, "width": 24, "maximum": 255}
    save_model(folder / "model.safetensors", network, task="image", signal=signal, configuration={"seed": 0})
    return folder


def variables(folder: Path) -> dict[str, str]:
    runs = [folder / "outputs" / "demo" / method for method in ("finer-wavelet", "finer-sine-stream")]
    configs = [min(run.rglob("config.yml")) for run in runs]
    return {
        "SCENE": "data/demo",
        "CAPTURE": "data/capture",
        "CAMERA_PATH": "camera_path.json",
        "RUN": str(configs[0].parent),
        "IMAGE": "pictures/picture.png",
        "IMAGES": "pictures",
        "MESH": "torus.ply",
        "MODEL": "model.safetensors",
        "STREAM": "picture.finer",
        "SPLATS": "scan.ply",
        "STREAM_RUN": str(configs[1].parent),
    }


@pytest.mark.parametrize("command", [command for command in commands() if command not in ELSEWHERE])
def test_command(command: str, workplace: Path) -> None:
    if command.startswith("finer demo-scene"):
        shell(f"{command} {SMALL_SCENE}", workplace)  # the scene that is there already
    elif command.startswith("finer demo-capture"):
        shell(f"{command} {SMALL_CAPTURE}", workplace)  # the capture that is there already
    elif "tiny-cuda-nn" in command:
        pytest.skip("building tiny-cuda-nn takes CUDA and a network")
    elif command.startswith("pip install "):
        shell(command.replace("install", "install --dry-run --no-deps --no-build-isolation"), ROOT)
    elif command.startswith("ns-viewer") or re.search("finer stream serve|finer view| --view$", command):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        option = "--viewer.websocket-port" if command.startswith("ns-viewer") else "--port"
        arguments = f"exec {shortened(command)} {option} {port}"
        environment = {**os.environ, **variables(workplace)}
        with subprocess.Popen(["bash", "-c", arguments], cwd=workplace, env=environment) as server:
            try:
                deadline = time.monotonic() + 300
                while True:
                    assert server.poll() is None
                    assert time.monotonic() < deadline
                    try:
                        assert urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).status == 200
                        break
                    except OSError:
                        time.sleep(0.5)
            finally:
                server.terminate()
    else:
        shell(shortened(command), workplace, **variables(workplace))


def test_there_are_commands() -> None:
    assert len(commands()) > 50
    assert set(ELSEWHERE) <= set(commands())


def test_python_examples() -> None:
    scope: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", PYTHON, flags=re.DOTALL):
        exec(example, scope)
    assert scope["rgb"].shape == (1000, 3)
    assert scope["finer"].shape == (2000, 1)
    assert scope["fitted"].psnr > 15


def test_files_that_the_readme_names_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        # Headings of pages are a matter of test_docs.py.
        assert (ROOT / target.partition("#")[0]).exists(), target


def test_make_help_and_demo(tmp_path: Path) -> None:
    assert "make demo" in shell("make help", ROOT)
    environment = Path(sys.prefix)
    if not (environment / "packages").exists():
        pytest.skip(f"{environment} was not made by make, which would install into it")
    output = shell(
        f"make demo ENV={environment} MINUTES=0.1 DEMO_SCENE={tmp_path}/scene DEMO_OUTPUT={tmp_path}/demo", ROOT
    )
    assert "http://127.0.0.1:" in output, "the viewer's address"
    assert str(tmp_path / "demo" / "comparison.png") in output
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    for method in ("finer-sine", "finer-wavelet"):
        assert 5 < results[method]["psnr"] < 60
    with Image.open(tmp_path / "demo" / "comparison.png") as picture:
        assert picture.width > 1500, "the truth and two renderings, each large enough to look at"
