"""The folder that ``ns-train`` leaves, looked at without Nerfstudio, whose import takes seconds."""

from __future__ import annotations

from pathlib import Path

from finer_nerfstudio.errors import InputError


def run_config(run: Path) -> Path:
    """Return the config.yml of a run that is named by it or by its folder.

    Raises:
        InputError: where there is none.
    """
    path = run / "config.yml" if run.is_dir() else run
    if not path.is_file():
        raise InputError(f"{run} is no trained run: name the folder with its config.yml, which ns-train prints.")
    return path
