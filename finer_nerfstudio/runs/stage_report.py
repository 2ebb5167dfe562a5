"""The stages of a stream in a report: a table, and a picture of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finer_nerfstudio.runs.report import Figure, Table, drawing_png
from finer_nerfstudio.runs.summary import as_text

_SHOWN = {
    "width": "width",
    "bytes": "bytes so far",
    "bits_per_pixel": "bits/pixel",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "iou": "IoU",
    "precision": "stored as",
    "rounding_loss_db": "rounding costs (dB)",
    "jpeg_psnr_at_these_bytes": "JPEG within these bytes (dB)",
    "webp_psnr_at_these_bytes": "WebP within these bytes (dB)",
    "jpeg_bits_per_pixel_at_this_psnr": "JPEG as good (bits/pixel)",
    "webp_bits_per_pixel_at_this_psnr": "WebP as good (bits/pixel)",
}


def stage_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Stages as rows; quantities that no stage has are left out."""
    shown = [name for name in _SHOWN if any(row.get(name) is not None for row in rows)]
    cells = [[_cell(row.get(name)) for name in shown] for row in rows]
    return Table([_SHOWN[name] for name in shown], cells)


def stage_pictures(
    truth: np.ndarray | None, pictures: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]
) -> list[Figure]:
    """Return the pictures of the stages beside the truth, if there are any.

    Args:
        truth: ``[height, width, channels]`` uint8 or uint16.
        pictures: the same of each stage.
        rows: ``bytes`` and ``psnr`` of each stage.
    """
    if truth is None or len(pictures) != len(rows):
        return []
    from matplotlib.figure import Figure as Drawing

    shown = [*pictures, truth]
    titles = [f"{row['bytes']:,} bytes, {as_text(row['psnr'])} dB" for row in rows] + ["truth"]
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    height, width = truth.shape[:2]
    drawing = Drawing(
        figsize=(4 * columns, 4 * lines * max(0.3, min(2.0, height / width)) + 0.3 * lines), layout="constrained"
    )
    axes = drawing.subplots(lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    every = max(1, max(height, width) // 1024)
    for axis, picture, title in zip(axes.flat, shown, titles, strict=False):
        scaled = picture[::every, ::every] / np.iinfo(picture.dtype).max
        axis.imshow(scaled if picture.shape[2] >= 3 else scaled[..., 0], cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=10)
    return [Figure(drawing_png(drawing), "What each prefix of the file shows, and the truth.")]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else as_text(value)
