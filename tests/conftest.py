"""Shape annotations are checked while tests run, and shared data is found or its absence is said."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# A machine that is at hand for its GPU has few packages.
if find_spec("beartype") is not None:
    install_import_hook(
        [
            *("finer_nerfstudio.inr", "finer_nerfstudio.tasks"),
            *("finer_nerfstudio.runs.isosurface", "finer_nerfstudio.runs.metrics"),
        ],
        "beartype.beartype",
    )
# No test is about time, and the first call of anything in torch takes long.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
LEGO = DATA / "blender" / "lego"


# Before pytest-xdist's own hook, which reads the marks.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several processes share the work by file, because what a file's tests prepare once serves all of them."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Entry points flush denormals for their process, which here is that of the next test too."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def lego() -> Path:
    """The Lego scene, read in place."""
    if not LEGO.exists():
        pytest.skip(f"the Lego scene is not at {LEGO}")
    return LEGO


@pytest.fixture(scope="session")
def shared_images() -> Path:
    """The folder of natural images, read in place."""
    if not (DATA / "images").exists():
        pytest.skip(f"the images are not at {DATA / 'images'}")
    return DATA / "images"


@pytest.fixture(scope="session")
def shared_shapes() -> Path:
    """The folder of scanned shapes, read in place."""
    if not (DATA / "shapes").exists():
        pytest.skip(f"the shapes are not at {DATA / 'shapes'}")
    return DATA / "shapes"


@pytest.fixture(scope="session")
def nerfstudio_commands() -> Iterator[Path]:
    """A folder of Nerfstudio's commands that start in no time, since preloaded.py has their imports behind it."""
    # Nothing that pytest makes: the path of a socket has to be short.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with subprocess.Popen(
            [sys.executable, ROOT / "tests" / "preloaded.py", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield folder
            server.stdin.close()
