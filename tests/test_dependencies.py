"""What is installed beside the package, and what the package says that it needs."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

import finer_nerfstudio
from finer_nerfstudio.cli.command import EXTRAS


def imported_packages() -> dict[str, Path]:
    """Packages that the source imports by name, and a file that does."""
    root = Path(finer_nerfstudio.__file__).parent
    found: dict[str, Path] = {}
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0]: path for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found[node.module.split(".")[0]] = path
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("extra", [None, "nerf", "sdf", "cluster"])
def test_all_that_is_imported_is_asked_for(extra: str | None) -> None:
    """By the extra that the message of a missing module names, or without one."""
    wishes = requires("finer-nerfstudio") or []
    wanted = [wish for wish in wishes if (f"extra == '{extra}'" in wish if extra else "extra ==" not in wish)]
    asked_for = {canonical(re.split(r"[^\w.-]", wish)[0]) for wish in wanted}
    providers = packages_distributions()
    imported = {package: path for package, path in imported_packages().items() if EXTRAS.get(package) == extra}
    assert imported
    missing = {
        package: str(path)
        for package, path in imported.items()
        if package not in sys.stdlib_module_names
        and package not in {"finer_nerfstudio", "triton"}  # comes with torch, where there are GPUs
        and not {canonical(name) for name in providers.get(package, [package])} & asked_for
    }
    assert missing == {}


def test_each_package_comes_from_one_distribution() -> None:
    """opencv-python and opencv-python-headless write the same folder; which of the two is imported is then luck."""
    providers = {package: sorted(set(names)) for package, names in packages_distributions().items()}
    assert "cv2" in providers
    several = {package: names for package, names in providers.items() if len(names) > 1}
    # A namespace, which has no file of its own, is made for several.
    assert {package for package in several if importlib.import_module(package).__file__ is not None} == set()
