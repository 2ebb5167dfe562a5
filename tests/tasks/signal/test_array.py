"""Arrays of any kind through the Python interface: what goes in, what comes back, and what is refused."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finer_nerfstudio import (
    CoordinateNetwork,
    FittedArray,
    GrowingNetwork,
    fit_array,
    load_model,
    save_model,
    variable_periodic,
)
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.inr.activations import as_activation

SMALL: dict[str, Any] = {"width": 16, "depth": 2, "steps": 40}
TONE = np.sin(20 * np.linspace(0, 1, 50))


@pytest.fixture(scope="module")
def fitted() -> FittedArray:
    return fit_array(TONE, **SMALL)


def test_quality_is_that_of_the_decoded_array(fitted: FittedArray) -> None:
    error = np.square(fitted.decode()[:, 0] - TONE).mean()
    assert fitted.psnr == pytest.approx(10 * math.log10((TONE.max() - TONE.min()) ** 2 / error), abs=1e-6)
    assert len(repr(fitted)) < 200
    assert "50 samples" in repr(fitted)


@pytest.mark.parametrize("resolution", [200, (200,), [200]])
def test_resolutions(fitted: FittedArray, resolution: Any) -> None:
    assert fitted.decode(resolution).shape == (200, 1)


@pytest.mark.parametrize("resolution", [0, -1, (0,), (10, 10), (), True])
def test_resolutions_that_cannot_be(fitted: FittedArray, resolution: Any) -> None:
    with pytest.raises(ValueError, match=r"^resolution must (have|be at least 1 sample)"):
        fitted.decode(resolution)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_fitted_array_is_saved_and_loaded(fitted: FittedArray, kind: type, tmp_path: Path) -> None:
    path = kind(tmp_path / "deep" / "tone.safetensors")
    fitted.save(path)
    again = FittedArray.load(path)
    np.testing.assert_array_equal(again.decode(77), fitted.decode(77))
    assert (again.shape, again.low, again.high, again.psnr) == (fitted.shape, fitted.low, fitted.high, fitted.psnr)
    assert again.training == fitted.training
    assert load_model(path).task == "array"


def test_files_that_hold_no_array(tmp_path: Path) -> None:
    network = CoordinateNetwork(2, 3, width=4, depth=1, activation=variable_periodic(torch.tanh))
    with pytest.raises(ValueError, match="function of your own"):
        save_model(str(tmp_path / "own"), network, task="array", signal={}, configuration={})
    network = fit_array(TONE, **SMALL).network
    good = {"shape": [50], "low": 0.0, "high": 1.0}
    for signal in ({}, {**good, "shape": [5, 5]}, {**good, "shape": [0]}, {**good, "low": 1.0}, {**good, "high": "x"}):
        save_model(tmp_path / "odd", network, task="array", signal=signal, configuration={})
        with pytest.raises(InputError, match="no fitted array"):
            FittedArray.load(tmp_path / "odd")
    save_model(tmp_path / "image", network, task="image", signal=good, configuration={})
    with pytest.raises(InputError, match="task"):
        FittedArray.load(tmp_path / "image")


def test_arrays_that_may_be_pictures_are_asked_about() -> None:
    picture = np.random.default_rng(0).uniform(size=(6, 7, 3))
    with pytest.raises(ValueError, match="channels_last=True or channels_last=False"):
        fit_array(picture, **SMALL)
    assert fit_array(picture, channels_last=True, **SMALL).decode().shape == (6, 7, 3)
    assert fit_array(picture, channels_last=False, **SMALL).decode().shape == (6, 7, 3, 1)
    assert fit_array(picture[:, :3], **SMALL).shape == (6, 3, 3), "too thin for a picture"


@pytest.mark.parametrize("function", [torch.tanh, torch.nn.Tanh(), lambda x: torch.sin(3 * x)])
def test_plain_functions_are_activations(function: Any) -> None:
    assert fit_array(TONE, activation=function, **SMALL).training.step == 40
    network = CoordinateNetwork(1, 2, width=8, depth=2, activation=function, generator=torch.Generator().manual_seed(0))
    x = torch.linspace(-1, 1, 9)[:, None]
    hidden = network.hidden[0]
    expected = network.last(function(hidden(function(network.first(x)))))
    torch.testing.assert_close(network(x), expected)
    growing = GrowingNetwork(1, 2, depth=2, activation=function)
    growing.grow(4, generator=torch.Generator().manual_seed(0))
    assert growing(x).shape == (9, 2)


@pytest.mark.parametrize("activation", [torch.nn.Tanh, torch.nn.Softplus])
def test_what_is_no_activation(activation: Any) -> None:
    with pytest.raises(TypeError, match=r"torch\.tanh or Sine"):
        as_activation(activation)


def test_progress_is_shown_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    fit_array(TONE, **SMALL)
    assert capsys.readouterr() == ("", "")
    fit_array(TONE, progress=True, **SMALL)
    assert "fit_array" in capsys.readouterr().err


def test_threads_of_python_fit_as_one_after_another() -> None:
    tones = [np.sin(rate * np.linspace(0, 1, 4_000)) for rate in (10, 20, 30, 40)]
    with ThreadPoolExecutor(len(tones)) as threads:
        at_once = list(threads.map(lambda tone: fit_array(tone, width=16, depth=2, steps=10), tones))
    for tone, fitted in zip(tones, at_once, strict=True):
        alone = fit_array(tone, width=16, depth=2, steps=10)
        assert fitted.training.curve == alone.training.curve
        assert fitted.psnr == alone.psnr
