"""Headers of streamed scenes as a stranger may write them, and the cameras that look at a scene."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.data.views import View
from finer_nerfstudio.nerf.streaming.growing_field import GrowingFieldConfig
from finer_nerfstudio.nerf.streaming.scene import scene_of, signal_of
from finer_nerfstudio.streams.header import StreamedStage, StreamHeader, describe_network
from finer_nerfstudio.streams.payload import pack_stage
from finer_nerfstudio.streams.reader import read_stream
from finer_nerfstudio.streams.writer import write_stream

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
POSE = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -3.0, 0.0, 1.0, 0.0, 0.0]
SIGNAL: dict[str, Any] = {
    "aabb": [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0],
    "direction_encoding": "raw",
    "samples_per_ray": 48,
    "grid_resolution": 16,
    "near_plane": 0.05,
    "weight_threshold": 1e-3,
    "view": {"height": 12, "width": 16, "focal": [16.0, 16.0], "center": [8.0, 6.0], "pose": POSE},
}


def header(signal: dict[str, Any], task: str = "nerf", features: int = 8) -> StreamHeader:
    field = GrowingFieldConfig(widths=(8, 14)).setup(aabb=BOX, generator=torch.Generator().manual_seed(0))
    networks = [describe_network("density", field.density_net), describe_network("color", field.color_net)]
    if features != 8:
        networks.reverse()
    return StreamHeader(
        networks, task, signal, [StreamedStage([8, 8], 0, "float32"), StreamedStage([14, 14], 0, "float32")]
    )


def test_a_field_survives_its_way_through_the_container() -> None:
    field = GrowingFieldConfig(widths=(8, 14)).setup(aabb=BOX, generator=torch.Generator().manual_seed(0))
    for parameter in field.parameters():  # new columns are zero at first
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    payloads = [pack_stage([field.density_net.stages[i], field.color_net.stages[i]], "float32") for i in range(2)]
    content, _ = write_stream(header(SIGNAL), payloads)
    stream = read_stream(content)
    positions = torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for stages in (1, 2):
        scene, expected = scene_of(stream, stages), field.rendered(stages)
        hidden = expected.hidden_features(positions)
        assert torch.equal(scene.scene.field.hidden_features(positions), hidden)
        assert torch.equal(scene.scene.field.density(hidden), expected.density(hidden))
        assert torch.equal(scene.scene.field.color(hidden, positions), expected.color(hidden, positions))
        first, second = scene.picture(), scene_of(stream, stages).picture()
        assert first.shape == (12, 16, 3)
        assert np.array_equal(first, second), "a stream looks the same whenever it is decoded"
    with pytest.raises(InputError, match="no picture of 3"):
        scene_of(stream, 3)


def test_a_field_that_is_nowhere_finite_is_refused() -> None:
    field = GrowingFieldConfig(widths=(8, 14)).setup(aabb=BOX)
    with torch.no_grad():
        field.density_net.stages[0].last.weight.fill_(3e38)
    payloads = [pack_stage([field.density_net.stages[i], field.color_net.stages[i]], "float32") for i in range(2)]
    content, _ = write_stream(header(SIGNAL), payloads)
    with pytest.raises(InputError, match="NaN or infinite"):
        scene_of(read_stream(content))


HOSTILE: list[tuple[tuple[str, ...], Any]] = [
    (("aabb",), [1.0, 0.0, 0.0, -1.0, 1.0, 1.0]),
    (("aabb",), [0.0] * 5),
    (("aabb",), [0.0, 0.0, 0.0, 1.0, 1.0, float("nan")]),
    (("aabb",), [0, 0, 0, 1, 1, 10**400]),
    (("aabb",), None),
    (("direction_encoding",), "other"),
    (("direction_encoding",), ["raw"]),
    (("direction_encoding",), "spherical-harmonics"),
    (("samples_per_ray",), 10**9),
    (("samples_per_ray",), 0),
    (("samples_per_ray",), True),
    (("grid_resolution",), 5000),
    (("near_plane",), -1.0),
    (("weight_threshold",), "much"),
    (("view",), None),
    (("view", "height"), 10**9),
    (("view", "width"), 1.5),
    (("view", "focal"), [0.0, 1.0]),
    (("view", "center"), {}),
    (("view", "pose"), [float("inf")] * 12),
    (("view", "pose"), [0.0] * 11),
]


@pytest.mark.parametrize(("path", "value"), HOSTILE, ids=lambda item: ".".join(item) if isinstance(item, tuple) else "")
def test_hostile_scenes_are_refused(path: tuple[str, ...], value: Any) -> None:
    signal_of(header(SIGNAL))
    signal = copy.deepcopy(SIGNAL)
    place = signal
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(InputError, match=r"describes no possible scene|none of a radiance field"):
        signal_of(header(signal))


def test_other_tasks_and_networks_are_refused() -> None:
    with pytest.raises(InputError, match="no radiance field"):
        signal_of(header(SIGNAL, task="image"))
    with pytest.raises(InputError, match="none of a radiance field"):
        signal_of(header(SIGNAL, features=0))


def test_a_camera_is_carried_around_and_keeps_looking() -> None:
    view = signal_of(header(SIGNAL)).view
    point = (0.0, 0.0, 0.0)
    quarter = np.array(view.turned(math.pi / 2, point).pose).reshape(3, 4)
    np.testing.assert_allclose(quarter[:, 3], [3.0, 0.0, 0.0], atol=1e-12)
    for angle in np.linspace(0, 2 * math.pi, 7):
        pose = np.array(view.turned(float(angle), point).pose).reshape(3, 4)
        np.testing.assert_allclose(np.cross(-pose[:, 2], pose[:, 3]), 0, atol=1e-9)
        np.testing.assert_allclose(pose[:, :3] @ pose[:, :3].T, np.eye(3), atol=1e-12)
    back = view.turned(1.0, (0.5, 0.2, 0.0)).turned(-1.0, (0.5, 0.2, 0.0))
    np.testing.assert_allclose(back.pose, view.pose, atol=1e-12)


def test_a_resized_view_shows_the_same() -> None:
    view = View(100, 200, (150.0, 140.0), (90.0, 55.0), tuple(POSE)).resized(50)
    assert (view.height, view.width, view.focal, view.center) == (25, 50, (37.5, 35.0), (22.5, 13.75))
