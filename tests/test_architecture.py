"""Which room may import which: every arrow that is not allowed here is forbidden, in both directions."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "finer_nerfstudio"

# A room and those that it may use; everyone may use errors.py and _version.py. tasks and nerf never meet.
_BELOW_TASKS = {"inr", "files", "streams", "runs"}
_BELOW_STUDIES = _BELOW_TASKS | {"tasks", "nerf"}
ARROWS: dict[str, set[str]] = {
    "inr": set(),
    "files": {"inr"},
    "streams": {"inr"},
    "runs": {"inr", "files", "streams"},
    "tasks": _BELOW_TASKS,
    "nerf": _BELOW_TASKS,
    "analysis": _BELOW_STUDIES,
    "reproduction": _BELOW_STUDIES,
    "benchmarks": _BELOW_STUDIES,
    "demo": set(),
    "cli": _BELOW_STUDIES | {"analysis", "reproduction", "benchmarks", "demo"},
}
EVERYBODYS = {"errors", "_version"}
# Packages that one room alone imports.
OUTSIDE = {"nerfstudio": "nerf", "nerfacc": "nerf", "viser": "nerf", "gsplat": "nerf"}


def imports_of(source: str) -> set[str]:
    """Return the full names that a module imports, wherever it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def faults(room: str, source: str) -> Iterator[str]:
    """Yield what a module of a room must not import."""
    for name in imports_of(source):
        package, _, rest = name.partition(".")
        if package == "finer_nerfstudio":
            target = rest.split(".")[0]
            if not target and f"{package}._version" not in imports_of(source):
                yield "the package's root"
            elif target in ARROWS and target != room and target not in ARROWS[room]:
                yield name
            elif target and target not in ARROWS.keys() | EVERYBODYS:
                yield f"the package's root ({name})"
        elif OUTSIDE.get(package, room) != room:
            yield name


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    assert sorted(faults(room, path.read_text())) == []


def test_rooms_are_those_that_there_are() -> None:
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == ARROWS.keys()
    assert {path.stem for path in PACKAGE.glob("*.py")} == EVERYBODYS | {"__init__"}


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("tasks", "from finer_nerfstudio.nerf.field import FinerField"),
        ("nerf", "from finer_nerfstudio.tasks.image import fit"),
        ("nerf", "def late():\n    import finer_nerfstudio.tasks.sdf.shape"),
        ("runs", "from finer_nerfstudio.tasks.signal.grid import GridSignal"),
        ("inr", "from finer_nerfstudio.files.atomic import write_json"),
        ("analysis", "from finer_nerfstudio.cli.main import main"),
        ("tasks", "from finer_nerfstudio import preset"),
        ("tasks", "from nerfstudio.cameras.rays import RayBundle"),
    ],
)
def test_other_arrows_are_found(room: str, source: str) -> None:
    assert list(faults(room, source))


@pytest.mark.parametrize("path", sorted((PACKAGE / "inr").rglob("*.py")), ids=lambda path: path.stem)
def test_the_representation_imports_torch_and_itself(path: Path) -> None:
    for name in imports_of(path.read_text()):
        allowed = {"torch", "jaxtyping", "finer_nerfstudio", *sys.stdlib_module_names}
        if path.stem.startswith("triton_"):  # imported where a CUDA tensor has arrived, not before
            allowed.add("triton")
        assert name.split(".")[0] in allowed, name


@pytest.mark.parametrize(
    ("statement", "late"),
    [
        ("import finer_nerfstudio, finer_nerfstudio.cli.main", ("torch", "numpy", "tyro", "rich")),
        ("from finer_nerfstudio import fit_array", ("nerfstudio", "nerfacc", "triton", "open3d", "trimesh", "igl")),
        ("import finer_nerfstudio.cli.fit_image", ("nerfstudio", "nerfacc", "open3d", "trimesh", "igl", "matplotlib")),
        ("import finer_nerfstudio.cli.stream", ("nerfstudio", "nerfacc", "open3d", "trimesh", "igl")),
    ],
)
def test_what_is_imported_late(statement: str, late: tuple[str, ...]) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_exported_exists() -> None:
    import finer_nerfstudio

    for name in finer_nerfstudio.__all__:
        assert getattr(finer_nerfstudio, name) is not None
    assert set(finer_nerfstudio.__all__) <= set(dir(finer_nerfstudio))
    with pytest.raises(AttributeError, match="no attribute 'finer'"):
        finer_nerfstudio.finer  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
