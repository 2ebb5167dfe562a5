"""Two processes on the CPU, started by torchrun as a user would, train one model (distributed_worker.py)."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
import yaml
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
from nerfstudio.plugins.types import MethodSpecification
from PIL import Image
from torch import Tensor

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.nerf import configs
from finer_nerfstudio.nerf.model import FinerModel
from finer_nerfstudio.nerf.training.pipeline import FinerPipelineConfig
from finer_nerfstudio.nerf.training.trainer import FinerTrainerConfig, require_launchable

ROOT = Path(__file__).parents[3]
# Two processes import Nerfstudio and train for seconds. One that waits for the other fails by itself after 90 seconds.
PATIENCE = 300
STEPS = 120
SAMPLES = 2000

Seen = list[dict[str, Any]]


def write_sphere(folder: Path) -> None:
    """A red sphere of radius 0.6 seen from eight sides in 24x24 pixels, in Blender's format."""
    frames = []
    grid = (np.arange(24) + 0.5) / 12 - 1
    slope = np.tan(0.35)
    across, down = np.meshgrid(grid * slope, grid * slope)
    # Sine of the angle between a pixel's ray and the view's axis, on which the sphere lies at distance 3.
    sine = np.sqrt((across**2 + down**2) / (1 + across**2 + down**2))
    pixels = np.zeros((24, 24, 4), dtype=np.uint8)
    pixels[3 * sine < 0.6] = (200, 30, 30, 255)
    for index, angle in enumerate(np.arange(8) * np.pi / 4):
        Image.fromarray(pixels).save(folder / f"{index}.png")
        c, s = np.cos(angle), np.sin(angle)
        pose = [[c, 0, s, 3 * s], [0, 1, 0, 0], [-s, 0, c, 3 * c], [0, 0, 0, 1]]
        frames.append({"file_path": str(index), "transform_matrix": np.asarray(pose).tolist()})
    for split in ("train", "val", "test"):
        content = {"camera_angle_x": 0.7, "frames": frames[: 8 if split == "train" else 1]}
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What either process saw."""
    folder = tmp_path_factory.mktemp("distributed")
    write_sphere(folder)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(Path(__file__).with_name("distributed_worker.py")), str(folder), "finer-sine"]
    command += ["--data", str(folder), "--output-dir", str(folder / "outputs"), "--vis", "tensorboard"]
    command += ["--max-num-iterations", str(STEPS), "--steps-per-eval-all-images", "50"]
    command += ["--optimizers.fields.optimizer.lr", "2e-3", "--pipeline.model.field.width", "32"]
    command += ["--pipeline.model.grid-resolution", "16", "--pipeline.target-num-samples", str(SAMPLES)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb"},
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        pytest.fail(f"the processes wait for each other:\n{printed[-3000:]}")
    assert process.returncode == 0, printed[-5000:]
    # torchrun's own tables aside, one process speaks for both.
    assert printed.count("\nTrained ") == 2, "once for either run"
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("run", ["run", "growing"])
def test_weights_averages_grids_and_rays_are_the_same_to_the_bit(ranks: Seen, run: str) -> None:
    first, second = (seen[run] for seen in ranks)
    assert first["state"].keys() == second["state"].keys()
    assert {"grid.thickness", "grid.occupied"} < first["state"].keys()
    assert any(name.startswith("averaged_field.") for name in first["state"])
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
    assert first["steps"] == second["steps"] > 2
    assert first["rays"] == second["rays"]
    assert first["losses"] != second["losses"], "either has rays of its own"
    assert first["trained_rays"] == second["trained_rays"]


@pytest.fixture(scope="module")
def configuration(ranks: Seen) -> FinerTrainerConfig:
    """What the run left in its config.yml, read as ns-eval reads it."""
    config = yaml.load((Path(ranks[0]["run"]["folder"]) / "config.yml").read_text(), Loader=yaml.Loader)
    assert isinstance(config, FinerTrainerConfig)
    return config


def test_one_process_reads_the_checkpoint_of_two(ranks: Seen, configuration: FinerTrainerConfig) -> None:
    run = ranks[0]["run"]
    folder = Path(run["folder"])
    assert folder == Path(ranks[1]["run"]["folder"])
    assert configuration.machine.num_devices == 2
    summary = json.loads((folder / "training.json").read_text())
    assert (summary["processes"], summary["steps"]) == (2, STEPS)
    assert summary["rays"] == run["trained_rays"] == 2 * sum(run["rays"])
    (checkpoint,) = (folder / "nerfstudio_models").iterdir()
    loaded = torch.load(checkpoint)
    pipeline = configuration.pipeline.setup(device="cpu")
    pipeline.load_pipeline(loaded["pipeline"], loaded["step"])
    for name, value in pipeline.model.state_dict().items():
        if isinstance(value, Tensor):
            assert torch.equal(value, run["state"][name]), name


def test_two_processes_learn_what_one_learns_from_as_many_samples(
    ranks: Seen, configuration: FinerTrainerConfig
) -> None:
    run = ranks[0]["run"]
    assert len(set(run["rays"])) > 1, "the number of rays follows the samples"
    torch.manual_seed(configuration.machine.seed)
    config = copy.deepcopy(configuration.pipeline)
    assert isinstance(config, FinerPipelineConfig)
    config.target_num_samples = 2 * SAMPLES
    pipeline = config.setup(device="cpu")
    model = pipeline.model
    assert isinstance(model, FinerModel)
    optimizer = torch.optim.Adam(model.field.parameters(), lr=2e-3, betas=(0.9, 0.99), eps=1e-15)
    alone = []
    for step in range(STEPS):
        if step % model.config.grid_update_every == 0:
            assert model.grid is not None
            model.grid.update(model.field.density_at, everywhere=True)
        _, loss_dict, _ = pipeline.get_train_loss_dict(step)
        optimizer.zero_grad()
        loss_dict["rgb_loss"].backward()
        optimizer.step()
        alone.append(float(loss_dict["rgb_loss"]))
    together = [np.mean([rank["run"]["losses"][at] for rank in ranks]) for at in range(STEPS)]
    start, single, double = np.mean(together[:5]), np.mean(alone[-20:]), np.mean(together[-20:])
    assert single < 0.5 * start
    assert double < 0.5 * start


def test_a_growing_field_grows_and_stops_by_one_clock(ranks: Seen) -> None:
    """Every stage is trained, in step, although the clock of the second process is wrong."""
    run = ranks[0]["growing"]
    trained = [name for name, value in run["state"].items() if not torch.equal(value, run["start"][name])]
    stages = {match[0] for name in trained if (match := re.search(r"^field.*stages\.\d", name))}
    assert {stage[-1] for stage in stages} == {"0", "1", "2"}, stages
    assert sum(len(seen["growing"]["rays"]) for seen in ranks) == 2 * run["steps"]


@pytest.mark.parametrize("case", ["all", "cut", "miss"])
def test_the_gradient_is_that_of_the_mean_over_all_rays(ranks: Seen, case: str) -> None:
    """Also where the processes have different numbers of rays, and where the rays of one meet nothing."""
    seen = [rank[case] for rank in ranks]
    rays = [own["rays"] for own in seen]
    if case == "cut":
        assert rays[0] != rays[1]
    if case == "miss":
        assert seen[1]["samples"] == 0 < seen[0]["samples"]
    compared = 0
    for name, averaged in seen[0]["averaged"].items():
        own = [rank["own"][name] for rank in seen]
        if any(gradient is None for gradient in own):
            assert averaged is None or averaged.numel() == 0, name
            continue
        expected = sum(n * gradient.double() for n, gradient in zip(rays, own, strict=True)) / sum(rays)
        assert isinstance(expected, Tensor)
        torch.testing.assert_close(averaged.double(), expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))
        assert torch.equal(averaged, seen[1]["averaged"][name])
        compared += bool(expected.abs().max() > 0)
    assert compared > 5


def test_the_grid_is_as_if_one_process_had_looked(ranks: Seen) -> None:
    first, second = (seen["grid"] for seen in ranks)
    for update in ("everywhere", "occupied"):
        for name, value in first[update].items():
            assert torch.equal(value, second[update][name])
    step = 2 * 3**0.5 / 20
    values = first["values"]
    torch.testing.assert_close(first["everywhere"]["thickness"], values * step)
    occupied = first["everywhere"]["occupied"]
    assert torch.equal(occupied, values > 0)
    torch.testing.assert_close(first["occupied"]["thickness"][occupied], 2 * values[occupied] * step)


def test_a_grid_of_means_has_the_mean_of_what_the_processes_saw(ranks: Seen) -> None:
    first, second = (seen["unbounded grid"] for seen in ranks)
    for update in ("first", "later"):
        for name, value in first[update].items():
            assert torch.equal(value, second[update][name])
    known = first["values"] * first["step"] / 2  # an update goes half of the way
    torch.testing.assert_close(first["first"]["thickness"], known)
    # Between the updates the second process doubled its own.
    torch.testing.assert_close(first["later"]["thickness"], (known + 2 * known) / 4 + 2 * known)


def test_divergence_in_one_process_stops_both(ranks: Seen) -> None:
    assert all("densities are NaN or infinite" in seen["divergence"] for seen in ranks)


@pytest.mark.parametrize(
    ("machine", "told"),
    [
        (MachineConfig(device_type="cpu", num_devices=2), "torchrun --nproc-per-node 2"),
        (MachineConfig(device_type="cuda", num_devices=1000), "1000 GPUs"),
        (MachineConfig(device_type="cuda", num_machines=2), "--machine.dist-url tcp://HOST:PORT"),
        (MachineConfig(num_machines=2, machine_rank=2), "--machine.machine-rank must lie in 0 .. num-machines - 1 = 1"),
        (MachineConfig(num_devices=0), "--machine.num-devices must be at least 1"),
    ],
)
def test_processes_that_cannot_be_started(machine: MachineConfig, told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        require_launchable(machine)


def test_configurations_reach_the_processes_that_the_launcher_spawns() -> None:
    for specification in vars(configs).values():
        if isinstance(specification, MethodSpecification):
            assert pickle.loads(pickle.dumps(specification.config)) == specification.config


def test_the_document_names_options_that_exist() -> None:
    """Its commands are read as ns-train reads them."""
    document = (ROOT / "docs" / "several_machines.md").read_text()
    lines = [line for block in re.findall(r"```bash\n(.*?)```", document, flags=re.DOTALL) for line in logical(block)]
    assert any(line.startswith("ns-train") for line in lines)
    assert any(line.startswith("torchrun") for line in lines)
    for line in lines:
        words = shlex.split(line)
        start = words.index("finer_nerfstudio.nerf.train_distributed" if words[0] == "torchrun" else "ns-train")
        tyro.cli(AnnotatedBaseConfigUnion, args=words[start + 1 :])


def logical(block: str) -> list[str]:
    return [line for line in block.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
