"""A whole encoding: train, write the stream, and leave pictures, numbers and a report beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finer_nerfstudio.files.atomic import replacing
from finer_nerfstudio.files.meshes.mesh import Mesh
from finer_nerfstudio.files.meshes.writing import write_ply
from finer_nerfstudio.files.png import write_image
from finer_nerfstudio.inr.growth import GrowingNetwork
from finer_nerfstudio.runs.progress import Stage, stages, training_progress
from finer_nerfstudio.runs.results import Measured, numbers_of_training, request_of, run_in_folder
from finer_nerfstudio.runs.training import Report
from finer_nerfstudio.streams.reader import Stream, read_stream
from finer_nerfstudio.tasks.image.files import SourceImage
from finer_nerfstudio.tasks.sdf.shape import Shape
from finer_nerfstudio.tasks.signal.grid import psnr_of_loss
from finer_nerfstudio.tasks.streaming.encode import (
    EncodedStream,
    FinishedStage,
    StreamOptions,
    Subject,
    encode,
    require_possible,
)
from finer_nerfstudio.tasks.streaming.rate import CODECS, RatePoint, bytes_at, codec_curve, psnr_at
from finer_nerfstudio.tasks.streaming.report import stream_report
from finer_nerfstudio.tasks.streaming.serve import ORIGINAL_NAME
from finer_nerfstudio.tasks.streaming.subjects import image_subject, picture_of, shape_subject, surface_in_units

_MESH_RESOLUTION = 128
# Pictures of larger images are not laid side by side in the report.
_LARGEST_SHOWN = 1 << 24


def run_encode(
    signal: SourceImage | Shape,
    options: StreamOptions,
    folder: Path,
    name: str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Encode an image or a shape and write ``<name>.finer``, what every stage shows, of images ``original.png``,
    ``metrics.json`` and ``report.html`` to ``folder``.

    Args:
        signal: what to encode.
        options: method, widths, length and hyper-parameters.
        folder: made if need be.
        name: of the stream.
        resume: go on with the run in ``folder``; its finished stages are kept, also when ``widths`` has got longer.
        overwrite: replace the run in ``folder``.
        quiet: no progress bar.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        UsageError: for options that cannot mean anything, and for a folder that holds another run.
        InputError: when training diverges or something cannot be read or written.
    """
    subject = image_subject(signal, options) if isinstance(signal, SourceImage) else shape_subject(signal, options)
    require_possible(options, subject)
    _, _, widths = require_possible(options, subject)
    return run_in_folder(
        folder,
        request_of(options, input=subject.description),
        lambda: _encode_and_measure(signal, subject, options, folder, name, resume=resume, quiet=quiet),
        resume=resume,
        overwrite=overwrite,
        # Without its last stage there is a finished stream that is to be taken further.
        may_be_finished=(folder / f"stage-{len(widths) - 1}.safetensors").exists(),
    )


def _encode_and_measure(
    signal: SourceImage | Shape,
    subject: Subject,
    options: StreamOptions,
    folder: Path,
    name: str,
    *,
    resume: bool,
    quiet: bool,
) -> Measured:
    encoded = encode_with_progress(subject, options, folder, resume=resume, quiet=quiet)
    with replacing(folder / f"{name}.finer") as unfinished:
        unfinished.write_bytes(encoded.content)
    stream = read_stream(encoded.content)
    pictures: list[np.ndarray] = []
    curves: dict[str, list[RatePoint]] = {}
    with stages(quiet=quiet) as stage:
        if isinstance(signal, SourceImage):
            write_image(folder / ORIGINAL_NAME, signal.pixels)
            pictures = _write_pictures(folder, stream, stage)
            for i, codec in enumerate(CODECS):
                stage(f"comparing with {codec}", i, len(CODECS))
                curves[codec] = codec_curve(signal, codec)
        else:
            _write_meshes(folder, stream, stage)
    numbers: dict[str, Any] = {
        "bytes": len(encoded.content),
        "header_bytes": stream.header_bytes,
        "stages": stage_rows(encoded, curves, _pixels_of(signal)),
        "codecs": points_of(curves),
        **numbers_of_training(
            encoded.network,
            steps=sum(stage.steps for stage in encoded.stages),
            seconds=sum(stage.seconds for stage in encoded.stages),
            seed=options.seed,
        ),
    }
    stream_report(
        folder / "report.html",
        truth=signal.pixels if isinstance(signal, SourceImage) else None,
        pictures=pictures,
        numbers=numbers,
        curves=[stage.curve for stage in encoded.stages],
        configuration=encoded.settings,
        notes=signal.notes,
    )
    return Measured(numbers, encoded.settings, signal.notes)


