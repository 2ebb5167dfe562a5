"""Writing that fails: every single write of a fit in turn, full disks, folders that are read-only, deleted data."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.files.checkpoint import load_training
from finer_nerfstudio.nerf.training.checkpoint_loading import allow_nerfstudio_checkpoints
from finer_nerfstudio.tasks.image.files import sample_image
from finer_nerfstudio.tasks.image.fit import ImageOptions
from finer_nerfstudio.tasks.image.run import run_image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


# Every write in turn ----------------------------------------------------------------------------------------------


class FailingFile:
    """A file whose writing is counted.

    Args:
        file: it passes everything on to.
        count: called before every writing; raises what is to go wrong.
    """

    def __init__(self, file: Any, count: Callable[[str], None]) -> None:
        self._file, self._count = file, count

    def write(self, content: Any) -> int:
        self._count("write")
        return self._file.write(content)

    def flush(self) -> None:
        self._count("flush")
        self._file.flush()

    def __enter__(self) -> FailingFile:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def failing(folder: Path, number: int) -> Iterator[list[str]]:
    """Within, the ``number``-th operation that writes below ``folder`` fails; gives the operations so far."""
    done: list[str] = []
    real_open, os_open = io.open, os.open

    def count(what: str) -> None:
        done.append(what)
        if len(done) == number + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def is_below(path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and str(folder) in os.fspath(path)

    def open_file(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if not is_below(path) or not set(mode) & set("wax+"):
            return real_open(path, mode, *rest, **options)
        count(f"open {Path(path).name}")
        return FailingFile(real_open(path, mode, *rest, **options), count)

    def open_handle(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if is_below(path) and flags & (os.O_WRONLY | os.O_RDWR):
            count(f"open {Path(path).name}")
        return os_open(path, flags, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "rename", "mkdir"):
            real = getattr(os, name)

            def operation(path: Any, *rest: Any, _real: Any = real, _name: str = name, **options: Any) -> Any:
                if is_below(path):
                    count(f"{_name} {Path(path).name}")
                return _real(path, *rest, **options)

            patch.setattr(os, name, operation)
        sync = os.fsync
        patch.setattr(os, "fsync", lambda handle: (count("fsync"), sync(handle)))
        patch.setattr(os, "open", open_handle)
        patch.setattr(io, "open", open_file)
        patch.setattr(builtins, "open", open_file)
        yield done


EXACT = ("model.safetensors", "reconstruction.png", "curve.csv")


def test_every_write_of_a_fit_fails_in_turn(tmp_path: Path, share: float, record: Callable[..., None]) -> None:
    torch.set_num_threads(1)
    image = sample_image(16)
    old, new = (ImageOptions(steps=6, width=8, depth=1, seed=seed) for seed in (0, 1))
    for name, options in (("old", old), ("new", new)):
        run_image(image, options, tmp_path / name, quiet=True)
    contents = {name: [(tmp_path / side / name).read_bytes() for side in ("old", "new")] for name in EXACT}
    assert all(before != after for before, after in contents.values())
    start, number, sentences, unharmed = time.monotonic(), 0, 0, 0
    step = max(1, round(1 / share))
    while True:
        folder = tmp_path / f"fault-{number}"
        shutil.copytree(tmp_path / "old", folder)
        message = None
        with failing(folder, number) as done:
            try:
                run_image(image, new, folder, overwrite=True, quiet=True)
            except InputError as error:
                message = str(error)
        if len(done) <= number:
            break
        fault = f"{number}: {done[number]}"
        sentences += message is not None
        unharmed += message is None  # such as the syncing of a folder
        assert message is None or ("No space left on device" in message and "\n" not in message), fault
        for name, both in contents.items():
            assert (folder / name).read_bytes() in both, f"{name} after {fault}"
        for path in folder.iterdir():
            if path.suffix == ".json" or path.name == "metrics.json.previous":
                assert json.loads(path.read_text())["seed"] in (0, 1), fault
            if path.name.startswith("checkpoint.safetensors"):
                assert load_training(path)[1]["settings"]["seed"] in (0, 1), fault
            if path.suffix == ".html":
                assert path.read_text().rstrip().endswith("</html>"), fault
        try:
            run_image(image, new, folder, resume=True, quiet=True)
        except UsageError:  # nothing had been replaced yet, and the run there is still the old one
            assert (folder / "model.safetensors").read_bytes() == contents["model.safetensors"][0], fault
            run_image(image, new, folder, overwrite=True, quiet=True)
        for name, (_, wanted) in contents.items():
            assert (folder / name).read_bytes() == wanted, f"{name} in the end, after {fault}"
        assert not list(folder.glob("*.partial")), fault
        shutil.rmtree(folder)
        number += step
    assert sentences > 0
    record(
        "failing writes",
        failures=sentences + unharmed,
        sentences=sentences,
        without_harm=unharmed,
        operations_of_a_fit=len(done),
        seconds=round(time.monotonic() - start),
    )


# Disks and folders of the real commands -----------------------------------------------------------------------------


SMALL = ["--width", "16", "--batch-size", "200"]
COMMANDS: dict[str, list[str]] = {
    "fit_image": [str(ROOT / "scripts" / "fit_image.py"), "--size", "32", *SMALL, "--steps", "60"],
    "fit_sdf": [str(ROOT / "scripts" / "fit_sdf.py"), *SMALL, "--steps", "60", "--resolution", "24"],
    "stream_encode": [
        str(ROOT / "scripts" / "stream.py"), "encode", "--size", "32", "--widths", "8", "12", "--steps", "60",
    ],
}  # fmt: skip
TRAIN = [
    str(BIN / "ns-train"), "finer-sine", "--data", "scene", "--vis", "tensorboard",
    "--pipeline.model.field.width", "24", "--pipeline.target-num-samples", "1500",
    "--max-num-iterations", "40", "--steps-per-save", "15",
]  # fmt: skip


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "TERM": "dumb", "PYTHONPATH": path}


def ended(command: list[str], folder: Path, **options: Any) -> tuple[int, str]:
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        timeout=600, env=environment(), **options,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    scene = [sys.executable, str(ROOT / "scripts" / "make_demo_scene.py"), "--output-dir", "scene", "--size", "32"]
    views = ["--train-views", "8", "--val-views", "1", "--test-views", "1", "--supersampling", "1"]
    code, output = ended([*scene, *views], folder)
    assert code == 0, output
    return folder


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None] | None]:
    """A disk of this size at ``folder``, where one may be mounted; gives what makes it larger, else None."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        yield None
        return
    try:
        yield (
            lambda larger: (
                subprocess.run(["mount", "-o", f"remount,size={larger}", folder], check=True, capture_output=True)
                and None
            )
        )
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("name", [*COMMANDS, "ns_train"])
def test_a_full_disk(name: str, work: Path, tmp_path: Path, record: Callable[..., None]) -> None:
    command = TRAIN if name == "ns_train" else [sys.executable, *COMMANDS[name]]
    tries = sentences = 0
    for size in (16, 48, 160):  # kilobytes: nothing fits, the checkpoint does not, the results do not
        disk = tmp_path / f"disk-{size}"
        with small_disk(disk, f"{size}k") as grow:
            limit: dict[str, Any] = {}
            if grow is None:  # files may not grow beyond it, which fails as writing does
                limit = {
                    "preexec_fn": lambda kilobytes=size: resource.setrlimit(
                        resource.RLIMIT_FSIZE, (kilobytes << 10, kilobytes << 10)
                    )
                }
            code, output = ended([*command, "--output-dir", str(disk / "out")], work, **limit)
            tries += 1
            assert "Traceback" not in output, output[-3000:]
            assert code in (0, 1), output[-3000:]
            if code == 1:
                sentences += 1
                assert any(words in output for words in ("No space left", "File too large", "is the disk full")), output
            if grow is not None:
                grow("100m")
            if name != "ns_train":
                code, output = ended([*command, "--output-dir", str(disk / "out"), "--resume"], work)
                assert code == 0, output[-3000:]
            assert not list((disk / "out").rglob("*.partial"))
    assert sentences > 0
    record(f"full disk {name}", disks=tries, sentences=sentences, mounted=grow is not None)


