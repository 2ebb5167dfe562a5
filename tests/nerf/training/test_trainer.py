"""The trainer's own additions, each without a run of ``ns-train``."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils.writer import GLOBAL_BUFFER

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.model import FinerModel, FinerModelConfig
from finer_nerfstudio.nerf.training.terminal import TrainingProgress
from finer_nerfstudio.nerf.training.trainer import (
    AdamConfig,
    DecayOverTrainingConfig,
    ExponentialDecay,
    FinerTrainer,
    FinerTrainerConfig,
    Stopwatch,
)

BASE_RATE = 1e-2
BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


class FakeScaler:
    """A scaler that is enabled, which torch's own is on a GPU alone, and as strict as that one."""

    def __init__(self) -> None:
        self.scale = 65536.0

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        if not state_dict:
            raise RuntimeError("The source state dict is empty")
        self.scale = state_dict["scale"]


def make_trainer(**options: Any) -> FinerTrainer:
    """A trainer of one weight, with nothing set up but what the tests below reach."""
    trainer = object.__new__(FinerTrainer)
    trainer.config = FinerTrainerConfig(**options)
    trainer._start_step, trainer._trained_steps = 0, 0
    trainer._clock = Stopwatch()
    model = FinerModel(FinerModelConfig(grid_resolution=4), scene_box=SceneBox(aabb=BOX), num_train_data=1)
    trainer.pipeline = SimpleNamespace(model=model)  # pyright: ignore[reportAttributeAccessIssue]
    trainer.grad_scaler = FakeScaler()  # pyright: ignore[reportAttributeAccessIssue]
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(()))], lr=BASE_RATE)
    scheduler = DecayOverTrainingConfig().setup().get_scheduler(optimizer, BASE_RATE)
    trainer.optimizers = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        optimizers={"fields": optimizer}, schedulers={"fields": scheduler}
    )
    return trainer


@pytest.fixture
def steps_of_the_scheduler_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "train_iteration", lambda self, step: self.optimizers.schedulers["fields"].step())


