"""Updates of one shape remember what the occupancy grid of training would."""

from __future__ import annotations

import torch
from torch import Tensor

from finer_nerfstudio.nerf.captured.grid import FixedGrid
from finer_nerfstudio.nerf.captured.march import Steps
from finer_nerfstudio.nerf.sampling.rules import GridRules

BOX = torch.tensor([[-1.0] * 3, [1.0] * 3])


def fresh_grid(resolution: int, rules: GridRules | None = None) -> FixedGrid:
    return FixedGrid.empty(BOX, Steps(96, resolution, length=0.02, near_plane=0.0), rules)


def ball(positions: Tensor) -> Tensor:
    """Density 50 inside a ball of radius 0.4 around (0.2, -0.3, 0.1)."""
    return 50.0 * ((positions - torch.tensor([0.2, -0.3, 0.1])).norm(dim=-1) < 0.4)


def cell_middles(resolution: int) -> Tensor:
    axis = (torch.arange(resolution) + 0.5) * (2.0 / resolution) - 1.0
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def distance_to_ball(resolution: int) -> Tensor:
    return (cell_middles(resolution) - torch.tensor([0.2, -0.3, 0.1])).norm(dim=-1) - 0.4


def test_cells_in_matter_are_occupied_and_those_far_from_it_are_not() -> None:
    grid, generator = fresh_grid(24), torch.Generator().manual_seed(0)
    for update in range(40):
        grid.draw(generator)
        (grid.look_everywhere if update < 10 else grid.look)(ball)
    distance = distance_to_ball(24)
    half_diagonal = 3**0.5 / 24
    assert bool(grid.occupied[distance < -half_diagonal].all())
    assert not bool(grid.occupied[distance > half_diagonal].any())
    assert bool(grid.is_finite)


def test_matter_that_comes_and_goes_is_noticed() -> None:
    grid, generator = fresh_grid(16), torch.Generator().manual_seed(0)
    for update in range(120):
        grid.draw(generator)
        grid.look(ball if update < 60 else lambda positions: ball(-positions))
    there, gone = distance_to_ball(16).flip(0) < -0.1, distance_to_ball(16) < -0.1
    assert float(grid.occupied[there].float().mean()) > 0.95
    assert float(grid.occupied[gone & ~there].float().mean()) < 0.05


def test_occupied_cells_that_an_update_has_no_room_for_are_not_forgotten() -> None:
    grid, generator = fresh_grid(8, GridRules(decay=0.01)), torch.Generator().manual_seed(0)
    grid.draw(generator)
    grid.look_everywhere(lambda positions: torch.full((len(positions),), 50.0))
    assert bool(grid.occupied.all())
    for _ in range(30):
        grid.draw(generator)
        grid.look(lambda positions: torch.full((len(positions),), 50.0))
        assert bool(grid.occupied.all())


def test_every_cell_is_looked_at_in_time() -> None:
    grid, generator = fresh_grid(8), torch.Generator().manual_seed(0)
    seen = torch.zeros(8**3, dtype=torch.bool)

    def density_at(positions: Tensor) -> Tensor:
        cell = ((positions + 1.0) * 4.0).long().clamp(0, 7)
        seen[(cell[:, 0] * 8 + cell[:, 1]) * 8 + cell[:, 2]] = True
        return torch.full((len(positions),), 50.0)

    grid.draw(generator)
    grid.look_everywhere(density_at)
    seen.zero_()
    for _ in range(40):
        grid.draw(generator)
        grid.look(density_at)
    assert bool(seen.all())


def test_a_density_that_is_no_number_is_kept_in_mind() -> None:
    grid = fresh_grid(8)
    grid.draw(torch.Generator().manual_seed(0))
    grid.look(lambda positions: positions[:, 0] / 0.0)
    grid.look(ball)
    assert not bool(grid.is_finite)


def test_all_cells_of_a_fine_grid_may_be_drawn() -> None:
    """Numbers of single precision times so many cells leave most of them out."""
    grid = fresh_grid(256)
    assert grid._drawn.dtype == torch.float64
    grid.draw(torch.Generator().manual_seed(0))
    drawn = (grid._drawn * 256**3).long()
    assert 0.4 < float((drawn % 2).double().mean()) < 0.6
    assert 0.1 < float((drawn % 16 == 7).double().mean() * 2) < 0.15
