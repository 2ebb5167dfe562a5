"""What people install: an sdist and a wheel."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from finer_nerfstudio._version import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def test_both_are_fit_for_an_index(distributions: Path) -> None:
    files = sorted(distributions.iterdir())
    assert [path.name for path in files] == [
        f"finer_nerfstudio-{__version__}-py3-none-any.whl",
        f"finer_nerfstudio-{__version__}.tar.gz",
    ]
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_the_wheel_has_every_file_of_the_package_and_no_other(distributions: Path) -> None:
    with zipfile.ZipFile(next(distributions.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
        entry_points = wheel.read(f"finer_nerfstudio-{__version__}.dist-info/entry_points.txt").decode()
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "finer_nerfstudio"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert packed == set(listed.stdout.split())
    assert "finer = finer_nerfstudio.cli.main:main" in entry_points
    assert "finer-sine = finer_nerfstudio.nerf.configs:finer_sine" in entry_points


def test_the_sdist_has_its_tests(distributions: Path) -> None:
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/conftest.py", "scripts/fit_image.py"} <= names
