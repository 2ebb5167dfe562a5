"""Errors speak of arguments to callers in Python, and of options to those who typed a command."""

from __future__ import annotations

import ast
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finer_nerfstudio.cli.main import main
from finer_nerfstudio.errors import InputError, UsageError, argument
from finer_nerfstudio.runs.command_line import exit_on_input_error

PACKAGE = Path(__file__).parents[1] / "finer_nerfstudio"

# Where the caller is a command line: ours, and that of Nerfstudio's commands, whose options have longer names.
_SPOKEN_TO_BY_COMMANDS = (
    "cli/",
    "nerf/bounded_nerfacto.py",
    "nerf/data/",
    "nerf/field.py",
    "nerf/model.py",
    "nerf/streaming/growing_field.py",
    "nerf/train_distributed.py",
    "nerf/training/",
    "nerf/viewer/address.py",
)
# Other strings with options in them.
_ALLOWED = {
    "benchmarks/gpu/wheels.py": "prints a command for pip",
    "errors.py": "makes them",
    "inr/kernels/building.py": "asks a compiler for its version",
    "reproduction/radiance/baselines.py": "calls ns-train and finer export",
    "reproduction/radiance/cells.py": "calls ns-train",
    "reproduction/radiance/pictures.py": "calls ns-render",
    "reproduction/radiance/programs.py": "calls ns-train and ns-eval",
    "reproduction/radiance/protocol.py": "calls ns-train",
    "tasks/sdf/run.py": "notes in the report of a command",
}
_OPTION = re.compile(r"(?<![\w-])--(?=[a-z]|$)")


