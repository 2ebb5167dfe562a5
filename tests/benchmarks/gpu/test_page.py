"""What was measured stands beside the paper's numbers, the rest is not yet measured, and toys are named as toys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from finer_nerfstudio.benchmarks.gpu.cell import QueueCell
from finer_nerfstudio.benchmarks.gpu.cells import all_cells
from finer_nerfstudio.benchmarks.gpu.kernels import CeilingSizes, ceilings, measure_case, operations_of
from finer_nerfstudio.benchmarks.gpu.page import figure_of, tables
from finer_nerfstudio.benchmarks.gpu.records import Record, read_records, write_record
from finer_nerfstudio.benchmarks.subjects import subject_of
from finer_nerfstudio.reproduction import published

CELLS = {cell.name: cell for cell in all_cells(None)}
CPU = torch.device("cpu")


def record_of(folder: Path, cell: QueueCell, **what: Any) -> Record:
    return write_record(folder, cell, card="NVIDIA H100", seconds=12.3, **what)


def rows(page: str, title: str) -> dict[str, list[str]]:
    """The rows of one of the page's tables by their first column, in the order of the page."""
    table = page.partition(f"**{title}")[2].partition("\n\n")[2].partition("\n\n")[0]
    split = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return {name: rest for name, *rest in split[2:]}


def test_nothing_is_measured() -> None:
    page = tables({}, published)
    assert rows(page, "Table 1")["finer-sine"][:2] == ["not yet measured", "40.76"]
    assert rows(page, "Table 2")["finer-wavelet"][:2] == ["not yet measured", "0.9901"]
    assert rows(page, "Table 3")["siren"][:2] == ["not yet measured", "29.60"]
    of_images = {cell.row for cell in CELLS.values() if cell.group == "images"}
    assert set(rows(page, "Table 1")) == {row for row in of_images if "tf32" not in row}
    assert "nerfacto" in rows(page, "Table 3")
    assert page.count("not yet measured") == 9 + 7 + 9 + 3
    assert "What rounded products change, in 16 of 16 runs: not yet measured." in page
    assert "Training steps of 46 of 46 networks: not yet measured." in page
    assert "Toy" not in page
    assert "in vain" not in page


