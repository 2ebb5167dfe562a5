"""Commands killed at random moments: nothing that was there is lost, every file is whole, and the run goes on."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh
from PIL import Image

from finer_nerfstudio.files.checkpoint import load_training
from finer_nerfstudio.nerf.training.checkpoint_loading import allow_nerfstudio_checkpoints
from finer_nerfstudio.streams.reader import read_stream

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
KILLS = 20

FIT = ["--width", "32", "--batch-size", "500"]
COMMANDS: dict[str, list[str]] = {
    "fit_image": [str(ROOT / "scripts" / "fit_image.py"), "--size", "48", *FIT, "--steps", "1200"],
    "fit_sdf": [
        str(ROOT / "scripts" / "fit_sdf.py"), "--mesh", "ball.ply", *FIT, "--depth", "2", "--steps", "800",
        "--resolution", "32",
    ],
    "stream_encode": [
        str(ROOT / "scripts" / "stream.py"), "encode", "--size", "48", "--widths", "8", "16", "24", "--steps", "1000",
    ],
}  # fmt: skip


class Killed:
    """A process of our own that is killed after a while, unless it ends before."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.log = folder / "log.txt"
        # Steps this small gain nothing from threads, and one thread gives the same bits every time.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "TERM": "dumb"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
            )

    def after(self, seconds: float) -> bool:
        """Kill it after so many seconds; gives whether it was still there."""
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            return True
        assert self.process.returncode == 0, self.log.read_text()[-3000:]
        return False

    def to_the_end(self) -> float:
        """Let it end; gives the seconds."""
        start = time.monotonic()
        assert self.process.wait(timeout=900) == 0, self.log.read_text()[-3000:]
        return time.monotonic() - start


def read_whole(path: Path) -> None:
    """Read a file of a run to its end, by its format.

    Raises:
        Exception: whatever its reader raises, where it is not whole.
    """
    content = path.read_bytes()
    kind = path.suffix
    if path.name == "metrics.json.previous" or kind == ".json":
        json.loads(content)
    elif kind == ".safetensors":
        load_training(path)
    elif kind == ".finer":
        stream = read_stream(content)
        assert stream.damage is None
        assert stream.stages == len(stream.header.stages)
    elif kind in (".png", ".webp"):
        Image.open(io.BytesIO(content)).load()
    elif kind == ".csv":
        rows = list(csv.reader(io.StringIO(content.decode())))
        assert len({len(row) for row in rows}) == 1
        assert content.endswith(b"\n")
    elif kind == ".html":
        assert content.rstrip().endswith(b"</html>")
    elif kind == ".ply":
        assert len(trimesh.load(path, process=False).vertices) > 0  # pyright: ignore[reportAttributeAccessIssue]
    elif kind == ".ckpt":
        allow_nerfstudio_checkpoints()
        torch.load(path, map_location="cpu", weights_only=True)
    elif kind == ".yml":
        from finer_nerfstudio.nerf.training.run_file import read_run_config

        read_run_config(path)
    elif path.name != ".lock" and not path.name.startswith("events.out"):
        raise AssertionError(f"nobody knows how to read {path.name}")


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def step_in(checkpoint: Path) -> int:
    return load_training(checkpoint)[1]["step"] if checkpoint.exists() else -1


