"""SSIM against scikit-image's, which leaves out the windows that look beyond the border."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from finer_nerfstudio.runs import metrics


@given(st.integers(11, 40), st.integers(11, 40), st.sampled_from([1, 3]), st.floats(0.0, 0.3), st.integers(0, 2**31))
def test_ssim_is_that_of_scikit_image(height: int, width: int, channels: int, noise: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    image = generator.uniform(0, 1, (height, width, channels))
    other = np.clip(image + noise * generator.normal(size=image.shape), 0, 1)
    settings = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(image, other, channel_axis=2, win_size=11, **settings)
    found = metrics.ssim(torch.from_numpy(image).float(), torch.from_numpy(other).float())
    assert float(found) == pytest.approx(expected, abs=2e-4)


@given(st.integers(1, 10), st.integers(1, 40))
def test_images_below_the_window_have_none(height: int, width: int) -> None:
    image = torch.rand(height, width, 3)
    assert torch.isnan(metrics.ssim(image, image))
    assert torch.isnan(metrics.ssim(image.transpose(0, 1), image.transpose(0, 1)))


def test_what_happens_at_the_border_counts_as_much_as_it_is_seen() -> None:
    """A border of one pixel is in windows, but in the middle of none: it must not be counted as a window of its own."""
    image = torch.full((31, 31, 3), 0.5)
    spoiled = image.clone()
    spoiled[0] = 0.0
    assert metrics.ssim_map(spoiled, image).shape == (21, 21, 3)
    assert metrics.ssim_map(spoiled, image)[1:].min() > 0.999


@given(st.integers(11, 30), st.integers(11, 30), st.integers(0, 2**31))
def test_pixels_that_do_not_count_change_nothing(height: int, width: int, seed: int) -> None:
    """In double precision by the definition: all counted pixels, and all windows of counted pixels alone."""
    generator = np.random.default_rng(seed)
    image, truth = generator.uniform(0, 1, (2, height, width, 3))
    counted = np.ones((height, width, 1), dtype=bool)
    row, column = generator.integers(height), generator.integers(width)
    counted[row, column:] = False
    mask = torch.from_numpy(counted)
    spoiled = np.where(counted, image, generator.uniform(0, 1, image.shape))
    squared = ((image - truth) ** 2)[counted[..., 0]].mean()
    similar = structural_similarity(
        image, truth, channel_axis=2, win_size=11, data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )[1]  # fmt: skip
    whole = [
        similar[r, c].mean()
        for r in range(5, height - 5)
        for c in range(5, width - 5)
        if counted[r - 5 : r + 6, c - 5 : c + 6].all()
    ]
    for pixels in (image, spoiled):
        pair = torch.from_numpy(pixels), torch.from_numpy(truth)
        assert float(metrics.psnr(*pair, mask)) == pytest.approx(-10 * np.log10(squared), abs=1e-6)
        found = float(metrics.ssim(*pair, mask))
        assert np.isnan(found) if not whole else found == pytest.approx(np.mean(whole), abs=2e-4)
    assert np.isnan(float(metrics.psnr(torch.from_numpy(image), torch.from_numpy(truth), torch.zeros_like(mask))))
