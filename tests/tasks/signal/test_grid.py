"""Where samples lie, and that decoding finds them again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finer_nerfstudio import preset
from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.tasks.signal import grid
from finer_nerfstudio.tasks.signal.grid import (
    GridSignal,
    coordinates,
    decode,
    points_per_step,
    positions,
    squared_error,
)

SHAPES = st.lists(st.integers(1, 5000), min_size=1, max_size=3)


@given(SHAPES, st.data())
def test_coordinates_and_positions_are_inverse(shape: list[int], data: st.DataObject) -> None:
    where = torch.tensor([[data.draw(st.floats(0, size)) for size in shape]], dtype=torch.float64)
    coords = coordinates(where, shape)
    assert (coords.abs() <= 1 + 1e-12).all()
    torch.testing.assert_close(positions(coords, shape), where, atol=1e-9, rtol=1e-12)


@given(SHAPES)
def test_samples_are_centred_and_square(shape: list[int]) -> None:
    first, last = torch.zeros(len(shape)) + 0.5, torch.tensor(shape) - 0.5
    torch.testing.assert_close(coordinates(first, shape), -coordinates(last, shape))
    step = coordinates(first + 1, shape) - coordinates(first, shape)
    torch.testing.assert_close(step, torch.full_like(step, 2.0 / max(shape)), atol=1e-6, rtol=1e-4)


def test_the_loss_over_parts_is_the_loss_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    values = np.random.default_rng(0).integers(0, 256, (13, 7, 3), dtype=np.uint8)
    signal = GridSignal(values, 0.0, 255.0)
    network = preset("finer-sine", "image").network(2, 3, width=16, depth=2, generator=generator)
    coords = torch.stack(torch.meshgrid(*(torch.arange(n) + 0.5 for n in (13, 7)), indexing="ij"), -1).reshape(-1, 2)
    coords = (2 * coords - torch.tensor([13.0, 7.0])) / 13
    target = torch.from_numpy(values.reshape(-1, 3) / 127.5 - 1).float()
    expected = (network(coords) - target).square().mean()
    (reference,) = torch.autograd.grad(expected, network.first.weight)
    for at_once, preloaded in ((1000, 1 << 24), (10, 1 << 24), (10, 0)):
        monkeypatch.setitem(grid._POINTS_AT_ONCE, "cpu", at_once)
        monkeypatch.setattr(grid, "_LARGEST_PRELOADED", preloaded)
        network.zero_grad()
        loss = squared_error(network, signal, "full")(generator)
        assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
        assert network.first.weight.grad is not None
        torch.testing.assert_close(network.first.weight.grad, reference, rtol=1e-4, atol=1e-6)


def test_decoding_asks_for_the_sample_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(grid._POINTS_AT_ONCE, "cpu", 5)
    parts = list(decode(lambda coords: coords, (3, 6), device=torch.device("cpu")))
    assert [len(part) for part in parts] == [5, 5, 5, 3]
    torch.testing.assert_close(torch.cat(parts), grid.sample_centers(torch.arange(18), (3, 6)))


def test_a_region_at_twice_the_resolution() -> None:
    region = [(1.0, 3.0), (2.0, 6.0)]
    (part,) = decode(lambda coords: coords, (4, 8), device=torch.device("cpu"), resolution=(4, 8), region=region)
    where = positions(part, (4, 8)).reshape(4, 8, 2)
    torch.testing.assert_close(where[:, 0, 0], torch.tensor([1.25, 1.75, 2.25, 2.75]))
    torch.testing.assert_close(where[0, :, 1], torch.arange(8) / 2 + 2.25)


def test_batch_sizes() -> None:
    assert points_per_step("full", 10**6) == 10**6
    assert points_per_step("auto", 100) == 100
    assert points_per_step("auto", 10**8) == 512 * 512
    assert points_per_step(50, 20) == 20
    with pytest.raises(UsageError):
        points_per_step(0, 20)
