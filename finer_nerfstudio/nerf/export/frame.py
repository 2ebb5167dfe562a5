"""The frame that a capture's own file has, and the way there from the field's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from finer_nerfstudio.files.meshes.mesh import Mesh


@dataclass(frozen=True)
class CaptureFrame:
    """The coordinates in which a scene was captured, before it was oriented, centred and scaled for the field.

    The way back is that of Nerfstudio's ``transform_poses_to_original_space``, in double precision.

    Attributes:
        transform: ``[3, 4]``, what brings the capture's points to the field's directions and centre, before they are
            scaled; with what was done to the poses before they were written (``applied_transform``).
        scale: of field units to the capture's units, with that before they were written (``applied_scale``).
    """

    transform: Float[np.ndarray, "3 4"]
    scale: float

    @classmethod
    def of(cls, outputs: DataparserOutputs) -> CaptureFrame:
        """Return that of what a data parser has read."""
        return cls(outputs.dataparser_transform.double().cpu().numpy(), float(outputs.dataparser_scale))

    def points(self, world: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """Points of the field's world in the capture's coordinates."""
        turn, shift = self.transform[:, :3], self.transform[:, 3]
        return (np.asarray(world, np.float64) / self.scale - shift) @ np.linalg.inv(turn).T

    def mesh(self, mesh: Mesh) -> Mesh:
        """A mesh of the field's world in the capture's coordinates; a transform that mirrors turns faces round."""
        mirrors = np.linalg.det(self.transform[:, :3]) < 0
        return Mesh(self.points(mesh.vertices), mesh.faces[:, ::-1] if mirrors else mesh.faces, mesh.colors)
