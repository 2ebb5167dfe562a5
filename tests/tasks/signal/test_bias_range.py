"""The bias range that is chosen from a signal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finer_nerfstudio import fit_array, preset
from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.runs.options import FitOptions, preset_of
from finer_nerfstudio.tasks.image.files import SourceImage, sample_image
from finer_nerfstudio.tasks.image.fit import ImageOptions, fit_image, measure, signal_of
from finer_nerfstudio.tasks.signal.bias_range import MULTIPLES, bias_range_for, central_piece
from finer_nerfstudio.tasks.signal.grid import GridSignal

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 60), min_size=1, max_size=3), st.integers(1, 600))
def test_the_piece_is_a_block_in_the_middle(shape: list[int], samples: int) -> None:
    piece = central_piece(shape, samples)
    assert 1 <= len(piece) <= math.prod(shape)
    assert len(piece) <= 2 * samples
    assert len(piece) >= min(math.prod(shape), samples) // 3
    index = torch.stack(torch.unravel_index(piece, tuple(shape)))
    low, high = index.amin(1), index.amax(1)
    assert len(piece) == (high - low + 1).prod(), "nothing is missing from it"
    assert ((low - (torch.tensor(shape) - 1 - high)).abs() <= 1).all(), "as much is left on one side as on the other"


@pytest.mark.parametrize("method", ["finer-sine", "finer-gauss", "finer-wavelet"])
def test_the_chosen_one_fits_no_worse(method: str) -> None:
    image = sample_image(64)
    options = ImageOptions(method=method, width=48, depth=2, steps=100)  # pyright: ignore[reportArgumentType]
    fixed = fit_image(image, options)
    chosen = fit_image(image, ImageOptions(**{**vars(options), "bias_range": "auto"}))
    multiple = chosen.settings["bias_range"] / fixed.settings["bias_range"]
    assert any(multiple == pytest.approx(candidate) for candidate in MULTIPLES)
    (better, _), (worse, _) = measure(chosen.network, image), measure(fixed.network, image)
    assert better["psnr"] is not None
    assert worse["psnr"] is not None
    assert better["psnr"] > worse["psnr"] - 0.1


def test_detail_asks_for_more_than_a_ramp() -> None:
    rows = np.arange(64)[:, None, None]
    ramp = GridSignal(np.broadcast_to(4 * rows, (64, 64, 1)).astype(np.uint8), 0.0, 255.0)
    checkers = GridSignal(np.indices((64, 64)).sum(0)[..., None].astype(np.uint8) // 2 % 2, 0.0, 1.0)
    published = preset("finer-sine", "image")
    smooth, rough = (bias_range_for(signal, published, width=256, depth=4, device=CPU) for signal in (ramp, checkers))
    assert smooth <= rough
    assert rough > published.bias_range  # pyright: ignore[reportOperatorIssue]


def test_a_choice_is_the_same_again() -> None:
    signal = signal_of(sample_image(40))
    found = [bias_range_for(signal, preset("finer-wavelet", "image"), width=32, depth=2, device=CPU) for _ in range(2)]
    assert found[0] == found[1]


def test_a_single_pixel_keeps_the_published_one() -> None:
    signal = signal_of(SourceImage(np.zeros((1, 1, 3), np.uint8)))
    published = preset("finer-gauss", "image")
    assert bias_range_for(signal, published, width=8, depth=1, device=CPU) == published.bias_range


def test_it_belongs_to_images_and_finer_methods() -> None:
    with pytest.raises(UsageError, match="FINER"):
        preset_of(FitOptions(method="siren", bias_range="auto"), "image")
    with pytest.raises(UsageError, match="images"):
        preset_of(FitOptions(method="finer-sine", bias_range="auto"), "sdf")


def test_a_sound_gets_more_than_four_times_the_published_one_where_it_pays() -> None:
    time = np.linspace(0, 1, 20_000)
    sound = np.sin(2 * np.pi * 400 * time + 20 * np.sin(2 * np.pi * 5 * time))
    small: dict[str, Any] = {"steps": 60, "batch_size": 4096, "width": 64, "depth": 3}
    chosen = fit_array(sound, bias_range="auto", **small)
    assert chosen.network.bias_range is not None
    assert chosen.network.bias_range > 4 * 2**-0.5
    assert chosen.psnr > fit_array(sound, bias_range=4 * 2**-0.5, **small).psnr + 3


def test_arrays_of_any_kind() -> None:
    tone = np.sin(120 * np.linspace(0, 1, 400) ** 2)
    assert fit_array(tone, bias_range="auto", steps=60, width=32, depth=2).network.bias_range in [
        pytest.approx(multiple * 2**-0.5) for multiple in MULTIPLES
    ]
    with pytest.raises(ValueError, match="variable-periodic"):
        fit_array(tone, activation="siren", bias_range="auto", steps=1)
