"""Spectra of waves of known frequency and power, and what has to hold for any image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn

from finer_nerfstudio.tasks.image.spectrum import (
    band_powers,
    mean_centroid,
    mean_spectrum,
    mirrored_centroid,
    radial_spectrum,
)

SIZES = st.integers(3, 40)


def wave(
    height: int, width: int, down: float, right: float, amplitude: float = 1.0, phase: float = 0.7
) -> torch.Tensor:
    """So many cycles down and to the right; pixels are looked at in their centres."""
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    return amplitude * torch.cos(2 * math.pi * (down * y[:, None] + right * x) + phase)


def ring_sizes(shape: tuple[int, int]) -> torch.Tensor:
    """Coefficients whose frequency, in cycles per longer side, rounds to 0, 1, 2, ..."""
    down, right = (np.fft.fftfreq(count) * max(shape) for count in shape)
    return torch.from_numpy(np.bincount(np.hypot(down[:, None], right).round().astype(int).ravel()))


def centroid(values: torch.Tensor) -> float:
    return mean_centroid(values[..., None])


def noise(height: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(SIZES, SIZES, st.integers(0, 99), st.floats(0.01, 100.0))
def test_powers_add_up_to_the_weighted_mean_square(height: int, width: int, seed: int, scale: float) -> None:
    values = scale * noise(height, width, seed) + 3.0
    frequencies, power = radial_spectrum(values)
    sizes = ring_sizes((height, width))
    window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (height, width)))
    left = values.numpy() - np.average(values.numpy(), weights=window)
    assert float((power * sizes).sum()) == pytest.approx(np.average(left**2, weights=window**2), rel=1e-9)
    assert int(sizes.sum()) == height * width
    assert frequencies.tolist() == list(range(len(power)))
    assert float(power[0]) <= 1e-20 * float(power.sum())


@given(SIZES, SIZES, st.integers(0, 99), st.floats(0.0, 30.0))
def test_bands_add_up_to_the_mean_square(height: int, width: int, seed: int, cutoff: float) -> None:
    values = noise(height, width, seed) + 0.5
    low, high = band_powers(values, cutoff)
    assert low >= 0
    assert high >= 0
    assert low + high == pytest.approx(float(values.square().mean()), rel=1e-9)
    wider, _ = band_powers(values, cutoff + 1.0)
    assert wider >= low - 1e-12


@given(SIZES, SIZES, st.integers(0, 99), st.floats(0.1, 30.0))
def test_bands_are_those_of_the_cosine_transform(height: int, width: int, seed: int, cutoff: float) -> None:
    values = noise(height, width, seed)
    square = np.square(np.asarray(dctn(values.numpy(), norm="ortho"))) / values.numel()
    # Coefficient i of a cosine transform of n samples is i / 2 cycles per n samples.
    longer = max(height, width)
    down, right = (np.arange(n) * (longer / (2 * n)) for n in (height, width))
    radius = np.hypot(down[:, None], right[None, :])
    if np.abs(radius - cutoff).min() < 1e-9:  # which side it falls on is a matter of rounding
        return
    low, high = band_powers(values, cutoff)
    assert low == pytest.approx(square[radius < cutoff].sum(), rel=1e-9, abs=1e-15)
    assert high == pytest.approx(square[radius > cutoff].sum(), rel=1e-9, abs=1e-15)


@given(st.integers(3, 28), st.integers(3, 28), st.floats(0.1, 10.0))
def test_a_wave_is_found_with_its_frequency_and_power(down: int, right: int, amplitude: float) -> None:
    values = wave(64, 64, down, right, amplitude)
    _, power = radial_spectrum(values)
    total = power * ring_sizes((64, 64))
    radius = math.hypot(down, right)
    assert float(total.sum()) == pytest.approx(amplitude**2 / 2, rel=1e-6)
    # One coefficient to each side along each axis: at most sqrt(2) away, and half for the ring.
    near = (torch.arange(len(total)) - radius).abs() <= math.sqrt(2.0) + 0.5
    assert float(total[~near].sum()) < 1e-12 * amplitude**2
    assert centroid(values) == pytest.approx(radius, rel=0.03)


@pytest.mark.parametrize("frequency", [8.3, 12.5, 20.9])
def test_frequencies_between_two_coefficients_do_not_leak(frequency: float) -> None:
    values = wave(64, 64, 0.0, frequency)
    _, power = radial_spectrum(values)
    total = power * ring_sizes((64, 64))
    far = (torch.arange(len(total)) - frequency).abs() > 4.0
    windowed = float(total[far].sum() / total.sum())
    bare = torch.fft.fft2(values).abs().square()
    right = torch.fft.fftfreq(64).abs() * 64
    unwindowed = float(bare[:, (right - frequency).abs() > 4.0].sum() / bare.sum())
    assert windowed < 1e-4
    assert windowed < 0.01 * unwindowed


@pytest.mark.parametrize(("height", "width"), [(24, 96), (96, 24)])
def test_frequencies_are_per_longer_side(height: int, width: int) -> None:
    # The same 12 cycles per 96 pixels along either axis.
    for down, right in ((12 * height / 96, 0.0), (0.0, 12 * width / 96)):
        values = wave(height, width, down, right)
        frequencies, power = radial_spectrum(values)
        assert float(frequencies[(power * ring_sizes((height, width))).argmax()]) == 12.0
        assert centroid(values) == pytest.approx(12.0, rel=0.03)
        # With this phase it goes on as it was when mirrored at the borders.
        below, above = band_powers(wave(height, width, down, right, phase=0.0), 11.9)
        assert below < 1e-20
        assert above == pytest.approx(0.5)
        assert band_powers(wave(height, width, down, right, phase=0.0), 12.1)[1] < 1e-20


def test_the_number_of_pixels_changes_no_frequency() -> None:
    coarse, fine = (centroid(wave(size, size, 5.0, 9.0)) for size in (48, 144))
    assert coarse == pytest.approx(fine, rel=1e-6)


@given(st.integers(0, 99), st.floats(0.01, 100.0), st.floats(-50.0, 50.0))
def test_units_and_offsets_do_not_move_the_centroid(seed: int, scale: float, offset: float) -> None:
    values = noise(20, 33, seed)
    moved = scale * values + offset
    assert centroid(moved) == pytest.approx(centroid(values), rel=1e-6)
    torch.testing.assert_close(
        radial_spectrum(moved)[1][1:], scale**2 * radial_spectrum(values)[1][1:], rtol=1e-6, atol=0.0
    )


def test_turned_and_mirrored_images_have_the_same_spectrum() -> None:
    values = noise(21, 34, 3)
    for other in (values.T, values.flip(0), values.flip(1), -values):
        torch.testing.assert_close(radial_spectrum(other)[1], radial_spectrum(values)[1])


def test_noise_is_white() -> None:
    _, power = radial_spectrum(noise(256, 256, 0))
    rings = power[8:] * 256 * 256
    assert float(rings.mean()) == pytest.approx(1.0, abs=0.02)
    assert float(rings[:120].std()) < 0.2


def test_constants_have_no_frequency() -> None:
    constant = torch.full((16, 20), 0.7)
    assert centroid(constant) == 0.0
    assert centroid(torch.zeros(16, 20)) == 0.0
    low, high = band_powers(constant, 1e-3)
    assert low == pytest.approx(0.49, rel=1e-6)
    assert high < 1e-15


def test_channels_are_averaged_by_their_power() -> None:
    weak, strong = wave(64, 64, 0, 20, 1.0), wave(64, 64, 0, 10, 3.0)
    image = torch.stack([weak, strong], dim=-1)
    torch.testing.assert_close(mean_spectrum(image)[1], (radial_spectrum(weak)[1] + radial_spectrum(strong)[1]) / 2)
    expected = (centroid(weak) + 9 * centroid(strong)) / 10
    assert mean_centroid(image) == pytest.approx(expected, rel=1e-6)


def test_single_precision_is_enough_for_an_image() -> None:
    values = noise(16, 16, 1)
    torch.testing.assert_close(
        radial_spectrum(values.float())[1][1:], radial_spectrum(values)[1][1:], rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("shape", [(64, 64), (16, 96), (96, 16)])
def test_mirrored_centroids_tell_slow_waves_apart(shape: tuple[int, int]) -> None:
    longer = max(range(2), key=shape.__getitem__)
    place = (torch.arange(shape[longer], dtype=torch.float64) + 0.5) / shape[longer]
    found = []
    for cycles in (0.25, 0.5, 1.5, 2.5, 8.0, 20.0):
        wave = torch.cos(2 * math.pi * cycles * place)
        picture = wave[:, None].expand(shape) if longer == 0 else wave.expand(shape)
        found.append(mirrored_centroid(picture))
    # Half and whole waves are exact, as cosines have no slope where they are mirrored.
    assert found[1:] == pytest.approx([0.5, 1.5, 2.5, 8.0, 20.0], rel=1e-9)
    assert 0.2 < found[0] < 0.55
    assert mirrored_centroid(torch.full(shape, 3.0)) == 0.0
    # A ramp is close to half a wave, and far from what its jump from end to start would have.
    ramp = place[:, None].expand(shape) if longer == 0 else place.expand(shape)
    assert mirrored_centroid(ramp) == pytest.approx(0.5, abs=0.03)
