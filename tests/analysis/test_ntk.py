"""The tangent kernel against its definition, and what the paper reads off it."""

from __future__ import annotations

import math

import pytest
import torch

from finer_nerfstudio import METHODS, CoordinateNetwork, preset
from finer_nerfstudio.analysis.ntk import NtkOptions, eigenvalues_of, empirical_ntk, study, summary_of
from finer_nerfstudio.analysis.points import lattice


def network(method: str, *, in_dim: int = 1, out_dim: int = 1, width: int = 8) -> CoordinateNetwork:
    chosen = preset(method, "image")
    return chosen.network(in_dim, out_dim, width=width, depth=3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", METHODS)
def test_entries_are_products_of_finite_differences(method: str) -> None:
    net = network(method, in_dim=2, out_dim=2, width=4).double()
    if method == "pemlp":
        # A unit that is off has no gradient; between the kinks of the others differences are exact.
        net.first.bias.data += 0.5
    points = torch.tensor([[0.11, -0.32], [-0.43, 0.27], [0.05, 0.61]], dtype=torch.float64)
    parameters = list(net.parameters())

    def outputs() -> torch.Tensor:
        with torch.no_grad():
            # By tensor functions, in which nothing is held constant.
            return net(points)

    step, columns = 1e-6, []
    for parameter in parameters:
        flat = parameter.data.view(-1)
        for index in range(len(flat)):
            value = float(flat[index])
            flat[index] = value + step
            above = outputs()
            flat[index] = value - step
            below = outputs()
            flat[index] = value
            columns.append((above - below) / (2 * step))
    jacobian = torch.stack(columns, dim=-1)  # point, output, parameter
    expected = torch.einsum("iop,jop->ij", jacobian, jacobian) / 2
    found = empirical_ntk(net, points)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("finer-wavelet", in_dim=2)
    points = lattice(25, 2)
    whole = empirical_ntk(net, points)
    monkeypatch.setattr("finer_nerfstudio.analysis.ntk._NUMBERS_AT_ONCE", 1)
    seen = []
    blocks = empirical_ntk(net, points[:7], report=lambda done, total: seen.append((done, total)))
    torch.testing.assert_close(blocks, whole[:7, :7])
    assert seen[-1] == (28, 28)
    assert torch.equal(whole, whole.T)
    assert float(eigenvalues_of(whole).min()) >= 0


def test_a_network_is_left_as_it_was() -> None:
    net = network("finer-sine")
    before = [parameter.clone() for parameter in net.parameters()]
    activation = net.activation
    empirical_ntk(net, lattice(4, 1))
    assert net.activation is activation
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("method", ["finer-sine", "finer-gauss", "finer-wavelet"])
def test_a_wider_bias_range_has_more_eigenvalues_above_one(method: str) -> None:
    options = NtkOptions(method=method, width=64, points=256, bias_ranges=(1.0, 5.0, 10.0))  # pyright: ignore[reportArgumentType]
    outcome = study(options, lambda *_: None)
    counts = [summary["above_one"] for summary in outcome.numbers["networks"].values()]
    assert counts[0] < counts[1] < counts[2] <= 256


def test_summaries_of_known_kernels() -> None:
    alone, together = summary_of(2.0 * torch.eye(6)), summary_of(torch.ones(6, 6))
    assert (alone.above_one, together.above_one) == (6, 1)
    assert alone.diagonal_dominance == pytest.approx(1.0)
    assert together.diagonal_dominance == pytest.approx(1 / 6)
    assert alone.effective_rank == pytest.approx(6.0)
    assert together.effective_rank == pytest.approx(1.0, abs=1e-4)
    assert together.largest == pytest.approx(6.0, abs=1e-4)


@pytest.mark.parametrize(("points", "dimensions", "expected"), [(10, 1, 10), (10, 2, 9), (30, 3, 27)])
def test_lattices_fill_the_box(points: int, dimensions: int, expected: int) -> None:
    found = lattice(points, dimensions)
    assert found.shape == (expected, dimensions)
    assert found.amin().item() == -1.0
    assert found.amax().item() == 1.0
    assert math.isclose(float(found.sum()), 0.0, abs_tol=1e-9)
