"""What the browser is told about splats, against their own numbers in double precision."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from viser import _messages as messages
from viser.infra import WebsockMessageHandler

from finer_nerfstudio.nerf.export import harmonics
from finer_nerfstudio.nerf.export.display import displayed, frame_of_splats
from finer_nerfstudio.nerf.export.splat_file import write_splats
from finer_nerfstudio.nerf.export.splats import Splats
from finer_nerfstudio.nerf.export.viewing import show, viewpoint_of

# What viser's camera sees at most, and from where on.
NEAR, FAR = 0.05, 1000.0


def surface_splats(count: int = 400, *, degree: int = 2) -> Splats:
    """Flat Gaussians on the unit sphere, in single precision as in files, whose colours depend on the direction."""
    generator = torch.Generator().manual_seed(0)
    means = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    rotations = torch.randn(count, 4, generator=generator)
    log_scales = torch.log(torch.tensor([0.05, 0.03, 0.004])) + 0.3 * torch.randn(count, 3, generator=generator)
    colors = 0.4 * torch.randn(count, harmonics.terms(degree), 3, generator=generator)
    return Splats(means, means.clone(), rotations, log_scales, torch.randn(count, generator=generator), colors)


def covariances(splats: Splats) -> np.ndarray:
    """By scipy's rotations, in double precision."""
    axes = Rotation.from_quat(splats.rotations.double().numpy()[:, [1, 2, 3, 0]]).as_matrix()
    deviations = np.exp(splats.log_scales.double().numpy())
    return np.einsum("nij,nj,nkj->nik", axes, deviations**2, axes)


def resized(splats: Splats, factor: float) -> Splats:
    return replace(splats, means=splats.means * factor, log_scales=splats.log_scales + math.log(factor))


def turned(splats: Splats, rotation: Rotation) -> Splats:
    """As splat-transform -r does it: everything but the normals."""
    matrix = torch.from_numpy(rotation.as_matrix())
    along = torch.nn.functional.normalize(torch.randn(100, 3, dtype=torch.float64), dim=-1)
    values = harmonics.basis(along @ matrix, splats.degree) @ splats.harmonics.double()
    colors = torch.linalg.lstsq(harmonics.basis(along, splats.degree).expand(len(splats), -1, -1), values).solution
    quaternions = rotation * Rotation.from_quat(splats.rotations.double().numpy()[:, [1, 2, 3, 0]])
    return replace(
        splats,
        means=(splats.means.double() @ matrix.T).float(),
        rotations=torch.from_numpy(quaternions.as_quat()[:, [3, 0, 1, 2]]).float(),
        harmonics=colors.float(),
    )


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The buffers of splats that viser sends."""
    buffers: list[np.ndarray] = []
    queue = WebsockMessageHandler.queue_message

    def keep(self: WebsockMessageHandler, message: messages.Message) -> None:
        if isinstance(message, messages.GaussianSplatsMessage):
            buffers.append(message.buffer)
        queue(self, message)

    monkeypatch.setattr(WebsockMessageHandler, "queue_message", keep)
    return buffers


def packed(path: Path, splats: Splats, sent: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, covariances and colours as the browser reads them."""
    write_splats(path, splats)
    show(path, port=0).stop()
    buffer = np.ascontiguousarray(sent.pop())
    halves = buffer[:, 4:7].copy().view(np.float16).astype(np.float64)
    root = np.zeros((len(buffer), 3, 3))
    root[:, [0, 1, 1, 2, 2, 2], [0, 0, 1, 0, 1, 2]] = halves[:, [0, 1, 3, 2, 4, 5]]
    colors = buffer[:, 7:8].copy().view(np.uint8)[:, :3]
    return buffer[:, :3].copy().view(np.float32).astype(np.float64), root @ root.swapaxes(1, 2), colors


