"""The benchmark compares what it says it compares."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from finer_nerfstudio import METHODS
from finer_nerfstudio.benchmarks import run
from finer_nerfstudio.benchmarks.fits import PROGRAMS, allowed_precisions, changes_beyond_chance
from finer_nerfstudio.benchmarks.measuring import peak_bytes, require_agreement
from finer_nerfstudio.benchmarks.run import Benchmark, run_benchmark
from finer_nerfstudio.benchmarks.subjects import Case, products_of, subject_of
from finer_nerfstudio.demo.blender import DemoScene, make_demo_scene
from finer_nerfstudio.demo.capture import DemoCapture, make_demo_capture
from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.nerf.sampling.unbounded_grid import UnboundedGrid

CPU = torch.device("cpu")


@pytest.mark.parametrize("case", ["image", "nerf"])
@pytest.mark.parametrize("method", METHODS)
def test_both_programs_compute_the_same(method: str, case: Case) -> None:
    subject = subject_of(method, case, 32, 200, CPU, 0)
    differences = require_agreement(subject)
    assert 0.0 <= differences["output"] < 1e-3
    assert 0.0 < differences["gradient"] < 1e-2


def test_programs_that_differ_are_refused() -> None:
    subject = subject_of("finer-wavelet", "image", 32, 200, CPU, 0)
    with torch.no_grad():
        subject.plain[0].weights[1] *= 1.01
    with pytest.raises(InputError, match="do not compute the same"):
        require_agreement(subject)


def test_memory_is_counted() -> None:
    def function() -> None:
        first = torch.ones(1000, 1000)
        second = first + 1.0
        del first
        second.mul(2.0).sum()

    assert 8e6 <= peak_bytes(function, CPU) < 8.1e6


def test_the_products_are_those_of_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step's: forward, weight gradients, and input gradients but for the coordinates."""
    subject = subject_of("finer-wavelet", "image", 32, 200, CPU, 0)
    units = 2 * int(32 / 2**0.5)
    layers = [2 * (units // 2), units * units, units * units, units * units, units * 3]
    multiplications = []
    original = torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda a, b, out: (multiplications.append(a.numel() * b.shape[1]), original(a, b, out=out))
    )
    products_of(subject, backward=True)()
    assert sum(multiplications) == 200 * (3 * sum(layers) - layers[0])


@pytest.mark.parametrize("scene", ["blender", "capture"])
def test_the_parts_of_a_step_are_all_of_it(
    tmp_path: Path, scene: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    if scene == "capture":
        make_demo_capture(DemoCapture(output_dir=data, width=24, views=9, supersampling=1))
    else:
        make_demo_scene(DemoScene(output_dir=data, size=16, train_views=4, test_views=2, supersampling=1))
    monkeypatch.setattr(run, "_PROFILED_STEPS", 4)
    march = UnboundedGrid.march

    def slow(*args: Any) -> Any:
        time.sleep(0.2)
        return march(*args)

    monkeypatch.setattr(UnboundedGrid, "march", slow)
    options = {"step_data": data, "step_after": 14, "device": "cpu", "output_dir": tmp_path / "out"}
    run_benchmark(Benchmark(cases=("step",), methods=("finer-sine",), **options))
    printed = capfd.readouterr()
    assert "**step**, milliseconds on data after 14 steps" in printed.out
    assert "USDT" not in printed.err
    parts = json.loads((tmp_path / "out" / "benchmark.json").read_text())["step"]["finer-sine"]
    whole, alone = parts.pop("step"), parts.pop("alone")
    assert alone > (200 if scene == "capture" else 0)
    assert sum(parts.values()) == pytest.approx(whole)
    assert all(0.0 < milliseconds < whole for milliseconds in parts.values()), parts
    assert scene == "blender" or parts["march"] > 200


def test_a_step_needs_a_scene() -> None:
    with pytest.raises(UsageError, match="needs a scene"):
        run_benchmark(Benchmark(cases=("step",)))


def test_results_as_numbers_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = ("image", "widths", "growth", "fits")
    options = {"points": 64, "repeats": 2, "fit_steps": 3, "fit_size": 16, "device": "cpu"}
    run_benchmark(Benchmark(cases=cases, methods=("finer-sine",), output_dir=tmp_path, **options))
    results = json.loads((tmp_path / "benchmark.json").read_text())
    numbers = results["cases"]["image"]["finer-sine"]
    for quantity in ("step", "forward"):
        times = numbers[quantity]["seconds"]
        assert set(times) == {"ours", "plain", "relu", "products"}
        assert numbers[quantity]["plain_over_ours"] == pytest.approx(times["plain"] / times["ours"])
    assert set(results["cases"]["widths"]) == {f"finer-sine {width}" for width in (64, 128, 256, 512)}
    assert set(results["growth"]["finer-sine"]) == {"69", "110", "151"}
    for row in results["growth"]["finer-sine"].values():
        assert row["ours_over_block"] == pytest.approx(row["ours_seconds"] / row["block_seconds"])
    assert list(results["fits"]["finer-sine"]) == list(PROGRAMS)
    assert results["fits"]["finer-sine"]["ours"] == pytest.approx(results["fits"]["finer-sine"]["plain"], abs=0.01)
    assert results["machine"]["threads"] == torch.get_num_threads()
    assert results["first_step_seconds"]["finer-sine"]["built_before"] > 0.0
    assert "| finer-sine |" in capsys.readouterr().out
    with Image.open(tmp_path / "benchmark.png") as picture:
        assert min(picture.size) > 200


def test_fits_by_some_programs_and_of_another_width(tmp_path: Path) -> None:
    options = {"fit_steps": 2, "fit_size": 16, "fit_width": 24, "device": "cpu", "output_dir": tmp_path}
    run_benchmark(Benchmark(cases=("fits",), methods=("siren",), fit_programs=("ours", "tf32,bfloat16"), **options))
    results = json.loads((tmp_path / "benchmark.json").read_text())
    assert results["fit_width"] == 24
    found = results["fits"]["siren"]
    assert list(found) == ["ours", "tf32,bfloat16"]
    assert found["ours"] != found["tf32,bfloat16"]
    assert found["ours"] == pytest.approx(found["tf32,bfloat16"], abs=0.1)


def test_a_rounding_is_allowed_where_it_changes_no_fit_by_more_than_chance() -> None:
    steady = {"plain": 0.0, "ours": 30.0, "ours, shuffled": 30.0, "tf32": 30.05, "bfloat16": 29.95, "float16": 29.8}
    shaky = {"plain": 0.0, "ours": 30.0, "ours, shuffled": 30.5, "tf32": 30.59, "bfloat16": 29.3, "float16": 30.0}
    assert changes_beyond_chance(shaky) == pytest.approx({"tf32": 0.09, "bfloat16": 0.2, "float16": -0.5})
    assert allowed_precisions([steady]) == ["tf32", "bfloat16"]
    assert allowed_precisions([steady, shaky]) == ["tf32"]
