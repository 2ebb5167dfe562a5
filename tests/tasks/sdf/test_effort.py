"""What extracting and measuring cost after trainings of different lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from finer_nerfstudio.runs.isosurface import affordable_resolution, extract_surface
from finer_nerfstudio.tasks.sdf.effort import Effort, effort_after
from finer_nerfstudio.tasks.sdf.fit import ShapeOptions
from finer_nerfstudio.tasks.sdf.run import run_shape
from finer_nerfstudio.tasks.sdf.shape import sample_shape

PAPER = 200_000 * 10_000
TEN_MINUTES = 15_000 * 3_000


@given(st.integers(0, PAPER), st.integers(0, PAPER))
def test_more_training_is_measured_no_worse(first: int, second: int) -> None:
    less, more = (effort_after(count) for count in sorted((first, second)))
    assert less.resolution <= more.resolution <= 256
    assert less.iou_resolution <= more.iou_resolution <= 128
    assert less.samples <= more.samples <= 300_000
    assert less.most_points is not None
    assert more.most_points is not None
    assert less.most_points <= more.most_points


def test_long_runs_are_measured_as_the_paper_does() -> None:
    for count in (TEN_MINUTES, PAPER):
        effort = effort_after(count)
        assert (effort.resolution, effort.iou_resolution, effort.samples) == (256, 128, 300_000)
        assert effort.most_points is not None
        assert effort.most_points > 256**3, "whatever the surface"
    # What was asked for is what is done.
    assert effort_after(10, resolution=512) == Effort(512)


def bumps(points: Tensor) -> Tensor:
    return torch.sin(60 * points).prod(dim=1)


def ball(points: Tensor) -> Tensor:
    return points.norm(dim=1) - 0.3


@pytest.mark.parametrize("most_points", [100_000, 500_000])
def test_a_surface_everywhere_is_extracted_within_its_cost(most_points: int) -> None:
    asked = 0

    def counting(points: Tensor) -> Tensor:
        nonlocal asked
        asked += len(points)
        return bumps(points)

    resolution = affordable_resolution(counting, 160, most_points)
    assert 32 <= resolution < 160
    asked = 0
    extract_surface(counting, resolution)
    assert asked < 1.2 * most_points
    # A single smooth surface is affordable where one everywhere is not.
    assert affordable_resolution(ball, 160, 2_000_000) == 160 > affordable_resolution(bumps, 160, 2_000_000)


def test_a_short_run_is_measured_in_proportion_and_tells_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import finer_nerfstudio.tasks.sdf.run as run

    told: list[tuple[str, int, int]] = []

    @contextmanager
    def stages(*, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
        yield lambda *stage: told.append(stage)

    monkeypatch.setattr(run, "stages", stages)
    shape, options = sample_shape(32), ShapeOptions(steps=60, width=24, depth=2, batch_size=500, learning_rate=2e-3)
    found = run_shape(shape, options, tmp_path, quiet=True)
    assert found["resolution"] <= 64
    assert (found["iou_resolution"], found["chamfer_samples"]) == (48, 20_000)
    assert any("--resolution 256" in note for note in found["notes"])
    assert found["mesh_origin"] == [0, 0, 0]
    names = list(dict.fromkeys(name for name, _, _ in told))
    assert names == [
        "evaluating", "marching", "comparing surfaces", "what is inside the network's shape",
        "what is inside the true shape", "distances to the true surface", "drawing",
    ]  # fmt: skip
    assert all(0 <= done <= total for _, done, total in told)
    assert run_shape(shape, options, tmp_path, resume=True, quiet=True) == found
