"""The queue's order, what it skips, what it goes on after, and its time."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finer_nerfstudio.benchmarks.gpu import queue as queue_module
from finer_nerfstudio.benchmarks.gpu.cell import OutOfTime, Place, QueueCell, Work
from finer_nerfstudio.benchmarks.gpu.cells import all_cells
from finer_nerfstudio.benchmarks.gpu.queue import Queue, breaks_the_context, in_order, run_queue
from finer_nerfstudio.benchmarks.gpu.records import correction, expected_seconds, read_records
from finer_nerfstudio.nerf.captured.repeated import NotCaptured


def cell_named(name: str, work: Work = lambda _: {"psnr": 1.0}, **changes: Any) -> QueueCell:
    values: dict[str, Any] = {"group": "kernels", "row": name, "item": "", "settings": {"a": 1}, "estimate": 1.0}
    return QueueCell(name=name, work=work, **{**values, **changes})


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def queue(tmp_path: Path, said: list[str]) -> Queue:
    return Queue(tmp_path / "records", tmp_path / "scratch", torch.device("cpu"), 10.0, said.append)


def failing(_: Place) -> dict[str, Any]:
    raise ValueError("it cannot be\nmeasured")


def test_all_cells_are_in_order_of_value() -> None:
    cells = all_cells(None)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) == 1 + (2 * 2 * 7 + 3 * 2 * 3) + (7 + 2) + (8 * 9 + 2 * 7) + 7 + 2
    assert list(dict.fromkeys(cell.group for cell in cells)) == [
        *("ceilings", "kernels", "fields", "images", "shapes", "nerfacto", "splats")
    ]
    assert [name for name in names if name.startswith("lego-") and "-tf32" not in name] == [
        f"lego-{name}" for name in ("finer-sine", "siren", "finer-wavelet", "wire", "finer-gauss", "gauss", "pemlp")
    ] + ["lego-nerfacto", "lego-splats"]
    paper = names.index("lego-finer-sine")
    assert names[paper + 1 : paper + 3] == ["lego-finer-sine-tf32", "lego-finer-sine-tf32-bfloat16"]
    assert paper < names.index("kernels-image-finer-sine-65536-bfloat16-networks")
    first = names.index("div2k_00-finer-sine")
    assert names[first + 7 : first + 9] == ["div2k_00-siren-omega80", "div2k_00-wire-lr5e-4"]
    assert names[first + 9 + 2 * 7] == "div2k_01-finer-sine"
    by_name = {cell.name: cell for cell in cells}
    assert by_name["div2k_00-siren-omega80"].settings["omega_0"] == 80.0
    assert by_name["div2k_00-wire-lr5e-4"].settings["learning_rate"] == 5e-4
    assert [name for name in names if name.startswith("armadillo-")] == [
        f"armadillo-{name}"
        for name in ("finer-sine", "finer-gauss", "finer-wavelet", "siren", "gauss", "wire", "pemlp")
    ]
    assert by_name["lego-siren"].settings["steps"] == 37_500
    toys = all_cells(None, quick=True)
    assert all(cell.quick and cell.name.startswith("quick-") for cell in toys)
    assert len(toys) == len(cells)


def test_results_are_kept_and_not_repeated(queue: Queue) -> None:
    ran: list[str] = []

    def work(name: str) -> Work:
        return lambda _: ran.append(name) or {"psnr": 20.0}

    cells = [cell_named(name, work(name)) for name in ("b", "a", "c")]
    outcome = run_queue(cells, queue)
    assert ran == outcome.measured == ["b", "a", "c"]
    record = json.loads((queue.folder / "a.json").read_text())
    assert record["result"] == {"psnr": 20.0}
    assert record["card"] == "CPU"
    assert record["seconds"] >= 0
    assert set(record["versions"]) == {"finer_nerfstudio", "torch", "triton", "cuda", "python", "numpy"}
    assert run_queue(cells, queue).measured == []
    changed = cell_named("a", work("a"), settings={"a": 2})
    assert run_queue([cells[0], changed], queue).measured == ["a"], "other settings make another cell"
    (queue.folder / "c.json").write_text('{"name": "c", "sett')
    assert run_queue(cells[2:], queue).measured == ["c"], "half a file counts as none"


def test_a_failure_is_stored_and_tried_again_after_all_others(queue: Queue, said: list[str]) -> None:
    cells = [cell_named("first", failing), cell_named("second")]
    outcome = run_queue(cells, queue)
    assert outcome.measured == ["second"]
    assert outcome.failed == {"first": "ValueError: it cannot be measured"}
    record = read_records(queue.folder)["first"]
    assert record["error"] == "ValueError: it cannot be measured"
    assert "result" not in record
    cells = [cell_named("first"), cell_named("second"), cell_named("third")]
    assert [cell.name for cell in in_order(cells, read_records(queue.folder))] == ["third", "first"]
    assert run_queue(cells, queue).measured == ["third", "first"]
    assert any("failed: ValueError" in line for line in said)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), KeyError("x"), RuntimeError("shape")])
def test_what_leaves_the_card_usable(error: Exception, queue: Queue) -> None:
    def work(_: Place) -> dict[str, Any]:
        raise error

    outcome = run_queue([cell_named("a", work), cell_named("b")], queue)
    assert outcome.measured == ["b"]
    assert outcome.lost is None


def test_a_lost_card_ends_the_run_and_is_said(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(_: Place) -> dict[str, Any]:
        try:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        except RuntimeError as error:
            raise ValueError("while measuring") from error

    cells = [cell_named("a", work), cell_named("b")]
    outcome = run_queue(cells, queue)
    assert outcome.lost is not None
    assert outcome.measured == []
    assert list(outcome.waiting) == ["b"]
    assert "error" in read_records(queue.folder)["a"]
    assert run_queue(cells, queue).measured == ["b"], "a new process begins with the next cell"
    monkeypatch.setattr(queue_module, "still_usable", lambda _: True)
    outcome = run_queue(cells, queue)
    assert outcome.lost is None, "an error like that which left the card usable"


def test_errors_of_the_context_are_known() -> None:
    lost = type("AcceleratorError", (RuntimeError,), {})
    assert breaks_the_context(lost("no more is known"))
    assert breaks_the_context(RuntimeError("Triton Error [CUDA]: misaligned address"))
    assert not breaks_the_context(torch.OutOfMemoryError("CUDA out of memory. CUDA error: out of memory"))
    assert not breaks_the_context(None)


def test_cells_that_would_not_end_are_not_started(queue: Queue) -> None:
    cells = [cell_named("long", estimate=601.0), cell_named("short", estimate=590.0, group="images")]
    outcome = run_queue(cells, queue)
    assert outcome.measured == ["short"]
    assert outcome.waiting == {"long": 601.0}
    assert not (queue.folder / "long.json").exists()
    cells = [cell_named("other", estimate=100.0), cells[0]]
    assert run_queue(cells, queue).measured == ["other", "long"], "the first one was a thousand times as fast"


def test_estimates_are_corrected_by_the_same_group_on_the_same_card(queue: Queue) -> None:
    def took(seconds: float, **changes: Any) -> dict[str, Any]:
        record = {"name": "x", "group": "images", "card": "H100", "quick": False, "estimate": 10.0, "seconds": seconds}
        return {**record, "result": {}, "settings": {}, **changes}

    records = [
        took(30.0),
        took(20.0),
        took(90.0),
        took(1.0, card="CPU"),
        took(1.0, group="shapes"),
        took(1.0, quick=True),
    ]
    assert correction(records, "images", "H100", quick=False) == 3.0
    assert correction(records, "fields", "H100", quick=False) == 1.0
    failed = {key: value for key, value in took(500.0).items() if key != "result"}
    assert correction([failed], "images", "H100", quick=False) == 1.0, "only what ended counts"
    cell = cell_named("y", group="images", estimate=5.0)
    known = dict(enumerate(records))
    assert expected_seconds(cell, {str(key): record for key, record in known.items()}, "H100") == 15.0
    stopped = {"y": {**took(40.0, settings=cell.identity, stopped_after=40.0), "error": "stopped"}}
    del stopped["y"]["result"]
    assert expected_seconds(cell, stopped, "H100") == 50.0, "it is known to take longer"


def test_a_cell_that_is_at_work_when_the_time_is_over_is_stopped(queue: Queue, tmp_path: Path) -> None:
    def work(place: Place) -> dict[str, Any]:
        report = place.while_there_is_time(lambda *_: None)
        while True:
            time.sleep(0.01)
            report(0.5, 1, 0.0)

    short = Queue(queue.folder, queue.scratch, queue.device, 0.2 / 60, lambda _: None)
    outcome = run_queue([cell_named("endless", work, estimate=0.1)], short)
    assert outcome.failed == {"endless": "the time was over before it ended"}
    assert read_records(queue.folder)["endless"]["stopped_after"] >= 0.2
    resumable = cell_named("resumable", work, estimate=0.1, remaining=lambda _: 0.1)
    outcome = run_queue([resumable], short)
    assert (outcome.waiting, outcome.failed) == ({"resumable": 0.1}, {})
    assert "resumable" not in read_records(queue.folder), "it goes on from its checkpoint"


def test_what_is_missing_is_said_and_not_stored(queue: Queue) -> None:
    cells = [cell_named("a", missing=lambda _: "nothing here."), cell_named("b")]
    outcome = run_queue(cells, queue)
    assert outcome.left_out == {"a": "nothing here."}
    assert outcome.waiting == {}
    assert set(read_records(queue.folder)) == {"b"}


def test_a_cell_may_wait_for_another_of_the_same_run(queue: Queue) -> None:
    def missing(place: Place) -> str | None:
        return None if "b" in place.finished else "it waits for b."

    outcome = run_queue([cell_named("a", missing=missing), cell_named("b")], queue)
    assert outcome.measured == ["b", "a"]


def test_scratch_is_deleted_once_there_is_a_result(queue: Queue) -> None:
    places: list[Path] = []

    def work(place: Place) -> dict[str, Any]:
        place.scratch.mkdir(parents=True)
        places.append(place.scratch)
        return {}

    run_queue([cell_named("a", work), cell_named("b", settings={"a": 3})], queue)
    assert not places[0].exists()
    assert cell_named("a").digest != cell_named("a", settings={"a": 3}).digest


def test_interruptions_are_none_of_the_cells_errors(queue: Queue) -> None:
    def work(_: Place) -> dict[str, Any]:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    with pytest.raises(KeyboardInterrupt):
        run_queue([cell_named("a", work)], queue)
    assert read_records(queue.folder) == {}


def test_time_over_is_raised() -> None:
    place = Place(torch.device("cpu"), Path(), time.monotonic() - 1.0)
    with pytest.raises(OutOfTime):
        place.require_time()


def test_a_result_with_other_settings_survives_a_failure(queue: Queue) -> None:
    run_queue([cell_named("a", settings={"steps": 1})], queue)
    for _ in range(2):
        run_queue([cell_named("a", failing, settings={"steps": 2})], queue)
    record = read_records(queue.folder)["a"]
    assert "result" not in record
    assert "cannot be measured" in record["error"]
    assert record["earlier"]["result"] == {"psnr": 1.0}
    assert record["earlier"]["settings"] == {"steps": 1}
    run_queue([cell_named("a", settings={"steps": 2})], queue)
    assert "earlier" not in read_records(queue.folder)["a"]


@pytest.mark.parametrize(
    "changed", [{"card": None}, {"quick": 3}, {"seconds": "abc"}, {"settings": []}, {"result": 1}, {"group": {}}]
)
def test_damaged_records_are_measured_again(changed: dict[str, Any], queue: Queue) -> None:
    cells = [cell_named("a"), cell_named("b")]
    run_queue(cells, queue)
    path = queue.folder / "a.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    assert run_queue(cells, queue).measured == ["a"]


def test_a_step_that_was_not_captured_loses_the_card(queue: Queue) -> None:
    def work(_: Place) -> dict[str, Any]:
        raise NotCaptured("set FINER_CUDA_GRAPHS=0")

    outcome = run_queue([cell_named("a", work), cell_named("b")], queue)
    assert outcome.measured == []
    assert outcome.lost is not None


def test_an_interruption_that_python_lost_ends_the_run_after_the_cell(queue: Queue) -> None:
    asked: list[int] = []

    def work(_: Place) -> dict[str, Any]:
        asked.append(2)  # in a finalizer, whose errors are printed and dropped
        return {"psnr": 1.0}

    def unwind_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    listening = replace(queue, unwind_asked=unwind_asked)
    with pytest.raises(KeyboardInterrupt):
        run_queue([cell_named("a", work), cell_named("b")], listening)
    assert set(read_records(queue.folder)) == {"a"}
