"""The command ``finer`` as a shell starts it."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize(("verb", "meant"), [("fit-imag", "did you mean fit-image"), ("xyz", "verbs are fit-image, ")])
def test_a_verb_that_is_none(verb: str, meant: str) -> None:
    done = finer(verb)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: finer has no verb '{verb}': {meant}")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_while_modules_are_imported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

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
