"""How much something baked looks like the field that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.files.atomic import replacing
from finer_nerfstudio.nerf.data.views import View
from finer_nerfstudio.nerf.export.scene import Picture
from finer_nerfstudio.runs import metrics
from finer_nerfstudio.runs.progress import Stage
from finer_nerfstudio.runs.report import drawing_png

# Views in the picture, side by side.
_MOST_SHOWN = 4


@dataclass(frozen=True)
class Comparison:
    """One view of both, over white.

    Attributes:
        field: ``[height, width, 3]`` in [0, 1].
        baked: the same of what was baked.
        psnr: of the one against the other, dB.
        ssim: likewise, NaN for pictures of less than 11 pixels.
    """

    field: Float[Tensor, "height width 3"]
    baked: Float[Tensor, "height width 3"]
    psnr: float
    ssim: float


@torch.no_grad()
def compare(draw: Callable[[View], Picture], pictures: Sequence[Picture], report: Stage) -> list[Comparison]:
    """Draw what was baked in the views of pictures of the field.

    Args:
        draw: what was baked.
        pictures: of the field.
        report: progress callback.
    """
    compared = []
    for done, picture in enumerate(pictures):
        report("measuring", done, len(pictures))
        white = torch.ones(3).to(picture.color)
        baked, field = (drawn.over(white).clamp(0.0, 1.0) for drawn in (draw(picture.view), picture))
        compared.append(Comparison(field, baked, float(metrics.psnr(baked, field)), float(metrics.ssim(baked, field))))
    return compared


def mean_quality(compared: Sequence[Comparison]) -> dict[str, float]:
    """Return the means of PSNR in dB and of SSIM, as JSON has them."""
    return {name: sum(getattr(view, name) for view in compared) / len(compared) for name in ("psnr", "ssim")}


def write_comparison(path: Path, compared: Sequence[Comparison], kind: str) -> None:
    """Write a PNG with the field above and what was baked below, of the first few views.

    Raises:
        InputError: where the file cannot be written.
    """
    from matplotlib.figure import Figure

    shown = compared[:_MOST_SHOWN]
    drawing = Figure(figsize=(2.4 * len(shown) + 0.3, 5.2), layout="constrained")
    for above, below, view in zip(*drawing.subplots(2, len(shown), squeeze=False), shown, strict=True):
        for axis, pixels in ((above, view.field), (below, view.baked)):
            axis.imshow(pixels.cpu().numpy())
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        below.set_title(f"{view.psnr:.2f} dB", fontsize=9)
    for row, title in zip(drawing.axes[:: len(shown)], ("field", kind), strict=True):
        row.set_ylabel(title)
    with replacing(path) as unfinished:
        unfinished.write_bytes(drawing_png(drawing))
