"""What a cell's numerics change: its name, its row, its settings, and how it is computed."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from finer_nerfstudio.benchmarks.gpu.cell import Place, QueueCell
from finer_nerfstudio.benchmarks.gpu.cells import all_cells
from finer_nerfstudio.benchmarks.gpu.numerics import DEFAULT, Numerics, computed
from finer_nerfstudio.inr.kernels.rounding import requested_rounding


def met(_: Place) -> dict[str, Any]:
    rounding = requested_rounding(torch.zeros(1))
    assert rounding is not None
    return {"forward": rounding.forward, "backward": rounding.backward, "kernels": os.environ["FINER_GPU_KERNELS"]}


CELL = QueueCell("a", "fields", "finer-sine", "lego", {"steps": 1}, 1.0, met)


@pytest.mark.parametrize(
    ("numerics", "name", "row", "found"),
    [
        (DEFAULT, "a", "finer-sine", ("float32", "float32", "activations")),
        (
            Numerics("tf32,bfloat16"),
            "a-tf32-bfloat16",
            "finer-sine, tf32/bfloat16",
            ("tf32", "bfloat16", "activations"),
        ),
        (Numerics("tf32", "networks"), "a-tf32-networks", "finer-sine, tf32, networks", ("tf32", "tf32", "networks")),
    ],
)
def test_a_choice_is_applied_named_and_kept(
    numerics: Numerics, name: str, row: str, found: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINER_GPU_KERNELS", "plain")
    cell = computed(CELL, numerics)
    assert (cell.name, cell.row) == (name, row)
    assert cell.settings == {"steps": 1, "precision": numerics.precision, "kernels": numerics.kernels}
    place: Any = None
    assert tuple(cell.work(place).values()) == found
    assert os.environ["FINER_GPU_KERNELS"] == "plain"
    assert requested_rounding(torch.zeros(1)) is None


def test_every_cell_says_how_it_is_computed() -> None:
    ours = [cell for cell in all_cells(None) if cell.group not in ("nerfacto", "splats")]
    assert all({"precision", "kernels"} <= cell.settings.keys() for cell in ours)
