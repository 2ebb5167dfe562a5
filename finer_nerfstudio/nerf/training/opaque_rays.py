"""Whether an export of points will end: Nerfstudio's draws rays until enough of them have met something opaque."""

from __future__ import annotations

from typing import Any

from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from torch import Tensor

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.model import FinerModel
from finer_nerfstudio.runs.command_line import exit_on_input_error

# Before this many rays nothing is said; with fewer of them opaque than one in that many, points would take hours.
_RAYS = 1 << 18
_FEWEST = 1 / 2000


class OpaqueRays:
    """Counts rays that are opaque for more than a half, as a forward hook of a model that is exported from.

    Pictures are rendered past the hook, so that views of an empty place are none of its business.

    Args:
        crop: what is cut out of the scene; only what rays meet in there counts.

    Raises:
        SystemExit: with a sentence, where hardly any is.
    """

    def __init__(self, crop: OrientedBox | None = None) -> None:
        self.crop = crop
        self.rays = 0
        self.opaque = 0

    def __call__(self, model: FinerModel, inputs: Any, outputs: dict[str, Tensor]) -> None:
        if model.training or outputs["accumulation"].dim() != 2:
            return
        self.rays += len(outputs["accumulation"])
        is_opaque = outputs["accumulation"][:, 0] > 0.5
        if self.crop is not None:
            rays: RayBundle = inputs[0]
            is_opaque &= self.crop.within(rays.origins + rays.directions * outputs["depth"])
        self.opaque += int(is_opaque.sum())
        if self.rays < _RAYS:
            return
        if self.crop is not None and not self.opaque:
            with exit_on_input_error():
                raise InputError(
                    f"of {self.rays:,} rays through the pictures none meets something opaque within --obb-center, "
                    f"--obb-rotation and --obb-scale, so that points would never be enough: choose another box."
                )
        if self.crop is None and self.opaque < _FEWEST * self.rays:
            with exit_on_input_error():
                raise InputError(
                    f"of {self.rays:,} rays through the pictures {self.opaque:,} meet something opaque, so that points "
                    f"would never be enough: the field is haze yet, or nearly empty. Train it for longer first."
                )
