"""Training with several bias ranges: what is recorded is what the networks do, and what the figure needs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finer_nerfstudio.analysis.initialization import (
    InitializationOptions,
    draw,
    error_map,
    intensities_of,
    picture_of,
    psnr_of,
    study,
    train_on,
)
from finer_nerfstudio.analysis.outcome import Outcome, read_outcome, write_outcome
from finer_nerfstudio.analysis.subject import subject_of
from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.files.checkpoint import save_model
from finer_nerfstudio.tasks.image.files import SourceImage, sample_image
from finer_nerfstudio.tasks.image.fit import ImageOptions, measure, signal_of
from finer_nerfstudio.tasks.image.run import run_image
from finer_nerfstudio.tasks.image.spectrum import mean_centroid

SMALL: dict[str, Any] = {"size": 16, "steps": 6, "width": 16, "depth": 2, "bias_ranges": (1.0, 10.0)}


def nothing(name: str, done: int, total: int) -> None:
    assert name
    assert 0 <= done <= total


def written_and_read(folder: Path, outcome: Outcome) -> Outcome:
    write_outcome(folder, outcome, draw(outcome))
    return read_outcome(folder / "initialization.json")


def mean_square_of(decibels: float) -> float:
    return 10.0 ** (-decibels / 10.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fitted to the sample at 24x24 pixels for a few steps."""
    folder = tmp_path_factory.mktemp("fit")
    run_image(sample_image(24), ImageOptions(steps=40, width=16, depth=2, seed=3), folder, quiet=True)
    return folder / "model.safetensors"


@pytest.mark.parametrize("method", ["finer-sine", "finer-gauss", "finer-wavelet"])
def test_a_wider_bias_range_starts_with_higher_frequencies(method: str) -> None:
    centroids = []
    for k in (1.0, 5.0, 20.0):
        options = InitializationOptions(method=method, bias_range=k, width=64)  # pyright: ignore[reportArgumentType]
        centroids.append(mean_centroid(picture_of(subject_of(options, 2, 3).initial, (96, 96))))
    assert centroids[0] < centroids[1] < centroids[2]


def test_a_picture_is_the_network_at_pixel_centres() -> None:
    network = subject_of(InitializationOptions(width=8, depth=1), 2, 3).initial
    with torch.no_grad():
        network.last.weight.mul_(9.0)
    picture = picture_of(network, (4, 6))
    with torch.no_grad():
        # The longer side, of 6 pixels, spans [-1, 1].
        outputs = network(torch.tensor([[-3.0 / 6, -5.0 / 6], [1.0 / 6, 3.0 / 6]]))
    expected = (0.5 * outputs + 0.5).clamp(0, 1)
    torch.testing.assert_close(torch.stack([picture[0, 0], picture[2, 4]]), expected, rtol=0, atol=1e-5)
    assert picture.shape == (4, 6, 3)
    assert float(picture.min()) >= 0
    assert float(picture.max()) <= 1


def test_intensities_are_the_image() -> None:
    image = sample_image(16)
    expected = torch.from_numpy(image.pixels.astype(np.float32)) / 255
    torch.testing.assert_close(intensities_of(signal_of(image)), expected, rtol=0, atol=1e-6)


def test_error_maps_keep_the_mean_square() -> None:
    error = torch.randn(96, 48, 3, generator=torch.Generator().manual_seed(0))
    cells = error_map(error, largest=32)
    assert cells.shape == (32, 16)
    assert float(cells.square().mean()) == pytest.approx(float(error.square().mean()), rel=1e-5)
    assert float(cells[3, 5]) == pytest.approx(float(error[9:12, 15:18].square().mean().sqrt()), rel=1e-5)
    torch.testing.assert_close(error_map(error[:20, :20], largest=32), error[:20, :20].square().mean(-1).sqrt())
    assert error_map(torch.ones(100, 1, 1), largest=10).shape == (10, 1)


@pytest.mark.parametrize(("mean_square", "expected"), [(1.0, 0.0), (0.01, 20.0), (0.0, math.inf)])
def test_psnr_of_known_errors(mean_square: float, expected: float) -> None:
    assert psnr_of(mean_square) == pytest.approx(expected, abs=1e-12)


