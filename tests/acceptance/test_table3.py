"""A tiny Table 3 through the real commands: interrupted in the middle of a training, gone on with, and looked at."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Command = Callable[..., "tuple[int, str]"]

STEPS = 60


@pytest.fixture(scope="module")
def scenes(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one scene, of which the quick protocol looks at two test views."""
    folder = tmp_path_factory.mktemp("scenes")
    command = [sys.executable, ROOT / "scripts" / "make_demo_scene.py", "--output-dir", folder / "demo", "--size", "24"]
    done = run(*command, "--train-views", "8", "--val-views", "2", "--test-views", "9", "--supersampling", "1")
    assert done.returncode == 0, done.stdout
    return folder


def test_an_interrupted_table_goes_on_and_ends_with_everything(scenes: Path, run: Run, tmp_path: Path) -> None:
    output = tmp_path / "table3"
    command = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), "table3", "--scenes", str(scenes), "--quick"]
    command += ["--steps", str(STEPS), "--methods", "siren", "finer-sine", "--output-dir", str(output)]
    log = output / "cells" / "demo-siren" / "1" / "training.log"
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them, and all they start, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as table:
        wait_for_a_step(log, table)
        table.send_signal(signal.SIGINT)
        _, said = table.communicate(timeout=200)
    assert table.returncode == 130, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    (checkpoint,) = (output / "cells").rglob("*.ckpt")
    trained = int(checkpoint.stem.removeprefix("step-")) + 1
    assert 0 < trained < STEPS, "interrupted in the middle"
    assert not (output / "table.md").exists()

    done = run(*command, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"demo-siren: goes on after step {trained} of {STEPS}" in done.stdout
    assert checkpoint.exists(), "nothing is deleted"
    newest = max((output / "cells" / "demo-siren").rglob("*.ckpt"), key=lambda path: path.name)
    assert newest.name == f"step-{STEPS - 1:09d}.ckpt", "no step more or less"
    saved = torch.load(newest, map_location="cpu", weights_only=True)
    (scheduler,) = saved["schedulers"].values()
    # The decay of a training that was not interrupted, but for less than a step of it.
    share = 1 - torch.tensor(scheduler["_last_lr"][0] / scheduler["base_lrs"][0]).log10().neg().item()
    assert 0 <= share < 2 / STEPS

    table_of = json.loads((output / "table.json").read_text())
    assert [row["method"] for row in table_of["rows"]] == ["siren", "finer-sine"]
    for row in table_of["rows"]:
        (result,) = row["results"]
        assert 5 < result["psnr"] < 60
        assert 0 < result["ssim"] <= 1
        assert result["steps"] == STEPS
        assert result["views"] == 2
        assert result["rays_per_second"] > 0
    assert table_of["rows"][0]["results"][0]["resumed_after"] == trained
    text = (output / "table.md").read_text()
    assert "2 training views (every 4th) of 24x24 pixels, measured on every 8th test view (2)" in text
    assert "Not among the paper's scenes" in text
    for name in ("table.csv", "table.png", "demo/test_view.png"):
        assert (output / name).stat().st_size > 0
    with Image.open(output / "demo" / "test_view.png") as picture:
        assert picture.width > 2 * picture.height, "the truth and two methods"
    if shutil.which("ffmpeg") is not None:
        assert (output / "demo" / "flight.mp4").stat().st_size > 1000
        best = max(table_of["rows"], key=lambda row: row["results"][0]["psnr"])
        assert json.loads((output / "demo" / "flight.json").read_text())["method"] == best["method"]

    # All of it is there now: nothing is started any more.
    before = {path: path.stat().st_mtime_ns for path in (output / "cells").rglob("*")}
    again = run(*command, timeout=900)
    assert again.returncode == 0, again.stdout[-3000:]
    assert again.stdout.count("(from an earlier run)") == 2
    assert {path: path.stat().st_mtime_ns for path in (output / "cells").rglob("*")} == before


def wait_for_a_step(log: Path, table: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not (log.exists() and re.search(r"%, step [1-9]", log.read_text())):
        assert table.poll() is None, table.communicate()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def test_a_failing_scene_does_not_take_the_others_along(
    scenes: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands are stood in for by ones that fail on the scene whose name says so."""
    shutil.copytree(scenes / "demo", tmp_path / "scenes" / "broken")
    shutil.copytree(scenes / "demo", tmp_path / "scenes" / "whole")
    from finer_nerfstudio.reproduction.radiance import cells
    from finer_nerfstudio.reproduction.radiance.programs import ProgramFailed

    def train(method: str, scene: Path, output_dir: Path, *, log: Path, **rest: object) -> Path:
        if scene.name == "broken":
            log.write_text("error: r_0.png is damaged.\n")
            raise ProgramFailed("ns-train failed with exit code 1")
        run_folder = output_dir / scene.name / method / "now"
        (run_folder / "nerfstudio_models").mkdir(parents=True)
        (run_folder / "nerfstudio_models" / "step-000000001.ckpt").touch()
        return run_folder / "config.yml"

    def evaluate(config: Path, folder: Path, **rest: object) -> dict[str, float]:
        (folder / "test_views").mkdir()
        Image.new("RGB", (16, 8)).save(folder / "test_views" / "eval_img_0000.png")
        return {"psnr": 20.0, "ssim": 0.8, "lpips": 0.2, "num_rays_per_sec": 1e4}

    monkeypatch.setattr(cells, "train", train)
    monkeypatch.setattr(cells, "evaluate", evaluate)
    options = ["--scenes", tmp_path / "scenes", "--quick", "--steps", "2", "--methods", "siren", "--output-dir", "out"]
    code, said = command("reproduce.py", "table3", *options)
    assert code == 1
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "broken-siren: ns-train failed with exit code 1 (r_0.png is damaged)" in line
    log = re.search(r"see (\S+training\.log)", line)
    assert log is not None
    assert Path(log[1]).exists()
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| whole | 20.00 |" in text
    assert "| broken | n/a |" in text
    assert "broken-siren failed and is missing" in text
    assert (tmp_path / "out" / "whole" / "test_view.png").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--steps", "0"], 2, ["--steps"]),
        (["--steps", "5", "--minutes", "1"], 2, ["--steps", "--minutes"]),
        (["--minutes", "-1"], 2, ["--minutes"]),
        (["--device", "cuda:7"], 2, ["--device", "CUDA_VISIBLE_DEVICES"]),
        (["--workers", "0"], 2, ["--workers"]),
        (["--methods", "siren", "siren"], 2, ["--methods", "twice"]),
        (["--scenes", "nowhere"], 1, ["nowhere", "finer demo-scene"]),
        (["--scenes", "large"], 2, ["large", "500x500"]),
        (["--scenes", "untested"], 1, ["transforms_test.json"]),
        (["--output-dir", "file"], 1, ["file", "--output-dir"]),
    ],
)
def test_bad_input_is_said_before_anything_is_trained(
    scenes: Path, command: Command, tmp_path: Path, options: list[str], code: int, words: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    for name in ("large", "untested"):
        shutil.copytree(scenes / "demo", tmp_path / name)
    for path in (tmp_path / "large").glob("*/*.png"):
        Image.new("RGBA", (500, 500)).save(path)
    (tmp_path / "untested" / "transforms_test.json").unlink()
    scene = [] if "--scenes" in options else ["--scenes", str(scenes)]
    ended, said = command("reproduce.py", "table3", "--quick", *scene, *options)
    assert ended == code, said
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    for word in words:
        assert word in line
    assert not list(tmp_path.rglob("training.log"))
