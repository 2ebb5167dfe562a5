"""The command ``finer`` as a shell starts it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finer_nerfstudio._version import __version__
from finer_nerfstudio.cli import main as main_module
from finer_nerfstudio.cli.main import VERBS

PROGRAM = Path(sys.executable).with_name("finer")
SCRIPTS = Path(__file__).parents[2] / "scripts"


def finer(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_verbs(arguments: tuple[str, ...]) -> None:
    done = finer(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(re.search(rf"^  {verb} +\w", done.stdout, re.MULTILINE) for verb in VERBS)


def test_the_version() -> None:
    assert finer("--version").stdout == f"finer-nerfstudio {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_its_options(verb: str) -> None:
    done = finer(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: finer {verb}" in done.stdout
    assert "python scripts" not in done.stdout


@pytest.mark.parametrize("verb", ["fit-image", "fit-sdf", "render-image", "view"])
def test_help_imports_nothing_that_computes(verb: str) -> None:
    code = (
        "import sys; from finer_nerfstudio.cli.main import main\n"
        f"try: main(['{verb}', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'jaxtyping', 'PIL', 'cv2', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("verb", "meant"), [("fit-imag", "did you mean fit-image"), ("xyz", "verbs are fit-image, ")])
def test_a_verb_that_is_none(verb: str, meant: str) -> None:
    done = finer(verb)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: finer has no verb '{verb}': {meant}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("hidden", [False, True])
def test_ctrl_c_while_modules_are_imported(
    hidden: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which some of them turn into an error of their own."""

    def interrupted(name: str) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            if hidden:
                raise ImportError("initialization failed") from error
            raise

    monkeypatch.setattr(main_module, "import_module", interrupted)
    with pytest.raises(SystemExit) as ended:
        main_module.main(["fit-image"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted.\n"


def test_an_extra_that_is_missing(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['skimage'] = None\n"
        "from finer_nerfstudio.cli.main import main\n"
        "main(['fit-sdf', '--steps', '1'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("pip install 'finer-nerfstudio[sdf]'.\n")
    assert "Traceback" not in done.stderr


def test_every_verb_has_a_script() -> None:
    called = {
        verb
        for script in SCRIPTS.glob("*.py")
        for verb in re.findall(r'"([a-z-]+)"', script.read_text())
        if verb in VERBS
    }
    assert called == VERBS.keys()


TASK = """
from collections.abc import Callable


def loudest(samples: list[float], tell: Callable[[str], None]) -> float:
    tell(f"{len(samples)} samples")
    return max(map(abs, samples))
"""
VERB = """
\"\"\"Say how loud a signal is.\"\"\"

from dataclasses import dataclass

import tyro

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.tasks.loudness.peak import loudest


@dataclass(frozen=True)
class Loudness:
    \"\"\"Say how loud a signal is.\"\"\"

    samples: tyro.conf.Positional[tuple[float, ...]]


OPTIONS = Loudness


def run(command: Loudness) -> None:
    if not command.samples:
        raise UsageError("there are no samples.")
    print(loudest(list(command.samples), print))
"""


def test_a_task_is_a_folder_and_a_verb(tmp_path: Path) -> None:
    """As CONTRIBUTING says, tried on a copy of the package."""
    package = tmp_path / "finer_nerfstudio"
    shutil.copytree(SCRIPTS.parent / "finer_nerfstudio", package, ignore=shutil.ignore_patterns("__pycache__"))
    before = {path: path.read_bytes() for path in package.rglob("*.py")}
    (package / "tasks" / "loudness").mkdir()
    (package / "tasks" / "loudness" / "peak.py").write_text(TASK)
    (package / "cli" / "loudness.py").write_text(VERB)
    main_file = package / "cli" / "main.py"
    verbs = "VERBS: dict[str, str] = {\n"
    assert verbs in main_file.read_text()
    main_file.write_text(main_file.read_text().replace(verbs, f'{verbs}    "loudness": "say how loud a signal is",\n'))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; from finer_nerfstudio.cli.main import main; main(sys.argv[1:])"
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert "say how loud a signal is" in run().stdout
    assert run("loudness", "0.5", "-0.75").stdout == "2 samples\n0.75\n"
    refused = run("loudness")
    assert (refused.returncode, refused.stderr) == (2, "error: there are no samples.\n")
    after = {path: path.read_bytes() for path in package.rglob("*.py")}
    touched = {path.relative_to(package).as_posix() for path in after if before.get(path) != after[path]}
    assert touched == {"tasks/loudness/peak.py", "cli/loudness.py", "cli/main.py"}
    row = re.findall(r"^\| a task \| (.*) \|$", (SCRIPTS.parent / "CONTRIBUTING.md").read_text(), re.MULTILINE)[0]
    assert re.findall(r"`finer_nerfstudio/([^`]*)`", row) == ["tasks", "cli", "cli/main.py"]
