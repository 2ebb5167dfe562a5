"""The model's panel in Nerfstudio's live viewer."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer_elements import ViewerSlider
from torch import Tensor, nn

from finer_nerfstudio.nerf.field import RadianceField
from finer_nerfstudio.nerf.streaming.growing_field import GrowingField


@dataclass
class BiasBand:
    """First-layer neurons whose bias b has ``lowest <= |b| <= highest``."""

    lowest: float
    highest: float

    def mask(self, bias: Tensor) -> Tensor:
        """``[units]`` one for the neurons in the band and zero for the others."""
        magnitude = bias.detach().abs()
        return ((magnitude >= self.lowest) & (magnitude <= self.highest)).to(bias.dtype)


def viewer_thread() -> RenderStateMachine | None:
    """The viewer's rendering thread if the caller runs in it, so that the panel never touches anything else."""
    thread = threading.current_thread()
    return thread if isinstance(thread, RenderStateMachine) else None


class ViewerPanel(nn.Module):
    """Sliders that change what the viewer shows and nothing else; Nerfstudio lists them by the attributes' names.

    The bias range k selects which bumps of the variable-periodic activation a neuron starts in, so the bands of |b|
    are bands of frequency: the pair of sliders shows which detail each of them carries.

    Args:
        field: what is shown; its largest |b| of the first layer is what the bias sliders take as 100 per cent, and one
            that grows has a slider of its stages' widths.
        steps: samples along the box's diagonal that training uses, the initial value.
    """

    def __init__(self, field: RadianceField[Any], *, steps: int) -> None:
        super().__init__()
        widths = field.widths if isinstance(field, GrowingField) else []
        widest = field.rendered(len(widths) or None)
        self._highest_bias = float(widest.density_net.first.bias.detach().abs().max())
        self.bias_from = ViewerSlider(
            "Bias band from (%)",
            0,
            0,
            100,
            1,
            hint="Silence first-layer neurons with a smaller |b|, in per cent of the largest: what remains is carried "
            "by the high-bias bands.",
        )
        self.bias_to = ViewerSlider(
            "Bias band to (%)",
            100,
            0,
            100,
            1,
            hint="Silence first-layer neurons with a larger |b|, in per cent of the largest; at 100 none is silenced.",
        )
        self.samples_per_ray = ViewerSlider(
            "Samples per ray",
            steps,
            min(16, steps),
            max(16, 4 * steps),
            8,
            hint="Steps along the diagonal of the scene's box; more is finer and slower.",
        )
        self.width: ViewerSlider | None = None
        if len(widths) > 1:
            self.width = ViewerSlider(
                "Width",
                widths[-1],
                widths[0],
                widths[-1],
                1,
                hint="Show the widest stage that is no wider, of those trained so far; there are "
                f"{', '.join(map(str, widths))}.",
            )

    def band(self) -> BiasBand | None:
        """The chosen band, or None while both sliders are at their ends."""
        low, high = float(self.bias_from.value), float(self.bias_to.value)
        if low <= 0.0 and high >= 100.0:
            return None
        # Training moves biases: at the upper end are those beyond what was the largest, too.
        percent = self._highest_bias / 100.0
        return BiasBand(low * percent, float("inf") if high >= 100.0 else high * percent)


def neuron_mask(band: BiasBand | None, bias: Tensor) -> Tensor | None:
    """Mask of ``band``, or None where it would silence nothing."""
    if band is None:
        return None
    mask = band.mask(bias)
    return None if bool(torch.all(mask == 1)) else mask
