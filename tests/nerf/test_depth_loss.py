"""The loss of depths against SciPy's earth mover's distance and finite differences, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from finer_nerfstudio.nerf.depth_loss import depth_loss
from finer_nerfstudio.nerf.sampling.segments import RaySegments

COUNTS = [4, 0, 1, 6, 3]
MEASURED = [1.3, 2.0, 0.0, 0.7, 40.0]
FARTHEST = [3.0, 4.0, 3.5, 2.5, 3.2]


def scene() -> tuple[RaySegments, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    counts = torch.tensor(COUNTS)
    rays = torch.repeat_interleave(torch.arange(len(COUNTS)), counts)
    distances = 2.4 * torch.rand(len(rays), generator=generator, dtype=torch.float64)
    weights = torch.rand(len(rays), generator=generator, dtype=torch.float64) / (1 + counts[rays])
    segments = RaySegments(rays, torch.zeros_like(rays), distances, torch.ones_like(distances), counts, counts)
    return segments, weights


def progress(distance: float, reach: float) -> float:
    return distance / reach if distance <= reach else 2 - reach / distance


def expected(segments: RaySegments, weights: torch.Tensor, reach: float | None) -> float:
    values = []
    for ray, measured in enumerate(MEASURED):
        if measured == 0:
            continue
        mine = segments.ray_indices == ray
        share = weights[mine].numpy()
        places = [float(d) for d in segments.distances[mine]] + [FARTHEST[ray] if reach is None else 1000 * reach]
        if reach is None:
            places, target = [place / FARTHEST[ray] for place in places], min(1.0, measured / FARTHEST[ray])
        else:
            places, target = [progress(place, reach) for place in places], progress(measured, reach)
        values.append(wasserstein_distance(places, [target], [*share, 1 - share.sum()], [1.0]))
    return float(np.mean(values))


@pytest.mark.parametrize("reach", [None, 1.1])
def test_it_is_the_earth_movers_distance(reach: float | None) -> None:
    segments, weights = scene()
    # More rays were drawn than fitted into the step.
    measured = torch.tensor([*MEASURED, 5.0], dtype=torch.float64)[:, None]
    farthest = torch.tensor(FARTHEST, dtype=torch.float64)

    def loss(values: torch.Tensor) -> torch.Tensor:
        return depth_loss(segments, values, measured, reach=reach, farthest=farthest)

    assert float(loss(weights)) == pytest.approx(expected(segments, weights, reach), abs=1e-12)
    assert torch.autograd.gradcheck(loss, weights.requires_grad_())


def test_nothing_known_asks_for_nothing() -> None:
    segments, weights = scene()
    weights.requires_grad_()
    nothing = torch.zeros(len(COUNTS), 1, dtype=torch.float64)
    loss = depth_loss(segments, weights, nothing, reach=1.0, farthest=torch.ones(5, dtype=torch.float64))
    loss.backward()
    assert float(loss) == 0
    assert weights.grad is not None
    assert (weights.grad == 0).all()
