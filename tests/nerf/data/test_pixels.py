"""Pixels drawn from pictures of several sizes, with and without masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.data.pixel_samplers import PixelSampler, PixelSamplerConfig

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.data.pixels import ScenePixels, drawable


def pictures(sizes: list[tuple[int, int]], *, stacked: bool = False) -> dict[str, Any]:
    """Pictures whose colour is their number, row and column."""
    images = []
    for number, (height, width) in enumerate(sizes):
        row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        images.append(torch.stack([torch.full_like(row, number), row, column], dim=-1).float())
    # Loaders put pictures together in any order.
    numbers = torch.arange(len(sizes)) + 100
    return {"image": torch.stack(images) if stacked else images, "image_idx": numbers}


def sampler(rays: int, **options: Any) -> ScenePixels:
    return ScenePixels(PixelSamplerConfig(), num_rays_per_batch=rays, **options)


UPRIGHT_AND_LYING = [(6, 8) if number % 2 else (8, 6) for number in range(42)]


@pytest.mark.parametrize("rays", [1, 16, 17, 333])
def test_any_number_of_rays_is_drawn(rays: int) -> None:
    batch = sampler(rays).sample(pictures(UPRIGHT_AND_LYING))
    assert batch["image"].shape == (rays, 3)
    assert batch["indices"].shape == (rays, 3)
    expected = torch.stack([batch["image"][:, 0] + 100, batch["image"][:, 1], batch["image"][:, 2]], dim=1)
    assert torch.equal(batch["indices"], expected.long())


def test_all_pictures_are_drawn_with_few_rays() -> None:
    torch.manual_seed(0)
    drawn, batch = sampler(16), pictures(UPRIGHT_AND_LYING)
    counts = torch.zeros(42)
    for _ in range(200):
        counts += torch.bincount(drawn.sample(batch)["indices"][:, 0] - 100, minlength=42)
    # 76 each on average, with a deviation of 8.6.
    assert counts.min() > 40
    assert counts.max() < 115


def test_all_pixels_are_as_likely() -> None:
    """A large picture is drawn more often than a small one; chi-squared, of which one in a thousand is above 124."""
    torch.manual_seed(1)
    sizes = [(2, 3), (9, 8), (1, 5)]
    indices = sampler(20_000).sample(pictures(sizes))["indices"]
    starts = torch.tensor([0, 6, 78])
    widths = torch.tensor([3, 8, 5])
    camera = indices[:, 0] - 100
    counts = torch.bincount(starts[camera] + indices[:, 1] * widths[camera] + indices[:, 2], minlength=83)
    expected = 20_000 / 83
    assert float(((counts - expected) ** 2 / expected).sum()) < 124


@pytest.mark.parametrize("stacked", [False, True])
def test_masked_pixels_are_never_drawn_and_others_all(stacked: bool) -> None:
    torch.manual_seed(2)
    sizes = [(5, 4)] * 3 if stacked else [(5, 4), (3, 7), (1, 1), (2, 2)]
    masks = [torch.rand(height, width, 1) > 0.6 for height, width in sizes]
    masks[1][:] = False
    batch: dict[str, Any] = {**pictures(sizes, stacked=stacked), "mask": torch.stack(masks) if stacked else masks}
    indices = sampler(5000).sample(batch)["indices"]
    drawn = {tuple(index) for index in indices.tolist()}
    allowed = {
        (100 + number, int(row), int(column))
        for number, mask in enumerate(masks)
        for row, column in mask.squeeze(-1).nonzero().tolist()
    }
    assert drawn == allowed
    ignored = sampler(5000, ignore_mask=True)
    ignored.config.ignore_mask = True
    assert int((ignored.sample(batch)["indices"][:, 0] == 101).sum()) > 100


def test_masks_that_leave_fewer_pixels_than_rays() -> None:
    mask = torch.zeros(1, 4, 4, 1, dtype=torch.bool)
    mask[0, 2, 3] = True
    batch = {**pictures([(4, 4)], stacked=True), "mask": mask}
    assert sampler(50).sample(batch)["indices"].unique(dim=0).tolist() == [[100, 2, 3]]


def test_masks_that_leave_nothing() -> None:
    batch = {**pictures([(4, 4), (3, 3)]), "mask": [torch.zeros(4, 4, 1).bool(), torch.zeros(3, 3, 1).bool()]}
    with pytest.raises(InputError, match="no pixel"):
        sampler(5).sample(batch)


def test_pictures_of_one_size_are_drawn_as_nerfstudio_draws_them() -> None:
    batch = pictures([(5, 4)] * 3, stacked=True)
    for options in ({}, {"is_equirectangular": True}):
        torch.manual_seed(4)
        ours = sampler(64, **options).sample(batch)
        torch.manual_seed(4)
        theirs = PixelSampler(PixelSamplerConfig(), num_rays_per_batch=64, **options).sample(batch)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_pictures_all_round_are_drawn_by_solid_angle() -> None:
    torch.manual_seed(5)
    drawn = sampler(40_000, is_equirectangular=True).sample(pictures([(9, 18), (5, 10)]))["indices"]
    rows = torch.bincount(drawn[drawn[:, 0] == 100, 1], minlength=9) / (drawn[:, 0] == 100).sum()
    expected = torch.sin(torch.pi * (torch.arange(9) + 0.5) / 9)
    torch.testing.assert_close(rows, expected / expected.sum(), atol=0.01, rtol=0)


def test_pictures_that_are_exchanged_are_counted_anew() -> None:
    drawn = sampler(200)
    drawn.sample(pictures([(2, 2), (3, 3)]))
    assert drawn.sample(pictures([(9, 9), (1, 1)]))["indices"][:, 1].max() > 3


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=6), st.data())
@settings(max_examples=100)
def test_numbers_name_every_drawable_pixel_once(sizes: list[tuple[int, int]], data: st.DataObject) -> None:
    masks = [
        torch.tensor(data.draw(st.lists(st.booleans(), min_size=h * w, max_size=h * w))).reshape(h, w, 1)
        for h, w in sizes
    ]
    masks[0][0, 0] = True
    for chosen in (masks, None):
        pixels = drawable(sizes, chosen)
        got = pixels.pixels(torch.arange(pixels.count)).tolist()
        grids = chosen if chosen is not None else [torch.ones(h, w, 1).bool() for h, w in sizes]
        assert got == [[i, r, c] for i, grid in enumerate(grids) for r, c in grid.squeeze(-1).nonzero().tolist()]