def largest_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Of matrices, relative to each one's norm."""
    return float((np.linalg.norm(found - expected, axis=(1, 2)) / np.linalg.norm(expected, axis=(1, 2))).max())


def test_a_turned_file_has_the_colours_of_the_other(tmp_path: Path, sent: list[np.ndarray]) -> None:
    splats, rotation = surface_splats(), Rotation.from_euler("xyz", [180, 35, -70], degrees=True)
    matrix = rotation.as_matrix()
    places, shapes, colors = packed(tmp_path / "a.ply", splats, sent)
    turned_places, turned_shapes, turned_colors = packed(tmp_path / "b.ply", turned(splats, rotation), sent)
    assert np.abs(colors.astype(int) - turned_colors).max() <= 1
    assert np.ptp(colors.astype(int), axis=0).min() > 60
    # The frame may be another one: by a shift and a scale.
    scale = np.linalg.norm(np.ptp(turned_places @ matrix, axis=0)) / np.linalg.norm(np.ptp(places, axis=0))
    shift = turned_places.mean(axis=0) - scale * matrix @ places.mean(axis=0)
    np.testing.assert_allclose(turned_places, scale * places @ matrix.T + shift, atol=1e-5)
    assert largest_error(turned_shapes, scale**2 * matrix @ shapes @ matrix.T) < 3e-3


@pytest.mark.parametrize("extent", [0.02, 2.0, 2e4])
def test_scenes_of_all_sizes_are_packed_alike(extent: float, tmp_path: Path, sent: list[np.ndarray]) -> None:
    splats = surface_splats()
    places, shapes, _ = packed(tmp_path / "a.ply", splats, sent)
    found_places, found_shapes, _ = packed(tmp_path / "b.ply", resized(splats, extent / 2), sent)
    np.testing.assert_allclose(found_places, places, atol=1e-4)
    assert largest_error(found_shapes, shapes) < 2e-3
    # And as they are, as far as half precision goes.
    assert largest_error(found_shapes, covariances(splats) * frame_of_splats(splats).scale ** 2) < 2e-3


def test_what_is_thin_stays_thin(tmp_path: Path, sent: list[np.ndarray]) -> None:
    """viser adds 1e-7 to covariances: a third of a thousandth of the scene's unit would be its least thickness."""
    splats = surface_splats()
    splats = replace(splats, rotations=torch.tensor([1.0, 0, 0, 0]).repeat(len(splats), 1))
    splats.log_scales[:] = math.log(2e-4)
    _, shapes, _ = packed(tmp_path / "a.ply", splats, sent)
    scale = frame_of_splats(splats).scale
    np.testing.assert_allclose(np.sqrt(np.linalg.eigvalsh(shapes)) / scale, 2e-4, rtol=2e-3)


def test_sky_does_not_change_what_is_near(tmp_path: Path, sent: list[np.ndarray]) -> None:
    near = surface_splats()
    near.log_scales[:, 2] = -torch.inf
    near.log_scales[0] = math.log(0.02)
    names = ("means", "normals", "rotations", "log_scales", "opacity_logits", "harmonics")
    far = Splats(*(torch.cat([getattr(near, name), getattr(near, name)[:1]]) for name in names))
    far.means[-1] = torch.tensor([0.0, 0.0, 2000.0])

    def deviations(splats: Splats) -> np.ndarray:
        frame = frame_of_splats(splats)
        values = np.linalg.eigvalsh(displayed(splats, frame).covariances[: len(near)])
        return np.sqrt(values.clip(0.0)) / frame.scale

    np.testing.assert_allclose(deviations(far), deviations(near), atol=1e-6)
    np.testing.assert_allclose(deviations(far)[0], 0.02, atol=1e-6)
    _, shapes, _ = packed(tmp_path / "a.ply", far, sent)
    np.testing.assert_allclose(np.sqrt(np.linalg.eigvalsh(shapes[0])) / frame_of_splats(far).scale, 0.02, rtol=1e-3)