def resume(trainer: FinerTrainer, earlier: FinerTrainer, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load into ``trainer`` what ``earlier`` would have saved after ``step``."""

    def load(self: Trainer) -> None:
        self._start_step = step + 1
        state = earlier.optimizers.schedulers["fields"].state_dict()
        self.optimizers.schedulers["fields"].load_state_dict(state)

    monkeypatch.setattr(Trainer, "_load_checkpoint", load)
    trainer._load_checkpoint()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the trainer reads, in seconds, for a test to set."""
    now = [0.0]
    monkeypatch.setattr("finer_nerfstudio.nerf.training.trainer.time.perf_counter", lambda: now[0])
    return now


def rate(trainer: FinerTrainer) -> float:
    return float(trainer.optimizers.schedulers["fields"].get_last_lr()[0])


@pytest.mark.usefixtures("steps_of_the_scheduler_alone")
@pytest.mark.parametrize("by_the_clock", [False, True])
@pytest.mark.parametrize("trained", [4, 10])
def test_a_resumed_run_never_raises_the_learning_rate(
    by_the_clock: bool, trained: int, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the run before was interrupted (4 of its 10 steps) or finished, by steps or by minutes."""
    options = {"max_num_iterations": 10**6, "max_minutes": 10 / 60} if by_the_clock else {"max_num_iterations": 10}

    def train(trainer: FinerTrainer, steps: int) -> list[float]:
        trainer._clock.restart()
        rates = []
        for step in range(trainer._start_step, trainer._start_step + steps):
            clock[0] += 1.0
            trainer.train_iteration(step)
            assert step < GLOBAL_BUFFER["max_iter"], "Nerfstudio prints the step as a share of this"
            rates.append(rate(trainer))
        return rates

    first, second = make_trainer(**options), make_trainer(**options)
    monkeypatch.setattr(Trainer, "_load_checkpoint", lambda self: None)
    first._load_checkpoint()
    rates = train(first, trained)
    resume(second, first, trained - 1, monkeypatch)
    rates += train(second, 10)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(rates)), rates
    assert rates[-1] < 0.15 * BASE_RATE


@pytest.mark.parametrize(("saved", "expected"), [({}, 65536.0), ({"scale": 8.0}, 8.0)])
def test_a_run_without_mixed_precision_goes_on_with_it(
    saved: dict[str, float], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    monkeypatch.setattr(Trainer, "_load_checkpoint", lambda self: self.grad_scaler.load_state_dict(saved))
    trainer._load_checkpoint()
    assert trainer.grad_scaler.scale == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full stands in for a full disk")
def test_a_full_disk_is_said_in_one_sentence(tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.base_dir, trainer.checkpoint_dir = tmp_path, tmp_path / "nerfstudio_models"
    (tmp_path / "config.yml").touch()
    trainer.pipeline = torch.nn.Linear(100, 100)  # pyright: ignore[reportAttributeAccessIssue]
    partial = tmp_path / "nerfstudio_models.partial"
    partial.mkdir()
    (partial / "step-000000007.ckpt").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot save a checkpoint to .*nerfstudio_models \(.*disk full") as raised:
        trainer.save_checkpoint(7)
    assert "\n" not in str(raised.value)
    assert not partial.exists()
    assert trainer.checkpoint_dir == tmp_path / "nerfstudio_models"
    # The next one, when there is room again, is whole.
    trainer.save_checkpoint(8)
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000008.ckpt"]


def test_a_folder_that_is_deleted_while_a_checkpoint_is_written_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    folder = tmp_path / "run"
    trainer.base_dir, trainer.checkpoint_dir = folder, folder / "nerfstudio_models"
    trainer.pipeline = torch.nn.Linear(2, 2)  # pyright: ignore[reportAttributeAccessIssue]
    write, deleted = Trainer.save_checkpoint, []

    def deleted_once(self: Trainer, step: int) -> None:
        write(self, step)
        if not deleted:
            deleted.append(step)
            shutil.rmtree(folder)

    def save_config(self: FinerTrainerConfig) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yml").touch()

    monkeypatch.setattr(Trainer, "save_checkpoint", deleted_once)
    monkeypatch.setattr(FinerTrainerConfig, "save_config", save_config)
    trainer.save_checkpoint(7)
    assert deleted == [7]
    assert sorted(path.name for path in folder.iterdir()) == ["config.yml", "nerfstudio_models"]
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000007.ckpt"]


def test_training_starts_in_a_hurry_and_is_as_ever_after_400_steps() -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(()))], lr=2e-4)
    schedule = DecayOverTrainingConfig(start_lr=8e-4).setup().get_scheduler(optimizer, 2e-4)
    (decay,) = schedule.lr_lambdas
    assert [2e-4 * decay(step) for step in (0, 200, 400, 10_000)] == pytest.approx([8e-4, 4e-4, 2e-4, 2e-4])
    decay.progress = 0.01
    assert 2e-4 * decay(200) == pytest.approx(4e-4 * 0.1**0.01)


def test_a_short_training_hurries_for_half_of_it() -> None:
    decay = ExponentialDecay(0.1, start_factor=4.0, start_steps=400)
    rates = []
    for decay.progress, step in ((0.0, 0), (0.25, 5), (0.5, 10), (1.0, 20)):
        rates.append(decay(step))
    assert rates == pytest.approx([4.0, 2.0 * 0.1**0.25, 0.1**0.5, 0.1])


def test_no_start_is_slower_than_what_follows() -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(()))], lr=1e-3)
    schedule = DecayOverTrainingConfig(start_lr=8e-4).setup().get_scheduler(optimizer, 1e-3)
    assert schedule.lr_lambdas[0](0) == 1.0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("final-fraction", value) for value in (0.0, -0.1, 1.5, float("nan"))),
        *(("start-lr", value) for value in (-1e-4, float("inf"), float("nan"))),
        ("start-steps", 0),
    ],
)
def test_a_decay_out_of_range_is_refused(
    option: str, value: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "setup", lambda self: None)
    for method in ("_claim_folder", "_capture_steps", "_say_what_is_trained"):
        monkeypatch.setattr(FinerTrainer, method, lambda self: None)
    parts = {"optimizer": AdamConfig(), "scheduler": DecayOverTrainingConfig()}
    trainer = make_trainer(optimizers={"fields": parts})
    trainer.setup()
    scheduler = DecayOverTrainingConfig()
    setattr(scheduler, option.replace("-", "_"), value)
    parts["scheduler"] = scheduler
    with pytest.raises(SystemExit) as stop:
        trainer.setup()
    assert stop.value.code == 2
    assert f"--optimizers.fields.scheduler.{option}" in capsys.readouterr().err


@pytest.mark.parametrize("start_paused", [False, True])
def test_time_in_which_the_viewer_pauses_is_no_training_time(start_paused: bool, clock: list[float]) -> None:
    trainer = make_trainer()
    trainer.training_state = "paused" if start_paused else "training"
    clock[0] += 100.0  # loading of the data
    trainer._clock.restart()
    for paused, seconds in [(False, 3.0), (True, 1000.0), (True, 1000.0), (False, 2.0)]:
        trainer.training_state = "paused" if paused else "training"
        clock[0] += seconds
    assert trainer._clock.seconds() == 5.0


def loop_of_nerfstudio(self: Trainer) -> None:
    """What Nerfstudio's loop does about steps and stopping."""
    self.stop_training = False
    for step in range(self._start_step, self._start_step + self.config.max_num_iterations):
        self.step = step
        if self.stop_training:
            break
        self.train_iteration(step)
    self._after_train()


@pytest.mark.usefixtures("steps_of_the_scheduler_alone")
@pytest.mark.parametrize("start", [0, 100])
@pytest.mark.parametrize(("minutes", "steps"), [(None, 10), (4 / 60, 5)])
def test_a_run_counts_the_steps_that_it_trained(
    start: int, minutes: float | None, steps: int, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes a second here; the clock is read when a step begins, so that the fifth ends a run of four."""
    trainer = make_trainer(max_num_iterations=10, max_minutes=minutes)
    trainer._start_step, trainer._loaded_progress, trainer.base_dir = start, 0.0, Path()
    seen: list[object] = []
    step_of_a_second = Trainer.train_iteration

    def step_and_tick(self: Trainer, step: int) -> None:
        step_of_a_second(self, step)
        clock[0] += 1.0

    monkeypatch.setattr(Trainer, "train_iteration", step_and_tick)
    monkeypatch.setattr(Trainer, "train", loop_of_nerfstudio)
    monkeypatch.setattr(Trainer, "_after_train", lambda self: seen.append(self.step))
    monkeypatch.setattr(FinerTrainer, "_save_summary", lambda self, seconds: seen.append(self._trained_steps))
    monkeypatch.setattr(FinerTrainer, "_say_how_it_went", lambda self, seconds: None)
    monkeypatch.setattr(TrainingProgress, "is_due", lambda self: False)
    trainer.train()
    assert seen == [steps, start + steps - 1]


@pytest.mark.parametrize(
    ("state", "is_over", "code", "said"),
    [
        ("training", False, 130, "interrupted after step 6"),
        ("completed", False, 130, "interrupted; what was trained is saved in"),
        ("completed", True, 0, ""),  # Ctrl-C ends the viewer
    ],
)
def test_what_ctrl_c_interrupts(
    state: str, is_over: bool, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, saved = make_trainer(), []
    monkeypatch.setattr(trainer, "save_checkpoint", saved.append)
    trainer.checkpoint_dir = Path("nerfstudio_models")
    trainer._start_step, trainer._trained_steps, trainer._is_over = 0, 7, is_over
    trainer._training_state = state  # pyright: ignore[reportAttributeAccessIssue]
    assert trainer._interrupted() == code
    assert saved == ([] if is_over else [6])
    assert said in capsys.readouterr().out


def test_ctrl_c_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nerfstudio's launcher would print a traceback and end with 0."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    trainer = make_trainer()
    trainer.base_dir = tmp_path / "scene" / "method" / "time"
    trainer.base_dir.mkdir(parents=True)
    monkeypatch.setattr(Trainer, "setup", interrupted)
    with pytest.raises(SystemExit) as ended:
        trainer.setup()
    assert ended.value.code == 130
    assert "nothing was trained" in capsys.readouterr().out
    assert not (tmp_path / "scene").exists()


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_that_is_none(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        FinerTrainerConfig(machine=MachineConfig(seed=seed))
    assert ended.value.code == 2
    assert "--machine.seed must lie" in capsys.readouterr().err
