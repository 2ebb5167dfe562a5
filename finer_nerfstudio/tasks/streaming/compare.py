"""A stream beside what else one could send: without shells, of the base method, single networks, a slimmable one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finer_nerfstudio.errors import UsageError, argument
from finer_nerfstudio.inr.growth import slim_output
from finer_nerfstudio.inr.methods import METHODS
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.runs.metrics import decibels
from finer_nerfstudio.runs.options import device_named, preset_of
from finer_nerfstudio.runs.progress import training_progress
from finer_nerfstudio.runs.results import Measured, request_of, run_in_folder
from finer_nerfstudio.runs.training import Schedule, train
from finer_nerfstudio.tasks.image.files import SourceImage
from finer_nerfstudio.tasks.image.fit import signal_of
from finer_nerfstudio.tasks.signal.grid import decode, points_per_step, sample_centers
from finer_nerfstudio.tasks.streaming.encode import StreamOptions, require_possible
from finer_nerfstudio.tasks.streaming.rate import CODECS, codec_curve
from finer_nerfstudio.tasks.streaming.report import comparison_report
from finer_nerfstudio.tasks.streaming.run import encode_with_progress, points_of, stage_rows
from finer_nerfstudio.tasks.streaming.subjects import image_subject

_ROWS_AT_ONCE = 1 << 16
_BASES = {name: row.base for name, row in METHODS.items() if row.base is not None}


def run_comparison(
    image: SourceImage, options: StreamOptions, folder: Path, *, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Train all ways of sending ``image`` and write ``metrics.json`` and ``report.html`` to ``folder``.

    - the method's stream; the same growth without bias shells; the stream of its base method;
    - networks of each width trained by themselves, with as many steps as a stage, each sent whole;
    - a slimmable network (Yu et al. 2019), all widths of which are trained in every step, with as many steps as all
      stages together. It is not rounded; its bytes are those of float16.

    Args:
        image: the signal.
        options: of the stream; widths, steps and seed are the same for all.
        folder: made if need be; finished stages of each way are kept in folders of it.
        resume: take up what is there.
        overwrite: replace what is there.

    Returns:
        What ``metrics.json`` holds: for each way a row per width.

    Raises:
        UsageError: for options that cannot mean anything, methods that are no FINER++ one, and an occupied folder.
        InputError: when training diverges or something cannot be read or written.
    """
    if options.method not in _BASES:
        raise UsageError(f"{argument('method')} {options.method}: compare takes a FINER++ method, {', '.join(_BASES)}.")
    subject = image_subject(image, options)
    _, _, widths = require_possible(options, subject)
    options = replace(options, widths=widths, budget_kb=None)
    return run_in_folder(
        folder,
        request_of(options, input=subject.description),
        lambda: _train_all(image, options, widths, folder, resume=resume),
        resume=resume,
        overwrite=overwrite,
        # Without its last width there is a finished comparison that is to be taken further.
        may_be_finished=(folder / f"single-{widths[-1]}").exists(),
    )


def _train_all(
    image: SourceImage, options: StreamOptions, widths: tuple[int, ...], folder: Path, *, resume: bool
) -> Measured:
    curves = {codec: codec_curve(image, codec) for codec in CODECS}
    pixels = image.height * image.width
    base = _BASES[options.method]
    streams = {
        options.method: options,
        f"{options.method}, no shells": replace(options, shells=False),
        base: replace(options, method=base, bias_range=None, omega_0=None, s_0=None, omega_f=None, scale_gradient=None),
    }
    ways: dict[str, list[dict[str, Any]]] = {}
    settings: dict[str, Any] = {}
    for name, chosen in streams.items():
        place = folder / name.replace(", ", "-").replace(" ", "-")
        encoded = encode_with_progress(image_subject(image, chosen), chosen, place, resume=resume)
        ways[name] = stage_rows(encoded, curves, pixels)
        settings.setdefault("stream", encoded.settings)
    single = f"{options.method}, single networks"
    ways[single] = []
    for width in widths:
        chosen = replace(options, widths=(width,))
        encoded = encode_with_progress(image_subject(image, chosen), chosen, folder / f"single-{width}", resume=resume)
        ways[single] += stage_rows(encoded, curves, pixels)
    ways[f"{options.method}, slimmable"] = _slimmable(image, options, folder / "slimmable", resume=resume)
    numbers = {
        "ways": ways,
        "codecs": points_of(curves),
        "seed": options.seed,
    }
    comparison_report(folder / "report.html", numbers=numbers, configuration=settings["stream"], notes=image.notes)
    return Measured(numbers, settings, image.notes)


def _slimmable(image: SourceImage, options: StreamOptions, folder: Path, *, resume: bool) -> list[dict[str, Any]]:
    signal, device = signal_of(image), device_named(options.device)
    chosen, protocol, widths = require_possible(options, image_subject(image, options))
    chosen = preset_of(options, "image")
    generator = torch.Generator().manual_seed(options.seed)
    network = chosen.network(2, signal.channels, width=widths[-1], depth=protocol.depth, generator=generator)
    network.to(device)
    count = points_per_step(options.batch_size, signal.samples)

    def backward(draws: torch.Generator) -> Tensor:
        everything = count == signal.samples
        flat = torch.arange(count) if everything else torch.randint(signal.samples, (count,), generator=draws)
        total = torch.zeros((), device=device)
        for start in range(0, count, _ROWS_AT_ONCE):
            rows = flat[start : start + _ROWS_AT_ONCE]
            coords, target = sample_centers(rows, signal.shape).to(device), signal.targets(rows).to(device)
            for width in widths:
                error = (slim_output(network, coords, width) - target).square().sum()
                loss = error / (count * signal.channels * len(widths))
                loss.backward()
                total += loss.detach()
        return total

    minutes = options.minutes
    schedule = Schedule(len(widths) * protocol.steps, chosen.learning_rate, minutes=minutes)
    settings = {"steps": schedule.steps, "widths": list(widths), "input": image.description, "seed": options.seed}
    with training_progress("slimmable", lambda loss: f"{loss:.3g}") as bar:
        training = train(
            network,
            backward,
            schedule,
            generator=generator,
            checkpoint=folder / "checkpoint.safetensors",
            resume=resume,
            settings=settings,
            report=bar,
        )
    rows = []
    for width in widths:
        narrow = sum(
            p.numel() for p in chosen.network(2, signal.channels, width=width, depth=protocol.depth).parameters()
        )
        rows.append(
            {
                "width": width,
                "bytes": 2 * narrow,
                "psnr": _psnr(network, image, width),
                "precision": "float16",
                "steps": training.step,
                "seconds": training.seconds,
                "bits_per_pixel": 16.0 * narrow / (image.height * image.width),
            }
        )
    return rows


def _psnr(network: CoordinateNetwork, image: SourceImage, width: int) -> float:
    """PSNR in dB of clipped outputs, as :func:`finer_nerfstudio.tasks.image.fit.measure` has it."""
    signal, error, start = signal_of(image), 0.0, 0
    with torch.no_grad():
        for part in decode(lambda coords: slim_output(network, coords, width), signal.shape, device=network.device):
            truth = signal.targets(slice(start, start + len(part)))
            error += float((part.clamp(-1, 1) - truth).double().square().sum()) / 4.0
            start += len(part)
    return decibels(error / (signal.samples * signal.channels))
