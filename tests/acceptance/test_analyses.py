"""The analyses' command, as a user types it: what it leaves behind, what it does not replace, bad input."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from finer_nerfstudio import preset, save_model
from finer_nerfstudio.files.png import write_image
from finer_nerfstudio.runs.summary import heading
from finer_nerfstudio.tasks.image.files import sample_image

Command = Callable[..., "tuple[int, str]"]

TRAINING = ["--size", "16", "--steps", "3", "--width", "16"]
SMALL = {
    "activations": [],
    "initialization": [*TRAINING, "--bias-ranges", "1", "5"],
    "gap": [*TRAINING, "--scale-parameters", "1", "2"],
    "ntk": ["--points", "32", "--width", "16"],
    "robustness": [*TRAINING, "--scales", "10", "30"],
    "neurons": ["--width", "32", "--side", "32"],
    "frequencies": ["--width", "32"],
    "utilization": [*TRAINING, "--methods", "siren", "finer-sine"],
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    network = preset("finer-gauss", "image").network(2, 3, width=16, depth=2)
    save_model(
        path, network, task="image", signal={"height": 16, "width": 16, "maximum": 255}, configuration={"seed": 0}
    )
    return path


@pytest.mark.parametrize("verb", SMALL)
def test_every_verb_leaves_figures_numbers_and_tables(verb: str, command: Command, tmp_path: Path) -> None:
    code, output = command("analyze.py", verb, *SMALL[verb])
    assert code == 0, output
    folder = tmp_path / "outputs" / "analysis" / verb
    stored = json.loads((folder / f"{verb}.json").read_text())
    assert stored["analysis"] == verb
    assert stored["versions"]["torch"]
    assert stored["settings"]
    for name, value in stored["numbers"].items():
        assert heading(name).removesuffix("s") in output or not value
    with Image.open(folder / f"{verb}.png") as picture:
        assert min(picture.size) > 200
        assert np.asarray(picture.convert("L")).std() > 5, "something is drawn"
    assert ElementTree.parse(folder / f"{verb}.svg").getroot().tag.endswith("svg")
    for title, columns in stored["tables"].items():
        with (folder / f"{verb}-{title}.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header == list(columns)
        assert len(rows) == len(next(iter(columns.values())))


def test_results_are_replaced_only_when_told_to(command: Command, tmp_path: Path) -> None:
    assert command("analyze.py", "frequencies", *SMALL["frequencies"])[0] == 0
    stored = tmp_path / "outputs" / "analysis" / "frequencies" / "frequencies.json"
    before = stored.read_bytes()
    named = ("--output-dir", stored.parent)
    code, output = command("analyze.py", "frequencies", "--seed", "1", *named, *SMALL["frequencies"])
    assert code == 2
    assert "--overwrite" in output
    assert "Traceback" not in output
    # Where no folder is named, a second analysis has one of its own.
    code, output = command("analyze.py", "frequencies", "--seed", "2", *SMALL["frequencies"])
    assert code == 0
    assert stored.read_bytes() == before
    assert (tmp_path / "outputs" / "analysis" / "frequencies-2" / "frequencies.json").exists()
    assert len(output.splitlines()) < 25, "a long list of numbers belongs into the JSON"
    assert command("analyze.py", "frequencies", "--seed", "1", "--overwrite", *SMALL["frequencies"])[0] == 0
    assert json.loads(stored.read_text())["settings"]["seed"] == 1


def test_tables_of_replaced_results_go(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "analysis" / "ntk"
    assert command("analyze.py", "ntk", *SMALL["ntk"], "--bias-ranges", "1", "5")[0] == 0
    (folder / "ntk-mine.csv").write_text("of the user")
    assert command("analyze.py", "ntk", *SMALL["ntk"], "--bias-ranges", "5", "--overwrite")[0] == 0
    names = {path.name for path in folder.glob("*.csv")}
    assert names == {"ntk-mine.csv", "ntk-eigenvalues.csv", "ntk-kernel k = 5.csv"}


def test_the_same_seed_gives_the_same_files(command: Command, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        assert command("analyze.py", "initialization", *SMALL["initialization"], "--output-dir", folder)[0] == 0
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_an_activation_of_ones_own_and_a_saved_model(command: Command, model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import torch\n\n\ndef bell(x):\n    return torch.exp(-x.square())\n")
    for verb in ("activations", "ntk", "frequencies", "neurons", "initialization", "gap"):
        code, output = command(
            "analyze.py", verb, "--activation", "mine:bell", *SMALL[verb], "--output-dir", f"own-{verb}"
        )
        assert code == 0, output
        assert "mine:bell" in output
    for verb in ("ntk", "neurons", "frequencies", "utilization"):
        options = ["--points", "32"] if verb == "ntk" else []
        code, output = command("analyze.py", verb, "--model", model, *options, "--output-dir", f"model-{verb}")
        assert code == 0, output
        numbers = json.loads((tmp_path / f"model-{verb}" / f"{verb}.json").read_text())["numbers"]
        assert "finer-sine" not in json.dumps(numbers), "the model's name, not that of the default method"
    picture = tmp_path / "picture.png"
    write_image(picture, sample_image(16).pixels)
    code, output = command("analyze.py", "initialization", "--model", model, "--image", picture)
    assert code == 0, output
    assert "trained" in output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ntk", "--points", "1"], 2, "--points must lie between 2 and"),
        (["ntk", "--model", "none.safetensors"], 1, "none.safetensors"),
        (["ntk", "--activation", "relu"], 2, "relu"),
        (["gap", "--image", "none.png"], 1, "none.png"),
        (["gap", "--scale-parameters", "-1"], 2, "--scale-parameters"),
        (["gap", "--method", "finer-sine"], 2, "whose scale can be moved into the weights"),
        (["ntk", "--bias-ranges"], 2, "--bias-ranges"),
        (["ntk", "--bias-ranges", "1", "1"], 2, "twice"),
        (["utilization", "--model", "m.safetensors", "--image", "i.png"], 2, "--image cannot be given with --model"),
        (["initialization", "--steps", "0"], 2, "--steps"),
        (["robustness", "--scales", "10"], 2, "--scales"),
        (["frequencies", "--method", "gauss"], 2, "does not repeat"),
        (["utilization", "--methods", "pemlp"], 2, "pemlp"),
        (["activations", "--reach", "0"], 2, "--reach"),
        (["neurons", "--count", "0"], 2, "--count"),
        (["neurons", "--device", "cuda:99"], 2, "cuda:99"),
        (["nothing"], 2, "nothing"),
        ([], 2, "activations"),
    ],
)
def test_bad_input_gets_a_sentence(arguments: list[str], code: int, words: str, command: Command) -> None:
    given, output = command("analyze.py", *arguments)
    assert given == code, output
    assert "Traceback" not in output
    assert words in output


def test_a_folder_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, output = command("analyze.py", "frequencies", *SMALL["frequencies"], "--output-dir", "file/inside")
    assert code == 1, output
    assert "Traceback" not in output
    assert "file is not a folder" in output
