"""Training: a learning rate that decays over whatever length was asked for, and checkpoints that survive a crash."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import comms
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.writer import GLOBAL_BUFFER, EventName
from torch import distributed as dist
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import finer_nerfstudio
from finer_nerfstudio.command_line import sentence_instead_of_traceback
from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.nerf import distributed
from finer_nerfstudio.nerf.model import FinerModel
from finer_nerfstudio.nerf.pipeline import CountedPipeline, FinerPipeline

# Pixels per side of the viewer's still pictures without a GPU, until the person chooses another "Max res".
_PROCESSOR_VIEWER_RESOLUTION = 256


@dataclass
class AdamConfig(AdamOptimizerConfig):
    """Adam with its moment decays exposed."""

    eps: float = 1e-15
    """The epsilon value to use."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the gradient's first and second moment (the paper's NeRF setting)."""
    fused: bool = True
    """Update all parameters in one operation."""


@dataclass
class DecayOverTrainingConfig(SchedulerConfig):
    """Exponential decay that ends when training ends."""

    _target: type = field(default_factory=lambda: DecayOverTraining)
    final_fraction: float = 0.1
    """Learning rate of the last step as a fraction of the first one's."""


class DecayOverTraining(Scheduler):
    """Builds the scheduler of :class:`DecayOverTrainingConfig`."""

    config: DecayOverTrainingConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LambdaLR:
        del lr_init
        return LambdaLR(optimizer, ExponentialDecay(self.config.final_fraction))


class ExponentialDecay:
    """``final_fraction ** progress``, with the progress of training in [0, 1] as the trainer reports it.

    Attributes:
        final_fraction: what remains of the learning rate at the end.
        progress: of the training, in [0, 1].
        restarts: progress at which the learning rate begins anew, to fall to ``final_fraction`` by the next one.
    """

    def __init__(self, final_fraction: float) -> None:
        self.final_fraction = final_fraction
        self.progress = 0.0
        self.restarts: tuple[float, ...] = ()

    def __call__(self, step: int) -> float:
        del step
        start = max((time for time in self.restarts if time <= self.progress), default=0.0)
        stop = min((time for time in self.restarts if time > self.progress), default=1.0)
        return self.final_fraction ** ((self.progress - start) / (stop - start))


@dataclass
class FinerTrainerConfig(TrainerConfig):
    """Configuration of a training run."""

    _target: type = field(default_factory=lambda: FinerTrainer)
    max_minutes: float | None = None
    """Stop after this many minutes of training, if that comes before --max-num-iterations; the learning rate then
    decays over this time. Runs that end by the clock are not reproducible to the bit."""

    def set_timestamp(self) -> None:
        super().set_timestamp()
        if dist.is_initialized():  # all processes speak of one folder
            agreed = [self.timestamp]
            dist.broadcast_object_list(agreed)
            self.timestamp = agreed[0]

    def save_config(self) -> None:
        with sentence_instead_of_traceback():
            require_launchable(self.machine)
            if self.machine.machine_rank > 0 or not comms.is_main_process():
                return  # the first machine writes it
            try:
                super().save_config()
            except OSError as error:
                raise InputError(
                    f"cannot write to the output folder {self.get_base_dir()} ({error.strerror}): choose another one "
                    f"with --output-dir."
                ) from error


def require_launchable(machine: MachineConfig) -> None:
    """Check that the processes that ``machine`` asks for can be started.

    Raises:
        UsageError: if they cannot.
    """
    for name in ("num_devices", "num_machines"):
        if getattr(machine, name) < 1:
            raise UsageError(f"--machine.{name.replace('_', '-')} must be at least 1, not {getattr(machine, name)}.")
    if not 0 <= machine.machine_rank < machine.num_machines:
        raise UsageError(
            f"--machine.machine-rank must lie in 0 .. num-machines - 1 = {machine.num_machines - 1}, it is "
            f"{machine.machine_rank}."
        )
    if machine.device_type == "cuda" and machine.num_devices > max(1, torch.cuda.device_count()):
        raise UsageError(
            f"{machine.num_devices} GPUs of this machine are asked for, and it has {torch.cuda.device_count()}."
        )
    if machine.num_devices * machine.num_machines == 1 or dist.is_initialized():
        return
    if machine.device_type != "cuda":
        raise UsageError(
            f"ns-train starts several processes on GPUs only; without GPUs put "
            f"torchrun --nproc-per-node {machine.num_devices} -m finer_nerfstudio.nerf.train_distributed in its place."
        )
    if machine.num_machines > 1 and machine.dist_url == "auto":
        raise UsageError(
            "several machines need an address of the first one that all can reach: --machine.dist-url tcp://HOST:PORT."
        )