def test_curves_begin_and_end_at_the_network() -> None:
    image = sample_image(16)
    signal = signal_of(image)
    network = subject_of(InitializationOptions(width=16, depth=2), 2, 3).initial

    def quality() -> float:
        axis = (torch.arange(16) + 0.5) / 8 - 1
        with torch.no_grad():
            outputs = network(torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1))
        return psnr_of(float((0.5 * outputs + 0.5 - intensities_of(signal)).square().mean()))

    before, told = quality(), []
    curve = train_on(
        network, signal, learning_rate=1e-3, steps=9, seed=0, report=lambda done, total: told.append((done, total))
    )
    assert [step for step, _ in curve] == list(range(10))
    assert curve[0][1] == pytest.approx(before, abs=1e-3)
    assert curve[-1][1] == pytest.approx(quality(), abs=1e-3)
    assert curve[-1][1] > curve[0][1]
    assert told == [(step, 9) for step in range(1, 10)]
    assert all(parameter.grad is None for parameter in network.parameters())


def test_numbers_belong_to_the_networks_and_the_image(tmp_path: Path) -> None:
    seen: list[str] = []

    def stage(name: str, done: int, total: int) -> None:
        nothing(name, done, total)
        seen.append(name)

    outcome = study(InitializationOptions(**SMALL), stage)
    assert list(dict.fromkeys(seen)) == ["k = 1", "k = 10"]
    found = outcome.numbers["networks"]
    assert list(found) == ["k = 1", "k = 10"]
    assert outcome.numbers["best"] == max(found, key=lambda name: found[name]["psnr"])
    assert outcome.numbers["cutoff"] == 2.0
    signal = signal_of(sample_image(16))
    assert outcome.numbers["image"]["centroid"] == pytest.approx(mean_centroid(intensities_of(signal)))
    spectra = outcome.tables["spectra"].columns
    frequencies = torch.fft.fftfreq(16, dtype=torch.float64) * 16
    sizes = torch.hypot(frequencies[:, None], frequencies).round().long().flatten().bincount()
    for k, (name, row) in zip((1.0, 10.0), found.items(), strict=True):
        network = subject_of(InitializationOptions(bias_range=k, width=16, depth=2), 2, 3).initial
        start = mean_centroid(picture_of(network, (16, 16)))
        assert row["centroid_at_start"] == pytest.approx(start)
        # The same training again.
        train_on(network, signal, learning_rate=5e-4, steps=6, seed=0, report=lambda *_: None)
        picture = picture_of(network, (16, 16))
        error = picture - intensities_of(signal)
        assert row["psnr"] == pytest.approx(psnr_of(float(error.square().mean())), abs=1e-4)
        assert row["centroid"] == pytest.approx(mean_centroid(picture), rel=1e-5)
        # The bands' errors add up to that of all.
        bands = mean_square_of(row["psnr_low"]) + mean_square_of(row["psnr_high"])
        assert bands == pytest.approx(mean_square_of(row["psnr"]), rel=1e-6)
        cells = torch.tensor(list(outcome.tables[f"errors {name}"].columns.values())).T
        torch.testing.assert_close(cells, error.square().mean(-1).sqrt(), rtol=0, atol=1e-4)
        power = torch.tensor(spectra[f"error {name}"]) * sizes
        frequency = torch.tensor(spectra["frequency"])
        # Rings are wide on a small image, and their mean frequency is not quite that of what is in them.
        assert float((frequency * power).sum() / power.sum()) == pytest.approx(mean_centroid(error), rel=0.1)
    again = written_and_read(tmp_path, outcome)
    assert again == outcome
    figure = draw(again)
    assert [place.get_title() for place in figure.axes[:4]] == [
        "training, finer-sine",
        "spectra of fits",
        "spectra of errors",
        "PSNR of the error by band",
    ]
    curve = figure.axes[0].lines[1]
    assert np.asarray(curve.get_ydata()).tolist() == outcome.tables["curves"].columns["k = 10"]


def test_training_helps_and_scales_are_small_by_default() -> None:
    outcome = study(
        InitializationOptions(**{**SMALL, "steps": 60, "bias_ranges": (5.0,), "learning_rate": 5e-3}), nothing
    )
    curve = outcome.tables["curves"].columns["k = 5"]
    assert curve[-1] > curve[0] + 3.0
    assert outcome.settings["network"]["activation"]["omega_0"] == 1.0
    assert outcome.settings["network"]["bias_range"] == 5.0


def test_a_method_without_a_bias_range_is_trained_once() -> None:
    outcome = study(InitializationOptions(**{**SMALL, "method": "siren"}), nothing)
    assert list(outcome.numbers["networks"]) == ["trained"]
    assert len(draw(outcome).axes) == 4 + 1 + 3 + 1  # three places without a map, and the colour bar
    outcome = study(InitializationOptions(**{**SMALL, "method": "siren", "bias_range": 3.0}), nothing)
    assert list(outcome.numbers["networks"]) == ["k = 3"]