@pytest.mark.parametrize("name", COMMANDS)
def test_fits(name: str, tmp_path: Path, share: float, record: Callable[..., None]) -> None:
    trimesh.creation.icosphere(subdivisions=3, radius=0.7).export(tmp_path / "ball.ply")
    command = [sys.executable, *COMMANDS[name]]
    kills = max(1, round(KILLS * share))
    rng = random.Random(f"kills of {name}")
    start = time.monotonic()
    seconds = Killed([*command, "--output-dir", "whole"], tmp_path).to_the_end()
    wanted = {
        path: (tmp_path / "whole" / path).read_bytes() for path in sorted(files_in(tmp_path / "whole") - {".lock"})
    }
    same = [path for path in wanted if path.endswith((".finer", ".png", ".csv", ".ply")) or path == "model.safetensors"]
    assert same

    done = ends = partial = 0
    while done < kills or ends == 0:
        folder = tmp_path / f"killed-{ends}"
        while True:
            before = files_in(folder)
            reached = step_in(folder / "checkpoint.safetensors")
            process = Killed([*command, "--output-dir", folder.name, *(["--resume"] if before else [])], tmp_path)
            was_killed = done < kills and process.after(rng.uniform(0.2, 1.1) * seconds)
            if done >= kills:
                process.to_the_end()
            after = files_in(folder)
            unfinished = {path for path in after if path.endswith(".partial")}
            partial += len(unfinished)
            for path in after - unfinished:
                read_whole(folder / path)
            # A stage that is finished takes the place of its checkpoint.
            lost = before - after - {".lock", "checkpoint.safetensors"}
            assert not {path for path in lost if not path.endswith(".partial")}
            if "checkpoint.safetensors" in before & after and name != "stream_encode":
                assert step_in(folder / "checkpoint.safetensors") >= reached
            if not was_killed:
                break
            done += 1
        ends += 1
        assert not unfinished, "a run that goes on sweeps what a killed one left"
        assert files_in(folder) - {".lock"} == set(wanted)
        for path in same:
            assert (folder / path).read_bytes() == wanted[path], f"{path} is another than that of a run never killed"
    record(
        f"kills {name}",
        kills=done,
        runs_to_the_end=ends,
        unfinished_files_swept=partial,
        same_bytes=len(same),
        seconds=round(time.monotonic() - start),
    )


def test_ns_train(tmp_path: Path, share: float, record: Callable[..., None]) -> None:
    scene = [sys.executable, str(ROOT / "scripts" / "make_demo_scene.py"), "--output-dir", "scene", "--size", "32"]
    views = ["--train-views", "8", "--val-views", "1", "--test-views", "1", "--supersampling", "1"]
    start = time.monotonic()
    Killed([*scene, *views], tmp_path).to_the_end()
    command = [str(BIN / "ns-train"), "finer-sine", "--data", "scene", "--output-dir", "out", "--vis", "tensorboard"]
    command += ["--pipeline.model.field.width", "24", "--pipeline.target-num-samples", "1500", "--steps-per-save", "20"]
    kills = max(1, round(KILLS * share))
    rng = random.Random("kills of ns-train")
    partial = started_again = 0
    known: dict[str, int] = {}

    def checkpoints() -> dict[str, int]:
        """The last step that is saved in each run's folder."""
        found: dict[str, int] = {}
        for path in sorted((tmp_path / "out").rglob("*.ckpt")):
            if "partial" not in str(path):
                found[str(path.parent)] = int(path.stem.removeprefix("step-"))
        return found

    def check() -> int:
        unfinished = list((tmp_path / "out").rglob("*.partial"))
        for path in (tmp_path / "out").rglob("*"):
            if path.is_file() and "partial" not in str(path.relative_to(tmp_path)):
                read_whole(path)
        now = checkpoints()
        for folder, step in known.items():
            assert now.get(folder, -1) >= step, f"{folder} had a checkpoint of step {step}"
        known.update(now)
        return len(unfinished)

    first, began = Killed(command, tmp_path), time.monotonic()
    while not checkpoints():
        assert first.process.poll() is None, first.log.read_text()[-3000:]
        assert time.monotonic() - began < 300, "it saves nothing"
        time.sleep(0.1)
    seconds = time.monotonic() - began
    assert first.after(0)
    partial += check()
    for _ in range(kills - 1):
        latest = max(known, key=lambda folder: (Path(folder).stat().st_mtime, folder), default=None)
        started_again += latest is not None
        process = Killed([*command, *(["--load-dir", latest] if latest else [])], tmp_path)
        assert process.after(rng.uniform(0.2, 1.4) * seconds)
        partial += check()
    folder, step = max(known.items(), key=lambda item: item[1])
    Killed([*command, "--load-dir", folder, "--max-num-iterations", "10"], tmp_path).to_the_end()
    unfinished = check()
    assert max(known.values()) >= step + 9
    swept = not list(Path(folder).parent.glob("*.partial"))
    assert swept, "the run that goes on sweeps the folder that it goes on from"
    summaries: list[dict[str, Any]] = [
        json.loads(path.read_text()) for path in (tmp_path / "out").rglob("training.json")
    ]
    assert any(summary["steps"] == 10 for summary in summaries)
    record(
        "kills ns_train",
        kills=kills,
        runs_to_the_end=1,
        went_on_from_a_checkpoint=started_again,
        unfinished_files=partial,
        left_at_the_end=unfinished,
        seconds=round(time.monotonic() - start),
    )
