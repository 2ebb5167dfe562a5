"""Which room may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "finer_nerfstudio"


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted((PACKAGE / "inr").rglob("*.py")), ids=lambda path: path.stem)
def test_the_representation_imports_torch_and_itself(path: Path) -> None:
    for name in imports_of(path):
        assert not name.startswith("finer_nerfstudio") or name.startswith("finer_nerfstudio.inr"), name
        allowed = {"torch", "jaxtyping", "finer_nerfstudio", *sys.stdlib_module_names}
        if path.stem.startswith("triton_"):  # imported where a CUDA tensor has arrived, not before
            allowed.add("triton")
        assert name.split(".")[0] in allowed, name


def test_nerfstudio_is_imported_by_its_own_room_only() -> None:
    for path in PACKAGE.rglob("*.py"):
        if PACKAGE / "nerf" not in path.parents:
            for name in imports_of(path):
                assert name.split(".")[0] != "nerfstudio", path
                assert not name.startswith("finer_nerfstudio.nerf"), path


@pytest.mark.parametrize("path", sorted((PACKAGE / "files").rglob("*.py")), ids=lambda path: path.stem)
def test_files_are_read_without_knowing_what_for(path: Path) -> None:
    allowed = ("finer_nerfstudio.errors", "finer_nerfstudio.memory", "finer_nerfstudio.files")
    for name in imports_of(path):
        assert not name.startswith("finer_nerfstudio") or name.startswith(allowed), name


def test_importing_the_package_leaves_nerfstudio_alone() -> None:
    late = ("nerfstudio", "nerfacc", "triton")
    code = f"import sys, finer_nerfstudio; print([m for m in sys.modules if m.split('.')[0] in {late}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_exported_exists() -> None:
    import finer_nerfstudio

    for name in finer_nerfstudio.__all__:
        assert getattr(finer_nerfstudio, name) is not None