def test_an_activation_of_ones_own_is_trained(tmp_path: Path) -> None:
    outcome = study(InitializationOptions(**{**SMALL, "activation": "tanh"}), nothing)
    assert outcome.numbers["method"] == "tanh"
    assert list(written_and_read(tmp_path, outcome).numbers["networks"]) == ["k = 1", "k = 10"]


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_any_picture_will_do(mode: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, len(mode)), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode).save(path)
    outcome = study(InitializationOptions(**{**SMALL, "image": path, "size": 20}), nothing)
    assert (outcome.numbers["image"]["height"], outcome.numbers["image"]["width"]) == (10, 20)
    assert len(outcome.tables["errors k = 1"].columns) == 20
    assert len(draw(written_and_read(tmp_path, outcome)).axes) > 6


def test_a_model_is_shown_before_and_after(model: Path, tmp_path: Path) -> None:
    outcome = study(InitializationOptions(model=model, size=16), nothing)
    found = outcome.numbers["networks"]
    assert list(found) == ["initial", "trained"]
    assert found["trained"]["psnr"] > found["initial"]["psnr"] + 1.0
    assert "curves" not in outcome.tables
    assert "best" not in outcome.numbers
    assert not any("took the network away" in note for note in outcome.numbers["notes"])
    # At the size of the fit, whatever --size says.
    assert outcome.numbers["image"]["width"] == 24
    trained = subject_of(InitializationOptions(model=model), 2, 3).trained
    assert trained is not None
    assert found["trained"]["psnr"] == pytest.approx(measure(trained, sample_image(24))[0]["psnr"], abs=1e-3)
    figure = draw(written_and_read(tmp_path, outcome))
    assert figure.axes[0].get_title() == "spectra of fits"


def test_an_image_of_another_shape_than_the_model_is_refused(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.fromarray(np.zeros((30, 60, 3), np.uint8)).save(path)
    with pytest.raises(InputError, match=r"24x24 pixels with 3 channels .* has 12x24 with 3"):
        study(InitializationOptions(model=model, image=path), nothing)
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(path)
    with pytest.raises(InputError, match="has 24x24 with 1"):
        study(InitializationOptions(model=model, image=path), nothing)


def test_another_image_of_the_same_shape_is_noticed(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "negative.png"
    Image.fromarray(255 - sample_image(24).pixels).save(path)
    outcome = study(InitializationOptions(model=model, image=path), nothing)
    assert any("took the network away" in note for note in outcome.numbers["notes"])


def test_a_model_of_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    network = subject_of(InitializationOptions(width=4, depth=1), 3, 1).initial
    save_model(path, network, task="sdf", signal={}, configuration={"seed": 0})
    with pytest.raises(UsageError, match="no model of an image"):
        study(InitializationOptions(model=path), nothing)


def test_an_exact_reconstruction_can_be_written_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that gives 1 everywhere, and a white image."""

    def white(options: InitializationOptions, *_: int) -> Any:
        subject = subject_of(options, 2, 3)
        with torch.no_grad():
            subject.initial.last.weight.zero_()
            subject.initial.last.bias.fill_(1.0)
        return subject

    monkeypatch.setattr("finer_nerfstudio.analysis.initialization.subject_of", white)
    path = tmp_path / "white.png"
    Image.fromarray(np.full((16, 16, 3), 255, np.uint8)).save(path)
    outcome = study(InitializationOptions(**{**SMALL, "image": path, "learning_rate": 1e-30}), nothing)
    assert outcome.numbers["networks"]["k = 1"]["psnr"] == math.inf
    again = written_and_read(tmp_path, outcome)
    assert again.numbers["networks"]["k = 1"]["psnr"] is None
    assert any("exact" in place.get_title() for place in draw(again).axes)
    write_outcome(tmp_path, again, draw(again))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bias_ranges": ()}, "bias_ranges"),
        ({"bias_ranges": (1.0, -2.0)}, "bias_range must be a positive number"),
        ({"cutoff": 0.0}, "cutoff"),
        ({"cutoff": math.nan}, "cutoff"),
        ({"steps": 0}, "steps"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"width": 0}, "width"),
        ({"size": 4}, "size"),
        ({"method": "siren", "s_0": 2.0}, "no s_0"),
    ],
)
def test_what_means_nothing_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        study(InitializationOptions(**{**SMALL, **changes}), nothing)


def test_training_that_diverges_is_said() -> None:
    with pytest.raises(InputError, match="diverged"):
        study(InitializationOptions(**{**SMALL, "learning_rate": 1e30}), nothing)


def test_intensities_of_sixteen_bits_are_whole() -> None:
    grey = SourceImage(np.full((16, 20, 1), 65535, np.uint16))
    assert torch.equal(intensities_of(signal_of(grey)), torch.ones(16, 20, 1))