@pytest.mark.parametrize("name", [*COMMANDS, "ns_train"])
def test_a_folder_that_is_read_only(name: str, work: Path, tmp_path: Path) -> None:
    command = TRAIN if name == "ns_train" else [sys.executable, *COMMANDS[name]]
    folder = tmp_path / "folder"
    folder.mkdir()
    os.chmod(folder, 0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere but here
        folder = Path("/proc/self")
    code, output = ended([*command, "--output-dir", str(folder / "out")], work)
    assert code == 1, output[-3000:]
    assert "Traceback" not in output
    assert "cannot " in output
    assert "--output-dir" in output.replace("\n", " ")


def test_data_and_results_deleted_during_a_run(work: Path, tmp_path: Path, record: Callable[..., None]) -> None:
    shutil.copytree(work / "scene", tmp_path / "scene")
    for what in ("scene", "out"):
        log = tmp_path / f"log-{what}"
        command = [*TRAIN, "--output-dir", "out", "--steps-per-save", "30"]
        command[command.index("--max-num-iterations") + 1] = "400"
        with log.open("w") as stream:
            process = subprocess.Popen(
                command, cwd=tmp_path, stdout=stream, stderr=subprocess.STDOUT, env=environment()
            )
        deadline = time.monotonic() + 200
        while not list((tmp_path / "out").rglob("*.ckpt")):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        shutil.rmtree(tmp_path / what, ignore_errors=True)
        code = process.wait(timeout=400)
        output = log.read_text()
        assert "Traceback" not in output, output[-3000:]
        assert code in (0, 1), output[-3000:]
        if what == "scene":
            shutil.copytree(work / "scene", tmp_path / "scene")
        saved = list((tmp_path / "out").rglob("*.ckpt"))
        assert saved, "what was trained is kept"
        allow_nerfstudio_checkpoints()
        for path in saved:
            torch.load(path, map_location="cpu", weights_only=True)
        shutil.rmtree(tmp_path / "out")
    record("deleted data", deletions=2)
