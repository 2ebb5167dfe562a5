"""What fields are compared with trains and is measured like them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_methods.py"


def test_nerfacto_is_compared_under_the_same_clock(run: Run, small_scene: Path, tmp_path: Path) -> None:
    done = run(
        sys.executable,
        SCRIPT,
        *("--data", small_scene, "--methods", "bounded-nerfacto", "--minutes", "0.01", "--eval-view-stride", "4"),
        *("--output-dir", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stdout
    (result,) = json.loads((tmp_path / "out" / "results.json").read_text()).values()
    cells = tmp_path / "out" / "cells"
    training = json.loads((cells / result["config"]).with_name("training.json").read_text())
    assert training["rays"] == 1024 * training["steps"] == 1024 * result["steps"]
    assert training["samples"] == 48 * training["rays"]
    assert training["seconds"] == pytest.approx(60 * result["minutes"])
    assert training["seconds"] >= 0.6
    assert result["views"] == 1
    (picture,) = (cells / result["attempt"] / "test_views").glob("*_img_*.png")
    truth, rendering = np.split(np.asarray(Image.open(picture), dtype=np.float64) / 255.0, 2, axis=1)
    psnr = -10.0 * np.log10(np.mean((truth - rendering) ** 2))
    assert result["psnr"] == pytest.approx(psnr, abs=0.05)
    assert (truth[0, 0] == 1.0).all(), "what alpha cuts out is white"


def test_it_is_evaluated_from_where_it_was_trained() -> None:
    from nerfstudio.cameras.rays import RayBundle
    from nerfstudio.data.scene_box import SceneBox

    from finer_nerfstudio.nerf.bounded_nerfacto import specification

    config = specification().config.pipeline.model
    model = config.setup(scene_box=SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])), num_train_data=1)
    rays = RayBundle(torch.zeros(4, 3), torch.ones(4, 3) / 3**0.5, torch.ones(4, 1))
    for mode in (True, False):
        seen = model.train(mode).collider(rays)
        assert float(seen.nears.min()) == pytest.approx(1.6)
        assert float(seen.fars.max()) == pytest.approx(4.8)
