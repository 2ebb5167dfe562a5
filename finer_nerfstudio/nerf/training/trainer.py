"""Training: a learning rate that decays over whatever length was asked for, and checkpoints that survive a crash."""

from __future__ import annotations

import math
import pickle
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from nerfstudio.configs.base_config import LocalWriterConfig, LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import comms
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.writer import GLOBAL_BUFFER
from torch import distributed as dist
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from finer_nerfstudio._version import __version__
from finer_nerfstudio.errors import InputError, UsageError, in_one_line
from finer_nerfstudio.files.atomic import move_in, write_json
from finer_nerfstudio.nerf.model import FinerModel
from finer_nerfstudio.nerf.radiance import Diverged
from finer_nerfstudio.nerf.streaming.growing_field import GrowingField
from finer_nerfstudio.nerf.training import distributed, terminal
from finer_nerfstudio.nerf.training.captured_steps import CapturedSteps, reason_against
from finer_nerfstudio.nerf.training.checkpoint_loading import damaged_checkpoint
from finer_nerfstudio.nerf.training.optimizer import Adam
from finer_nerfstudio.nerf.training.pipeline import CountedPipeline, FinerPipeline
from finer_nerfstudio.nerf.training.refined_poses import write_refined_poses
from finer_nerfstudio.nerf.training.turns import Turns
from finer_nerfstudio.nerf.viewer.address import require_address
from finer_nerfstudio.nerf.viewer.panel import viewer_thread
from finer_nerfstudio.runs.command_line import (
    exit_on_input_error,
    ignore_library_warnings,
    value_on_command_line,
)
from finer_nerfstudio.runs.folder import claim, release

# Test views are measured for so long when training ends; ns-eval measures all of them.
_SECONDS_OF_MEASURING = 20.0
# What Nerfstudio's ViewerConfig stands at: every network interface of the machine.
_EVERY_INTERFACE = ViewerConfig().websocket_host
LOOPBACK = "127.0.0.1"
"""Where viewers listen unless the command line names another address."""


@dataclass
class AdamConfig(AdamOptimizerConfig):
    """Adam with its moment decays exposed."""

    _target: type = Adam
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
    """Learning rate of the last step as a fraction of --optimizers.NAME.optimizer.lr."""
    start_lr: float = 0.0
    """Learning rate of the very first step if that is higher than optimizer.lr, to which it falls by start_steps."""
    start_steps: int = 400
    """Steps of a higher learning rate at the start, or half of a shorter training."""


def _require_possible(scheduler: DecayOverTrainingConfig, option: str) -> None:
    if not 0 < scheduler.final_fraction <= 1:
        raise UsageError(f"{option}.final-fraction must lie in (0, 1], it is {scheduler.final_fraction}.")
    if not 0 <= scheduler.start_lr < math.inf:
        raise UsageError(f"{option}.start-lr must be finite and not negative, it is {scheduler.start_lr}.")
    if scheduler.start_steps < 1:
        raise UsageError(f"{option}.start-steps must be at least 1, not {scheduler.start_steps}.")


class DecayOverTraining(Scheduler):
    """Builds the scheduler of :class:`DecayOverTrainingConfig`."""

    config: DecayOverTrainingConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LambdaLR:
        config = self.config
        start_factor = max(1.0, config.start_lr / lr_init)
        return LambdaLR(optimizer, ExponentialDecay(config.final_fraction, start_factor, config.start_steps))


class ExponentialDecay:
    """``final_fraction ** progress``, with the progress of training in [0, 1] as the trainer reports it.

    What has to be found in the first few hundred steps is large and smooth, and found sooner at a rate at which details
    would not be: the first step has ``start_factor`` times as much, falling exponentially too.

    Attributes:
        final_fraction: what remains of the learning rate at the end.
        start_factor: what the first step's learning rate is multiplied by, at least 1.
        start_steps: step from which on nothing is multiplied; half of a training that is shorter than twice as many.
        progress: of the training, in [0, 1].
        restarts: progress at which the learning rate begins anew, to fall to ``final_fraction`` by the next one.
    """

    def __init__(self, final_fraction: float, start_factor: float = 1.0, start_steps: int = 1) -> None:
        self.final_fraction = final_fraction
        self.start_factor = start_factor
        self.start_steps = start_steps
        self.progress = 0.0
        self.restarts: tuple[float, ...] = ()

    def __call__(self, step: int) -> float:
        hurry = self.start_factor ** max(0.0, 1.0 - max(step / self.start_steps, 2.0 * self.progress))
        start = max((time for time in self.restarts if time <= self.progress), default=0.0)
        stop = min((time for time in self.restarts if time > self.progress), default=1.0)
        return hurry * self.final_fraction ** ((self.progress - start) / (stop - start))


