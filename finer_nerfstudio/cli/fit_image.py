"""Fit a coordinate network to an image, and see how well it did.

    finer fit-image --image photo.jpg --size 256 --steps 1000
    finer fit-image --image photo.jpg --compare siren finer-sine finer-wavelet --minutes 2

Without --image a generated sample is fitted. Whatever is not given comes from the paper's protocol: 5,000 steps on all
pixels at once, with the method's published learning rate and scales. The output folder gets model.safetensors (see
finer render-image), reconstruction.png, metrics.json, curve.csv and report.html.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import tyro

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.runs.options import Method
from finer_nerfstudio.tasks.image.options import ImageOptions


@dataclass(frozen=True)
class FitImage(ImageOptions):
    """Image, method and length of a fit, and where results go."""

    image: Annotated[Path | None, tyro.conf.arg(aliases=["-i"])] = None
    """Anything that Pillow reads: grey or coloured, with or without alpha, 8 or 16 bit, of any proportions."""
    size: int | None = None
    """Average the image down first, so that its longer side has this many pixels."""
    compare: tuple[Method, ...] = field(default=())
    """Fit with each of these methods instead, and lay the results side by side."""
    output_dir: Path | None = None
    """Folder for the results; outputs/image/<name of the image>-<method> unless given."""
    resume: bool = False
    """Go on with the run in the output folder, from its last checkpoint."""
    overwrite: bool = False
    """Replace the run in the output folder; its old metrics.json gets the ending .previous."""
    download_lpips: bool = False
    """Fetch the weights (233 MB) that the perceptual distance LPIPS needs, if they are not here."""


def run(command: FitImage) -> None:
    from finer_nerfstudio.runs.processor import prepare_processor
    from finer_nerfstudio.runs.summary import print_summary
    from finer_nerfstudio.runs.training import require_not_written
    from finer_nerfstudio.tasks.image.files import read_image, sample_image
    from finer_nerfstudio.tasks.image.run import clear_scratch, compare_on_image, run_image, scratch_of

    name = command.image.stem if command.image is not None else "sample"
    folder = (
        command.output_dir or Path("outputs/image") / f"{name}-{'comparison' if command.compare else command.method}"
    )
    options = ImageOptions(**{item.name: getattr(command, item.name) for item in fields(ImageOptions)})
    require_not_written(command.image, folder)
    if command.image is None:
        if command.size is not None and command.size < 1:
            raise UsageError(f"--size must be at least 1, not {command.size}.")
        print("note: no --image is given: a generated picture is fitted.", flush=True)
        image = sample_image(256 if command.size is None else command.size)
    else:
        image = read_image(command.image, size=command.size, scratch=scratch_of(folder))
    prepare_processor()
    how = {"resume": command.resume, "overwrite": command.overwrite, "download_lpips": command.download_lpips}
    if command.compare:
        results = compare_on_image(image, command.compare, options, folder, **how)
    else:
        results = {command.method: run_image(image, options, folder, **how)}
    for place in (folder, *(folder / method for method in command.compare)):
        clear_scratch(place)
    larger = f"finer render-image --model {shlex.quote(str(folder))} --scale 4 --output large.png"
    print_summary(
        results,
        {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS", "bits_per_pixel": "bits/pixel", "seconds": "seconds"},
        notes=image.notes,
        files=(folder / "report.html", folder / "metrics.json"),
        next_command=f"look at {folder / 'report.html'}, side by side" if command.compare else larger,
    )


OPTIONS = FitImage
