"""A training step has one shape, asks nothing, and learns a scene."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from finer_nerfstudio import METHODS
from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.nerf.captured import quality
from finer_nerfstudio.nerf.captured.rooms import Rooms, rung
from finer_nerfstudio.nerf.captured.run import FieldOptions, fit_views, training_of
from finer_nerfstudio.nerf.captured.step import Needs, Room
from finer_nerfstudio.nerf.captured.views import PixelRays, Views

SMALL = {
    "rays": 128,
    "width": 24,
    "depth": 2,
    "samples_per_ray": 64,
    "most_samples": 1 << 13,
    "grid_resolution": 16,
    "fog_steps": 16,
    "device": "cpu",
}
Ball = Callable[..., Views]
# Operations whose answer a GPU would have to be waited for, and those whose shape depends on what they read.
WAITS = {
    *("_local_scalar_dense", "item", "nonzero", "masked_select", "_unique2", "unique_consecutive", "bincount", "equal"),
    *("repeat_interleave", "is_nonzero", "argwhere", "_pin_memory"),
}


class Operations(TorchDispatchMode):
    """Notes all operations with the shapes that they are given and give."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[tuple[str, list[torch.Size], list[torch.Size]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, got = (
            [tensor.shape for tensor in tree_leaves(values) if isinstance(tensor, torch.Tensor)]
            for values in ((args, kwargs), result)
        )
        self.met.append((func.overloadpacket.__name__, given, got))
        return result


@pytest.mark.parametrize("method", METHODS)
def test_steps_wait_for_nothing_and_are_all_of_one_shape(method: str, ball: Ball) -> None:
    training = training_of(ball(4), FieldOptions(method=method, steps=100, **SMALL))
    for step in range(3 * 16):  # kernels are made in the first one, and the room settles
        training.step(step, 1e-3)
    recorded = []
    for step in (48, 49, 64, 65):  # with a look into the grid and without, twice
        training.room = training._rooms.first(step)
        with Operations() as operations:
            training.step(step, 1e-3)
        recorded.append(operations.met)
        assert not {name for name, *_ in operations.met} & WAITS
        for later in range(step + 1, step + 15 if step == 49 else step + 1):
            training.step(later, 1e-3)
    assert recorded[1] == recorded[3]


def test_a_ball_is_learned_and_the_same_seed_gives_the_same(ball: Ball) -> None:
    options = FieldOptions(steps=500, learning_rate=3e-3, **{**SMALL, "rays": 256})
    seen: list[tuple[int, int, float]] = []
    found = fit_views(ball(40), ball(4, seed=1), options, report=lambda *progress: seen.append(progress))
    assert found["views"] == 4
    assert found["psnr"] > 18
    assert found["occupied_cells"] < 0.5
    assert found["trained_rays"] > 0.9
    assert seen[-1][:2] == (500, 500)
    assert [step for step, *_ in seen] == sorted(step for step, *_ in seen)
    short = FieldOptions(steps=40, learning_rate=3e-3, **SMALL)
    once, again, other = (fit_views(ball(4), ball(1, seed=1), replace(short, seed=seed))["psnr"] for seed in (0, 0, 1))
    assert once == again
    assert once != other


def test_rays_that_do_not_fit_are_left_out_of_the_loss(ball: Ball) -> None:
    options = FieldOptions(steps=40, **{**SMALL, "most_samples": 1 << 10, "rays": 256})
    found = fit_views(ball(4), ball(1, seed=1), options)
    assert 0.02 < found["trained_rays"] < 0.9


def test_divergence_is_a_sentence(ball: Ball) -> None:
    with pytest.raises(InputError, match="training of finer-sine diverged"):
        fit_views(ball(4), ball(1, seed=1), FieldOptions(steps=64, learning_rate=1e30, **SMALL))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"rays": 0}, "rays"),
        ({"width": 0}, "width"),
        ({"samples_per_ray": 0}, "samples_per_ray"),
        ({"most_samples": 100}, "most_samples"),
        ({"grid_resolution": 257}, "grid_resolution"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"method": "sirene"}, "sirene"),
    ],
)
def test_impossible_options_are_named(changed: dict[str, Any], named: str, ball: Ball) -> None:
    with pytest.raises(UsageError, match=named):
        training_of(ball(1), FieldOptions(**{**SMALL, "steps": 10, **changed}))


