"""Bad input to the NeRF commands: one sentence and an exit code, never a traceback; or correct handling.

Data problems go through Nerfstudio's own ``ns-train`` entry point inside one process that has Nerfstudio loaded
already; a few go through a fresh process, to see exit codes and streams as a shell does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Outcome = tuple[int, str]
Train = Callable[..., Outcome]

SHORT = ["--max-num-iterations", "2", "--pipeline.model.field.width", "16", "--vis", "tensorboard"]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """``ns-train`` in this process: exit code and what went to standard error. What it refuses leaves no folder."""

    def runs() -> set[Path]:
        return {path for path in (tmp_path / "outputs").rglob("*") if path.is_dir()}

    def call(*arguments: str | Path, data: Path | None = None, method: str = "finer-sine") -> Outcome:
        from nerfstudio.scripts.train import entrypoint

        command = ["ns-train", method, "--output-dir", str(tmp_path / "outputs"), *SHORT]
        if data is not None:
            command += ["--data", str(data)]
        monkeypatch.setattr(sys, "argv", [*command, *map(str, arguments)])
        before = runs()
        try:
            entrypoint()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        assert code != 2 or runs() == before
        return code, capsys.readouterr().err

    return call


def assert_sentence(outcome: Outcome, code: int, *words: str) -> None:
    assert outcome[0] == code, outcome[1]
    message = outcome[1]
    assert "Traceback" not in message
    (line,) = [line for line in message.splitlines() if line.startswith("error:")]
    for word in words:
        assert word in line, line


def change_json(scene: Path, split: str, change: Callable[[dict], object]) -> None:
    path = scene / f"transforms_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def image_of(scene: Path, frame: int, split: str = "train") -> Path:
    content = json.loads((scene / f"transforms_{split}.json").read_text())
    return scene / (content["frames"][frame]["file_path"] + ".png")


def test_missing_train_split(train: Train, scene_copy: Path) -> None:
    (scene_copy / "transforms_train.json").unlink()
    assert_sentence(train(data=scene_copy), 2, "transforms_train.json", "transforms.json", str(scene_copy))


def test_folder_that_is_no_capture(train: Train, small_scene: Path, tmp_path: Path) -> None:
    missing = train("nerfstudio-data", data=tmp_path / "nothing")
    assert_sentence(missing, 2, f"--data {tmp_path / 'nothing'} is not there")
    assert_sentence(train("nerfstudio-data", data=tmp_path), 2, str(tmp_path), "no transforms.json")
    assert_sentence(train("nerfstudio-data", data=small_scene), 2, "Blender format", "leave nerfstudio-data out")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("eval-num-rays-per-chunk", "0"),
        ("near-plane", "inf"),
        ("near-plane", "nan"),
        ("color-weight-threshold", "1"),
        ("grid-warmup-steps", "-1"),
    ],
)
def test_options_of_the_model_out_of_range(option: str, value: str, train: Train, small_scene: Path) -> None:
    assert_sentence(train(f"--pipeline.model.{option}", value, data=small_scene), 2, f"--pipeline.model.{option}")


def test_folder_that_is_no_scene(train: Train, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_sentence(train(data=tmp_path / "empty"), 2, "transforms_train.json", "transforms.json")


def test_folder_that_does_not_exist(train: Train, tmp_path: Path) -> None:
    assert_sentence(train(data=tmp_path / "nowhere"), 2, "nowhere")


def test_missing_image(train: Train, scene_copy: Path) -> None:
    image_of(scene_copy, 3).unlink()
    assert_sentence(train(data=scene_copy), 1, image_of(scene_copy, 3).name)


def test_truncated_png(train: Train, scene_copy: Path) -> None:
    path = image_of(scene_copy, 5)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_sentence(train(data=scene_copy), 1, path.name)


def test_file_that_is_no_image(train: Train, scene_copy: Path) -> None:
    path = image_of(scene_copy, 1)
    path.write_text("not a picture")
    assert_sentence(train(data=scene_copy), 1, path.name)


def test_frames_of_different_sizes(train: Train, scene_copy: Path) -> None:
    path = image_of(scene_copy, 2)
    Image.open(path).resize((32, 32)).save(path)
    assert_sentence(train(data=scene_copy), 1, path.name, "32", "48")


def test_non_square_images_train(train: Train, scene_copy: Path) -> None:
    for path in scene_copy.glob("*/*.png"):
        Image.open(path).crop((0, 8, 48, 40)).save(path)
    assert train(data=scene_copy)[0] == 0


@pytest.mark.parametrize("mode", ["16-bit grey", "grey", "no alpha", "palette"])
def test_unusual_pixel_formats_train(train: Train, scene_copy: Path, mode: str) -> None:
    for path in scene_copy.glob("*/*.png"):
        picture = Image.open(path)
        if mode == "16-bit grey":
            Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(path)
        else:
            picture.convert({"grey": "L", "no alpha": "RGB", "palette": "P"}[mode]).save(path)
    assert train(data=scene_copy)[0] == 0


def test_empty_frame_list(train: Train, scene_copy: Path) -> None:
    change_json(scene_copy, "train", lambda content: content.update(frames=[]))
    assert_sentence(train(data=scene_copy), 1, "transforms_train.json", "frames")


def test_nan_pose(train: Train, scene_copy: Path) -> None:
    change_json(scene_copy, "train", lambda c: c["frames"][4]["transform_matrix"][0].__setitem__(3, float("nan")))
    assert_sentence(train(data=scene_copy), 1, "transforms_train.json", "4")


def test_singular_pose(train: Train, scene_copy: Path) -> None:
    change_json(scene_copy, "train", lambda c: c["frames"][6].update(transform_matrix=np.zeros((4, 4)).tolist()))
    assert_sentence(train(data=scene_copy), 1, "transforms_train.json", "6")


def test_wrong_json(train: Train, scene_copy: Path) -> None:
    (scene_copy / "transforms_train.json").write_text('{"frames": [')
    assert_sentence(train(data=scene_copy), 1, "transforms_train.json", "JSON")


def test_json_of_another_kind(train: Train, scene_copy: Path) -> None:
    (scene_copy / "transforms_train.json").write_text("[1, 2]")
    assert_sentence(train(data=scene_copy), 1, "transforms_train.json")


def test_missing_field_of_view(train: Train, scene_copy: Path) -> None:
    change_json(scene_copy, "train", lambda content: content.pop("camera_angle_x"))
    assert_sentence(train(data=scene_copy), 1, "camera_angle_x")


def test_stride_and_downscale_out_of_range(train: Train, scene_copy: Path) -> None:
    assert_sentence(train("blender-views", "--train-view-stride", "0", data=scene_copy), 2, "train-view-stride")
    assert_sentence(train("blender-views", "--downscale-factor", "0", data=scene_copy), 2, "downscale-factor")
    assert_sentence(train("blender-views", "--downscale-factor", "100", data=scene_copy), 2, "downscale-factor")


def test_downscaled_scene_trains(train: Train, scene_copy: Path) -> None:
    assert train("blender-views", "--downscale-factor", "2", "--train-view-stride", "4", data=scene_copy)[0] == 0


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--pipeline.model.field.width", "0", "width"),
        ("--pipeline.model.field.omega-f", "3", "omega"),
        ("--pipeline.model.field.omega-0", "-3", "omega"),
        ("--pipeline.model.field.bias-range", "0", "bias-range"),
        ("--pipeline.model.samples-per-ray", "0", "samples-per-ray"),
        ("--pipeline.target-num-samples", "0", "target-num-samples"),
        ("--pipeline.model.ema-decay", "2", "ema-decay"),
        ("--pipeline.model.near-plane", "-1", "near-plane"),
        ("--optimizers.fields.optimizer.lr", "-1", "lr"),
        ("--optimizers.fields.scheduler.final-fraction", "0", "final-fraction"),
        ("--optimizers.fields.scheduler.start-lr", "-1", "start-lr"),
        ("--max-num-iterations", "0", "max-num-iterations"),
        ("--max-minutes", "-1", "max-minutes"),
    ],
)
def test_values_out_of_range(train: Train, small_scene: Path, option: str, value: str, word: str) -> None:
    assert_sentence(train(option, value, data=small_scene), 2, word)


def test_unknown_option_and_unknown_method(run: Run, small_scene: Path) -> None:
    done = run("ns-train", "finer-sine", "--data", small_scene, "--pipeline.model.field.omega-9", "3")
    assert done.returncode == 2
    assert "omega-9" in done.stdout
    assert "Traceback" not in done.stdout
    done = run("ns-train", "finer-cosine", "--data", small_scene)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout


def test_output_folder_that_cannot_be_written(train: Train, small_scene: Path, tmp_path: Path) -> None:
    # A file where a folder should be refuses everybody, root included, unlike permissions.
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    assert_sentence(train("--output-dir", blocked / "outputs", data=small_scene), 1, "blocked", "--output-dir")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_read_only_output_folder(train: Train, small_scene: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir(mode=0o500)
    assert_sentence(train("--output-dir", blocked, data=small_scene), 1, "blocked", "--output-dir")


def test_checkpoint_of_another_method(train: Train, trained_run: Path, small_scene: Path) -> None:
    outcome = train("--load-dir", trained_run / "nerfstudio_models", data=small_scene)
    assert_sentence(outcome, 1, "finer-wavelet", "finer-sine")


def test_checkpoint_of_the_same_shapes_but_another_method(train: Train, small_scene: Path, tmp_path: Path) -> None:
    assert train(data=small_scene, method="siren")[0] == 0
    (checkpoint,) = (tmp_path / "outputs").rglob("*.ckpt")
    assert_sentence(train("--load-checkpoint", checkpoint, data=small_scene), 1, "siren", "finer-sine")


def test_checkpoint_of_another_width(train: Train, trained_run: Path, small_scene: Path) -> None:
    outcome = train("--load-dir", trained_run / "nerfstudio_models", data=small_scene, method="finer-wavelet")
    assert_sentence(outcome, 1, "does not fit")


def test_no_checkpoint_where_one_was_named(train: Train, small_scene: Path, tmp_path: Path) -> None:
    assert_sentence(train("--load-dir", tmp_path / "none", data=small_scene), 1, "none", "--load-dir")
    (tmp_path / "empty").mkdir()
    assert_sentence(train("--load-dir", tmp_path / "empty", data=small_scene), 1, "empty")


def test_checkpoint_cut_short(train: Train, trained_run: Path, small_scene: Path, tmp_path: Path) -> None:
    (checkpoint,) = (trained_run / "nerfstudio_models").glob("*.ckpt")
    broken = tmp_path / checkpoint.name
    broken.write_bytes(checkpoint.read_bytes()[:1000])
    assert_sentence(train("--load-checkpoint", broken, data=small_scene), 1, checkpoint.name)


def test_interrupted_save_leaves_the_last_checkpoint_whole(
    trained_run: Path, small_scene: Path, tmp_path: Path, run: Run
) -> None:
    """The process dies in the middle of writing its second checkpoint; the first must still resume."""
    script = tmp_path / "dies_while_saving.py"
    script.write_text(
        "import os, sys, torch\n"
        "real_save, calls = torch.save, []\n"
        "def save(content, path, *args, **kwargs):\n"
        "    calls.append(path)\n"
        "    real_save(content, path, *args, **kwargs)\n"
        "    if len(calls) == 2:\n"
        "        with open(path, 'r+b') as file:\n"
        "            file.truncate(1000)\n"
        "        os._exit(9)\n"
        "torch.save = save\n"
        "from nerfstudio.scripts.train import entrypoint\n"
        "entrypoint()\n"
    )
    output = tmp_path / "outputs"
    arguments = ["finer-sine", "--data", small_scene, "--pipeline.model.field.width", "16", "--vis", "tensorboard"]
    done = run(
        sys.executable,
        script,
        *arguments,
        "--output-dir",
        output,
        "--steps-per-save",
        "5",
        "--max-num-iterations",
        "20",
    )
    assert done.returncode == 9, done.stdout[-2000:]
    (folder,) = output.rglob("nerfstudio_models")
    (checkpoint,) = folder.iterdir()
    torch.load(checkpoint, map_location="cpu", weights_only=True)
    again = run(
        "ns-train", *arguments, "--output-dir", tmp_path / "again", "--load-dir", folder, "--max-num-iterations", "2"
    )
    assert again.returncode == 0, again.stdout[-2000:]


def test_a_new_run_never_touches_an_old_one(train: Train, small_scene: Path, tmp_path: Path) -> None:
    assert train("--timestamp", "first", data=small_scene)[0] == 0
    # TensorBoard's log of the first run stays open as long as this process lives.
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file() and "tfevents" not in path.name]
    assert any(path.suffix == ".ckpt" for path in files)
    before = {path: path.stat().st_mtime_ns for path in files}
    assert train("--timestamp", "second", data=small_scene)[0] == 0
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_timestamp_of_a_finished_run_is_refused(train: Train, small_scene: Path, tmp_path: Path) -> None:
    assert train("--timestamp", "mine", data=small_scene)[0] == 0
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    before = checkpoint.read_bytes()
    assert_sentence(
        train("--timestamp", "mine", data=small_scene), 2, "holds a run already", "--timestamp", "--load-dir"
    )
    assert checkpoint.read_bytes() == before


def test_two_runs_of_one_second_have_folders_of_their_own(
    train: Train, small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        @staticmethod
        def now() -> Clock:
            return Clock()

        @staticmethod
        def strftime(_: str) -> str:
            return "2026-01-02_030405"

    monkeypatch.setattr("nerfstudio.configs.experiment_config.datetime", Clock)
    assert train(data=small_scene)[0] == 0
    assert train(data=small_scene)[0] == 0
    assert {path.parent.name for path in tmp_path.rglob("config.yml")} == {"2026-01-02_030405", "2026-01-02_030405_2"}


def test_a_folder_that_another_run_writes_to_is_refused(train: Train, small_scene: Path, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "small" / "finer-sine" / "mine"
    holding = "import sys; from pathlib import Path; from finer_nerfstudio.runs.folder import claim; "
    holding += "lock = claim(Path(sys.argv[1])); print('mine', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holding, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"mine\n"
        assert_sentence(train("--timestamp", "mine", data=small_scene), 1, "another run is writing to", str(folder))
        other.stdin.close()


def test_what_a_killed_run_left_is_swept_when_it_goes_on(train: Train, small_scene: Path, tmp_path: Path) -> None:
    assert train("--timestamp", "killed", data=small_scene)[0] == 0
    (folder,) = tmp_path.rglob("nerfstudio_models")
    partial = folder.with_name("nerfstudio_models.partial")
    partial.mkdir()
    (partial / "step-000000009.ckpt").write_bytes(b"half of it")
    assert train("--load-dir", folder, data=small_scene)[0] == 0
    assert not partial.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(train: Train, small_scene: Path) -> None:
    assert_sentence(train("--machine.device-type", "cuda", data=small_scene), 2, "--machine.device-type cuda", "GPU")


@pytest.mark.parametrize("saves", ["2", "1000"])
def test_a_run_that_diverges_keeps_the_last_good_checkpoint(
    saves: str, train: Train, small_scene: Path, tmp_path: Path
) -> None:
    rate = ("--optimizers.fields.optimizer.lr", "1e30", "--max-num-iterations", "40", "--steps-per-save", saves)
    # The same run from a good checkpoint, which the first save of NaN would replace.
    assert train("--timestamp", "good", data=small_scene)[0] == 0
    (good,) = tmp_path.rglob("*.ckpt")
    outcome = train(*rate, data=small_scene)
    settings = ("--optimizers.fields.optimizer.lr 1e+30", "--pipeline.model.field.omega-0 20", "bias-range")
    assert_sentence(outcome, 1, "diverged", "after step", *settings)
    for checkpoint in tmp_path.rglob("*.ckpt"):
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["pipeline"]
        assert all(bool(torch.isfinite(value).all()) for value in state.values() if isinstance(value, torch.Tensor))
    assert good.exists()


def test_scales_that_give_no_numbers_from_the_start_do_not_ask_for_a_lower_rate(
    train: Train, small_scene: Path
) -> None:
    outcome = train("--pipeline.model.field.omega-0", "1e38", data=small_scene)
    assert_sentence(outcome, 1, "before the first step", "--pipeline.model.field.omega-0 1e+38")
    assert "optimizer.lr" not in outcome[1]


def test_a_checkpoint_of_nan_is_refused(train: Train, small_scene: Path, tmp_path: Path) -> None:
    assert train("--timestamp", "nan", data=small_scene)[0] == 0
    (path,) = tmp_path.rglob("*.ckpt")
    state = torch.load(path, map_location="cpu", weights_only=True)
    state["pipeline"]["_model.field.density_net.last.bias"][0] = float("nan")
    torch.save(state, path)
    outcome = train("--load-dir", path.parent, data=small_scene)
    assert_sentence(outcome, 1, "NaN", "density_net.last.bias", "diverged")


@pytest.mark.parametrize("vis", ["tensorboard", "viewer"])
def test_a_run_folder_that_is_deleted_is_made_anew_with_what_was_trained(
    vis: str, train: Train, small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finer_nerfstudio.nerf.training.trainer import FinerTrainer

    step_of_the_trainer = FinerTrainer.train_iteration

    def step_and_delete(self: FinerTrainer, step: int) -> object:
        if step == 20:
            shutil.rmtree(self.base_dir)
        return step_of_the_trainer(self, step)

    monkeypatch.setattr(FinerTrainer, "train_iteration", step_and_delete)
    monkeypatch.setattr("nerfstudio.utils.writer.EVENT_WRITERS", [])  # of runs before, in this process
    options = ("--vis", vis, "--max-num-iterations", "2000", "--viewer.quit-on-train-completion", "True")
    outcome = train(*options, "--steps-per-eval-image", "0", data=small_scene)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    torch.load(checkpoint, map_location="cpu", weights_only=True)
    assert (checkpoint.parents[1] / "config.yml").exists()
    if vis == "tensorboard":  # whose log is gone
        assert_sentence(outcome, 1, "was it deleted", str(checkpoint.parent))
    else:
        assert outcome[0] == 0


def test_shell_sees_the_sentence_on_standard_error(small_scene: Path, tmp_path: Path) -> None:
    program = shutil.which("ns-train", path=str(Path(sys.executable).parent))
    assert program
    done = subprocess.run(
        [program, "finer-wavelet", "--data", str(tmp_path), "--output-dir", str(tmp_path / "o")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stdout + done.stderr


def test_interrupted_training_can_go_on(small_scene: Path, tmp_path: Path, run: Run) -> None:
    """Ctrl-C in the middle of training leaves a checkpoint."""
    arguments = ["finer-sine", "--data", str(small_scene), "--output-dir", str(tmp_path / "first")]
    arguments += ["--pipeline.model.field.width", "16", "--vis", "tensorboard"]
    log = tmp_path / "train.log"
    program = str(Path(sys.executable).parent / "ns-train")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (
        log.open("w") as stream,
        subprocess.Popen(
            [program, *arguments],
            stdout=stream,
            stderr=stream,
            env=environment,
            # A shell that runs the tests in the background has them, and all they start, ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as training,
    ):
        deadline = time.monotonic() + 120
        while not re.search(r"^finer-sine: \d+%, step \d+", log.read_text(), flags=re.MULTILINE):
            assert training.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        training.send_signal(signal.SIGINT)
        training.wait(timeout=60)
    assert training.returncode == 130
    last = log.read_text().splitlines()[-1]
    assert last.startswith("interrupted after step")
    assert "--load-dir" in last
    assert not list((tmp_path / "first").rglob(".lock"))
    (checkpoint,) = (tmp_path / "first").rglob("*.ckpt")
    arguments[4] = str(tmp_path / "second")
    again = run("ns-train", *arguments, "--load-dir", checkpoint.parent, "--max-num-iterations", "2")
    assert again.returncode == 0, again.stdout[-2000:]


def test_comparison_does_not_overwrite_what_it_did_not_write(small_scene: Path, tmp_path: Path, run: Run) -> None:
    foreign = tmp_path / "out" / "cells" / f"{small_scene.name}-finer-sine.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text('{"x":')
    script = Path(__file__).parents[2] / "scripts" / "compare_methods.py"
    done = run(
        sys.executable, script, "--data", small_scene, "--methods", "finer-sine", "--output-dir", tmp_path / "out"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert str(foreign) in done.stdout
    assert foreign.read_text() == '{"x":'


@pytest.mark.parametrize("given", [["--load-config", "./nowhere.yml"], ["--load-config=nowhere.yml"]])
def test_a_config_that_is_not_there(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Uncaught, as every command of Nerfstudio lets it be."""
    from nerfstudio.utils.eval_utils import eval_setup

    from finer_nerfstudio.nerf.training import uncaught
    from finer_nerfstudio.nerf.training.uncaught import say_uncaught

    # As in a process that has opened no run yet.
    monkeypatch.setattr(uncaught, "_ours", threading.Event())

    def said(path: Path) -> str:
        try:
            eval_setup(path)
        except OSError as error:
            sys.excepthook(type(error), error, error.__traceback__)
        return capsys.readouterr().err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ns-eval", *given])
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    say_uncaught()
    sentence = "error: --load-config nowhere.yml cannot be opened (No such file or directory): name the config.yml in"
    assert said(Path("nowhere.yml")).startswith(sentence)
    assert "Traceback" in said(Path("another.yml")), "other files are none of our business"
    monkeypatch.setattr(sys, "argv", ["ns-eval", "--load-config", str(tmp_path)])
    assert said(tmp_path).startswith(f"error: --load-config {tmp_path} is a folder: name the config.yml in")


def test_a_shell_sees_that_a_config_is_not_there(run: Run, tmp_path: Path) -> None:
    done = run("ns-eval", "--load-config", tmp_path / "nowhere.yml")
    assert_sentence((done.returncode, done.stdout), 1, f"--load-config {tmp_path / 'nowhere.yml'} cannot be opened")
