"""A ball with two colours, seen from all around: small enough to learn in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from finer_nerfstudio.nerf.captured.views import Views

RADIUS = 0.5


def ball_views(count: int, size: int = 24, seed: int = 0) -> Views:
    """Return views of a ball at the origin, red above and blue below, over nothing."""
    random = np.random.default_rng(seed)
    focal = 0.5 * size / math.tan(0.3)
    column, row = np.meshgrid(np.arange(size), np.arange(size))
    local = np.stack(
        [(column + 0.5 - size / 2) / focal, -(row + 0.5 - size / 2) / focal, np.full(column.shape, -1.0)], -1
    )
    images, poses = [], []
    for _ in range(count):
        away = random.normal(size=3)
        away /= np.linalg.norm(away)
        right = np.cross([0.0, 0.0, 1.0], away)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(away, right), away], axis=1)
        center = 2.2 * away
        directions = local @ rotation.T
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        along = -(directions @ center)
        nearest = np.linalg.norm(center + along[..., None] * directions, axis=-1)
        hit = nearest < RADIUS
        depth = along - np.sqrt(np.maximum(RADIUS**2 - nearest**2, 0.0))
        height = (center + depth[..., None] * directions)[..., 2]
        color = np.where((height > 0)[..., None], [220, 40, 40], [40, 60, 220])
        images.append(np.concatenate([color * hit[..., None], 255 * hit[..., None]], -1).astype(np.uint8))
        poses.append(np.concatenate([rotation, center[:, None]], 1).astype(np.float32))
    return Views(np.stack(images), np.stack(poses), focal)


@pytest.fixture
def ball() -> Callable[..., Views]:
    """Return the function that makes views of the ball: (number, size in pixels, seed)."""
    return ball_views
