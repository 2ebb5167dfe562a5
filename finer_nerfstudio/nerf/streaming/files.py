"""Files that packing and decoding a radiance field leave on disk."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from finer_nerfstudio.errors import InputError, argument
from finer_nerfstudio.files.atomic import replacing, write_json
from finer_nerfstudio.files.png import write_image
from finer_nerfstudio.nerf.data.views import View
from finer_nerfstudio.nerf.streaming.scene import DecodedScene, PackedRun, scene_of
from finer_nerfstudio.runs.report import Section, flat_table, write_report
from finer_nerfstudio.runs.results import METRICS_FILE, software_versions
from finer_nerfstudio.runs.stage_report import stage_pictures, stage_table
from finer_nerfstudio.streams.reader import Stream, read_stream

_MILLISECONDS_A_TURN = 4000
_LARGEST_WEBP = 16_383


def write_packed(
    folder: Path,
    name: str,
    packed: PackedRun,
    *,
    seed: int,
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> dict[str, Any]:
    """Write ``<name>.finer``, ``stage-0.png`` ..., ``report.html`` and ``metrics.json``.

    Args:
        folder: exists.
        name: of the stream.
        packed: what to write.
        seed: that it was made with.
        report: progress callback: (description, completed, total).

    Returns:
        What ``metrics.json`` holds.

    Raises:
        InputError: where something cannot be written.
    """
    with replacing(folder / f"{name}.finer") as unfinished:
        unfinished.write_bytes(packed.content)
    stream = read_stream(packed.content)
    pictures: list[np.ndarray] = []
    for i in range(stream.stages):
        report("decoding", i, stream.stages)
        pictures.append(scene_of(stream, i + 1).picture())
        write_image(folder / f"stage-{i}.png", pictures[-1])
    rows = [
        {
            "width": stage.width,
            "bytes": stage.end,
            "psnr": stage.psnr,
            "ssim": stage.ssim,
            "precision": stage.precision,
        }
        for stage in packed.stages
    ]
    measured, there = packed.views
    configuration = {"method": packed.method, "steps": packed.steps, "seed": seed}
    content = {
        "bytes": len(packed.content),
        "header_bytes": stream.header_bytes,
        "stages": rows,
        "test_views_measured": measured,
        "test_views": there,
        "versions": software_versions(),
        "configuration": configuration,
    }
    sentences = [f"PSNR and SSIM are means over {measured} of the {there} test views; the pictures show one of them."]
    figures = stage_pictures(packed.truth, pictures, rows)
    sections = [
        Section("Stages", sentences, figures, [stage_table(rows)]),
        Section("Configuration", (), (), [flat_table(configuration)]),
    ]
    write_report(
        folder / "report.html", f"{packed.method}: {len(packed.content):,} bytes in {len(rows)} stages", sections
    )
    write_json(folder / METRICS_FILE, content)
    return content


def write_view(path: Path, stream: Stream, *, size: int | None, max_pixels: int) -> None:
    """Write a picture of what has arrived of a stream.

    Args:
        path: PNG.
        stream: with a stage at least.
        size: longer side in pixels; the stream's own view unless given.
        max_pixels: refuse more.

    Raises:
        InputError: for streams of something else, larger pictures, and where the file cannot be written.
    """
    scene = scene_of(stream)
    write_image(path, scene.picture(_view(scene, size, max_pixels)))


def write_orbit(path: Path, stream: Stream, frames: int, *, size: int | None, max_pixels: int) -> None:
    """Write an animation once around the vertical axis through the middle of the scene's box.

    Args:
        path: WebP.
        stream: with a stage at least.
        frames: pictures.
        size: longer side in pixels; that of the stream's own view unless given.
        max_pixels: refuse more in a picture.

    Raises:
        InputError: for streams of something else, larger pictures, and where the file cannot be written.
    """
    from PIL import Image
    from rich.console import Console
    from rich.progress import track

    scene = scene_of(stream)
    view = _view(scene, size, max_pixels)
    if max(view.height, view.width) > _LARGEST_WEBP:
        raise InputError(
            f"an animation has at most {_LARGEST_WEBP:,} pixels a side: give a smaller {argument('size')}."
        )
    low, high = scene.signal.aabb[:3], scene.signal.aabb[3:]
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    pictures = []
    for i in track(range(frames), "rendering", console=Console(stderr=True), transient=True):
        pictures.append(Image.fromarray(scene.picture(view.turned(2 * math.pi * i / frames, middle))))
    with replacing(path) as unfinished:
        pictures[0].save(
            unfinished,
            "WEBP",
            save_all=True,
            append_images=pictures[1:],
            duration=max(20, _MILLISECONDS_A_TURN // frames),
            loop=0,
            quality=90,
        )


def _view(scene: DecodedScene, size: int | None, max_pixels: int) -> View:
    view = scene.signal.view if size is None else scene.signal.view.resized(size)
    if view.height * view.width > max_pixels:
        raise InputError(
            f"the picture has {view.height:,} x {view.width:,} pixels, more than the {max_pixels:,} that are allowed: "
            f"give a smaller {argument('size')}, or a larger {argument('max_pixels')}."
        )
    return view
