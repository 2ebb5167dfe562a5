"""Where the time of a training step of a radiance field goes, part by part."""

from __future__ import annotations

import contextlib
import copy
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.scripts.train import _set_random_seed
from torch.profiler import ProfilerActivity, profile, record_function

from finer_nerfstudio.nerf import compiled_compositing, compositing
from finer_nerfstudio.nerf.configs import SPECIFICATIONS
from finer_nerfstudio.nerf.model import FinerModel
from finer_nerfstudio.nerf.training.pipeline import FinerPipeline, FinerPipelineConfig
from finer_nerfstudio.runs.progress import Stage

_PARTS = ("pixels and rays", "march", "grid", "field, forward", "weights", "average")
# Nodes of the backward pass that belong to the field: its features, layers, readouts and what turns these into density
# and colour.
_NODES_OF_FIELD = (
    "_LookUpBackward",
    "_ChainBackward",
    "_ActivateBackward",
    "_TruncatedExponentialBackward",
    "AddmmBackward0",
    "MmBackward0",
    "TBackward0",
    "SigmoidBackward0",
    "CatBackward0",
)
# Steps with and without the profiler by turns; the grid is updated once in so many.
_IN_TURN = 16
_IN_GRID = "field, in the grid"
_NODE = "autograd::engine::evaluate_function: "


def step_parts(
    method: str, data: Path, *, after: int, steps: int, device: torch.device, seed: int, report: Stage
) -> dict[str, float]:
    """Train a field, and return the milliseconds of a step by its parts, and of the whole step.

    That is ``step``, of which they are the parts, and ``alone`` for steps without the profiler, whose own time is in
    each part.

    Args:
        method: of ``ns-train``, with its default settings.
        data: folder of the scene.
        after: steps that are trained before.
        steps: that are measured, rounded up to whole updates of the grid.
        device: to train on; times are the processor's, which on a GPU say little.
        seed: of weights, pixels and samples.
        report: progress callback.
    """
    config = copy.deepcopy(SPECIFICATIONS[method].config)
    assert isinstance(config.pipeline, FinerPipelineConfig)
    config.pipeline.datamanager.data = data
    _set_random_seed(seed)
    pipeline = config.pipeline.setup(device=device, test_mode="val")
    optimizers = Optimizers(config.optimizers, pipeline.get_param_groups())
    attributes = TrainingCallbackAttributes(optimizers, None, pipeline, None)  # pyright: ignore[reportArgumentType]
    callbacks = pipeline.get_training_callbacks(attributes)

    def train(step: int) -> None:
        with record_function("step"):
            for callback in callbacks:
                callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
            optimizers.zero_grad_all()
            _, losses, _ = pipeline.get_train_loss_dict(step)
            total = torch.stack(list(losses.values())).sum()
            with record_function("backward"):
                total.backward()
            with record_function("optimizer"):
                optimizers.optimizer_step_all()
                optimizers.scheduler_step_all(step)
            for callback in callbacks:
                callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)

    for step in range(after):
        report(f"training {method}", step, after)
        train(step)
    report(f"training {method}", after, after)
    quiet = mock.patch.dict(os.environ, KINETO_LOG_LEVEL="99")  # the profiler's own log would be on the terminal
    rounds: dict[str, list[float]] = defaultdict(list)
    # In turn, so that both meet the same machine; medians, because others use it too.
    for first in range(after, after + 2 * steps, 2 * _IN_TURN):
        start = time.perf_counter()
        for step in range(first, first + _IN_TURN):
            train(step)
        rounds["alone"].append(1e3 * (time.perf_counter() - start))
        with quiet, _recorded(pipeline), profile(activities=[ProfilerActivity.CPU]) as profiled:
            for step in range(first + _IN_TURN, first + 2 * _IN_TURN):
                train(step)
        for event in profiled.key_averages():
            rounds[event.key].append(event.cpu_time_total / 1e3)
    milliseconds = {name: statistics.median(values) / _IN_TURN for name, values in rounds.items()}
    of_field = sum(milliseconds.get(_NODE + name, 0.0) for name in _NODES_OF_FIELD)
    parts = {name: milliseconds.get(name, 0.0) for name in (*_PARTS, "optimizer")}
    # The grid's updates look into the field.
    parts["grid"] -= milliseconds.get(_IN_GRID, 0.0)
    parts["field, forward"] += milliseconds.get(_IN_GRID, 0.0)
    parts |= {"field, backward": of_field, "other backward": milliseconds["backward"] - of_field}
    whole = milliseconds["step"]
    return {**parts, "other": whole - sum(parts.values()), "step": whole, "alone": milliseconds["alone"]}


@contextlib.contextmanager
def _recorded(pipeline: FinerPipeline) -> Iterator[None]:
    """Have the profiler tell the parts of a step apart."""
    finer = pipeline.model
    assert isinstance(finer, FinerModel)
    sampler = finer.sampler
    places: list[tuple[Any, str, str]] = [
        (pipeline.datamanager, "next_train", "pixels and rays"),
        (sampler, "march", "march"),
        (finer.averaged_field, "follow", "average"),
        (compositing, "weights_and_rest", "weights"),
        (compositing, "sums_along_rays", "weights"),
        (compiled_compositing, "color_sums", "weights"),
        *((sampler, name, "grid") for name in ("update", "see") if hasattr(sampler, name)),
        *((finer.field, name, "field, forward") for name in ("hidden_features", "density", "color")),
    ]
    inside: list[str] = []

    def named(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            if part in inside:  # the field's methods call each other
                return function(*args, **kwargs)
            name = _IN_GRID if inside == ["grid"] and part == "field, forward" else part
            inside.append(part)
            try:
                with record_function(name):
                    return function(*args, **kwargs)
            finally:
                inside.pop()

        return recorded

    with contextlib.ExitStack() as stack:
        for owner, name, part in places:
            stack.enter_context(mock.patch.object(owner, name, named(getattr(owner, name), part)))
        yield
