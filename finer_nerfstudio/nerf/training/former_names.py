"""Modules under the names that runs of version 0.1 have for them in their config.yml."""

from __future__ import annotations

import sys
from importlib import import_module

_NERF = "finer_nerfstudio.nerf"
FORMER_MODULES = {
    f"{_NERF}.batches": f"{_NERF}.data.batches",
    f"{_NERF}.dataparser": f"{_NERF}.data.dataparser",
    f"{_NERF}.growing_field": f"{_NERF}.streaming.growing_field",
    f"{_NERF}.pipeline": f"{_NERF}.training.pipeline",
    f"{_NERF}.trainer": f"{_NERF}.training.trainer",
}


def current_name(name: str) -> str:
    """Return today's full name of a class or function of this package."""
    module, _, part = name.rpartition(".")
    return f"{FORMER_MODULES.get(module, module)}.{part}"


def import_former_modules() -> None:
    """Let Nerfstudio's loader, which imports what a config.yml names, find the modules."""
    for former, current in FORMER_MODULES.items():
        sys.modules.setdefault(former, import_module(current))
