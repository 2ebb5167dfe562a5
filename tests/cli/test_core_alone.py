"""What is installed without extras is enough for images, signals and streams."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from finer_nerfstudio.cli.command import EXTRAS

ROOT = Path(__file__).parents[2]

# As in an environment where no extra of the package was installed, but for SciPy, which torchmetrics imports where it
# finds what pip knows of it.
WITHOUT_EXTRAS = f"""
import sys
from importlib.abc import MetaPathFinder


class NotInstalled(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(EXTRAS.keys() - {"scipy"})!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, NotInstalled())
from finer_nerfstudio.cli.main import main

main(sys.argv[1:])
"""
SMALL = ("--size", "24", "--steps", "3")


def finer(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, *arguments], capture_output=True, text=True, check=False, cwd=folder
    )


def test_scipy_is_imported_where_shapes_and_radiance_fields_are() -> None:
    package = ROOT / "finer_nerfstudio"
    users = {path.relative_to(package).parts for path in package.rglob("*.py") if "from scipy" in path.read_text()}
    assert users
    others = {"/".join(parts) for parts in users if parts[0] != "nerf" and parts[:2] != ("tasks", "sdf")}
    assert others == {"files/meshes/mesh.py", "runs/isosurface.py", "runs/metrics.py"}, "of shapes and fields"


def test_images_and_streams(tmp_path: Path) -> None:
    for command in (
        ("fit-image", *SMALL, "--width", "16", "--output-dir", "fit"),
        ("render-image", "--model", "fit", "--output", "again.png"),
        ("stream", "encode", *SMALL, "--widths", "6", "12", "--output-dir", "stream"),
        ("stream", "decode", "stream/sample.finer", "--output-dir", "decoded"),
        ("stream", "inspect", "stream/sample.finer"),
        ("analyze", "ntk", "--points", "16", "--width", "8", "--output-dir", "ntk"),
        (
            "demo-scene",
            "--size",
            "8",
            "--train-views",
            "1",
            "--val-views",
            "1",
            "--test-views",
            "1",
            "--output-dir",
            "s",
        ),
    ):
        done = finer(tmp_path, *command)
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    assert json.loads((tmp_path / "fit" / "metrics.json").read_text())["psnr"] > 0
    assert (tmp_path / "decoded" / "stage-1.png").exists()


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("fit-sdf", "--steps", "1"), "sdf"),
        (("stream", "encode", "shape.obj"), "sdf"),
        (("export", "splats", "--load-config", "run", "--output-path", "a.ply"), "nerf"),
        (("view", "a.ply"), "nerf"),
        (("stream", "pack", "run"), "nerf"),
        (("reproduce", "table2", "--shapes", "shape.obj", "--quick"), "sdf"),
    ],
)
def test_the_extra_that_a_command_needs_is_named(command: tuple[str, ...], extra: str, tmp_path: Path) -> None:
    corners = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yml").touch()
    (tmp_path / "shape.obj").write_text(corners + "f 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n")
    done = finer(tmp_path, *command)
    assert done.returncode == 1
    assert done.stderr.endswith(f"pip install 'finer-nerfstudio[{extra}]'.\n")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_fresh_environment_with_the_core_alone(tmp_path: Path) -> None:
    """Takes the network and minutes: pip installs the package without extras, with PyTorch for processors."""
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin" / "pip", "install", "--quiet"]
    subprocess.run([*pip, "torch", "--index-url", "https://download.pytorch.org/whl/cpu"], check=True)
    subprocess.run([*pip, ROOT], check=True)
    size = sum(path.stat().st_size for path in environment.rglob("*") if path.is_file() and not path.is_symlink())
    compiled = sum(path.stat().st_size for path in environment.rglob("*.pyc"))
    # Beside what Python compiles for itself when it is started.
    assert size - compiled < 1.2e9
    program = environment / "bin" / "finer"
    subprocess.run([program, "fit-image", *SMALL, "--output-dir", tmp_path / "fit"], check=True)
    subprocess.run([program, "stream", "encode", *SMALL, "--output-dir", tmp_path / "stream"], check=True)
    fit = "import numpy, finer_nerfstudio as f; f.fit_array(numpy.sin(numpy.arange(99.0)), steps=3)"
    subprocess.run([environment / "bin" / "python", "-c", fit], check=True, cwd=tmp_path)
