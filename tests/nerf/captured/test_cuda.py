"""Captured steps on a GPU: as the same steps on a processor, repeated as graphs, and without any wait."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

from finer_nerfstudio import METHODS
from finer_nerfstudio.nerf.captured.run import FieldOptions, fit_views, training_of
from finer_nerfstudio.nerf.captured.views import Views

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

SMALL = FieldOptions(
    steps=100, rays=512, width=48, depth=2, samples_per_ray=128, most_samples=1 << 15, grid_resolution=32, fog_steps=16
)
Ball = Callable[..., Views]


def options(method: str = "finer-sine", **changes: object) -> FieldOptions:
    return FieldOptions(**{**vars(SMALL), "method": method, **changes})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("method", METHODS)
def test_steps_are_captured_and_wait_for_nothing(method: str, ball: Ball) -> None:
    training = training_of(ball(8), options(method))
    for step in range(64):
        training.step(step, 1e-3)
    assert training.graphs >= 1
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for step in range(64, 80):
                training.step(step, 1e-3)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # A room that is new has its kernels set up once more, which may wait.
    waits = [str(warning.message) for warning in met if "synchroniz" in str(warning.message)]
    assert len(waits) <= 3, waits
    totals = training.finish()
    assert totals.rays > 0.9 * 80 * 512


def test_graphs_compute_what_the_function_does(ball: Ball) -> None:
    values = []
    for is_captured in (True, False):
        training = training_of(ball(8), options())
        for step in range(48):
            if not is_captured:
                for repeated in (training._look, training._look_everywhere, *training._repeated.values()):
                    repeated._may_capture = False  # as with FINER_CUDA_GRAPHS=0
            training.step(step, 1e-3)
            if not is_captured:
                assert training.graphs <= 1
        training.finish()
        values.append(training.optimizer.values.clone())
    difference = float((values[0] - values[1]).norm() / values[1].norm())
    assert difference < 1e-2, difference


def test_a_gpu_learns_what_a_processor_learns(ball: Ball) -> None:
    found = {
        device: fit_views(ball(40), ball(4, seed=1), options(steps=400, learning_rate=3e-3, device=device))["psnr"]
        for device in ("cuda", "cpu")
    }
    assert abs(found["cuda"] - found["cpu"]) < 1.5
    assert found["cuda"] > 18


def test_the_same_seed_gives_the_same_weights(ball: Ball) -> None:
    once, again = [training_of(ball(8), options()) for _ in range(2)]
    for training in (once, again):
        for step in range(64):
            training.step(step, 1e-3)
        training.finish()
    assert torch.equal(once.optimizer.values, again.optimizer.values)