def strings_with_options(tree: ast.AST) -> Iterator[ast.Constant]:
    """Yield strings that name an option, but no docstrings, and not what :func:`argument` is given for terminals."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "argument":
            continue
        if isinstance(node, ast.keyword) and node.arg == "linestyle":
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _OPTION.search(node.value):
            yield node
        pending.extend(ast.iter_child_nodes(node))


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(_SPOKEN_TO_BY_COMMANDS):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def test_no_error_names_an_option_to_a_caller_in_python() -> None:
    raised = [(name, node) for name, tree in modules() for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    assert len(raised) > 300
    faults = [
        f"{name}:{string.lineno}: {string.value}" for name, node in raised for string in strings_with_options(node)
    ]
    assert not faults, "name the argument by finer_nerfstudio.errors.argument"


def test_no_other_sentence_names_an_option_but_those_that_are_meant_for_a_command() -> None:
    found = {name for name, tree in modules() if any(strings_with_options(tree))}
    assert found == set(_ALLOWED)


@pytest.mark.parametrize(
    "statement",
    [
        'raise ValueError("--steps must be at least 1")',
        'raise UsageError(f"the width ({width}) is none: give another --width.")',
        "raise UsageError(f\"--{name.replace('_', '-')} must be at least 1\")",
    ],
)
def test_an_option_in_an_error_would_be_found(statement: str) -> None:
    assert list(strings_with_options(ast.parse(statement)))


def test_an_argument_is_worded_for_either_caller() -> None:
    error = UsageError(f"{argument('batch_size')} must be at least 1, not 0.")
    assert str(error) == "batch_size must be at least 1, not 0."
    assert error.on_command_line() == "--batch-size must be at least 1, not 0."
    advice = (
        f"go on by {argument('resume', True)}, take {argument('sampler', 'grid')} or {argument('degree', 2)}, or "
        f"choose another {argument('folder', option='--output-dir')}."
    )
    error = InputError(advice)
    assert str(error) == "go on by resume=True, take sampler='grid' or degree=2, or choose another folder."
    assert (
        error.on_command_line()
        == "go on by --resume, take --sampler grid or --degree 2, or choose another --output-dir."
    )
    around = InputError(f"the second of two: {error.message}")
    assert around.on_command_line() == f"the second of two: {error.on_command_line()}"


# Names of files may hold anything, but no one has files that are named by Unicode's noncharacters.
_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cn")))


@given(_TEXT, st.from_regex(r"[a-z]+(_[a-z0-9]+)*", fullmatch=True), _TEXT)
def test_the_rest_of_a_sentence_stays_as_it_is(before: str, name: str, after: str) -> None:
    error = InputError(f"{before}{argument(name)}{after}")
    assert str(error) == f"{before}{name}{after}"
    assert error.on_command_line() == f"{before}--{name.replace('_', '-')}{after}"
    # As from another process.
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is InputError
    assert again.on_command_line() == error.on_command_line()


@pytest.mark.parametrize(("kind", "code"), [(UsageError, 2), (InputError, 1)])
def test_a_command_shows_options(kind: type[InputError], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, exit_on_input_error():
        raise kind(f"{argument('max_bytes')} must be at least 1, not 0.")
    assert ended.value.code == code
    assert capsys.readouterr().err == "error: --max-bytes must be at least 1, not 0.\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("fit-image --steps 0", "--steps must be at least 1, not 0."),
        ("fit-image --width 0", "--width must lie between 1 and 65,536, not 0."),
        ("fit-image --size 32 --batch-size 0", "--batch-size must be at least 1, full or auto, not 0."),
        ("fit-sdf --minutes -1", "--minutes must be a positive number, not -1.0."),
        ("stream encode --allowed-loss 0", "--allowed-loss must be a positive number of dB, not 0.0."),
        ("stream decode nothing.finer --max-bytes 0", "--max-bytes must be at least 1, not 0."),
        ("analyze ntk --points 1", "--points must lie between 2 and"),
        ("demo-scene --seed -1", "--seed must not be negative, got -1."),
        ("benchmark --repeats 0", "--repeats must be at least 1, not 0."),
    ],
)
def test_commands_word_the_faults_of_arguments_with_options(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert f"error: {sentence}" in capsys.readouterr().err


# What a user of the package may type, and the argument of which the error has to speak.
_FAULTS = {
    "fit(steps=0)": "steps must be at least 1, not 0",
    "fit(learning_rate=0.0)": "learning_rate must be a positive number, not 0.0",
    "fit(learning_rate=math.nan)": "learning_rate must be a positive number",
    "fit(width=0)": "width must lie between",
    "fit(width=10**9)": "width must lie between",
    "fit(depth=0)": "depth must lie between",
    "fit(batch_size=0)": "batch_size must be at least 1",
    "fit(batch_size='many')": "batch_size must be at least 1",
    "fit(seed=-1)": "seed must be between",
    "fit(seed=2**64)": "seed must be between",
    "fit(device='abacus')": "device abacus",
    "fit(device='cuda:99')": "device cuda:99",
    "fit(activation='abacus')": "unknown method 'abacus'",
    "fit(activation=torch.nn.PReLU())": "PReLU has parameters to learn",
    "fit(bias_range=0.0)": "bias_range must be a positive number",
    "fit(bias_range='wide')": "bias_range must be a positive number or 'auto'",
    "fit(bias_range='auto', activation='siren')": "bias_range='auto'",
    "fit(np.array([]))": "values must hold at least one sample",
    "fit(np.array(3.0))": "values must hold at least one sample",
    "fit(channels_last=True)": "values must hold at least one sample",
    "fit(np.array([math.nan]))": "values must be finite",
    "fit(np.array(['a']))": "values must be finite",
    "fit(np.array([1j]))": "values must be finite",
    "fit(np.zeros((8, 8, 3)))": "channels_last=True",
    "fit().decode(0)": "resolution must be at least 1",
    "fit().decode((3, 3))": "resolution must have 1 axes",
    "fit(activation=torch.tanh).save(folder / 'a.safetensors')": "function of your own",
    "fit().save('/dev/null/a.safetensors')": "another path",
    "finer.FittedArray.load(folder / 'nowhere')": "nowhere",
    "finer.FittedArray.load(saved)": "'array' is needed",
    "finer.load_model(folder / 'nowhere')": "nowhere",
    "finer.load_model(folder)": "there is no file",
    "finer.load_model(damaged)": "damaged.safetensors cannot be read",
    "finer.load_model(saved, task='sdf')": "'sdf' is needed",
    "save('/dev/null/a.safetensors')": "another path",
    "save(folder / 'own.safetensors', network(activation=torch.tanh))": "function of your own",
    "finer.preset('abacus', 'image')": "unknown method 'abacus'",
    "finer.preset('siren', 'cooking')": "unknown task 'cooking'",
    "finer.preset('siren', 'image', 'hearsay')": "unknown source 'hearsay'",
    "siren.overridden(omega_0=0.0)": "omega_0 must be a positive number",
    "siren.overridden(s_0=1.0)": "has no s_0",
    "siren.overridden(omega_f=1.0)": "omega_f belongs to",
    "siren.overridden(scale_gradient=True)": "scale_gradient belongs to",
    "siren.overridden(learning_rate=-1.0)": "learning_rate must be a positive number",
    "siren.overridden(bias_range=-1.0)": "bias_range must be a positive number",
    "siren.overridden(encoding_frequencies=-1)": "encoding_frequencies must be between",
    "siren.network(2, 1, width=0, depth=1)": "width must be at least 1",
    "network(in_dim=0)": "in_dim must be at least 1",
    "network(out_dim=0)": "out_dim must be at least 1",
    "network(width=0)": "width must be at least 1",
    "network(depth=-3)": "depth must be at least 1",
    "network(bias_range=-1.0)": "bias_range must be a positive number",
    "network(bias_range=1e99)": "bias_range must be a positive number up to 1e+30, not 1e+99",
    "siren.overridden(bias_range=1e99)": "bias_range must be a positive number up to 1e+30",
    "finer.bias_shells(1e99, 3)": "bias_range must be a positive number up to 1e+30",
    "network(encoding_frequencies=-1)": "encoding_frequencies must not be negative",
    "network()(torch.zeros(4, 3))": "coordinates must be [*batch, 2]",
    "growing(in_dim=0)": "in_dim must be at least 1",
    "growing(out_dim=0)": "out_dim must be at least 1",
    "growing(depth=0)": "depth must be at least 1",
    "growing(encoding_frequencies=-1)": "encoding_frequencies must not be negative",
    "growing()(torch.zeros(4, 2))": "call grow() first",
    "growing().grow(0)": "width must add a unit",
    "growing().grow(4, bias_shell=(2.0, 1.0))": "bias_shell must be two increasing numbers",
    "finer.bias_shells(-1.0, 3)": "bias_range must be a positive number",
    "finer.bias_shells(1.0, 0)": "stages must be at least 1",
    "finer.positional_encoding(torch.zeros(1, 2), -1)": "frequencies must not be negative",
    "finer.variable_periodic(torch.tanh, omega_f=0.0)": "omega_f must be a positive number",
    "finer.variable_periodic(torch.tanh, scale=math.nan)": "scale must be a positive number",
    "finer.variable_periodic(torch.relu)": "piecewise linear",
    "finer.variable_periodic(finer.Sine(1.0), omega_f=2.0)": "omega_f has no meaning",
    "finer.Sine(0.0)": "omega_0 must be a positive number",
    "finer.Gauss(-1.0)": "s_0 must be a positive number",
    "finer.Wavelet(math.inf, 1.0)": "omega_0 must be a positive number",
    "finer.Custom(torch.tanh, scale=0.0)": "scale must be a positive number",
}
# A process of its own: while tests run, calls are checked for types before they are checked for values.
_CALLS = """
import json, math, sys
from pathlib import Path
import numpy as np, torch
import finer_nerfstudio as finer

