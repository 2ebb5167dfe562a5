"""One run writes to a folder at a time, and what a killed one left half-written is gone with the next start."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.runs.folder import claimed, output_folder
from finer_nerfstudio.runs.results import Measured, require_kind, run_in_folder

HOLD = """
import sys
from pathlib import Path
from finer_nerfstudio.runs.folder import claim
lock = claim(Path(sys.argv[1]))
print("mine", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def test_the_second_process_is_refused_until_the_first_is_gone(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"another run is writing to .*run: wait"), claimed(tmp_path / "run"):
        pytest.fail("the folder is taken")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with claimed(tmp_path / "run"):
        pass
    assert not list((tmp_path / "run").iterdir()), "nothing is left of the claims"


def test_unfinished_files_are_swept_and_others_kept(tmp_path: Path) -> None:
    for name in (".model.safetensors.123.partial", "metrics.json", "nested/.x.1.partial", "folder.partial/inside"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with claimed(tmp_path):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left - {".lock"} == {"metrics.json", "nested/.x.1.partial"}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_folder_that_cannot_be_written_gets_a_sentence() -> None:
    with pytest.raises(InputError, match="cannot write to /proc/nowhere"), claimed(Path("/proc/nowhere")):
        pytest.fail("/proc takes no folders")


def test_a_folder_can_be_claimed_again_and_again(tmp_path: Path) -> None:
    for _ in range(3):
        with claimed(tmp_path):
            assert (tmp_path / ".lock").exists()


def test_a_run_that_cannot_be_set_aside_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "metrics.json").write_text("{}")
    monkeypatch.setattr(os, "replace", full)
    with (
        pytest.raises(InputError, match=r"No space left on device.*another folder"),
        output_folder(tmp_path, resume=False, overwrite=True),
    ):
        pytest.fail("nothing is to be trained")
    assert (tmp_path / "metrics.json").read_text() == "{}"


def test_a_folder_with_a_run_is_kept(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("old")
    with (
        pytest.raises(UsageError, match="by resume=True, replace it by overwrite=True, or choose another folder"),
        output_folder(tmp_path, resume=False, overwrite=False),
    ):
        pytest.fail("there is a run")
    with output_folder(tmp_path, resume=True, overwrite=False):
        assert (tmp_path / "metrics.json").read_text() == "old"
    with output_folder(tmp_path, resume=False, overwrite=True):
        assert (tmp_path / "metrics.json.previous").read_text() == "old"


def test_a_folder_that_stayed_empty_is_gone(tmp_path: Path) -> None:
    made, there = tmp_path / "made", tmp_path / "there"
    there.mkdir()
    for folder in (made, there):
        with pytest.raises(KeyboardInterrupt), output_folder(folder, resume=False, overwrite=False):
            raise KeyboardInterrupt
    assert not made.exists()
    assert list(there.iterdir()) == []
    with output_folder(made, resume=False, overwrite=False):
        (made / "checkpoint.safetensors").touch()
    assert (made / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("how", [{"resume": True}, {"overwrite": True}])
def test_results_of_two_commands_are_not_mixed(tmp_path: Path, how: dict[str, bool]) -> None:
    options = {"resume": False, "overwrite": False} | how
    image = {"options": {}, "image": {"size": 3}}
    metrics = tmp_path / "metrics.json"

    def run(request: dict[str, Any]) -> None:
        run_in_folder(tmp_path, request, lambda: Measured({"psnr": 1.0}, {}, ()), may_be_finished=False, **options)

    run(image)
    run(image)
    for other in ({"options": {}, "shape": {}}, {"options": {}, "input": {}}):
        with pytest.raises(UsageError, match="results of another command"):
            run(other)
    with pytest.raises(UsageError, match="results of another command"):
        require_kind(tmp_path, None)
    # A comparison of methods.
    metrics.write_text(json.dumps({"siren": json.loads(metrics.read_text())}))
    with pytest.raises(UsageError, match="results of another command"):
        run(image)
    require_kind(tmp_path, None)
