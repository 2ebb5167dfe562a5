"""From the coordinates of a field back to those of the photographs' own program."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files.meshes.mesh import Mesh
from finer_nerfstudio.nerf.export import harmonics
from finer_nerfstudio.nerf.export.splats import Splats, rotation_matrices
from finer_nerfstudio.nerf.export.viewing import Viewpoint, as_vector

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Placement:
    """A similarity: turned, stretched by ``scale``, then shifted.

    Attributes:
        turn: rotation ``[3, 3]``.
        scale: units of the original in one of the field.
        shift: ``[3]``, units of the original.
    """

    turn: Matrix
    scale: float
    shift: Matrix

    @property
    def matrix(self) -> Matrix:
        """``[4, 4]``, of positions."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.scale * self.turn, self.shift
        return matrix

    def near_the_origin(self, extent: float) -> tuple[Placement, Matrix]:
        """Return this without an offset that single precision has no room for, and the offset; else zeros.

        Survey coordinates are millions of metres.

        Args:
            extent: of the scene, units of the field, of which a hundred-thousandth should still be there.
        """
        coarse = np.abs(self.shift).max() * 2.0**-24 > 1e-5 * extent * self.scale
        offset = np.floor(self.shift) if coarse else np.zeros(3)
        return replace(self, shift=self.shift - offset), offset

    def points(self, points: npt.NDArray[np.floating]) -> Matrix:
        """Move points ``[n, 3]``."""
        return points @ (self.scale * self.turn.T) + self.shift

    def directions(self, directions: npt.NDArray[np.floating]) -> Matrix:
        """Turn vectors ``[n, 3]``, whose length stays."""
        return directions @ self.turn.T

    def mesh(self, mesh: Mesh) -> Mesh:
        """Move a mesh."""
        return Mesh(self.points(mesh.vertices), mesh.faces, mesh.colors)

    def viewpoint(self, view: Viewpoint) -> Viewpoint:
        """Move a camera."""
        position, look_at = self.points(np.array([view.position, view.look_at]))
        return Viewpoint(
            as_vector(position), as_vector(look_at), as_vector(self.directions(np.array(view.up))), view.fov
        )

    def splats(self, splats: Splats) -> Splats:
        """Move Gaussians, with what they show along each direction."""
        turn = torch.from_numpy(self.turn)

        def turned(vectors: torch.Tensor) -> torch.Tensor:
            return (vectors.double() @ turn.to(vectors.device).T).to(vectors)

        means = torch.from_numpy(self.points(splats.means.double().cpu().numpy()))
        axes = turn.to(splats.rotations.device) @ rotation_matrices(splats.rotations.double())
        return Splats(
            means.to(splats.means),
            turned(splats.normals),
            _quaternions(axes).to(splats.rotations),
            splats.log_scales + math.log(self.scale),
            splats.opacity_logits,
            _turned_harmonics(splats.harmonics, self.turn),
        )


def placement_of(outputs: DataparserOutputs) -> Placement:
    """Return how the field's coordinates become those that the data had before anything was done to them.

    Args:
        outputs: of the parser.

    Raises:
        InputError: if what was done to them is no similarity, but stretches, shears or mirrors.
    """
    transform = outputs.dataparser_transform.double().cpu().numpy()
    linear, shift = transform[:, :3], transform[:, 3]
    size = float(np.cbrt(abs(np.linalg.det(linear))))
    turn = linear / size if size > 0 else linear
    if size <= 0 or np.linalg.det(linear) < 0 or np.abs(turn @ turn.T - np.eye(3)).max() > 1e-3:
        raise InputError(
            'the "applied_transform" of the capture stretches, shears or mirrors, so that nothing can be brought '
            "back to the coordinates before it: leave it out of the transforms.json."
        )
    left, _, right = np.linalg.svd(turn)
    back = np.asarray((left @ right).T, dtype=np.float64)
    return Placement(back, 1.0 / (size * outputs.dataparser_scale), -(back @ shift) / size)


def _quaternions(matrices: torch.Tensor) -> torch.Tensor:
    """w x y z of rotations ``[n, 3, 3]``: the eigenvector of the largest eigenvalue (Bar-Itzhack 2000)."""
    m = matrices
    xx, yy, zz = m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]
    x, y, z = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    xy, xz, yz = m[:, 0, 1] + m[:, 1, 0], m[:, 0, 2] + m[:, 2, 0], m[:, 1, 2] + m[:, 2, 1]
    rows = [
        torch.stack([xx + yy + zz, x, y, z], dim=-1),
        torch.stack([x, xx - yy - zz, xy, xz], dim=-1),
        torch.stack([y, xy, yy - xx - zz, yz], dim=-1),
        torch.stack([z, xz, yz, zz - xx - yy], dim=-1),
    ]
    return torch.linalg.eigh(torch.stack(rows, dim=1)).eigenvectors[:, :, -1]


def _turned_harmonics(values: torch.Tensor, turn: Matrix) -> torch.Tensor:
    """Harmonics of colours that are seen along turned directions.

    The harmonics of each degree turn among themselves; by which matrix follows from more directions than there are.
    """
    degree = harmonics.degree_of(values.shape[1])
    generator = np.random.default_rng(0)
    seen = generator.normal(size=(200, 3))
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    before = harmonics.basis(torch.from_numpy(seen), degree)
    after = harmonics.basis(torch.from_numpy(seen @ turn.T), degree)
    change = torch.linalg.lstsq(after, before).solution
    return torch.einsum("ij,njc->nic", change.to(values.device), values.double()).to(values)
