"""What a cell makes of the files that it finds, and what it tells ns-train; training itself is stood in for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.reproduction.radiance import cells
from finer_nerfstudio.reproduction.radiance.cells import (
    RadianceRun,
    RunProgress,
    attempt_folder,
    checkpoints,
    finished_training,
    last_words,
    radiance_cells,
    train_and_evaluate,
)
from finer_nerfstudio.reproduction.radiance.programs import ProgramFailed
from finer_nerfstudio.reproduction.radiance.protocol import RadianceProtocol, protocol_of_table
from finer_nerfstudio.reproduction.radiance.scenes import Scene

LEGO = Scene("lego", Path("/scenes/lego"), 200, 200, 100, 16, "digest")


def protocol(*, steps: int | None = 100, minutes: float | None = None, seed: int = 0) -> RadianceProtocol:
    return protocol_of_table(quick=True, steps=steps, minutes=minutes, seed=seed)


def run_of(folder: Path, **options: Any) -> RadianceRun:
    (cell,) = radiance_cells([LEGO], "siren", protocol(**options), folder=folder)
    (run,) = cell.arguments
    assert cell.settings == run.settings == json.loads(json.dumps(cell.settings))
    return run


def write_run(attempt: Path, time: str, *, steps: int | None, summary: int | None = None) -> Path:
    """A run's folder as ns-train leaves it: its last checkpoint after ``steps``, and a summary if it ended."""
    folder = attempt / "run" / "lego" / "siren" / time
    folder.mkdir(parents=True)
    (folder / "config.yml").touch()
    if steps is not None:
        (folder / "nerfstudio_models").mkdir()
        (folder / "nerfstudio_models" / f"step-{steps - 1:09d}.ckpt").touch()
    if summary is not None:
        content = {"steps": summary, "seconds": 30.0, "rays_per_second": 2000.0, "samples_per_second": 9000.0}
        (folder / "training.json").write_text(json.dumps({**content, "parameters": 5, "device": "cpu"}))
    return folder / "config.yml"


class Nerfstudio:
    """Stands in for ns-train and ns-eval: leaves the files that they would and remembers what it was told."""

    def __init__(self) -> None:
        self.trained: list[list[str]] = []
        self.evaluated: list[Path] = []
        self.interrupt: Callable[[], None] = lambda: None

    def train(self, method: str, scene: Path, output_dir: Path, *, options: list[str], **rest: Any) -> Path:
        self.trained.append(options)
        self.interrupt()
        told = dict(zip(options[::2], options[1::2], strict=True))
        steps = int(told["--max-num-iterations"]) if "--max-minutes" not in told else 60
        first = 0
        if "--load-dir" in told:
            (checkpoint,) = Path(told["--load-dir"]).iterdir()
            first = int(checkpoint.stem.removeprefix("step-")) + 1
        return write_run(output_dir.parent, f"time-{len(self.trained)}", steps=first + steps, summary=steps)

    def evaluate(self, config: Path, folder: Path, **rest: Any) -> dict[str, float]:
        self.evaluated.append(config)
        self.interrupt()
        return {"psnr": 25.0, "ssim": 0.9, "num_rays_per_sec": 1e5}


@pytest.fixture
def nerfstudio(monkeypatch: pytest.MonkeyPatch) -> Nerfstudio:
    stand_in = Nerfstudio()
    monkeypatch.setattr(cells, "train", stand_in.train)
    monkeypatch.setattr(cells, "evaluate", stand_in.evaluate)
    return stand_in


def test_a_cell_is_trained_and_measured_once(tmp_path: Path, nerfstudio: Nerfstudio) -> None:
    run = run_of(tmp_path)
    result = train_and_evaluate(run)
    assert (result["psnr"], result["lpips"], result["minutes"], result["resumed_after"]) == (25.0, None, 0.5, None)
    assert (tmp_path / result["config"]).exists()
    assert train_and_evaluate(run) == result
    assert (len(nerfstudio.trained), len(nerfstudio.evaluated)) == (1, 1)
    assert "--load-dir" not in nerfstudio.trained[0]


