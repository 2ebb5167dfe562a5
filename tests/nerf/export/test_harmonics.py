"""Colours by direction, against scipy's harmonics and plain integration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from finer_nerfstudio.nerf.export import harmonics


def directions(count: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=-1)


def complex_harmonics(degree: int, order: int, polar: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    """With the Condon-Shortley phase, under whichever name this scipy has it."""
    if hasattr(special, "sph_harm_y"):
        return special.sph_harm_y(degree, order, polar, azimuth)
    return special.sph_harm(order, degree, azimuth, polar)  # pyright: ignore[reportAttributeAccessIssue]


def test_basis_is_real_harmonics_with_the_phase_of_3d_gaussian_splatting() -> None:
    along = directions(50)
    x, y, z = along.numpy().T
    polar, azimuth = np.arccos(z), np.arctan2(y, x)
    expected = []
    for degree in range(4):
        for order in range(-degree, degree + 1):
            value = complex_harmonics(degree, abs(order), polar, azimuth)
            if order == 0:
                expected.append(value.real)
            else:  # the phase (-1)^m stays in
                expected.append(np.sqrt(2) * (value.imag if order < 0 else value.real))
    np.testing.assert_allclose(harmonics.basis(along, 3).numpy(), np.stack(expected, axis=1), atol=1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_fit_finds_the_harmonics_that_made_the_colours(degree: int) -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(5, harmonics.terms(degree), 3, generator=generator, dtype=torch.float64)
    along = directions(5 * 40).view(5, 40, 3)
    seen = harmonics.basis(along, degree) @ truth + 0.5
    found = harmonics.fit(along, seen, torch.ones(5, 40, dtype=torch.float64), degree=degree)
    assert torch.allclose(found, truth, atol=1e-4)


def test_fit_is_least_squares_with_weights_and_stiffness() -> None:
    generator = torch.Generator().manual_seed(2)
    along, seen = directions(30)[None], torch.rand(1, 30, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(1, 30, generator=generator, dtype=torch.float64)
    found = harmonics.fit(along, seen, weights, degree=2, stiffness=0.1)[0].numpy()
    # The same as rows of an ordinary least-squares problem.
    total = float(weights.sum())
    penalty = np.diag(np.sqrt(0.1 * total * np.array([0, 1, 1, 1, 4, 4, 4, 4, 4])))
    rows = harmonics.basis(along[0], 2).numpy() * weights[0].sqrt().numpy()[:, None]
    right = (seen[0].numpy() - 0.5) * weights[0].sqrt().numpy()[:, None]
    expected, *_ = np.linalg.lstsq(
        np.concatenate([rows, penalty]), np.concatenate([right, np.zeros((9, 3))]), rcond=None
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_point_that_nothing_sees_is_grey() -> None:
    along = directions(4)[None]
    found = harmonics.fit(along, torch.rand(1, 4, 3, dtype=torch.float64), torch.zeros(1, 4).double(), degree=2)
    assert torch.equal(found, torch.zeros_like(found))


def test_the_colour_from_outside_is_the_mean_over_the_hemisphere() -> None:
    generator = torch.Generator().manual_seed(3)
    coefficients = 0.1 * torch.randn(1, 16, 3, generator=generator, dtype=torch.float64)
    normal = directions(1, seed=4)
    along = directions(400_000, seed=5)
    cosine = (-along @ normal[0]).clamp(min=0.0)
    seen = harmonics.basis(along, 3) @ coefficients[0] + 0.5
    expected = (cosine[:, None] * seen).sum(dim=0) / cosine.sum()
    assert torch.allclose(harmonics.colors_from_outside(coefficients, normal)[0], expected, atol=2e-3)
    unknown = harmonics.colors_from_outside(coefficients, torch.zeros_like(normal))
    assert torch.allclose(unknown, 0.5 + 0.28209479177387814 * coefficients[:, 0])
