"""The training loop: schedule, exact resuming, damage and divergence."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from finer_nerfstudio import CoordinateNetwork, preset
from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.runs.adam import Adam
from finer_nerfstudio.runs.training import Backward, Schedule, train
from finer_nerfstudio.tasks.image.files import SourceImage, sample_image
from finer_nerfstudio.tasks.image.fit import ImageOptions, fit_image
from finer_nerfstudio.tasks.sdf.fit import ShapeOptions, fit_shape
from finer_nerfstudio.tasks.sdf.shape import sample_shape
from finer_nerfstudio.tasks.streaming.encode import StreamOptions, encode
from finer_nerfstudio.tasks.streaming.subjects import image_subject


def small_network(method: str = "finer-wavelet", seed: int = 0) -> tuple[CoordinateNetwork, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return preset(method, "image").network(2, 1, width=16, depth=3, generator=generator), generator


def random_batches(network: CoordinateNetwork, until: int | None = None) -> Backward:
    """Batches that depend on the generator; the process "dies" in the middle of step ``until``."""
    calls = 0

    def backward(generator: torch.Generator) -> Tensor:
        nonlocal calls
        if calls == until:
            raise ConnectionError("killed")
        calls += 1
        coords = torch.rand(64, 2, generator=generator) * 2 - 1
        loss = (network(coords)[:, 0] - torch.sin(9 * coords[:, 0])).square().mean()
        loss.backward()
        return loss.detach()

    return backward


@pytest.mark.parametrize("method", ["siren", "finer-gauss", "finer-wavelet"])
def test_a_killed_run_ends_where_an_uninterrupted_one_does(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Schedule(steps=30, learning_rate=1e-3, max_gradient_norm=1.0)
    whole, generator = small_network(method)
    reference = train(whole, random_batches(whole), schedule, generator=generator)

    # A checkpoint after every step, and a death at two of them.
    monkeypatch.setattr("finer_nerfstudio.runs.training._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    checkpoint = tmp_path / "checkpoint.safetensors"
    for until in (7, 12):
        network, generator = small_network(method)
        with pytest.raises(ConnectionError):
            train(
                network,
                random_batches(network, until),
                schedule,
                generator=generator,
                checkpoint=checkpoint,
                resume=True,
                settings={"a": 1},
            )
    network, generator = small_network(method)
    resumed = train(
        network,
        random_batches(network),
        schedule,
        generator=generator,
        checkpoint=checkpoint,
        resume=True,
        settings={"a": 1},
    )
    assert resumed.step == reference.step == 30
    assert resumed.curve == reference.curve
    for name, parameter in whole.state_dict().items():
        assert torch.equal(parameter, network.state_dict()[name]), name


def test_learning_rate_decays_exponentially_to_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    step = Adam.step

    def spy(self: Adam) -> None:
        rates.append(self.learning_rate)
        step(self)

    monkeypatch.setattr(Adam, "step", spy)
    network, generator = small_network()
    train(network, random_batches(network), Schedule(steps=10, learning_rate=1e-3), generator=generator)
    assert rates == pytest.approx([1e-3 * 0.1 ** (i / 10) for i in range(10)])


def test_checkpoints_of_other_settings_are_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    schedule = Schedule(steps=2, learning_rate=1e-3)
    network, generator = small_network()
    train(network, random_batches(network), schedule, generator=generator, checkpoint=checkpoint, settings={"k": 1.0})
    with pytest.raises(UsageError, match=r"k was 1.0, is 2.0"):
        train(
            network,
            random_batches(network),
            schedule,
            generator=generator,
            checkpoint=checkpoint,
            resume=True,
            settings={"k": 2.0},
        )


@pytest.mark.parametrize("size", [0, 10, 700, -1])
def test_damaged_checkpoints_are_named(size: int, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    schedule = Schedule(steps=2, learning_rate=1e-3)
    network, generator = small_network()
    train(network, random_batches(network), schedule, generator=generator, checkpoint=checkpoint)
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:size])
    with pytest.raises(InputError, match="cut short"):
        train(network, random_batches(network), schedule, generator=generator, checkpoint=checkpoint, resume=True)


def test_divergence_is_said() -> None:
    network, generator = small_network()

    def backward(generator: torch.Generator) -> Tensor:
        return torch.tensor(math.nan)

    with pytest.raises(InputError, match=r"learning_rate below 0\.001, or smaller scales \(omega_0, s_0\)"):
        train(network, backward, Schedule(steps=3, learning_rate=1e-3), generator=generator)


@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"minutes": 0.0}, {"minutes": math.nan}, {"learning_rate": 0.0}, {"learning_rate": math.inf}],
)
def test_schedules_that_mean_nothing_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Schedule(**{"steps": 10, "learning_rate": 1e-3, **options})  # pyright: ignore[reportArgumentType]


def test_a_run_by_the_clock_ends() -> None:
    network, generator = small_network()
    done = []
    training = train(
        network,
        random_batches(network),
        Schedule(steps=1, learning_rate=1e-3, minutes=0.005),
        generator=generator,
        report=lambda share, step, loss: done.append(share),
    )
    assert training.step == len(done) > 1
    assert done[-1] == 1.0
    assert done == sorted(done)


def test_a_checkpoint_of_another_signal_of_the_same_size_is_refused(tmp_path: Path) -> None:
    """Fits of every kind of signal, whose input is replaced before they go on."""
    small = ImageOptions(width=8, depth=1, steps=3)
    image = sample_image(16)
    other = SourceImage(255 - image.pixels)
    checkpoint = tmp_path / "checkpoint.safetensors"
    fitted = fit_image(image, small, checkpoint=checkpoint)
    assert fitted.training.step == 3
    with pytest.raises(UsageError, match="belongs to a run with another image: give the same"):
        fit_image(other, small, checkpoint=checkpoint, resume=True)
    fit_image(SourceImage(image.pixels.copy()), small, checkpoint=checkpoint, resume=True)
    with pytest.raises(UsageError, match=r"another image and other options .*seed was 0, is 1"):
        fit_image(other, replace(small, seed=1), checkpoint=checkpoint, resume=True)
    shape = sample_shape()
    checkpoint = tmp_path / "shape.safetensors"
    fit_shape(shape, ShapeOptions(width=8, depth=1, steps=3), checkpoint=checkpoint)
    moved = replace(shape, vertices=shape.vertices * [1.0, 1.0, 1.01])
    with pytest.raises(UsageError, match="another shape"):
        fit_shape(moved, ShapeOptions(width=8, depth=1, steps=3), checkpoint=checkpoint, resume=True)
    stream = StreamOptions(widths=(4, 6), depth=1, steps=3)
    encode(image_subject(image, stream), stream, folder=tmp_path)
    with pytest.raises(UsageError, match="with another input"):
        encode(image_subject(other, stream), stream, folder=tmp_path, resume=True)
