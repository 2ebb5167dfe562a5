"""Pictures of Nerfstudio's live viewer: where the camera starts, how large they are, and when the next one comes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.render_state_machine import RenderAction, RenderStateMachine
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from nerfstudio.viewer.viewer_elements import ViewerControl
from torch import Tensor
from viser import ClientHandle

from finer_nerfstudio.nerf.training import terminal

Result = TypeVar("Result")

# Seconds that a picture may take while the camera moves, and while it rests and training goes on.
_MOVING_SECONDS = 0.1
_TRAINING_SECONDS = 0.5
# While training goes on, pictures take a tenth of the time, and come no more and no less often than this.
_TRAINING_PER_PICTURE = 9.0
_SHORTEST_WAIT, _LONGEST_WAIT = 0.5, 3.0
# Before the first picture nobody knows; a field that has not learned where space is empty is slow.
_ASSUMED_RAYS_PER_SECOND = 5_000.0
_SMALLEST_SIDE = 32
# Of the way from a training camera to the middle of the scene.
_BEFORE_PICTURES = 0.1


@dataclass(frozen=True)
class FirstView:
    """The camera of somebody who has just opened the viewer, world units.

    Attributes:
        position: of the camera.
        look_at: what is in the middle of the picture.
        half_width: tangent of half the horizontal field of view.
        half_height: the same, vertical.
    """

    position: tuple[float, float, float]
    look_at: tuple[float, float, float]
    half_width: float
    half_height: float

    def field_of_view(self, aspect: float) -> float:
        """Vertical field of view in radians, at which a window of this aspect shows all that the camera saw."""
        return 2.0 * math.atan(min(max(self.half_height, self.half_width / aspect), 3.0))


def first_view(cameras: Cameras, box: Float[Tensor, "2 3"]) -> FirstView:
    """Return the view of a training camera that frames the scene: one that looks at its middle, from a little above.

    The middle is the point that is nearest to all optical axes, or that of the box where this lies outside. The view
    is from a tenth of the way to it, since the viewer hangs the training picture in front of each camera.

    Args:
        cameras: of the training views.
        box: lowest and highest corner of the scene's box, world units.
    """
    poses = cameras.camera_to_worlds.double().cpu()
    positions, axes = poses[:, :, 3], -poses[:, :, 2]
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    middle = torch.linalg.lstsq(across.sum(0), (across @ positions[:, :, None]).sum(0), driver="gelsd").solution[:, 0]
    low, high = box.double().cpu()
    if not bool(((middle >= low) & (middle <= high)).all()):
        middle = (low + high) / 2
    toward = middle - positions
    distance = toward.norm(dim=1).clamp(min=1e-9)
    off_axis = torch.acos(((toward / distance[:, None]) * axes).sum(1).clamp(-1.0, 1.0))
    above = torch.asin((-toward[:, 2] / distance).clamp(-1.0, 1.0))
    # A radian off the axis is as bad as one off 25 degrees of height, or as a distance that is e times the median.
    badness = off_axis + (above - math.radians(25)).abs() + (distance / distance.median()).log().abs()
    chosen = int(badness.argmin())
    x, y, z = (positions[chosen] + _BEFORE_PICTURES * toward[chosen]).tolist()
    look_x, look_y, look_z = middle.tolist()
    width, height = float(cameras.width[chosen]), float(cameras.height[chosen])
    return FirstView(
        position=(x, y, z),
        look_at=(look_x, look_y, look_z),
        half_width=width / 2 / float(cameras.fx[chosen]) / (1 - _BEFORE_PICTURES),
        half_height=height / 2 / float(cameras.fy[chosen]) / (1 - _BEFORE_PICTURES),
    )


def picture_size(aspect: float, *, rays: float, longest_side: int) -> tuple[int, int]:
    """Return height and width in pixels of a picture of at most so many rays.

    Args:
        aspect: width divided by height.
        rays: how many there may be; a picture of 32 pixels is drawn all the same.
        longest_side: pixels of the longer side at most.
    """
    height = math.sqrt(max(rays, 1.0) / aspect)
    shrink = min(1.0, longest_side / max(height, height * aspect))
    height = max(height * shrink, _SMALLEST_SIDE / max(1.0, aspect))
    return max(1, int(height)), max(1, int(height * aspect))


class _Nobody:
    """Takes what is said to a client that has left."""

    running = False

    def action(self, action: RenderAction) -> None:
        del action


class RenderMachines(dict[int, Any]):
    """Nerfstudio's threads that render, by client.

    Messages of a client may be handled after it has left, for which Nerfstudio's own dictionary has a traceback.
    """

    def __missing__(self, client_id: int) -> _Nobody:
        return _Nobody()

    def pop(self, client_id: int, default: Any = None) -> Any:
        return super().pop(client_id, default)


class LiveView(ViewerControl):
    """Sees to the viewer's pictures, whether it belongs to a training run or to a finished one.

    Nerfstudio's own pace counts training steps by how long earlier pictures took, the time included in which they
    waited for training. This one goes by the clock.
    """

    def __init__(self) -> None:
        self._rays_per_second = _ASSUMED_RAYS_PER_SECOND
        self._refreshed_at = 0.0
        self._drawn_since = 0.0
        # All pictures are drawn by one thread: each would keep memory and threads of its own for good.
        self._painter = ThreadPoolExecutor(1, "viewer-picture", lambda: torch.set_flush_denormal(True))

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        viewer.render_statemachines = RenderMachines(viewer.render_statemachines)
        port = viewer.viser_server.get_port()
        host = viewer.config.websocket_host
        self.address = f"http://{'localhost' if host == '0.0.0.0' else host}:{port}"
        # Nerfstudio names the port that was asked for, which another program may have had.
        viewer.viewer_info = [f"Viewer at {self.address}, until Ctrl-C"]
        asked = viewer.config.websocket_port
        if asked is not None and asked != port:
            terminal.note(f"Port {asked} is taken by another program: the viewer is on port {port}.")
        # A line for everybody who comes and goes would break the bar of the training's progress.
        viewer.viser_server._websock_server._verbose = False
        dataset = viewer.pipeline.datamanager.train_dataset
        self._first_view = None
        if dataset is not None and len(dataset.cameras):
            self._first_view = first_view(dataset.cameras.flatten(), dataset.scene_box.aabb)
        viewer.viser_server.on_client_connect(self._welcome)

    def _welcome(self, client: ClientHandle) -> None:
        machine = self.viewer.render_statemachines.get(client.client_id)
        if machine is not None:
            machine._calculate_image_res = lambda aspect_ratio: self._size(machine, aspect_ratio)
        first = self._first_view
        if first is None:
            return
        scale = VISER_NERFSTUDIO_SCALE_RATIO
        with client.atomic():
            client.camera.up_direction = (0.0, 0.0, 1.0)
            client.camera.position = scale * np.array(first.position)
            client.camera.look_at = scale * np.array(first.look_at)
            client.camera.fov = first.field_of_view(client.camera.aspect)

    def _trains(self) -> bool:
        trainer = self.viewer.trainer
        return trainer is not None and trainer.training_state == "training"

    def _size(self, machine: RenderStateMachine, aspect: float) -> tuple[int, int]:
        longest = int(self.viewer.control_panel.max_res)
        if machine.state != "high":
            seconds = _MOVING_SECONDS
        elif self._trains():
            seconds = _TRAINING_SECONDS
        else:
            seconds = math.inf
        return picture_size(aspect, rays=min(seconds * self._rays_per_second, 1e9), longest_side=longest)

    def draw(self, rays: int, render: Callable[[], Result]) -> Result:
        """Return what ``render`` gives, having measured how long it took; called by a thread of the viewer.

        Args:
            rays: how many it renders.
            render: called on the one thread that draws.
        """

        def timed() -> tuple[Result, float]:
            start = time.perf_counter()
            with torch.no_grad():
                result = render()
            return result, time.perf_counter() - start

        result, seconds = self._painter.submit(timed).result()
        # Empty corners are quick: a few rays say little of the others.
        weight = min(1.0, rays / 4096)
        self._rays_per_second += weight * 0.5 * (rays / max(seconds, 1e-4) - self._rays_per_second)
        self._drawn_since += seconds
        return result

    def refresh(self, step: int) -> None:
        """Have new pictures drawn if it is time; called after every training step.

        Args:
            step: that was trained last.
        """
        viewer, now = self.viewer, time.perf_counter()
        viewer.step = step
        wait = min(max(_TRAINING_PER_PICTURE * self._drawn_since, _SHORTEST_WAIT), _LONGEST_WAIT)
        if not viewer.render_statemachines or now < self._refreshed_at + wait:
            return
        self._refreshed_at, self._drawn_since = now, 0.0
        for client_id, client in viewer.viser_server.get_clients().items():
            machine = viewer.render_statemachines.get(client_id)
            if machine is not None:
                machine.action(RenderAction("step", viewer.get_camera_state(client)))
        viewer.update_step(step)
