"""Training: a learning rate that decays over whatever length was asked for, and checkpoints that survive a crash."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.nerf.command_line import sentence_instead_of_traceback


@dataclass
class AdamConfig(AdamOptimizerConfig):
    """Adam with its moment decays exposed."""

    eps: float = 1e-15
    """The epsilon value to use."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the gradient's first and second moment (the paper's NeRF setting)."""


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
    """``final_fraction ** (step / total_steps)``; ``total_steps`` is set once the length of training is known."""

    def __init__(self, final_fraction: float) -> None:
        self.final_fraction = final_fraction
        self.total_steps = 0

    def __call__(self, step: int) -> float:
        if self.total_steps <= 0:
            return 1.0
        return self.final_fraction ** min(1.0, step / self.total_steps)


@dataclass
class FinerTrainerConfig(TrainerConfig):
    """Configuration of a training run."""

    _target: type = field(default_factory=lambda: FinerTrainer)

    def save_config(self) -> None:
        with sentence_instead_of_traceback():
            try:
                super().save_config()
            except OSError as error:
                raise InputError(
                    f"cannot write to the output folder {self.get_base_dir()} ({error.strerror}): choose another one "
                    f"with --output-dir."
                ) from error


class FinerTrainer(Trainer):
    """Nerfstudio's trainer with atomic checkpoints, a decay that knows its end, and readable errors."""

    config: FinerTrainerConfig

    def setup(self, *args: Any, **kwargs: Any) -> None:
        with sentence_instead_of_traceback():
            if self.config.max_num_iterations < 1:
                raise UsageError(f"--max-num-iterations must be at least 1, not {self.config.max_num_iterations}.")
            super().setup(*args, **kwargs)
        # Nerfstudio trains for max_num_iterations more steps after a resumed one.
        total_steps = self._start_step + self.config.max_num_iterations
        for scheduler in self.optimizers.schedulers.values():
            for decay in getattr(scheduler, "lr_lambdas", ()):
                if isinstance(decay, ExponentialDecay):
                    decay.total_steps = total_steps

    def train(self) -> None:
        with sentence_instead_of_traceback():
            super().train()

    def _load_checkpoint(self) -> None:
        source = self.config.load_dir if self.config.load_dir is not None else self.config.load_checkpoint
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
            raise InputError(f"the checkpoint at {source} cannot be read, it may be cut short ({_one_line(error)}).") from error

    def save_checkpoint(self, step: int) -> None:
        """Write beside the checkpoints first and move the finished file in: an interruption leaves the last one whole."""
        final_dir = self.checkpoint_dir
        # Not inside it: Nerfstudio takes every name in the folder of checkpoints for a step number.
        partial_dir = final_dir.with_name(final_dir.name + ".partial")
        try:
            self.checkpoint_dir = partial_dir
            super().save_checkpoint(step)
            self.checkpoint_dir = final_dir
            self._move_in(partial_dir, final_dir)
        except OSError as error:
            raise InputError(f"cannot save a checkpoint to {final_dir} ({error.strerror or error}).") from error
        finally:
            self.checkpoint_dir = final_dir

    def _move_in(self, partial_dir: Path, final_dir: Path) -> None:
        if not partial_dir.exists():  # only the main process of a distributed run writes
            return
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
