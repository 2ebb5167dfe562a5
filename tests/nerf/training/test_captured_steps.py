"""Captured steps in the place of Nerfstudio's: the run's own weights, average, grid, optimizer and checkpoints."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from finer_nerfstudio.demo.blender import DemoScene, make_demo_scene
from finer_nerfstudio.nerf.captured.training import CapturedTraining
from finer_nerfstudio.nerf.configs import SPECIFICATIONS
from finer_nerfstudio.nerf.training.captured_steps import reason_against
from finer_nerfstudio.nerf.training.trainer import FinerTrainer


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    make_demo_scene(DemoScene(folder, size=16, train_views=6, val_views=1, test_views=1, supersampling=1))
    return folder


def trainer_of(scene: Path, folder: Path, *, method: str = "finer-sine", **changes: Any) -> FinerTrainer:
    """A small run that is set up; changes of the configuration by their dotted names."""
    config: Any = copy.deepcopy(SPECIFICATIONS[method].config)
    config.output_dir, config.timestamp, config.vis, config.data = folder, "run", "tensorboard", scene
    config.pipeline.datamanager.data = scene
    config.max_num_iterations = 40
    config.machine.device_type = "cpu"
    model = config.pipeline.model
    model.field.width, model.grid_resolution, model.samples_per_ray = 16, 16, 48
    model.grid_warmup_steps, model.max_samples_per_batch = 16, 4096
    config.pipeline.target_num_samples, config.pipeline.max_num_rays = 1024, 256
    for name, value in {"captured_steps": "yes", **changes}.items():
        *path, last = name.split("__")
        part: Any = config
        for step in path:
            part = part[step] if isinstance(part, dict) else getattr(part, step)
        setattr(part, last, value)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def training_of(trainer: FinerTrainer) -> CapturedTraining:
    assert trainer._captured is not None
    return trainer._captured.training


def test_steps_train_the_runs_own_weights_average_and_grid(scene: Path, tmp_path: Path) -> None:
    trainer = trainer_of(scene, tmp_path)
    pipeline: Any = trainer.pipeline
    model = pipeline.model
    before = [parameter.detach().clone() for parameter in model.field.parameters()]
    for step in range(33):
        loss, losses, _ = trainer.train_iteration(step)
    trainer._captured.settle()  # pyright: ignore[reportOptionalMemberAccess]
    assert all(not torch.equal(a, b) for a, b in zip(before, model.field.parameters(), strict=True))
    for mean, value in zip(model.averaged_field.module.parameters(), model.field.parameters(), strict=True):
        assert 0 < float((mean - value).abs().max()) < 0.1
    assert model.grid is not None
    assert float(model.grid.thickness.max()) > 0
    assert not bool(model.grid.occupied.all())
    assert int(model.averaged_field.n_averaged) == 33
    assert torch.isfinite(loss)
    assert losses.keys() == {"rgb_loss"}
    assert pipeline.trained_rays > 33 * 16
    assert pipeline.trained_samples > 0
    rates = trainer.optimizers.optimizers["fields"].param_groups[0]["lr"]
    assert float(training_of(trainer).optimizer.learning_rate) != rates, "the next step's rate is already chosen"


def test_a_checkpoint_holds_all_that_a_run_needs_to_go_on(scene: Path, tmp_path: Path) -> None:
    trainer = trainer_of(scene, tmp_path)
    trainer._start_step, trainer._trained_steps = 0, 20
    for step in range(20):
        trainer.train_iteration(step)
    trainer.save_checkpoint(19)
    after = training_of(trainer).optimizer
    resumed = trainer_of(scene, tmp_path, timestamp="again", load_dir=trainer.checkpoint_dir)
    assert resumed._start_step == 20
    loaded = training_of(resumed).optimizer
    for name in ("values", "average", "first", "second", "step"):
        assert torch.equal(getattr(loaded, name), getattr(after, name)), name
    eager = trainer_of(scene, tmp_path, timestamp="eager", load_dir=trainer.checkpoint_dir, captured_steps="no")
    eager.train_iteration(20)
    state = eager.optimizers.optimizers["fields"].state
    assert {float(each["step"]) for each in state.values()} == {21.0}


def test_the_same_seed_gives_the_same_run(scene: Path, tmp_path: Path) -> None:
    values = []
    for number, seed in enumerate((1, 1, 2)):
        random.seed(seed)  # as Nerfstudio's launcher does
        torch.manual_seed(seed)
        trainer = trainer_of(scene, tmp_path / str(number))
        for step in range(20):
            trainer.train_iteration(step)
        values.append(training_of(trainer).optimizer.values)
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_on_processors_steps_are_not_captured_unless_asked_for(scene: Path, tmp_path: Path) -> None:
    trainer = trainer_of(scene, tmp_path, captured_steps="auto")
    assert trainer._captured is None
    assert reason_against(trainer) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "finer-sine-stream", "pipeline__model__field__widths": (8, 16)}, "the field grows"),
        ({"pipeline__model__unbounded": "yes"}, "no end"),
        ({"pipeline__model__sampler": "proposal"}, "proposal networks"),
        ({"mixed_precision": True}, "mixed precision"),
        ({"gradient_accumulation_steps": {"fields": 2}}, "accumulated"),
        ({"optimizers__fields__optimizer__max_norm": 1.0}, "shortened"),
        ({"pipeline__model__grid_resolution": 257}, "more than 256 cells"),
        ({"pipeline__datamanager__pixel_sampler__fisheye_crop_radius": 3.0}, "a way of their own"),
        ({"pipeline__datamanager__train_num_images_to_sample_from": 2}, "some of the pictures"),
    ],
)
def test_what_is_against_it_is_said(
    changes: dict[str, Any], reason: str, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_of(scene, tmp_path / "auto", captured_steps="no", **changes)
    found = reason_against(trainer)
    assert found is not None
    assert reason in found
    with pytest.raises(SystemExit) as ended:
        trainer_of(scene, tmp_path / "yes", **changes)
    assert ended.value.code == 2
    assert f"--captured-steps yes is not possible here: {found}" in capsys.readouterr().err


def test_pictures_of_several_sizes_and_masks_are_against_it(scene: Path, tmp_path: Path) -> None:
    trainer = trainer_of(scene, tmp_path, captured_steps="no")
    datamanager: Any = trainer.pipeline.datamanager
    pictures = datamanager.training_pictures()
    for changed, reason in (({"image": list(pictures["image"])}, "several sizes"), ({"mask": None}, "masks")):
        datamanager.training_pictures = lambda changed=changed: {**pictures, **changed}
        assert reason in str(reason_against(trainer))
