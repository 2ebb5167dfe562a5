"""Nerfstudio's own programs on a scene, for a given time: nerfacto, and splats refined by gsplat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.reproduction.radiance.cells import NERFACTO, environment_of, last_words
from finer_nerfstudio.reproduction.radiance.programs import (
    ProgramFailed,
    evaluate,
    run_program,
    train,
    training_summary,
    view_pictures,
)
from finer_nerfstudio.reproduction.radiance.protocol import RadianceProtocol

Program = Literal["nerfacto", "splats"]

_NEEDS: dict[Program, Sequence[str]] = {"nerfacto": ("nerfstudio",), "splats": ("nerfstudio", "gsplat")}


def missing(program: Program) -> str | None:
    """Return a sentence on what a program needs and is not installed here, None where all is."""
    absent = [name for name in _NEEDS[program] if find_spec(name) is None]
    if not absent:
        return None
    are = "is" if len(absent) == 1 else "are"
    return f"{' and '.join(absent)} {are} not installed here: pip install 'finer-nerfstudio[nerf]'."


def nerfacto(scene: Path, seconds: float, folder: Path, *, device: str) -> dict[str, Any]:
    """Train nerfacto on all training views, without tiny-cuda-nn, and measure it on all test views.

    Args:
        scene: in Blender format.
        seconds: of training.
        folder: of the run, its logs and pictures.
        device: "cpu" or "cuda".

    Raises:
        InputError: where one of Nerfstudio's commands fails.
    """
    return _trained(NERFACTO, scene, seconds, folder, device)[1]


def splats(scene: Path, seconds: float, folder: Path, *, device: str, method: str = "finer-sine") -> dict[str, Any]:
    """Train a field, bake it into splats and refine them, and compare the splats with the field on the test views.

    Args:
        scene: in Blender format.
        seconds: of training.
        folder: of the run, its logs and pictures.
        device: "cpu" or "cuda".
        method: of the field.

    Raises:
        InputError: where a command fails.
    """
    config, field = _trained(method, scene, seconds, folder, device)
    target, log = folder / "splats.ply", folder / "splats.log"
    arguments = ("export", "splats", "--load-config", str(config), "--output-path", str(target), "--overwrite")
    try:
        run_program("finer", *arguments, "--held-out", "0", log=log)
    except ProgramFailed as error:
        raise InputError(f"splats: {error} ({last_words(log)})") from error
    found = json.loads(target.with_name(f"{target.name}.json").read_text())
    kept = ("splats", "bytes", "degree", "refine_steps", "drawn_by", "psnr", "ssim", "before_refinement", "seconds")
    return {**{name: found.get(name) for name in kept}, "field": field, "measured_against": "the field"}


def _trained(method: str, scene: Path, seconds: float, folder: Path, device: str) -> tuple[Path, dict[str, Any]]:
    """A run's ``config.yml``, and what was measured of it."""
    folder.mkdir(parents=True, exist_ok=True)
    protocol = RadianceProtocol(0, minutes=seconds / 60.0)
    log = folder / "training.log"
    try:
        config = train(
            method,
            scene,
            folder / "run",
            options=[*protocol.training_options(method), "--machine.device-type", device],
            log=log,
            environment=environment_of(method),
        )
        log = folder / "evaluation.log"
        test = evaluate(config, folder, log=log, environment=environment_of(method))
    except ProgramFailed as error:
        raise InputError(f"{method}: {error} ({last_words(log)})") from error
    summary = training_summary(config) or {}
    return config, {
        "psnr": test["psnr"],
        "ssim": test["ssim"],
        "lpips": test.get("lpips"),
        "views": len(view_pictures(folder)),
        **{name: summary.get(name) for name in ("steps", "rays_per_second", "parameters")},
        "train_seconds": summary.get("seconds"),
    }
