"""Where the viewer's camera starts, how large its pictures are, and how often they come."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.render_state_machine import RenderAction

from finer_nerfstudio.nerf.viewer import live_view
from finer_nerfstudio.nerf.viewer.live_view import LiveView, RenderMachines, first_view, picture_size

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def looking(positions: np.ndarray, targets: np.ndarray) -> Cameras:
    """Cameras of 80x60 pixels that look from positions at targets, z up."""
    back = positions - targets
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    poses = np.stack([right, np.cross(back, right), back, positions], axis=2)
    return Cameras(torch.from_numpy(poses).float(), fx=70.0, fy=70.0, cx=40.0, cy=30.0, width=80, height=60)


@given(st.integers(0, 2**31), st.floats(0.2, 20.0))
def test_the_first_view_shows_the_middle_that_all_cameras_look_at(seed: int, distance: float) -> None:
    generator = np.random.default_rng(seed)
    middle = generator.uniform(-0.5, 0.5, 3)
    angle, height = generator.uniform(0, 2 * math.pi, 12), generator.uniform(0.1, 0.9, 12)
    around = np.stack([np.cos(angle), np.sin(angle), height], axis=1)
    positions = middle + (1.0 + distance) * around / np.linalg.norm(around, axis=1, keepdims=True)
    view = first_view(looking(positions, np.tile(middle, (12, 1))), BOX)
    np.testing.assert_allclose(view.look_at, middle, atol=1e-3 * (1 + distance))
    # From one of the cameras, a tenth of the way ahead.
    ways = np.linalg.norm(np.array(view.position) - (positions + 0.1 * (middle - positions)), axis=1)
    assert ways.min() < 1e-3 * (1 + distance)
    # The camera's whole picture fits into wide and tall windows.
    for aspect in (0.5, 80 / 60, 3.0):
        vertical = math.tan(view.field_of_view(aspect) / 2)
        assert vertical >= 30 / 70 - 1e-6
        assert vertical * aspect >= 40 / 70 - 1e-6


def test_cameras_that_look_away_from_the_box_start_at_its_middle() -> None:
    positions = np.array([[3.0, 0.1, 0.5], [0.2, 3.0, 0.5], [-3.0, 0.3, 0.6]])
    view = first_view(looking(positions, positions * 2), BOX)
    inside = np.abs(view.look_at).max() <= 1.0
    assert inside
    assert np.isfinite(view.position).all()


def test_parallel_cameras_have_a_first_view_too() -> None:
    positions = np.array([[float(x), -3.0, 0.0] for x in range(-2, 3)])
    view = first_view(looking(positions, positions + np.array([0.0, 1.0, 0.0])), BOX)
    assert np.isfinite([*view.position, *view.look_at]).all()


@given(st.floats(0.05, 20.0), st.floats(1.0, 1e9), st.integers(64, 2048))
def test_pictures_fit_the_time_the_window_and_the_chosen_size(aspect: float, rays: float, longest: int) -> None:
    height, width = picture_size(aspect, rays=rays, longest_side=longest)
    assert height >= 1
    assert width >= 1
    assert max(height, width) <= max(longest, 32)
    if max(height, width) > 32:
        assert height * width <= rays + height + width
    if min(height, width) > 8:
        assert width / height == pytest.approx(aspect, rel=0.15)


class Machine:
    """As much of a viewer's state machine as is told to draw."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def action(self, action: Any) -> None:
        self.told.append(action.action)


@pytest.mark.parametrize("seconds_of_picture", [0.0, 0.2, 30.0])
def test_pictures_come_at_least_every_five_seconds_and_no_flood(
    seconds_of_picture: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(live_view.time, "perf_counter", lambda: now[0])
    view, machine = LiveView(), Machine()
    view.viewer = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        render_statemachines={7: machine},
        viser_server=SimpleNamespace(get_clients=lambda: {7: "client", 8: "one that has just left"}),
        get_camera_state=lambda client: client,
        update_step=lambda step: None,
    )
    asked: list[float] = []
    for step in range(6000):
        now[0] += 0.01
        before = len(machine.told)
        view.refresh(step)
        if len(machine.told) > before:
            asked.append(now[0])
            view._drawn_since += seconds_of_picture
    gaps = np.diff(asked)
    assert asked[0] < 1.0
    assert gaps.max() < 3.1
    assert gaps.min() > 0.45
    assert gaps.mean() == pytest.approx(min(max(9 * seconds_of_picture, 0.5), 3.0), rel=0.1)


def test_drawing_measures_its_speed_and_is_on_one_thread() -> None:
    import threading

    view = LiveView()
    threads = {view.draw(5000, threading.get_ident) for _ in range(5)}
    assert len(threads) == 1
    assert threads != {threading.get_ident()}
    assert view._rays_per_second > live_view._ASSUMED_RAYS_PER_SECOND
    assert view.draw(1, torch.is_grad_enabled) is False
    with pytest.raises(ValueError, match="of the picture"):
        view.draw(1, lambda: (_ for _ in ()).throw(ValueError("of the picture")))


def test_what_a_viewer_says_after_it_has_left_is_taken_by_nobody() -> None:
    machines = RenderMachines({1: "machine"})
    machines[7].action(RenderAction("move", None))  # pyright: ignore[reportArgumentType]
    machines[7].running = False
    assert machines.pop(7) is None
    assert machines.get(7) is None
    assert machines.pop(1) == "machine"
    assert machines == {}
