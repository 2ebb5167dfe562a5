"""The benchmark compares what it says it compares."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from finer_nerfstudio import METHODS
from finer_nerfstudio.errors import InputError

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", ["image", "nerf"])
@pytest.mark.parametrize("method", METHODS)
def test_both_programs_compute_the_same(benchmark: ModuleType, method: str, case: str) -> None:
    subject = benchmark.subject_of(method, case, 32, 200, CPU, 0)
    differences = benchmark.require_agreement(subject)
    assert 0.0 <= differences["output"] < 1e-3
    assert 0.0 < differences["gradient"] < 1e-2


def test_programs_that_differ_are_refused(benchmark: ModuleType) -> None:
    subject = benchmark.subject_of("finer-wavelet", "image", 32, 200, CPU, 0)
    with torch.no_grad():
        subject.plain[0].weights[1] *= 1.01
    with pytest.raises(InputError, match="do not compute the same"):
        benchmark.require_agreement(subject)


def test_memory_is_counted(benchmark: ModuleType) -> None:
    def function() -> None:
        first = torch.ones(1000, 1000)
        second = first + 1.0
        del first
        second.mul(2.0).sum()

    assert 8e6 <= benchmark.peak_bytes(function, CPU) < 8.1e6


def test_the_products_are_those_of_the_layers(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step's: forward, weight gradients, and input gradients but for the coordinates."""
    subject = benchmark.subject_of("finer-wavelet", "image", 32, 200, CPU, 0)
    units = 2 * int(32 / 2**0.5)
    layers = [2 * (units // 2), units * units, units * units, units * units, units * 3]
    multiplications = []
    original = torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda a, b, out: (multiplications.append(a.numel() * b.shape[1]), original(a, b, out=out))
    )
    benchmark.products_of(subject, backward=True)()
    assert sum(multiplications) == 200 * (3 * sum(layers) - layers[0])


def test_results_as_numbers_table_and_picture(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = ("image", "widths", "growth", "fits")
    options = {"points": 64, "repeats": 2, "fit_steps": 3, "fit_size": 16, "device": "cpu"}
    benchmark.main(benchmark.Benchmark(cases=cases, methods=("finer-sine",), output_dir=tmp_path, **options))
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
    assert results["fits"]["finer-sine"]["ours"] == pytest.approx(results["fits"]["finer-sine"]["plain"], abs=0.01)
    assert results["machine"]["threads"] == torch.get_num_threads()
    assert results["first_step_seconds"]["finer-sine"]["built_before"] > 0.0
    assert "| finer-sine |" in capsys.readouterr().out
    with Image.open(tmp_path / "benchmark.png") as picture:
        assert min(picture.size) > 200