folder = Path(sys.argv[1])
small = dict(steps=1, width=4, depth=1)
fit = lambda values=np.linspace(0.0, 1.0, 16), **options: finer.fit_array(values, **{**small, **options})
sine = dict(in_dim=2, out_dim=1, depth=1, activation=finer.Sine(30.0))
network = lambda **options: finer.CoordinateNetwork(**{"width": 4, **sine, **options})
growing = lambda **options: finer.GrowingNetwork(**{**sine, **options})
save = lambda path, what=network(): finer.save_model(path, what, task="image", signal={}, configuration={})
siren = finer.preset("siren", "image")
saved, damaged = folder / "saved.safetensors", folder / "damaged.safetensors"
save(saved)
damaged.write_bytes(saved.read_bytes()[:-3])
said = {}
for call in json.load(sys.stdin):
    try:
        eval(call)
        said[call] = "no error"
    except Exception as error:
        said[call] = ("" if isinstance(error, ValueError) else type(error).__name__ + ": ") + str(error)
json.dump(said, sys.stdout)
"""


def test_callers_in_python_get_value_errors_about_their_arguments(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CALLS, str(tmp_path)],
        input=json.dumps(list(_FAULTS)),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    said = json.loads(done.stdout)
    faults = {
        call: said[call] for call, words in _FAULTS.items() if words not in said[call] or _OPTION.search(said[call])
    }
    assert not faults
    assert not [text for text in said.values() if re.match(r"\w+Error: ", text)], "all are ValueErrors"


def test_runs_name_arguments_to_callers_in_python(tmp_path: Path) -> None:
    from finer_nerfstudio.tasks.image.files import sample_image
    from finer_nerfstudio.tasks.image.fit import ImageOptions
    from finer_nerfstudio.tasks.image.run import run_image
    from finer_nerfstudio.tasks.sdf.fit import ShapeOptions
    from finer_nerfstudio.tasks.sdf.run import run_shape
    from finer_nerfstudio.tasks.sdf.shape import sample_shape
    from finer_nerfstudio.tasks.streaming.encode import StreamOptions
    from finer_nerfstudio.tasks.streaming.run import run_encode

    image, shape = sample_image(16), sample_shape(resolution=16)
    with pytest.raises(ValueError, match=r"^steps must be at least 1, not 0\.$"):
        run_image(image, ImageOptions(steps=0), tmp_path)
    with pytest.raises(ValueError, match=r"^batch_size must be at least 2, not 1\.$"):
        run_shape(shape, ShapeOptions(batch_size=1), tmp_path)
    with pytest.raises(ValueError, match=r"^resolution must be between 8 and"):
        run_shape(shape, ShapeOptions(), tmp_path, resolution=4)
    with pytest.raises(ValueError, match=r"^widths must increase"):
        run_encode(image, StreamOptions(widths=(8, 4)), tmp_path, "name")
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="resume=True, replace it by overwrite=True, or choose another folder"):
        run_image(image, ImageOptions(steps=1), tmp_path)
