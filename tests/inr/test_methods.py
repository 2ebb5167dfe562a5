"""The registry of methods: one row is all that a new method takes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from finer_nerfstudio.inr.activations import ReLU, VariablePeriodic
from finer_nerfstudio.inr.methods import METHODS, TASKS, TaskSettings, preset, register
from finer_nerfstudio.reproduction import published

ROW = METHODS["finer-gauss"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, "there is a method finer-gauss already"),
        ({"name": "new", "base": "old"}, "made from old, which is no method"),
        ({"name": "new", "tasks": {"image": ROW.tasks["image"]}}, "no settings for the task sdf"),
        ({"name": "new", "tasks": {**ROW.tasks, "nerf": TaskSettings(1e-4)}}, "no bias range for the task nerf"),
    ],
)
def test_rows_that_are_incomplete(change: dict, complaint: str) -> None:
    before = dict(METHODS)
    with pytest.raises(ValueError, match=complaint):
        register(replace(ROW, **change))
    assert before == METHODS


@pytest.mark.parametrize("method", METHODS)
def test_rows_say_all_that_they_are_used_for(method: str) -> None:
    row = METHODS[method]
    assert row.tasks.keys() == set(TASKS)
    assert row.description.endswith(".")
    assert len(row.description) < 80
    assert isinstance(row.activation, VariablePeriodic) == (row.base is not None)
    for task in TASKS:
        assert preset(method, task).bias_range == row.tasks[task].bias_range
    if row.base is not None:
        assert isinstance(row.activation, VariablePeriodic)
        assert row.activation.base == METHODS[row.base].activation
    if isinstance(row.activation, ReLU):
        assert row.encoding_frequencies


def test_every_method_has_its_published_numbers() -> None:
    for table in (published.TABLE_1, published.TABLE_2, published.TABLE_2_ARMADILLO, published.TABLE_3):
        assert table.keys() == METHODS.keys()


def test_ns_train_lists_every_method() -> None:
    from finer_nerfstudio.nerf.configs import SPECIFICATIONS

    found = {
        entry.name: entry.value
        for entry in entry_points(group="nerfstudio.method_configs")
        if entry.value.startswith("finer_nerfstudio.")
    }
    assert found == {name: f"finer_nerfstudio.nerf.configs:{name.replace('-', '_')}" for name in SPECIFICATIONS}, (
        "pyproject.toml names them"
    )
    assert SPECIFICATIONS.keys() == {*METHODS, *(f"{name}-stream" for name, row in METHODS.items() if row.grows)}
    for entry in entry_points(group="nerfstudio.method_configs"):
        if entry.name in SPECIFICATIONS:
            assert entry.load() is SPECIFICATIONS[entry.name]


# What two files get where a method is added: an activation, and a row.
SINC = """
import json, sys
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from finer_nerfstudio.inr.activations import Activation, variable_periodic
from finer_nerfstudio.inr.methods import METHODS, Method, RadianceTuning, TaskSettings, register


@dataclass(frozen=True)
class Sinc(Activation):
    s_0: float = 1.0
    family: ClassVar[str] = "sinc"

    def value(self, x):
        return torch.sinc(self.s_0 * x)

    def vjp(self, x, grad):
        angle = torch.pi * self.s_0 * x
        slope = torch.where(angle.abs() < 1e-3, -angle / 3, (angle.cos() - torch.sinc(self.s_0 * x)) / angle)
        return grad * slope * torch.pi * self.s_0

    def rescaled(self, factor):
        return replace(self, s_0=self.s_0 * factor)


register(
    Method(
        "finer-sinc",
        "FINER++ sinc: variable-periodic sinc.",
        variable_periodic(Sinc(10.0), omega_f=10.0),
        {task: TaskSettings(1e-3, 1.0) for task in ("image", "sdf", "nerf")},
        RadianceTuning(3e-4),
    )
)
"""


def with_sinc(program: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SINC + program, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_new_method_fits_images_and_is_read_again(tmp_path: Path) -> None:
    verbs = "from finer_nerfstudio.cli.main import main\nmain(sys.argv[1:])\n"
    sizes = ("--size", "24", "--steps", "60", "--width", "32")
    with_sinc(verbs, "fit-image", "--method", "finer-sinc", *sizes, "--output-dir", tmp_path / "fit")
    assert json.loads((tmp_path / "fit" / "metrics.json").read_text())["psnr"] > 15
    with_sinc(verbs, "render-image", "--model", tmp_path / "fit", "--output", tmp_path / "again.png")
    assert (tmp_path / "again.png").exists()


def test_a_new_method_is_in_the_benchmark(tmp_path: Path) -> None:
    verbs = "from finer_nerfstudio.cli.main import main\nmain(sys.argv[1:])\n"
    small = ("--points", "64", "--repeats", "1", "--cases", "image", "--methods", "finer-sinc", "--device", "cpu")
    with_sinc(verbs, "benchmark", *small, "--output-dir", tmp_path)
    assert "finer-sinc" in json.loads((tmp_path / "benchmark.json").read_text())["cases"]["image"]


def test_a_new_method_is_a_radiance_field() -> None:
    program = """
from nerfstudio.data.scene_box import SceneBox
from finer_nerfstudio.nerf.configs import SPECIFICATIONS

config = SPECIFICATIONS["finer-sinc"].config
field = config.pipeline.model.field.setup(aabb=SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])).aabb)
density = field.density_at(torch.rand(8, 3))
print(json.dumps([config.method_name, config.optimizers["fields"]["optimizer"].lr, list(density.shape)]))
"""
    name, rate, shape = json.loads(with_sinc(program).splitlines()[-1])
    assert (name, rate) == ("finer-sinc", 3e-4)
    assert shape[0] == 8
