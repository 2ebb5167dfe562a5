"""Where the cameras of the demo scene and the demo capture stand."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

CAMERA_DISTANCE = 4.03
"""Distance from every camera to the origin, in world units."""


def look_at_origin(position: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pose [4, 4] of an upright camera at ``position`` [3], off the z axis, that looks at the origin."""
    back = np.asarray(position, dtype=np.float64) / np.linalg.norm(position)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
    pose[:3, 3] = position
    return pose


def scattered_poses(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Poses [count, 4, 4] spread evenly, by area, from just below the horizon to nearly overhead.

    They follow a low-discrepancy sequence from a random start, so that the first few views, or every second
    to sixth view, cover all sides too: a reconstruction from some of the views stays meaningful. (Roberts'
    R2, more even as a whole, puts every fourth of 60 views on one side.)
    """
    steps = np.arange(count)[:, None] * np.array([(math.sqrt(5) - 1) / 2, math.sqrt(2)])
    turn, height = ((generator.random(2) + steps) % 1.0).T
    height = -0.1 + 1.06 * height
    return _poses_at(2 * math.pi * turn, height)


def orbit_poses(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Poses [count, 4, 4] of one turn about the scene that rises and falls once, from a random start."""
    turn = generator.random() + np.arange(count) / count
    return _poses_at(2 * math.pi * turn, np.sin(np.radians(32 - 18 * np.cos(2 * math.pi * turn))))


def _poses_at(azimuth: NDArray[np.float64], sine_of_elevation: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = np.sqrt(1 - sine_of_elevation**2)
    positions = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), sine_of_elevation], axis=-1)
    return np.stack([look_at_origin(position) for position in CAMERA_DISTANCE * positions])


def handheld_poses(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Camera-to-world ``[count, 4, 4]`` (x right, y up, looking along -z) of two unsteady rounds about the table."""
    turn = 4 * math.pi * np.arange(count) / count
    sway = _sway(count, generator)
    radius = 2.75 + 0.3 * np.sin(1.5 * turn + 1.0) + 0.12 * sway[:, 0]
    height = np.where(turn < 2 * math.pi, 0.1, 0.75) + 0.15 * np.sin(2.5 * turn) + 0.1 * sway[:, 1]
    positions = np.stack([radius * np.cos(turn), radius * np.sin(turn), height], axis=-1)
    targets = np.array([0.0, 0.0, 0.12]) + 0.35 * sway[:, 2:5] * np.array([1.0, 1.0, 0.5])
    return _held(positions, targets, 0.05 * sway[:, 5:])


def indoor_poses(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Camera-to-world ``[count, 4, 4]`` in metres of two rounds about the middle of a room, by a standing person.

    The cameras look past the middle at the opposite wall: down at the furniture first, then level.
    """
    turn = 4 * math.pi * np.arange(count) / count
    sway = _sway(count, generator)
    high = turn < 2 * math.pi
    wide = 1.0 + 0.12 * np.sin(1.5 * turn + 0.4) + 0.05 * sway[:, 0]
    height = np.where(high, 1.55, 1.3) + 0.06 * sway[:, 1]
    positions = np.stack([1.35 * wide * np.cos(turn), 1.05 * wide * np.sin(turn), height], axis=-1)
    targets = np.stack([-0.4 * positions[:, 0], -0.4 * positions[:, 1], np.where(high, 0.85, 1.35)], axis=-1)
    return _held(positions, targets + 0.15 * sway[:, 2:5], 0.05 * sway[:, 5:])


def _sway(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Unsteadiness ``[count, 6]`` of somebody's hands."""
    sway = generator.normal(size=(count, 6))
    # Hands drift: neighbouring pictures have similar errors.
    for _ in range(3):
        sway = 0.5 * sway + 0.25 * (np.roll(sway, 1, axis=0) + np.roll(sway, -1, axis=0))
    return sway


def _held(
    positions: NDArray[np.float64], targets: NDArray[np.float64], roll: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Poses ``[count, 4, 4]`` at and towards points ``[count, 3]``, rolled by ``[count, 1]`` radians."""
    back = positions - targets
    back /= np.linalg.norm(back, axis=-1, keepdims=True)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    up = np.cross(back, right)
    poses = np.tile(np.eye(4), (len(positions), 1, 1))
    poses[:, :3, 0] = np.cos(roll) * right + np.sin(roll) * up
    poses[:, :3, 1] = np.cos(roll) * up - np.sin(roll) * right
    poses[:, :3, 2] = back
    poses[:, :3, 3] = positions
    return poses
