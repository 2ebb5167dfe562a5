"""Padded marching against the grid's own, and the Triton kernels against it in the interpreter or on a GPU."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finer_nerfstudio.nerf.captured.march import Steps, march, walk_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOX = torch.tensor([[-1.0, -2.0, -0.5], [1.0, 1.0, 1.5]], device=DEVICE)
STEPS = Steps(columns=96, resolution=16, length=float((BOX[1] - BOX[0]).norm()) / 96, near_plane=0.05)
WITH_KERNELS = DEVICE == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def rays(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rays from outside and from within the box, some of which miss it, and some along an axis."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    directions[::7] = torch.tensor([0.0, 0.0, 1.0])
    targets = BOX[0].cpu() + (torch.rand(count, 3, generator=generator) * 1.2 - 0.1) * (BOX[1] - BOX[0]).cpu()
    distances = 4.0 * torch.rand(count, 1, generator=generator)
    return (targets - distances * directions).to(DEVICE), directions.to(DEVICE)


def cells(seed: int = 1, share: float = 0.3) -> Tensor:
    return (torch.rand(16**3, generator=torch.Generator().manual_seed(seed)) < share).to(DEVICE)


def offsets(count: int, seed: int = 2) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([0.0, 0.02, 0.4, 1.0]))
@settings(max_examples=40)
def test_segments_are_those_of_steps_in_occupied_cells(seed: int, count: int, share: float) -> None:
    origins, directions = (tensor.cpu() for tensor in rays(count, seed))
    occupied, offset = cells(seed, share).cpu(), offsets(count, seed).cpu()
    walk = walk_of(origins, directions, offset, BOX.cpu(), STEPS)
    found = march(walk, occupied, STEPS, 96 * count)
    wide_origins, wide_directions = origins.double(), directions.double()
    expected = []
    for ray in range(count):
        for column in range(96):
            along = (column + offset[ray].double()) * STEPS.length
            if along < walk.length[ray].double():
                distance = walk.nearest[ray].double() + along
                place = wide_origins[ray] + distance * wide_directions[ray]
                in_cells = (place - BOX[0].cpu()) / (BOX[1] - BOX[0]).cpu() * 16.0
                assert bool((in_cells >= -1e-4).all())
                assert bool((in_cells <= 16.0 + 1e-4).all())
                assert distance >= 0.05
                cell = in_cells.long().clamp(0, 15)
                border = float((in_cells - in_cells.round()).abs().min())
                hit = bool(occupied[(cell[0] * 16 + cell[1]) * 16 + cell[2]])
                expected.append((ray, float(distance), hit, border))
    wanted = [(ray, distance) for ray, distance, hit, border in expected if hit and border > 1e-4]
    real = found.lengths > 0
    got = list(zip(found.ray_indices[real].tolist(), found.distances[real].tolist(), strict=True))
    # Steps on the border of a cell may fall to either side.
    assert abs(len(got) - sum(hit for _, _, hit, _ in expected)) <= sum(b <= 1e-4 for *_, b in expected)
    close = {(ray, round(distance, 3)) for ray, distance in got} | {(r, round(d + 1e-3, 3)) for r, d in got}
    assert all(
        (ray, round(distance, 3)) in close or (ray, round(distance + 1e-3, 3)) in close for ray, distance in wanted
    )
    assert torch.equal(found.counts, found.found)


def test_the_leading_rays_that_fit_are_kept_and_the_rest_is_padding() -> None:
    walk = walk_of(*rays(50), offsets(50), BOX, STEPS)
    everything = march(walk, cells(), STEPS, 50 * 96)
    room = int(everything.found[:20].sum()) + 3
    found = march(walk, cells(), STEPS, room)
    kept = int((everything.found.cumsum(0) <= room).sum())
    assert 20 <= kept < 50
    assert torch.equal(found.found, everything.found)
    assert torch.equal(found.counts[:kept], everything.found[:kept])
    assert int(found.counts[kept:].sum()) == 0
    total = int(found.counts.sum())
    assert torch.equal(found.ray_indices[:total], everything.ray_indices[:total])
    assert torch.equal(found.distances[:total], everything.distances[:total])
    assert len(found.lengths) == room
    assert bool((found.lengths[:total] > 0).all())
    assert bool((found.lengths[total:] == 0).all())
    assert bool((found.ray_indices[total:] == 49).all())
    assert bool(torch.isfinite(found.distances).all())


@pytest.mark.skipif(not WITH_KERNELS, reason="without a GPU, the interpreter's process runs this")
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("count", [1, 37])
def test_the_kernels_march_alike(count: int, share: float) -> None:
    from finer_nerfstudio.nerf.captured import triton_march
    from finer_nerfstudio.nerf.captured.march import fitting

    walk = walk_of(*rays(count), offsets(count), BOX, STEPS)
    occupied = cells(share=share)
    on_processor = type(walk)(*(getattr(walk, name).cpu() for name in walk.__dataclass_fields__))
    for room in (96 * count, 96 * count // 3 + 96):
        expected = march(on_processor, occupied.cpu(), STEPS, room)
        found = triton_march.counts(walk, occupied, STEPS)
        ray, column = triton_march.places(walk, occupied, STEPS, fitting(found, room), room)
        assert found.cpu().tolist() == expected.found.tolist()
        assert ray.cpu().tolist() == expected.ray_indices.tolist()
        distances = walk.nearest[ray] + (column + walk.offsets[ray]) * STEPS.length
        torch.testing.assert_close(distances.cpu(), expected.distances)