@dataclass
class FinerTrainerConfig(TrainerConfig):
    """Configuration of a training run."""

    _target: type = field(default_factory=lambda: FinerTrainer)
    logging: LoggingConfig = field(
        default_factory=lambda: LoggingConfig(local_writer=LocalWriterConfig(enable=False), profiler="none")
    )
    """Logging configuration"""
    max_minutes: float | None = None
    """Stop after this many minutes of training, if that comes before --max-num-iterations; the learning rate then
    decays over this time. Runs that end by the clock are not reproducible to the bit."""
    captured_steps: Literal["auto", "yes", "no"] = "auto"
    """Train in steps of one shape, which a GPU repeats as one graph without being waited for: "auto" on a GPU, in
    bounded scenes of pinhole views of one size. "yes" says why where a scene or another option is against it."""

    def __setattr__(self, name: str, value: Any) -> None:
        # ns-viewer puts a configuration of its own in the place of a run's, and that listens on every interface.
        asked = any("websocket" in word and "host" in word for word in sys.argv)
        if isinstance(value, ViewerConfig) and value.websocket_host == _EVERY_INTERFACE and not asked:
            value.websocket_host = LOOPBACK
        if isinstance(value, MachineConfig) and not 0 <= value.seed < 1 << 32:  # Nerfstudio's first step is to use it
            with exit_on_input_error():
                raise UsageError(f"--machine.seed must lie between 0 and 2^32 - 1, not {value.seed}.")
        if isinstance(value, ViewerConfig) and name in self.__dict__:
            with exit_on_input_error():
                require_address(value)
        super().__setattr__(name, value)

    def get_base_dir(self) -> Path:
        """Return the run's folder: where its config.yml is opened from, or else where the options say.

        A run may be copied or moved, and commands that are given its config.yml mean that folder's weights.
        """
        opened = value_on_command_line("--load-config")
        if opened is not None and (Path(opened).parent / self.relative_model_dir).is_dir():
            return Path(opened).parent.resolve()
        return super().get_base_dir()

    def set_timestamp(self) -> None:
        chosen_by_clock = self.timestamp == "{timestamp}"
        super().set_timestamp()
        if dist.is_initialized():  # all processes speak of one folder
            agreed = [self.timestamp]
            dist.broadcast_object_list(agreed)
            self.timestamp = agreed[0]
        elif chosen_by_clock:
            first, number = self.timestamp, 1
            while self.get_base_dir().exists():  # another run began in the same second
                number += 1
                self.timestamp = f"{first}_{number}"

    def print_to_terminal(self) -> None:
        """Say what is going to be trained, on what, for how long, and where it goes."""
        ignore_library_warnings()
        length = f"{self.max_num_iterations:,} steps"
        if self.max_minutes is not None:
            length = f"{self.max_minutes:g} minutes, or {length}"
        data = self.pipeline.datamanager.data or self.pipeline.datamanager.dataparser.data  # pyright: ignore[reportAttributeAccessIssue]
        device = self.machine.device_type
        known = device != "cuda" or torch.cuda.is_available()
        terminal.say(str(self.method_name))
        terminal.say_table(
            [
                ("data", terminal.shown(data)),
                ("device", terminal.device_name(device) if known else device),
                ("length", length),
                ("seed", str(self.machine.seed)),
                ("results", terminal.shown(self.get_base_dir())),
            ]
        )

    def save_config(self) -> None:
        with exit_on_input_error():
            require_launchable(self.machine)
            if self.machine.machine_rank > 0 or not comms.is_main_process():
                return  # the first machine writes it
            folder = self.get_base_dir()
            if (folder / "config.yml").exists():
                raise UsageError(
                    f"{folder} holds a run already: choose another --timestamp, or move that folder away. To go on "
                    f"with it, give --load-dir {folder / self.relative_model_dir} and no --timestamp."
                )
            # Where commands are called from must not matter to them later.
            self.output_dir = self.output_dir.resolve()
            for config in (self.pipeline.datamanager, self.pipeline.datamanager.dataparser):  # pyright: ignore[reportAttributeAccessIssue]
                if config.data is not None:
                    config.data = config.data.resolve()
            try:
                with terminal.silence():
                    super().save_config()
            except OSError as error:
                raise InputError(
                    f"cannot write to the output folder {folder} ({in_one_line(error)}): choose another one with "
                    f"--output-dir."
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
        if machine.device_type == "cuda" and not torch.cuda.is_available():
            raise UsageError("--machine.device-type cuda needs a GPU that torch can use; there is none: leave it out.")
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
    viewer_state: Any = None
    _claim: FileLock | None = None
    _progress: terminal.TrainingProgress | None = None
    _failed_write: OSError | None = None
    _captured: CapturedSteps | None = None
    _is_over: bool = False
    """Whether all is done but to show the viewer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Nerfstudio's constructor sets the training state, which starts and stops the clock.
        self._clock = Stopwatch()
        self._trained_steps = 0
        ignore_library_warnings()
        with terminal.silence():
            super().__init__(*args, **kwargs)
        self.train_lock = Turns(  # pyright: ignore[reportAttributeAccessIssue]
            is_picture=lambda: viewer_thread() is not None, is_training=lambda: self.training_state == "training"
        )

    def setup(self, *args: Any, **kwargs: Any) -> None:
        with exit_on_input_error():
            self._claim_folder()
            try:
                self._require_possible_options()
                with terminal.silence():
                    super().setup(*args, **kwargs)
                self._capture_steps()
                self._say_what_is_trained()
            except KeyboardInterrupt:  # of which Nerfstudio would show a traceback, and end with 0
                self._discard_folder()
                terminal.say("interrupted before the first step: nothing was trained.")
                raise SystemExit(130) from None
            except BaseException:
                self._discard_folder()
                raise

    def _capture_steps(self) -> None:
        wanted = self.config.captured_steps
        if wanted == "no" or (wanted == "auto" and not self.device.startswith("cuda")):
            return
        reason = reason_against(self)
        if reason is None:
            self._captured = CapturedSteps(self)
        elif wanted == "yes":
            raise UsageError(f"--captured-steps yes is not possible here: {reason}. Leave it out.")

    def _require_possible_options(self) -> None:
        config = self.config
        if config.max_num_iterations < 1:
            raise UsageError(f"--max-num-iterations must be at least 1, not {config.max_num_iterations}.")
        if config.max_minutes is not None and not config.max_minutes > 0:
            raise UsageError(f"--max-minutes must be positive, not {config.max_minutes}.")
        if "viewer" in config.vis:
            require_address(config.viewer)
        for name, parts in config.optimizers.items():
            if not 0 < parts["optimizer"].lr < math.inf:
                raise UsageError(f"--optimizers.{name}.optimizer.lr must be positive, not {parts['optimizer'].lr}.")
            scheduler = parts["scheduler"]
            if isinstance(scheduler, DecayOverTrainingConfig):
                _require_possible(scheduler, f"--optimizers.{name}.scheduler")

    @check_main_thread
    def _claim_folder(self) -> None:
        """Keep other runs out of this one's folder, and sweep what a killed one left where this one goes on."""
        self._claim = claim(self.base_dir)
        if self.config.load_dir is not None and self.config.load_dir.parent.is_dir():
            with suppress(InputError):  # it still runs
                release(claim(self.config.load_dir.parent))

    @check_main_thread
    def _discard_folder(self) -> None:
        """Remove the folder of a run that was refused, or given up, before anything was trained."""
        if self._claim is None:
            return
        release(self._claim)
        (self.base_dir / "config.yml").unlink(missing_ok=True)
        for path in self.base_dir.glob("events.out.tfevents.*"):  # TensorBoard's, which may be open by then
            path.unlink(missing_ok=True)
        with suppress(OSError):  # it holds other files, or the method's folder other runs
            for folder in (self.base_dir, self.base_dir.parent, self.base_dir.parent.parent):
                folder.rmdir()

    @check_main_thread
    def _say_what_is_trained(self) -> None:
        dataset = self.pipeline.datamanager.train_dataset
        if dataset is None:
            return
        cameras = dataset.cameras
        sizes = {(int(width), int(height)) for width, height in zip(cameras.width, cameras.height, strict=True)}
        size = "{}x{} pixels".format(*sizes.pop()) if len(sizes) == 1 else f"{len(sizes)} sizes"
        parameters = sum(parameter.numel() for parameter in self.pipeline.model.get_param_groups()["fields"])
        rows = [("views", f"{len(dataset)} of {size}"), ("network", f"{parameters:,} parameters")]
        if self._start_step:
            rows.append(("goes on", f"from step {self._start_step:,}"))
        viewer = self._viewer_address()
        if viewer is not None:
            rows.append(("viewer", f"{viewer}  (Ctrl-C stops)"))
        terminal.say_table(rows)

    def _viewer_address(self) -> str | None:
        if self.viewer_state is None or not isinstance(self.pipeline.model, FinerModel):
            return None
        return self.pipeline.model.live_view.address

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
        # Pictures of a field at rest are drawn as large as may be.
        if self.viewer_state is not None and state != "training":
            self.viewer_state._trigger_rerender()

    def train(self) -> None:
        self._clock.restart()
        threading.excepthook = self._note_failed_write
        with exit_on_input_error():
            try:
                with terminal.TrainingProgress(
                    str(self.config.method_name), self.base_dir, viewer=self._viewer_address()
                ) as self._progress:
                    super().train()
            except Diverged as error:
                raise InputError(self._diverged(error)) from None
            except KeyboardInterrupt:
                raise SystemExit(self._interrupted()) from None
            except OSError as error:
                # TensorBoard's, as a rule; what was trained is worth a folder made anew.
                saved = self._saved_anyway()
                raise InputError(
                    f"cannot write to {self.base_dir} ({in_one_line(error)}): was it deleted, or is the disk "
                    f"full? {saved}"
                ) from error
            finally:
                threading.excepthook = threading.__excepthook__
                self._give_folder_free()

    def _give_folder_free(self) -> None:
        if self._claim is not None:
            release(self._claim)
            self._claim = None

    def _note_failed_write(self, failed: threading.ExceptHookArgs) -> None:
        """Keep an error of TensorBoard's writing thread, which the terminal would get as it is, for the next step."""
        if isinstance(failed.exc_value, OSError):
            self._failed_write = failed.exc_value
        else:
            threading.__excepthook__(failed)

    @check_main_thread
    def _interrupted(self) -> int:
        """Save what was trained until here, say how to go on, and return the exit code.

        Who ends the viewer of a finished run has interrupted nothing.
        """
        if self._is_over:
            return 0
        if self.training_state == "completed":
            self.save_checkpoint(self._last_step())
            terminal.say(f"interrupted; what was trained is saved in {terminal.quoted(self.checkpoint_dir)}")
        elif self._trained_steps:
            self.save_checkpoint(self._last_step())
            terminal.say(
                f"interrupted after step {self._last_step():,}; to go on from there, give the same command "
                f"with --load-dir {terminal.quoted(self.checkpoint_dir)}"
            )
        return 130

    def _saved_anyway(self) -> str:
        try:
            self.save_checkpoint(self._last_step())
        except InputError as error:
            return f"And it {error.message}"
        return f"What was trained is saved in {self.checkpoint_dir}."

    def _diverged(self, error: Diverged) -> str:
        """Say which settings may be at fault and what is left, in a sentence or two."""
        groups = "fields", *(("proposal_networks",) if self.config.pipeline.model.sampler == "proposal" else ())  # pyright: ignore[reportAttributeAccessIssue]
        rates = ", ".join(
            f"--optimizers.{name.replace('_', '-')}.optimizer.lr {self.config.optimizers[name]['optimizer'].lr:g}"
            for name in groups
        )
        lr, start = (self.config.optimizers["fields"][part] for part in ("optimizer", "scheduler"))
        is_higher_first = isinstance(start, DecayOverTrainingConfig) and start.start_lr > lr.lr
        if is_higher_first and self._last_step() < start.start_steps:
            rates += f", --optimizers.fields.scheduler.start-lr {start.start_lr:g}"
        model = self.pipeline.model
        scales = model.config.field.scale_options() if isinstance(model, FinerModel) else ""
        if self._trained_steps == 0 and self._start_step == 0:
            return f"{error} before the first step: the scales are too large ({scales})."
        found = sorted(self.checkpoint_dir.glob("*.ckpt"))
        kept = f"the last good checkpoint is {found[-1]}" if found else "no checkpoint had been saved before"
        return (
            f"training diverged: {error} after step {self._last_step()}; lower {rates}{', or ' if scales else ''}"
            f"{scales}. {kept[0].upper()}{kept[1:]}."
        )

    def train_iteration(self, step: int) -> Any:
        if self._failed_write is not None:
            raise self._failed_write
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
        result = super().train_iteration(step) if self._captured is None else self._captured.step(step)
        self._trained_steps += 1
        if self._progress is not None and self._progress.is_due() and (self._captured is None or result[2]):
            psnr = float(result[2]["psnr"]) if "psnr" in result[2] else math.nan
            assert isinstance(self.pipeline, (FinerPipeline, CountedPipeline))
            rays_per_second = self.pipeline.trained_rays / max(self._clock.seconds(), 1e-9)
            self._progress.report(min(1.0, this_run), step, psnr, rays_per_second)
        return result

    def _last_step(self) -> int:
        """The step that was trained last; the one that Nerfstudio names has not begun where a run is stopped."""
        return max(0, self._start_step + self._trained_steps - 1)

    def _decays(self) -> Iterator[ExponentialDecay]:
        for scheduler in self.optimizers.schedulers.values():
            for decay in getattr(scheduler, "lr_lambdas", ()):
                if isinstance(decay, ExponentialDecay):
                    yield decay

    def _update_viewer_state(self, step: int) -> None:
        model = self.pipeline.model
        if self.viewer_state is None:
            return
        if isinstance(model, FinerModel):
            model.live_view.refresh(step)
        else:
            super()._update_viewer_state(step)

    def _check_viewer_warnings(self) -> None:
        """Nothing is evaluated while the viewer alone is on; test views are measured when training ends."""

    def _after_train(self) -> None:
        if self._progress is not None:
            self._progress.close()
        self.step = self._last_step()
        if self._captured is not None:
            self._captured.settle()
        seconds = self._clock.seconds()
        self._save_summary(seconds)
        self._save_refined_poses()
        # Nerfstudio's method goes on to wait for the end of the viewer, and says things of its own before.
        quits = self.config.viewer.quit_on_train_completion
        self.config.viewer.quit_on_train_completion = True
        try:
            with terminal.silence():
                super()._after_train()
        finally:
            self.config.viewer.quit_on_train_completion = quits
        self._say_how_it_went(seconds)
        self._is_over = True
        self._give_folder_free()
        if not quits and self.viewer_state is not None:
            terminal.say("The viewer goes on; Ctrl-C ends it.")
            with terminal.silence():
                self._train_complete_viewer()

    @check_main_thread
    def _say_how_it_went(self, seconds: float) -> None:
        """The end of a run: what it cost, how good it is on test views, and three commands to go on with."""
        pipeline = self.pipeline
        assert isinstance(pipeline, (FinerPipeline, CountedPipeline))
        terminal.say(
            f"Trained {self._trained_steps:,} steps in {seconds / 60:.1f} minutes, "
            f"{pipeline.trained_rays / seconds:,.0f} rays/s."
        )
        if isinstance(pipeline, FinerPipeline):
            try:
                terminal.say(str(pipeline.test_quality(seconds=min(_SECONDS_OF_MEASURING, seconds))))
            except InputError as error:  # what was trained is saved, even if the scene has gone meanwhile
                terminal.say(f"Test views were not measured: {error.on_command_line()}")
        config = terminal.quoted(self.base_dir / "config.yml")
        report = terminal.quoted(self.base_dir / "evaluation.json")
        rows = [
            ("measure it on all test views", f"ns-eval --load-config {config} --output-path {report}"),
            ("look at it again", f"ns-viewer --load-config {config}"),
        ]
        if isinstance(pipeline.model, FinerModel) and isinstance(pipeline.model.field, GrowingField):
            rows.append(("make a stream of it", f"finer stream pack {terminal.quoted(self.base_dir)}"))
        elif isinstance(pipeline.model, FinerModel) and not pipeline.model.unbounded:
            rows.append(("bake it into splats", f"finer export splats --load-config {config}"))
        else:
            rows.append(("fly from view to view", f"ns-render interpolate --load-config {config}"))
        terminal.say_table(rows)

    @check_main_thread
    def _save_refined_poses(self) -> None:
        pipeline = self.pipeline
        optimizer = getattr(pipeline.model, "camera_optimizer", None)
        if isinstance(pipeline, FinerPipeline) and optimizer is not None and optimizer.config.mode != "off":
            outputs = pipeline.datamanager.train_dataparser_outputs
            path = write_refined_poses(self.base_dir, optimizer, outputs)
            terminal.say(f"The refined poses are in {terminal.quoted(path)}.")

    @check_main_thread
    def _save_summary(self, seconds: float) -> None:
        """Write what the run cost beside its checkpoints."""
        pipeline = self.pipeline
        assert isinstance(pipeline, (FinerPipeline, CountedPipeline))
        summary = {
            "method": self.config.method_name,
            "version": __version__,
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
        write_json(self.base_dir / "training.json", summary)

    def _load_checkpoint(self) -> None:
        source = self.config.load_dir if self.config.load_dir is not None else self.config.load_checkpoint
        load_scaler = self.grad_scaler.load_state_dict
        # A run without --mixed-precision saves no state of the scaler, and a scaler refuses to load none.
        self.grad_scaler.load_state_dict = lambda state_dict: load_scaler(state_dict) if state_dict else None
        try:
            super()._load_checkpoint()
        except InputError:
            raise
        except (FileNotFoundError, NotADirectoryError, AssertionError, IndexError, ValueError) as error:
            raise InputError(
                f"no checkpoint could be found at {source}: --load-dir takes a run's nerfstudio_models "
                f"folder, --load-checkpoint one .ckpt file."
            ) from error
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise damaged_checkpoint(f"at {source}", error) from error
        finally:
            self.grad_scaler.load_state_dict = load_scaler
        self._loaded_progress = max((decay.progress for decay in self._decays()), default=0.0)

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write beside the checkpoints first and move the finished file in: the last one stays whole meanwhile."""
        if self._captured is not None:
            self._captured.settle()
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.pipeline.parameters()):
            raise Diverged("weights are NaN or infinite")
        try:
            try:
                self._write_checkpoint(step)
            except (OSError, RuntimeError):
                if self._has_folder():
                    raise
                self._write_checkpoint(step)  # somebody deleted the folder while it was written
        except (OSError, RuntimeError) as error:
            # torch's own writer of checkpoints knows no OSError.
            cause = "" if isinstance(error, OSError) else "; is the disk full?"
            raise InputError(
                f"cannot save a checkpoint to {self.checkpoint_dir} ({in_one_line(error)}{cause})."
            ) from error

    def _has_folder(self) -> bool:
        return (self.base_dir / "config.yml").exists()

    def _write_checkpoint(self, step: int) -> None:
        final_dir = self.checkpoint_dir
        # Not inside it: Nerfstudio takes every name in the folder of checkpoints for a step number.
        partial_dir = final_dir.with_name(final_dir.name + ".partial")
        if not self._has_folder():
            self.config.save_config()
        try:
            self.checkpoint_dir = partial_dir
            super().save_checkpoint(step)
            self._move_in(partial_dir, final_dir)
        except (OSError, RuntimeError):
            # What there is of the file is of no use, and in the way where the disk is full.
            shutil.rmtree(partial_dir, ignore_errors=True)
            raise
        finally:
            self.checkpoint_dir = final_dir

    def _move_in(self, partial_dir: Path, final_dir: Path) -> None:
        final_dir.mkdir(parents=True, exist_ok=True)
        moved = {final_dir / path.name for path in partial_dir.glob("*.ckpt")}
        for path in moved:
            move_in(partial_dir / path.name, path)
        shutil.rmtree(partial_dir)
        if self.config.save_only_latest_checkpoint:
            for path in final_dir.glob("*.ckpt"):
                if path not in moved:
                    path.unlink()