def test_an_interrupted_training_goes_on_with_what_is_left(tmp_path: Path, nerfstudio: Nerfstudio) -> None:
    run = run_of(tmp_path)
    attempt = attempt_folder(run)
    write_run(attempt, "first", steps=40)
    write_run(attempt, "second", steps=None)  # went on from there, and was killed before its first checkpoint
    result = train_and_evaluate(run)
    (options,) = nerfstudio.trained
    assert options[options.index("--load-dir") + 1] == str(
        attempt / "run" / "lego" / "siren" / "first" / "nerfstudio_models"
    )
    assert options[options.index("--max-num-iterations") + 1] == "60"
    assert result["resumed_after"] == 40
    assert result["steps"] == 100
    assert result["minutes"] == pytest.approx(0.5 * 100 / 60)
    assert [steps for steps, _ in checkpoints(attempt)] == [40, 100]


def test_the_newest_of_several_checkpoints_counts(tmp_path: Path, nerfstudio: Nerfstudio) -> None:
    run = run_of(tmp_path)
    write_run(attempt_folder(run), "a", steps=90)
    write_run(attempt_folder(run), "b", steps=40)
    train_and_evaluate(run)
    (options,) = nerfstudio.trained
    assert "/a/" in options[options.index("--load-dir") + 1]
    assert options[options.index("--max-num-iterations") + 1] == "10"


def test_training_by_the_clock_starts_again_and_says_so(
    tmp_path: Path, nerfstudio: Nerfstudio, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, steps=None, minutes=0.5)
    config = write_run(attempt_folder(run), "first", steps=80)
    result = train_and_evaluate(run)
    assert "--load-dir" not in nerfstudio.trained[0]
    assert "lego-siren: starts again" in capsys.readouterr().err
    assert config.exists(), "nothing is deleted"
    # The one that ended counts, even if the other one had got further.
    assert tmp_path / result["config"] != config
    assert result["steps"] == 60


def test_only_the_evaluation_that_was_interrupted_is_repeated(tmp_path: Path, nerfstudio: Nerfstudio) -> None:
    def ctrl_c() -> None:
        if nerfstudio.evaluated:
            raise KeyboardInterrupt

    run = run_of(tmp_path)
    nerfstudio.interrupt = ctrl_c
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(run)
    nerfstudio.interrupt = lambda: None
    train_and_evaluate(run)
    assert (len(nerfstudio.trained), len(nerfstudio.evaluated)) == (1, 2)