def test_scales_that_were_published_for_images_only_are_replaced() -> None:
    for method, row in METHODS.items():
        chosen = FieldOptions(method=method).hyper_parameters()
        assert chosen.learning_rate == row.tasks["nerf"].learning_rate
    gauss = FieldOptions(method="gauss").hyper_parameters().activation.kernel_form()
    assert gauss is not None
    assert gauss.s == METHODS["gauss"].radiance.s_0


def test_rooms_hold_what_was_needed_and_change_seldom() -> None:
    rooms = Rooms(most_samples=1 << 16, most_rays=512, columns=96, fog_columns=32, fog_steps=32)
    room = rooms.first()
    assert room == Room(512, 1 << 16, 1 << 16, 32)
    assert rooms.next(room, None, 16) == room
    room = rooms.next(room, Needs(8000, 900, 0, 0, 0), 16)
    assert room == Room(512, 12288, 1536, 32)
    # A little less than before is no reason for another shape; a little more than fits is one.
    assert rooms.next(room, Needs(7800, 1000, 0, 0, 0), 16) == room
    assert rooms.next(room, Needs(10_500, 1400, 0, 0, 0), 16) == Room(512, 16384, 2048, 32)
    assert rooms.next(room, Needs(1e9, 1e9, 0, 0, 0), 16) == Room(512, 1 << 16, 1 << 16, 32)
    assert rooms.next(room, Needs(8000, 900, 0, 0, 0), 32) == Room(512, 1 << 16, 1 << 16, 96)


def test_rays_follow_from_the_samples_that_are_aimed_at() -> None:
    rooms = Rooms(1 << 16, most_rays=4096, columns=96, fog_columns=32, fog_steps=0, target_samples=12_288)
    room = rooms.first()
    assert room.rays == 12_288 // 96
    many = rooms.next(room, Needs(100, 100, 0, 0, 0), 16)
    assert 128 < many.rays <= 4 * 128, "no flood of rays after a look at empty sky"
    for _ in range(20):  # forty samples on each ray
        room = rooms.next(room, Needs(40 * room.rays, 10 * room.rays, 0, 0, 0), 16)
    assert 0.7 * 12_288 <= 40 * room.rays <= 1.4 * 12_288
    assert room.samples >= 40 * room.rays
    assert room.colors >= 10 * room.rays
    assert rooms.next(room, Needs(40 * room.rays, 10 * room.rays, 0, 0, 0), 16) == room
    assert rooms.next(room, Needs(1e9, 1e9, 0, 0, 0), 16).rays >= 16


def test_the_ladder_has_two_rungs_for_each_power_of_two() -> None:
    assert [rung(wanted, 1 << 20) for wanted in (0, 1024, 1025, 1536, 1537, 2048, 3000, 3100)] == [
        *(1024, 1024, 1536, 1536, 2048, 2048, 3072, 4096)
    ]
    assert rung(1e9, 5000) == 5000


def test_nothing_of_it_needs_nerfstudio() -> None:
    code = (
        "import sys, finer_nerfstudio.nerf.captured.run\n"
        "print([name for name in ('nerfstudio', 'viser', 'open3d', 'tyro', 'gsplat') if name in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_a_hazy_view_is_rendered_in_parts_and_looks_the_same(ball: Ball, monkeypatch: pytest.MonkeyPatch) -> None:
    training = training_of(ball(2), FieldOptions(steps=10, **SMALL))
    views = PixelRays.of_views(ball(1, seed=1), torch.device("cpu"))
    whole = quality.rendered(training.field, training.grid, views, 0)
    monkeypatch.setattr(quality, "_MOST_SAMPLES", 300)
    parts = quality.rendered(training.field, training.grid, views, 0)
    torch.testing.assert_close(parts, whole)
    assert float(whole.std()) > 0
