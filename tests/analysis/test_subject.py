"""Whose network is looked at: methods, activations of one's own, and models before and after training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from finer_nerfstudio import METHODS, load_model
from finer_nerfstudio.analysis.subject import (
    SMALL_SCALES,
    ImageSource,
    NetworkOptions,
    function_named,
    image_of,
    preset_for,
    subject_of,
)
from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.files.png import write_image
from finer_nerfstudio.inr.activations import base_of
from finer_nerfstudio.tasks.image.files import sample_image
from finer_nerfstudio.tasks.image.fit import ImageOptions
from finer_nerfstudio.tasks.image.run import run_image


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    run_image(sample_image(16), ImageOptions(method="finer-wavelet", steps=3, width=16, depth=2, seed=7), folder)
    return folder / "model.safetensors"


def test_a_saved_model_is_seen_before_and_after(model: Path) -> None:
    subject = subject_of(NetworkOptions(model=model), 1, 1)
    assert subject.trained is not None
    assert list(subject.states()) == ["initial", "trained"]
    saved = load_model(model).network
    for found, expected in zip(subject.trained.parameters(), saved.parameters(), strict=True):
        assert torch.equal(found, expected)
    # Its first weights are those that the fit drew: a fit of no length to speak of ends near them.
    own = preset_for(NetworkOptions(method="finer-wavelet"))
    fresh = own.network(2, 3, width=16, depth=2, generator=torch.Generator().manual_seed(7))
    for found, expected in zip(subject.initial.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(found, expected)
    assert subject.description["seed_of_fit"] == 7
    assert subject.description["method"] == "finer-wavelet"


def test_options_of_a_saved_model_are_its_own(model: Path) -> None:
    with pytest.raises(UsageError, match="omega_0 cannot be given with model"):
        subject_of(NetworkOptions(model=model, omega_0=3.0), 1, 1)
    with pytest.raises(InputError, match="there is no file"):
        subject_of(NetworkOptions(model=model.with_name("missing")), 1, 1)


@pytest.mark.parametrize("method", METHODS)
def test_small_scales(method: str) -> None:
    published = preset_for(NetworkOptions(method=method))  # pyright: ignore[reportArgumentType]
    small = preset_for(NetworkOptions(method=method, scales="small"))  # pyright: ignore[reportArgumentType]
    if method == "pemlp":
        assert small == published
        return
    for name, value in SMALL_SCALES[method].items():
        found = small.activation if name == "omega_f" else base_of(small.activation)
        assert getattr(found, name) == value
    given = preset_for(NetworkOptions(method="siren", scales="small", omega_0=7.0))
    assert base_of(given.activation).omega_0 == 7.0  # pyright: ignore[reportAttributeAccessIssue]


def test_an_activation_of_ones_own() -> None:
    subject = subject_of(NetworkOptions(activation="tanh", omega_f=5.0, width=8, depth=2, bias_range=3.0), 2, 1)
    x = torch.linspace(-1, 1, 5)[:, None]
    expected = torch.tanh(torch.sin(5.0 * (x.abs() + 1) * x) / 5.0)
    torch.testing.assert_close(subject.initial.activation.value(x), expected)
    assert float(subject.initial.first.bias.detach().abs().max()) > 1.0
    assert subject.description["activation"] == {"function": "tanh"}
    assert function_named("torch.nn.functional:softplus") is torch.nn.functional.softplus


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"activation": "relu"}, "piecewise linear"),
        ({"activation": "cumsum"}, "no function of each number"),
        ({"activation": "softmax"}, "no function of each number"),
        ({"activation": "no_such"}, "there is no function no_such"),
        ({"activation": "no.such:f"}, "there is no module no.such"),
        ({"activation": "tanh", "omega_0": 3.0}, "no omega_0"),
        ({"method": "siren", "s_0": 3.0}, "no s_0"),
        ({"method": "siren", "bias_range": -1.0}, "bias_range"),
        ({"omega_0": math.nan}, "omega_0"),
        ({"width": 0}, "width"),
        ({"depth": 10_000}, "depth"),
        ({"seed": -1}, "seed"),
        ({"device": "abacus"}, "device"),
    ],
)
def test_bad_options_get_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        subject_of(NetworkOptions(**options), 2, 1)


def test_images_are_averaged_down_and_never_up(tmp_path: Path) -> None:
    write_image(tmp_path / "small.png", sample_image(40).pixels)
    assert image_of(ImageSource(image=tmp_path / "small.png", size=20)).pixels.shape == (20, 20, 3)
    assert image_of(ImageSource(image=tmp_path / "small.png", size=64)).pixels.shape == (40, 40, 3)
    assert image_of(ImageSource(size=24)).pixels.shape == (24, 24, 3)
    with pytest.raises(UsageError, match="size"):
        image_of(ImageSource(size=3))
    with pytest.raises(InputError, match="there is no image"):
        image_of(ImageSource(image=tmp_path / "missing.png"))