def test_a_training_that_ns_train_gave_up_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends well without its summary."""
    run = run_of(tmp_path)
    monkeypatch.setattr(cells, "train", lambda *a, **k: write_run(attempt_folder(run), "first", steps=40))
    with pytest.raises(InputError, match=r"lego-siren: ns-train left no summary.*training\.log"):
        train_and_evaluate(run)


def test_a_failure_names_the_log_and_repeats_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path)
    log = attempt_folder(run) / "training.log"

    def fail(*arguments: object, **options: object) -> None:
        log.write_text("loading\nerror: r_3.png is damaged.\nbye\n")
        raise ProgramFailed("ns-train failed with exit code 1")

    monkeypatch.setattr(cells, "train", fail)
    with pytest.raises(InputError) as raised:
        train_and_evaluate(run)
    assert str(raised.value) == f"lego-siren: ns-train failed with exit code 1 (r_3.png is damaged); see {log}"


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 200}])
def test_other_settings_are_run_beside_the_old_files(
    tmp_path: Path, nerfstudio: Nerfstudio, change: dict[str, Any]
) -> None:
    first = train_and_evaluate(run_of(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    second = train_and_evaluate(run_of(tmp_path, **change))
    assert second["attempt"] != first["attempt"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    # And the old ones are found again.
    assert train_and_evaluate(run_of(tmp_path)) == first
    assert len(nerfstudio.trained) == 2


def test_settings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    (attempt_folder(run) / "settings.json").write_text("{")
    with pytest.raises(InputError, match=r"settings\.json"):
        attempt_folder(run)


@pytest.mark.parametrize(
    ("steps", "saved", "summary", "finished"),
    [
        (100, 100, 100, True),
        (100, 100, None, True),  # killed between the checkpoint and what comes after it
        (100, 99, 100, False),  # the other way round
        (100, None, None, False),
        (None, 60, 60, True),
        (None, 60, None, False),
        (None, 40, 60, False),
    ],
)
def test_when_training_is_finished(
    tmp_path: Path, steps: int | None, saved: int | None, summary: int | None, finished: bool
) -> None:
    config = write_run(tmp_path, "time", steps=saved, summary=summary)
    wanted = protocol(steps=steps, minutes=None if steps else 1.0)
    assert finished_training(tmp_path, wanted) == (config if finished else None)


def test_partial_checkpoints_do_not_count(tmp_path: Path) -> None:
    config = write_run(tmp_path, "time", steps=None)
    partial = config.parent / "nerfstudio_models.partial"
    partial.mkdir()
    (partial / "step-000000050.ckpt").touch()
    assert checkpoints(tmp_path) == []


def test_progress_is_read_from_the_runs_folder(tmp_path: Path) -> None:
    """The file is written by what ns-train itself reports with."""
    from finer_nerfstudio.nerf.training.terminal import TrainingProgress

    earlier, folder = tmp_path / "scene/finer-sine/1", tmp_path / "scene/finer-sine/2"
    for run in (earlier, folder):
        run.mkdir(parents=True)
    with TrainingProgress("finer-sine", earlier) as progress:
        progress.report(0.7, 140, 20.0, 1000.0)
    seen: list[tuple[float, int, float]] = []
    by_steps = RunProgress(tmp_path, 20_000, lambda *values: seen.append(values))
    by_the_clock = RunProgress(tmp_path, None, lambda *values: seen.append(values))
    by_steps.look()
    assert seen == [], "an earlier run's"
    with TrainingProgress("finer-sine", folder) as progress:
        progress.report(0.0909, 1000, 21.43, 81_651.2)
        by_steps.look()
        by_steps.look()
        assert seen == [(0.05, 1000, 21.43)], "told once"
        by_the_clock.look()
        assert seen[1:] == [(0.0909, 1000, 21.43)]
        progress.report(0.3, 6000, 22.5, 81_000.0)
        by_steps.look()
    assert seen[2:] == [(0.3, 6000, 22.5)]


def test_the_viewers_address_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from finer_nerfstudio.nerf.training.terminal import TrainingProgress

    folder = tmp_path / "scene/finer-sine/1"
    reader = RunProgress(tmp_path, None, lambda *values: None)
    folder.mkdir(parents=True)
    with TrainingProgress("finer-sine", folder, viewer="http://127.0.0.1:7123") as progress:
        for step in (10, 20):
            progress.report(0.1, step, 20.0, 1000.0)
            reader.look()
    assert capsys.readouterr().err.count("viewer: http://127.0.0.1:7123") == 1


def test_a_comparison_and_the_table_train_by_the_same_options(tmp_path: Path) -> None:
    """But for the size of the images and the views."""
    table = protocol(steps=None, minutes=2.0)
    comparison = RadianceProtocol(0, minutes=2.0)
    assert comparison.training_options("siren") == table.training_options("siren")
    odd = Scene("odd", Path("/scenes/odd"), 300, 200, 10, 10, "digest")
    assert "--downscale-factor 1" in " ".join(comparison.parser_options(odd))
    with pytest.raises(UsageError, match="multiple"):
        table.parser_options(odd)
    (cell,) = radiance_cells([odd], cells.NERFACTO, comparison, folder=tmp_path)
    assert cell.settings["defaults"] is None


def test_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == ""
    log.write_text("one\ntwo\n\n")
    assert last_words(log) == "two"
    log.write_text("Traceback\n  File\nRuntimeError: out of luck\nmore\n")
    assert last_words(log) == "RuntimeError: out of luck"


def test_a_gpu_is_not_chosen_by_device(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES"):
        radiance_cells([LEGO], "siren", protocol(), folder=tmp_path, device="cuda:1")
