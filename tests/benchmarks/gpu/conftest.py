"""A toy bundle, and an environment with nothing but what a GPU machine has and the listed wheels."""

from __future__ import annotations

import re
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from finer_nerfstudio.benchmarks.gpu.bundle import Contents, write_bundle
from finer_nerfstudio.benchmarks.gpu.preparing import prepare
from finer_nerfstudio.benchmarks.gpu.wheels import PRESENT, WHEELS
from finer_nerfstudio.demo.blender import DemoScene, make_demo_scene
from finer_nerfstudio.files.png import write_image
from finer_nerfstudio.tasks.image.files import sample_image
from finer_nerfstudio.tasks.sdf.shape import sample_shape

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Toy:
    """A bundle, and what it was made of."""

    folder: Path
    contents: Contents
    scene: Path
    images: list[Path]
    shape: Path


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A toy bundle made from a demo scene, two generated pictures and a generated mesh."""
    folder = tmp_path_factory.mktemp("bundle")
    scene = folder / "demo"
    make_demo_scene(DemoScene(output_dir=scene, size=24, train_views=8, val_views=1, test_views=3, supersampling=1))
    images = [folder / f"picture_{number}.png" for number in range(2)]
    for number, path in enumerate(images):
        write_image(path, sample_image(32 + 4 * number).pixels)
    mesh, shape = sample_shape(resolution=20), folder / "ring.obj"
    lines = [f"v {x:.9f} {y:.9f} {z:.9f}" for x, y, z in mesh.vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in mesh.faces + 1]
    shape.write_text("\n".join(lines))
    contents = prepare(scene, images, shape, quick=True, report=lambda *_: None)
    write_bundle(folder / "toy", contents)
    return Toy(folder / "toy", contents, scene, images, shape)


def canonical(name: str) -> str:
    """A distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names: list[str]) -> dict[str, Distribution]:
    """Distributions and all that they ask for without extras, as far as they are installed here."""
    found: dict[str, Distribution] = {}
    todo = list(names)
    while todo:
        name = canonical(todo.pop())
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # triton, where torch is of the kind for processors
            continue
        for line in found[name].requires or []:
            wish = Requirement(line)
            # torch asks for parts of CUDA as extras of a package that has nothing else.
            extras = {"", *wish.extras}
            if wish.marker is None or wish.marker.evaluate({"extra": ""}):
                todo.append(wish.name)
                todo += _of_extras(wish.name, extras - {""})
    return found


def _of_extras(name: str, extras: set[str]) -> list[str]:
    try:
        lines = distribution(name).requires or []
    except PackageNotFoundError:
        return []
    wishes = [Requirement(line) for line in lines]
    return [
        wish.name
        for wish in wishes
        if wish.marker is not None and any(wish.marker.evaluate({"extra": extra}) for extra in extras)
    ]


@dataclass(frozen=True)
class Bare:
    """An environment.

    Attributes:
        command: the start of a command line for Python there; code follows, and then its arguments.
        present: distributions that a GPU machine has.
    """

    command: list[str]
    present: set[str]


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Bare:
    """The standard library, what a GPU machine has, the listed wheels and this project, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    present = closure(list(PRESENT))
    for found in [*present.values(), *(distribution(wheel.name) for wheel in WHEELS)]:
        assert found.files is not None
        for top in {path.parts[0] for path in found.files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(found.locate_file(top))))
    paths = [sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED"), folder, ROOT]
    code = f"import sys; sys.path[:] = {[str(path) for path in paths]!r}; exec(sys.argv.pop(1))"
    return Bare([sys.executable, "-I", "-S", "-c", code], set(present))
