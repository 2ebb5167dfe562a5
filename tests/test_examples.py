"""The examples run, say what their text says, and leave the files that they name."""

from __future__ import annotations

import runpy
import wave
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_all_examples_are_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"image_and_bias_range", "sound_with_your_own_activation"}


def test_an_image_and_the_bias_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = run("image_and_bias_range", tmp_path, monkeypatch)
    fits = scope["fits"]
    assert max(fits, key=lambda k: fits[k].psnr) == 0.7, "too small a k does less, and so does too large a one"
    for k, fitted in fits.items():
        reach = 2 * float(fitted.network.first.bias.detach().abs().max()) + 1
        assert reach == pytest.approx(2 * k + 1, rel=0.1)
    with Image.open(tmp_path / "outputs" / "examples" / "bias_range.png") as picture:
        assert picture.size == (3 * 256, 256)


def test_a_sound_and_an_activation_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = run("sound_with_your_own_activation", tmp_path, monkeypatch)
    assert scope["ours"].psnr > scope["plain"].psnr + 10
    with wave.open(str(tmp_path / "outputs" / "examples" / "tone.wav")) as file:
        assert (file.getnframes(), file.getframerate()) == (4 * 2000, 32000)
