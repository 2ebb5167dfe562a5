"""The frame in which a browser draws a scene, whatever the scene's own size and place."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from finer_nerfstudio.nerf.export import harmonics
from finer_nerfstudio.nerf.export.splats import Splats, rotation_matrices

# viser's camera sees from 0.05 to 1,000 units: at this radius of the scene a visitor comes near to it, and what lies
# two hundred radii away is still there.
_RADIUS = 4.0
# Beyond, things are drawn in towards this many units more, the nearer ones still before the farther ones.
_FAR = 200.0
# Standard deviations, display units: viser sends square roots of covariances in half precision.
_THINNEST, _WIDEST = 1e-4, 1e4
# Of a splat, thickness to width, for which its covariance still has a square root in double precision.
_FLATTEST = 1e-5


@dataclass(frozen=True)
class DisplayFrame:
    """A shift and then a scale from world units to those of the browser.

    Attributes:
        middle: ``[3]`` of the scene, world units.
        scale: display units in a world unit.
    """

    middle: np.ndarray
    scale: float

    def points(self, positions: np.ndarray) -> np.ndarray:
        """Places ``[n, 3]`` or ``[3]`` in display units, however far away."""
        return (np.asarray(positions, np.float64) - self.middle) * self.scale


def display_frame(positions: np.ndarray, *, least_radius: float = 0.0) -> DisplayFrame:
    """The frame that shows most of a scene at a fixed size.

    Args:
        positions: ``[n, 3]`` of what is shown, world units, at least one; a few of them far away change next to
            nothing.
        least_radius: of the scene, world units, where its positions have less.
    """
    positions = np.asarray(positions, np.float64)
    middle = np.median(positions, axis=0)
    radius = max(float(np.quantile(np.linalg.norm(positions - middle, axis=1), 0.75)), least_radius)
    return DisplayFrame(middle, _RADIUS / radius if radius > 0 else 1.0)


def frame_of_splats(splats: Splats) -> DisplayFrame:
    """The frame that shows most of the splats; of a single one, its width."""
    widest = splats.log_scales.double().amax(dim=1).median().clamp(max=80.0).exp()
    return display_frame(splats.means.numpy(), least_radius=float(widest))


@dataclass(frozen=True)
class DisplayedSplats:
    """Gaussians of one colour each, display units.

    Attributes:
        centers: ``[n, 3]``.
        covariances: ``[n, 3, 3]``.
        colors: ``[n, 3]`` in [0, 1].
        opacities: ``[n, 1]`` in [0, 1].
    """

    centers: np.ndarray
    covariances: np.ndarray
    colors: np.ndarray
    opacities: np.ndarray


def displayed(splats: Splats, frame: DisplayFrame) -> DisplayedSplats:
    """Splats as the browser draws them.

    Their normals do not matter: programs that turn a file leave them as they were. A colour is the mean over all
    directions.
    """
    centers = frame.points(splats.means.numpy())
    distances = np.linalg.norm(centers, axis=1)
    nearer = np.where(distances > _FAR, (2.0 - _FAR / np.maximum(distances, _FAR)) * _FAR / distances.clip(_FAR), 1.0)
    growth = math.log(frame.scale) + np.log(nearer)[:, None]
    deviations = np.exp((splats.log_scales.double().numpy() + growth).clip(math.log(_THINNEST), math.log(_WIDEST)))
    deviations = np.maximum(deviations, _FLATTEST * deviations.max(axis=1, keepdims=True))
    axes = rotation_matrices(splats.rotations.double()).numpy() * deviations[:, None, :]
    return DisplayedSplats(
        centers * nearer[:, None],
        axes @ axes.swapaxes(1, 2),
        harmonics.mean_colors(splats.harmonics).numpy(),
        splats.opacity_logits.double().sigmoid()[:, None].numpy(),
    )