@given(st.floats(-4, 6), st.floats(-3, 3))
@settings(deadline=None, max_examples=30)
def test_what_is_far_away_is_drawn_in_order_and_as_large_as_it_looks(size: float, sky: float) -> None:
    splats = resized(surface_splats(60), 10.0**size)
    splats.means[:3] *= torch.tensor([[10.0], [500.0], [500.0 * (2 + 10**sky)]])
    frame = frame_of_splats(splats)
    found = displayed(splats, frame)
    distances = np.linalg.norm(found.centers, axis=1)
    true_places = frame.points(splats.means.numpy())
    true_distances = np.linalg.norm(true_places, axis=1)
    assert distances.max() < FAR / 2
    assert distances[0] < distances[1] < distances[2]
    cosines = (found.centers * true_places).sum(axis=1) / (distances * true_distances)
    np.testing.assert_allclose(cosines, 1.0, atol=1e-9)
    for i in range(3):
        widest = np.sqrt(np.linalg.eigvalsh(found.covariances[i])[-1])
        expected = frame.scale * float(splats.log_scales[i].double().exp().max())
        # Below what is sent at least it need not be.
        expected = max(expected * distances[i] / true_distances[i], 1e-4)
        assert widest == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("log_scales", "place"),
    [([80.0, 80.0, -80.0], 0.0), ([-torch.inf, -torch.inf, -torch.inf], 0.0), ([0.0, 3.0, -torch.inf], 1e30)],
)
def test_extreme_splats_are_drawn_somehow(
    log_scales: list[float], place: float, tmp_path: Path, sent: list[np.ndarray]
) -> None:
    splats = surface_splats(300)
    splats.log_scales[:100], splats.means[0] = torch.tensor(log_scales), torch.tensor([place, 1.0, 0.0])
    places, shapes, _ = packed(tmp_path / "a.ply", splats, sent)
    assert np.isfinite(places).all()
    assert np.isfinite(shapes).all()
    assert (np.linalg.eigvalsh(shapes)[:, -1] > 0).all()


def test_a_single_splat_fills_a_part_of_the_picture(tmp_path: Path, sent: list[np.ndarray]) -> None:
    one = resized(surface_splats(1), 1e-3)
    _, shapes, _ = packed(tmp_path / "a.ply", one, sent)
    assert np.sqrt(np.linalg.eigvalsh(shapes[0])[-1]) == pytest.approx(4.0, rel=1e-2)


@pytest.mark.parametrize("extent", [0.02, 2.0, 2e4])
@pytest.mark.parametrize("place", [0.0, 1e6])
def test_the_camera_stands_outside_and_sees_all(extent: float, place: float, tmp_path: Path) -> None:
    splats = resized(surface_splats(), extent / 2)
    splats = replace(splats, means=splats.means.double() + place)
    frame = frame_of_splats(splats)
    viewpoint = viewpoint_of(tmp_path / "none.ply", frame)
    eye, at = frame.points(np.array(viewpoint.position)), frame.points(np.array(viewpoint.look_at))
    forward = (at - eye) / np.linalg.norm(at - eye)
    local = displayed(splats, frame).centers - eye
    depth = local @ forward
    assert depth.min() > 20 * NEAR
    aside = np.linalg.norm(local - depth[:, None] * forward, axis=1)
    assert np.abs(np.arctan2(aside, depth)).max() < viewpoint.fov / 2
    assert np.arctan2(aside, depth).max() > viewpoint.fov / 5


def test_positions_in_double_precision_are_shown_in_it() -> None:
    splats = surface_splats(50)
    moved = replace(splats, means=splats.means.double() + torch.tensor([4.5e5, 5.2e6, 300.0]).double())
    np.testing.assert_allclose(
        displayed(moved, frame_of_splats(moved)).centers, displayed(splats, frame_of_splats(splats)).centers, atol=1e-6
    )