def test_measured_cells_stand_beside_the_papers(tmp_path: Path) -> None:
    for image, psnr in (("div2k_00", 41.0), ("div2k_01", 42.0)):
        record_of(tmp_path, CELLS[f"{image}-finer-sine"], result={"psnr": psnr, "ssim": 0.98})
    record_of(tmp_path, CELLS["div2k_00-siren-omega80"], result={"psnr": 43.0, "ssim": 0.97})
    record_of(tmp_path, CELLS["div2k_00-finer-sine-tf32"], result={"psnr": 40.5, "ssim": 0.97})
    shape = {"iou": 0.995, "iou_paper": 0.991, "chamfer_paper": 3.21e-6}
    record_of(tmp_path, CELLS["armadillo-finer-gauss"], result=shape)
    field = {"psnr": 30.12, "ssim": 0.95, "views": 200, "rays_per_second": 1e6}
    record_of(tmp_path, CELLS["lego-finer-sine"], result=field)
    record_of(tmp_path, CELLS["lego-siren"], error=ValueError("no"))
    sizes = CeilingSizes(1 << 12, 16, 1)
    found = ceilings(sizes, CPU)
    record_of(tmp_path, CELLS["ceilings"], result=found)
    step = {"seconds": {"ours": 2e-3}, "plain_over_ours": 3.0, "ours_over_relu": 1.5, "ours_over_products": 1.25}
    step["share_of_ceiling"] = {"float32": {"ours": 0.5}}
    record_of(tmp_path, CELLS["kernels-image-finer-sine-262144"], result={"step": step})
    records = read_records(tmp_path)
    page = tables(records, published)
    assert rows(page, "Table 1")["finer-sine"] == [
        *("41.50", "40.76", "0.9800", "0.9790", "2 of 8", "NVIDIA H100", "12")
    ]
    assert rows(page, "Table 1")["siren, ω0 = 80"][:2] == ["43.00", ""]
    assert rows(page, "Table 1")["finer-sine, tf32"][4] == "1 of 1"
    assert "What rounded products change, in 15 of 16 runs: not yet measured." in page
    assert rows(page, "PSNR of each image")["finer-sine"] == ["41.00", "42.00"]
    assert rows(page, "PSNR of each image")["pemlp"] == ["not yet measured"] * 2
    assert rows(page, "Table 2")["finer-gauss"] == [
        *("0.9910", "0.9919", "0.9950", "3.210e-6", "3.210e-6", "NVIDIA H100", "12")
    ]
    assert rows(page, "Table 3")["finer-sine"] == [
        *("30.12", "30.04", "0.9500", "200", "1,000,000", "NVIDIA H100", "12")
    ]
    assert rows(page, "Table 3")["siren"][0] == "not yet measured"
    assert "Tried in vain so far: `lego-siren` (ValueError: no)." in page
    assert "| image, finer-sine | 262,144 | 2.000 | 3.00 | 1.50 | 1.25 | 50% | NVIDIA H100 | 12 |" in page
    assert "Ceilings of NVIDIA H100: a copy moves" in page
    assert {name: figure_of(record) for name, record in records.items()} == {
        "armadillo-finer-gauss": "IoU 0.9910",
        "ceilings": f"{found['float32'] / 1e12:.3g} TFLOP/s in float32, {found['copy'] / 1e12:.3g} TB/s",
        "div2k_00-finer-sine": "41.00 dB",
        "div2k_00-finer-sine-tf32": "40.50 dB",
        "div2k_00-siren-omega80": "43.00 dB",
        "div2k_01-finer-sine": "42.00 dB",
        "kernels-image-finer-sine-262144": "2.000 ms a step, 3.00x plain",
        "lego-finer-sine": "30.12 dB",
        "lego-siren": "",
    }


def test_toys_are_named_and_never_shown(tmp_path: Path) -> None:
    toys = all_cells(None, quick=True)
    for cell in toys:
        if cell.group in ("images", "fields"):
            record_of(tmp_path, cell, result={"psnr": 12.34, "ssim": 0.5, "views": 2})
    page = tables(read_records(tmp_path), published)
    assert "12.34" not in page
    assert "Toy sizes, which measure nothing: " in page
    assert "`quick-div2k_00-finer-sine`" in page
    assert rows(page, "Table 1")["finer-sine"][0] == "not yet measured"


def test_operations_are_those_of_the_products() -> None:
    subject = subject_of("siren", "image", 8, 5, CPU, 0)
    layers = [(2, 8), (8, 8), (8, 8), (8, 8), (8, 3)]
    assert operations_of(subject, backward=False) == sum(2 * 5 * n_in * n_out for n_in, n_out in layers)
    # The coordinates take no gradient.
    assert operations_of(subject, backward=True) == 3 * operations_of(subject, backward=False) - 2 * 5 * 2 * 8


def test_a_case_says_its_share_of_the_ceiling(tmp_path: Path) -> None:
    from finer_nerfstudio.benchmarks.gpu.cell import Place

    ceiling = {"copy": 1e9, "float32": 1e12, "tf32": 2e12, "bfloat16": 3e12}
    place = Place(CPU, tmp_path, 1e9, {"ceilings": ceiling})
    found = measure_case("nerf", "finer-sine", 16, 1, CeilingSizes(), 0, place)
    step = found["step"]
    speed = step["operations"] / step["seconds"]["ours"]
    assert step["share_of_ceiling"]["float32"]["ours"] == speed / 1e12
    assert step["share_of_ceiling"]["tf32"]["ours"] == speed / 2e12
    assert found["agreement"]["output"] < 1e-3
