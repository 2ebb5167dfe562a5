"""Shape annotations are checked while tests run, and shared data is found or its absence is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook(["finer_nerfstudio.inr", "finer_nerfstudio.metrics"], "beartype.beartype")

ROOT = Path(__file__).parents[1]
LEGO = ROOT.parent / "shared" / "data" / "blender" / "lego"


@pytest.fixture(scope="session")
def lego() -> Path:
    """The Lego scene, read in place."""
    if not LEGO.exists():
        pytest.skip(f"the Lego scene is not at {LEGO}")
    return LEGO
