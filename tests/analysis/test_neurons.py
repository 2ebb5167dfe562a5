"""Neurons of the lowest and of the highest frequency: those of waves that were put there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from finer_nerfstudio import CoordinateNetwork, preset
from finer_nerfstudio.analysis.neurons import NeuronsOptions, draw, frequency_range, study
from finer_nerfstudio.analysis.outcome import read_outcome, write_outcome
from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.files.checkpoint import save_model
from finer_nerfstudio.tasks.signal.grid import sample_centers

CYCLES = (4.0, 1.0, 9.0, 2.0, 14.0, 6.0)
KINKS = 0.35  # cycles


def nothing(name: str, done: int, total: int) -> None:
    assert name
    assert 0 <= done <= total


def waves(in_dim: int = 2) -> CoordinateNetwork:
    """Neurons with whole numbers of cycles per longer side, which the last axis is."""
    net = preset("siren", "image").network(in_dim, 3, width=6, depth=1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.first.weight.zero_()
        # 30 w reaches over a side of 2.
        net.first.weight[:, -1] = torch.tensor(CYCLES) * (math.pi / 30.0)
        net.first.bias.fill_(0.01)
    return net


def saved(folder: Path, network: CoordinateNetwork, task: str, **signal: Any) -> Path:
    path = folder / "model.safetensors"
    save_model(path, network, task=task, signal=signal, configuration={"seed": 0, "method": "siren"})
    return path


@pytest.mark.parametrize("shape", [(64, 64), (20, 80)])
def test_known_frequencies_are_found(shape: tuple[int, int]) -> None:
    found = frequency_range(waves(), shape, 64)
    # Waves get kinks where they are mirrored.
    assert found.lowest == pytest.approx(1.0, abs=KINKS)
    assert found.highest == pytest.approx(14.0, abs=KINKS)
    assert found.median == pytest.approx(5.0, abs=KINKS)
    assert (found.responding, found.neurons) == (6, 6)


def test_neurons_that_do_not_respond_have_no_frequency() -> None:
    net = preset("gauss", "image").network(2, 3, width=8, depth=1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # Bumps at w x = -b, which for |b| > |w| is beyond the image; their tails are tiny and steep.
        net.first.weight.fill_(0.5)
        net.first.bias.copy_(torch.tensor([0.0, 0.1, -0.3, 1.2, -1.2, 2.0, 1.3, -4.0]))
    found = frequency_range(net, (64, 64), 64)
    assert (found.responding, found.neurons) == (3, 8)
    with torch.no_grad():
        net.first.bias.fill_(9.0)
    assert frequency_range(net, (64, 64), 64).highest == 0.0


def test_a_model_is_shown_before_and_after(tmp_path: Path) -> None:
    path = saved(tmp_path, waves(), "image", height=16, width=32, maximum=255)
    outcome = study(NeuronsOptions(model=path, count=2, side=64), nothing)
    assert list(outcome.numbers["cycles_per_longer_side"]) == ["initial", "trained"]
    assert outcome.numbers["cycles_per_longer_side"]["trained"]["highest"] == pytest.approx(14.0, abs=KINKS)
    rows, columns = outcome.settings["rows"], outcome.settings["columns"]
    assert (rows, columns) == (32, 64)
    x = sample_centers(torch.arange(rows * columns), (rows, columns))[:, 1].double()
    responses = outcome.tables["responses trained"].columns
    for cycles, response in zip((1.0, 2.0, 9.0, 14.0), responses.values(), strict=True):
        expected = torch.sin(math.pi * cycles * x + 0.3)
        torch.testing.assert_close(torch.tensor(response, dtype=torch.float64), expected, rtol=0.0, atol=1e-4)
    table = outcome.tables["frequencies"]
    found = [row["cycles_per_longer_side"] for row in table.rows() if row["state"] == "trained"]
    assert found == pytest.approx([1.0, 2.0, 9.0, 14.0], abs=KINKS)
    assert len(outcome.tables["responses initial"].columns["neuron 0"]) == rows * columns


@pytest.mark.parametrize("method", ["finer-sine", "finer-gauss", "finer-wavelet"])
def test_a_wider_bias_range_has_higher_frequencies(method: str) -> None:
    highest = []
    for k in (0.5, 2.0, 5.0):
        options = NeuronsOptions(method=method, bias_range=k, width=48, side=96)  # pyright: ignore[reportArgumentType]
        found = study(options, nothing).numbers["cycles_per_longer_side"]["initial"]
        assert found["lowest"] <= found["median"] <= found["highest"] <= 96 / math.sqrt(2)
        highest.append(found["highest"])
    assert highest[0] < highest[1] < highest[2]


def test_pictures_are_drawn_from_the_files_alone(tmp_path: Path) -> None:
    outcome = study(NeuronsOptions(width=9, count=3, side=16), nothing)
    write_outcome(tmp_path, outcome, draw(outcome))
    figure = draw(read_outcome(tmp_path / "neurons.json"))
    pictures = [place.images[0].get_array() for place in figure.axes if place.images]
    assert len(pictures) == 6
    columns = outcome.tables["responses initial"].columns
    for picture, column in zip(pictures, columns.values(), strict=True):
        assert picture is not None
        assert picture.ravel().tolist() == pytest.approx(column)


def test_a_layer_of_one_neuron_has_one_picture() -> None:
    outcome = study(NeuronsOptions(width=1, side=16), nothing)
    found = outcome.numbers["cycles_per_longer_side"]["initial"]
    assert found["lowest"] == found["median"] == found["highest"]
    assert len(draw(outcome).axes) == 1


def test_only_models_of_images_have_pictures(tmp_path: Path) -> None:
    shape = saved(tmp_path, waves(3), "sdf", center=[0.0, 0.0, 0.0], scale=1.0)
    with pytest.raises(UsageError, match=r"3 coordinates.*fit-image"):
        study(NeuronsOptions(model=shape), nothing)
    with pytest.raises(InputError, match="there is no file"):
        study(NeuronsOptions(model=tmp_path / "missing"), nothing)


@pytest.mark.parametrize(
    ("options", "sentence"), [({"count": 0}, "count"), ({"side": 4}, "side"), ({"width": 0}, "width")]
)
def test_bad_options_get_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        study(NeuronsOptions(**options), nothing)