class Stopwatch:
    """Seconds since the last restart, without those in which it was paused."""

    def __init__(self) -> None:
        # Seconds counted, and since when it has been running if it is. One attribute, as the viewer's thread writes it
        # while the training thread reads.
        self._state: tuple[float, float | None] = (0.0, time.perf_counter())

    def restart(self) -> None:
        """Start from zero; a paused stopwatch stays paused."""
        self._state = (0.0, None if self._state[1] is None else time.perf_counter())

    def pause(self) -> None:
        self._state = (self.seconds(), None)

    def go_on(self) -> None:
        self._state = (self.seconds(), time.perf_counter())

    def seconds(self) -> float:
        counted, since = self._state
        return counted if since is None else counted + time.perf_counter() - since


class FinerTrainer(Trainer):
    """Nerfstudio's trainer with atomic checkpoints, a decay that knows its end, and readable errors."""

    config: FinerTrainerConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Nerfstudio's constructor sets the training state, which starts and stops the clock.
        self._clock = Stopwatch()
        self._trained_steps = 0
        super().__init__(*args, **kwargs)

    def setup(self, *args: Any, **kwargs: Any) -> None:
        config = self.config
        with sentence_instead_of_traceback():
            if config.max_num_iterations < 1:
                raise UsageError(f"--max-num-iterations must be at least 1, not {config.max_num_iterations}.")
            if config.max_minutes is not None and not config.max_minutes > 0:
                raise UsageError(f"--max-minutes must be positive, not {config.max_minutes}.")
            for name, parts in config.optimizers.items():
                if not 0 < parts["optimizer"].lr < math.inf:
                    raise UsageError(f"--optimizers.{name}.optimizer.lr must be positive, not {parts['optimizer'].lr}.")
                scheduler = parts["scheduler"]
                if isinstance(scheduler, DecayOverTrainingConfig) and not 0 < scheduler.final_fraction <= 1:
                    raise UsageError(
                        f"--optimizers.{name}.scheduler.final-fraction must lie in (0, 1], it is "
                        f"{scheduler.final_fraction}."
                    )
            super().setup(*args, **kwargs)

    @property
    def training_state(self) -> Literal["training", "paused", "completed"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Nerfstudio's state, which the viewer's buttons set."""
        return self._training_state

    @training_state.setter
    def training_state(self, state: Literal["training", "paused", "completed"]) -> None:
        self._training_state: Literal["training", "paused", "completed"] = state
        if state == "paused":
            self._clock.pause()
        else:
            self._clock.go_on()

    def train(self) -> None:
        self._clock.restart()
        with sentence_instead_of_traceback():
            try:
                super().train()
            except KeyboardInterrupt:
                # What was trained until here can go on with --load-dir.
                if self._trained_steps:
                    self.save_checkpoint(self._last_step())
                raise

    def train_iteration(self, step: int) -> Any:
        # Nerfstudio trains for max_num_iterations more steps after a resumed one.
        last_step = self._start_step + self.config.max_num_iterations
        this_run = (step - self._start_step) / self.config.max_num_iterations
        # Nerfstudio's percentage and remaining time count steps up to this one.
        GLOBAL_BUFFER["max_iter"] = last_step
        if self.config.max_minutes is not None:
            # One clock for all processes of a distributed run: they stop together or wait for each other forever.
            seconds = distributed.from_main(self._clock.seconds(), self.pipeline.model.device)
            elapsed = seconds / (60.0 * self.config.max_minutes)
            this_run = max(this_run, elapsed)
            expected = self._start_step + (step - self._start_step + 1) / max(elapsed, 1e-6)
            GLOBAL_BUFFER["max_iter"] = max(step + 1, min(last_step, round(expected)))
            if elapsed >= 1.0:
                self.stop_training = True
        # What is left of the training fills this run: a resumed run never trains faster than the one before ended.
        progress = self._loaded_progress + (1.0 - self._loaded_progress) * min(1.0, this_run)
        model = self.pipeline.model
        growing = isinstance(model, FinerModel)
        if growing:
            model.grow_until(progress)
        for decay in self._decays():
            decay.restarts = model.growth_times if growing else ()
            decay.progress = progress
        result = super().train_iteration(step)
        self._trained_steps += 1
        return result

    def _last_step(self) -> int:
        """The step that was trained last; the one that Nerfstudio names has not begun where a run is stopped."""
        return max(0, self._start_step + self._trained_steps - 1)

    def _decays(self) -> Iterator[ExponentialDecay]:
        for scheduler in self.optimizers.schedulers.values():
            for decay in getattr(scheduler, "lr_lambdas", ()):
                if isinstance(decay, ExponentialDecay):
                    yield decay

    def _init_viewer_state(self) -> None:
        super()._init_viewer_state()
        if self.viewer_state is not None and self.device == "cpu":
            self.viewer_state.control_panel._max_res.value = _PROCESSOR_VIEWER_RESOLUTION

    def _update_viewer_state(self, step: int) -> None:
        model = self.pipeline.model
        if isinstance(model, FinerModel) and step == self._start_step + model.config.grid_warmup_steps:
            # Nerfstudio spaces its pictures by how long earlier ones took; those from before the grid knew any empty
            # space took so long that the next one would be minutes away.
            GLOBAL_BUFFER["events"].pop(EventName.VIS_RAYS_PER_SEC.value, None)
        super()._update_viewer_state(step)

    def _after_train(self) -> None:
        self.step = self._last_step()
        self._save_summary(self._clock.seconds())
        super()._after_train()

    @check_main_thread
    def _save_summary(self, seconds: float) -> None:
        """What the run cost, beside its checkpoints."""
        pipeline = self.pipeline
        assert isinstance(pipeline, (FinerPipeline, CountedPipeline))
        summary = {
            "method": self.config.method_name,
            "version": finer_nerfstudio.__version__,
            "seed": self.config.machine.seed,
            "device": str(self.device),
            "processes": self.world_size,
            "steps": self._trained_steps,
            "seconds": seconds,
            "rays": pipeline.trained_rays,
            "samples": pipeline.trained_samples,
            "rays_per_second": pipeline.trained_rays / seconds,
            "samples_per_second": pipeline.trained_samples / seconds,
            "parameters": sum(parameter.numel() for parameter in pipeline.model.get_param_groups()["fields"]),
        }
        path = self.base_dir / "training.json"
        unfinished = path.with_suffix(".json.partial")
        unfinished.write_text(json.dumps(summary, indent=2) + "\n")
        os.replace(unfinished, path)

    def _load_checkpoint(self) -> None:
        source = self.config.load_dir if self.config.load_dir is not None else self.config.load_checkpoint
        load_scaler = self.grad_scaler.load_state_dict
        # A run without --mixed-precision saves no state of the scaler, and a scaler refuses to load none.
        self.grad_scaler.load_state_dict = lambda state_dict: load_scaler(state_dict) if state_dict else None
        try:
            super()._load_checkpoint()
        except InputError:
            raise
        except (OSError, AssertionError, IndexError, ValueError) as error:
            raise InputError(
                f"no checkpoint could be found at {source} ({error}): --load-dir takes a run's nerfstudio_models "
                f"folder, --load-checkpoint one .ckpt file."
            ) from error
        except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise InputError(
                f"the checkpoint at {source} cannot be read, it may be cut short ({_one_line(error)})."
            ) from error
        finally:
            self.grad_scaler.load_state_dict = load_scaler
        self._loaded_progress = max((decay.progress for decay in self._decays()), default=0.0)

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write beside the checkpoints first and move the finished file in: the last one stays whole meanwhile."""
        final_dir = self.checkpoint_dir
        # Not inside it: Nerfstudio takes every name in the folder of checkpoints for a step number.
        partial_dir = final_dir.with_name(final_dir.name + ".partial")
        try:
            self.checkpoint_dir = partial_dir
            super().save_checkpoint(step)
            self.checkpoint_dir = final_dir
            self._move_in(partial_dir, final_dir)
        except (OSError, RuntimeError) as error:
            # What there is of the file is of no use, and in the way where the disk is full.
            shutil.rmtree(partial_dir, ignore_errors=True)
            # torch's own writer of checkpoints knows no OSError.
            reason = error.strerror if isinstance(error, OSError) else f"{_one_line(error)}; is the disk full?"
            raise InputError(f"cannot save a checkpoint to {final_dir} ({reason or error}).") from error
        finally:
            self.checkpoint_dir = final_dir

    def _move_in(self, partial_dir: Path, final_dir: Path) -> None:
        final_dir.mkdir(parents=True, exist_ok=True)
        moved = {final_dir / path.name for path in partial_dir.glob("*.ckpt")}
        for path in moved:
            os.replace(partial_dir / path.name, path)
        shutil.rmtree(partial_dir)
        if self.config.save_only_latest_checkpoint:
            for path in final_dir.glob("*.ckpt"):
                if path not in moved:
                    path.unlink()


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