def _write_pictures(folder: Path, stream: Stream, stage: Stage) -> list[np.ndarray]:
    """Write what each stage shows, and return the pictures that are small enough for a report."""
    pictures = []
    for i in range(stream.stages):
        stage("decoding", i, stream.stages)
        picture = picture_of(stream, stages=i + 1, largest=1 << 30)
        write_image(folder / f"stage-{i}.png", picture)
        if picture.shape[0] * picture.shape[1] <= _LARGEST_SHOWN:
            pictures.append(picture)
    return pictures


def _write_meshes(folder: Path, stream: Stream, stage: Stage) -> None:
    for i in range(stream.stages):
        stage("extracting", i, stream.stages)
        write_ply(folder / f"stage-{i}.ply", Mesh(*surface_in_units(stream, _MESH_RESOLUTION, stages=i + 1)))


def _pixels_of(signal: SourceImage | Shape) -> int | None:
    return signal.height * signal.width if isinstance(signal, SourceImage) else None


def points_of(curves: Mapping[str, Sequence[RatePoint]]) -> dict[str, list[dict[str, int | float]]]:
    """Return the curves of codecs as JSON values."""
    return {codec: [{"bytes": point.bytes, "psnr": point.psnr} for point in curve] for codec, curve in curves.items()}


def encode_with_progress(
    subject: Subject, options: StreamOptions, folder: Path | None, *, resume: bool = False, quiet: bool = False
) -> EncodedStream:
    """:func:`encode` with a bar for each stage."""
    _, _, widths = require_possible(options, subject)
    in_decibels = subject.task == "image"
    with training_progress(
        options.method, lambda loss: f"{psnr_of_loss(loss):.2f} dB" if in_decibels else f"{loss:.3g}", quiet=quiet
    ) as bar:

        def report(index: int) -> Report:
            return lambda done, step, loss: bar((index + done) / len(widths), step, loss)

        def finished(index: int, stage: FinishedStage, network: GrowingNetwork) -> None:
            if quiet:
                return
            from rich.console import Console

            measured = ", ".join(f"{name} {value:.4g}" for name, value in stage.quality.items() if value is not None)
            Console(stderr=True, highlight=False, soft_wrap=True).print(
                f"stage {index}: width {widths[index]}, {len(stage.payload):,} bytes of {stage.precision}, {measured}"
            )

        return encode(subject, options, folder=folder, resume=resume, report=report, finished=finished)


def stage_rows(encoded: EncodedStream, curves: dict[str, list[RatePoint]], pixels: int | None) -> list[dict[str, Any]]:
    """For each stage what was sent up to it and what it is worth, with the codecs at as many bytes and as good.

    Args:
        encoded: the stream.
        curves: of each codec.
        pixels: of the image, None for other signals.
    """
    rows = []
    before = 0
    for width, stage, end in zip(encoded.widths, encoded.stages, encoded.ends, strict=True):
        row: dict[str, Any] = {
            "width": width,
            "bytes": end,
            "new_bytes": end - before,
            **stage.quality,
            "precision": stage.precision,
            "int8_step": stage.step if stage.precision == "int8" else None,
            "rounding_loss_db": stage.decibels[0] - stage.decibels[1],
            "steps": stage.steps,
            "seconds": stage.seconds,
        }
        before = end
        if pixels is not None:
            row["bits_per_pixel"] = 8.0 * end / pixels
            quality = stage.quality["psnr"] or math.nan
            for codec, curve in curves.items():
                size = bytes_at(curve, quality)
                row[f"{codec.lower()}_psnr_at_these_bytes"] = psnr_at(curve, end)
                row[f"{codec.lower()}_bits_per_pixel_at_this_psnr"] = None if size is None else 8.0 * size / pixels
        rows.append(row)
    return rows
