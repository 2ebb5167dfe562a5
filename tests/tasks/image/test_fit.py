"""Fitting, measuring and decoding images."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from finer_nerfstudio import preset
from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.runs.options import ALL_METHODS, FitOptions, Method, preset_of
from finer_nerfstudio.tasks.image import fit
from finer_nerfstudio.tasks.image.files import SourceImage, sample_image
from finer_nerfstudio.tasks.image.fit import ImageOptions, decode_image, extreme_neurons, fit_image, measure
from finer_nerfstudio.tasks.image.report import worst_windows
from finer_nerfstudio.tasks.image.run import compare_on_image, run_image

QUICK = ImageOptions(width=32, depth=2, steps=30)


def test_measures_are_those_of_the_decoded_picture() -> None:
    image = sample_image(48)
    fitted = fit_image(image, QUICK)
    quality, reconstruction = measure(fitted.network, image)
    decoded = decode_image(fitted.network, height=48, width=48, maximum=255)
    np.testing.assert_array_equal(decoded, reconstruction)
    # The measure is taken before rounding to 8 bits.
    assert quality["psnr"] is not None
    assert quality["psnr"] == pytest.approx(peak_signal_noise_ratio(image.pixels, decoded), abs=0.05)
    assert quality["psnr"] > 12


def test_similarity_in_bands_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    image = sample_image(64)
    network = fit_image(image, QUICK).network
    whole, _ = measure(network, image)
    monkeypatch.setattr(fit, "_SSIM_BAND", 64 * 7)
    bands, _ = measure(network, image)
    assert bands["ssim"] == pytest.approx(whole["ssim"], abs=1e-5)


@pytest.mark.parametrize("method", ALL_METHODS)
def test_every_method_learns(method: Method) -> None:
    image = sample_image(24)
    # At the image presets' scales wire starts as noise and needs its time.
    steps = 400 if method == "wire" else 60
    fitted = fit_image(image, ImageOptions(method=method, width=64, depth=2, steps=steps, learning_rate=1e-3))
    first, last = fitted.training.curve[0][1], fitted.training.curve[-1][1]
    assert last < 0.5 * first


def test_the_same_seed_gives_the_same_network() -> None:
    image = sample_image(24)
    runs = [fit_image(image, replace(QUICK, batch_size=100, seed=seed)).network.state_dict() for seed in (3, 3, 4)]
    for name in runs[0]:
        assert torch.equal(runs[0][name], runs[1][name])
    assert not torch.equal(runs[0]["first.weight"], runs[2]["first.weight"])


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 60, 1), (40, 3, 4), (16, 16, 2)])
@pytest.mark.parametrize("constant", [True, False])
def test_images_of_any_shape_and_of_one_colour(shape: tuple[int, int, int], constant: bool, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pixels = np.full(shape, 77, np.uint8) if constant else generator.integers(0, 256, shape, dtype=np.uint8)
    metrics = run_image(SourceImage(pixels), ImageOptions(width=16, depth=2, steps=3), tmp_path, quiet=True)
    assert math.isfinite(metrics["psnr"])
    assert metrics["bits_per_pixel"] == pytest.approx(32 * metrics["parameters"] / (shape[0] * shape[1]))
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_sixteen_bits_come_back(tmp_path: Path) -> None:
    pixels = np.linspace(0, 65535, 24 * 24).astype(np.uint16).reshape(24, 24, 1)
    fitted = fit_image(SourceImage(pixels), ImageOptions(width=64, depth=2, steps=200))
    _, reconstruction = measure(fitted.network, SourceImage(pixels))
    assert reconstruction.dtype == np.uint16
    assert np.abs(reconstruction.astype(float) - pixels).mean() < 2000


def test_larger_pictures_agree_with_the_network() -> None:
    network = preset("finer-sine", "image").network(2, 3, width=16, depth=2, generator=torch.Generator().manual_seed(0))
    large = decode_image(network, height=10, width=20, maximum=255, resolution=(30, 60))
    # Every third sample of a picture of three times the resolution lies where one of the original does.
    small = decode_image(network, height=10, width=20, maximum=255)
    assert np.abs(large[1::3, 1::3].astype(int) - small).max() <= 1
    part = decode_image(network, height=10, width=20, maximum=255, resolution=(6, 12), region=((2.0, 4.0), (8.0, 12.0)))
    assert np.abs(part.astype(int) - large[6:12, 24:36]).max() <= 1


def test_neurons_are_ordered_by_frequency() -> None:
    network = preset("siren", "image").network(2, 1, width=16, depth=1)
    with torch.no_grad():
        network.first.weight.zero_()
        network.first.bias.zero_()
        # Neuron i makes i cycles over the width: 30 w x with x from -1 to 1.
        network.first.weight[:, 1] = torch.arange(16) * 2 * math.pi / 60
    neurons, frequencies = extreme_neurons(network, (64, 64))
    assert neurons.shape == (8, 128, 128)
    np.testing.assert_allclose(frequencies[4:], [12, 13, 14, 15], atol=0.3)
    assert (np.diff(frequencies) >= 0).all()


def test_the_worst_windows_are_where_the_error_is() -> None:
    truth = np.zeros((64, 96, 3), np.float32)
    wrong = truth.copy()
    wrong[40:56, 10:26] += 0.5
    wrong[3:8, 70:80] += 0.4
    first, second, third = worst_windows(truth, wrong)
    assert first == (slice(40, 56), slice(10, 26))
    assert second[0].start <= 3
    assert second[1].start <= 70
    assert third not in (first, second)
    assert worst_windows(truth[:1, :1], wrong[:1, :1]) == [(slice(0, 1), slice(0, 1))]


def test_comparison(tmp_path: Path) -> None:
    image = sample_image(24)
    results = compare_on_image(image, ("siren", "finer-sine"), QUICK, tmp_path)
    assert list(results) == ["siren", "finer-sine"]
    page = (tmp_path / "report.html").read_text()
    assert "finer-sine" in page
    assert page.count("data:image/png") == 4
    assert "http" not in page.replace('http-equiv="', "")


@pytest.mark.parametrize(
    ("method", "override"),
    [
        ("siren", {"omega_f": 2.0}),
        ("siren", {"s_0": 2.0}),
        ("gauss", {"omega_0": 2.0}),
        ("finer-sine", {"omega_f": 2.0}),
        ("siren", {"scale_gradient": True}),
        ("finer-gauss", {"omega_f": -1.0}),
        ("finer-wavelet", {"bias_range": 0.0}),
        ("finer-wavelet", {"learning_rate": 0.0}),
        ("pemlp", {"encoding_frequencies": -1}),
    ],
)
def test_options_that_the_method_does_not_have(method: Method, override: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=method):
        preset_of(FitOptions(method=method, **override), "image")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ({"width": 0}, "width must lie between 1 and 65,536, not 0"),
        ({"depth": 257}, "depth must lie between 1 and 256, not 257"),
        ({"seed": -1}, "seed must be between 0 and 2.63 - 1, not -1"),
    ],
)
def test_sizes_and_seeds_that_no_network_has(override: dict[str, int], sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{sentence}") as raised:
        preset_of(FitOptions(**override), "image")  # pyright: ignore[reportArgumentType]
    assert raised.value.on_command_line() == f"--{raised.value}"
