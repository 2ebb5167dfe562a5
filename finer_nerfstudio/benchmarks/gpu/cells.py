"""All cells in order of value: kernels, radiance fields, images, shapes, then Nerfstudio's own programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, cast

from finer_nerfstudio.benchmarks.gpu import fields, images, kernels, shapes
from finer_nerfstudio.benchmarks.gpu.bundle import Bundle
from finer_nerfstudio.benchmarks.gpu.cell import Place, QueueCell
from finer_nerfstudio.benchmarks.gpu.numerics import Numerics, computed
from finer_nerfstudio.inr.methods import PROTOCOLS
from finer_nerfstudio.runs.options import FitOptions
from finer_nerfstudio.tasks.image.fit import ImageOptions
from finer_nerfstudio.tasks.sdf.effort import Effort
from finer_nerfstudio.tasks.sdf.fit import ShapeOptions

KERNEL_METHODS = ("finer-sine", "finer-wavelet", "finer-gauss", "siren", "wire", "gauss", "pemlp")
FIELD_METHODS = ("finer-sine", "siren", "finer-wavelet", "wire", "finer-gauss", "gauss", "pemlp")
IMAGE_METHODS = FIELD_METHODS
SHAPE_METHODS = ("finer-sine", "finer-gauss", "finer-wavelet", "siren", "gauss", "wire", "pemlp")

IMAGE_VARIANTS = (
    ("siren, ω0 = 80", "siren-omega80", {"method": "siren", "omega_0": 80.0}),
    ("wire, learning rate 5e-4", "wire-lr5e-4", {"method": "wire", "learning_rate": 5e-4}),
)
"""Rows with other hyper-parameters than the published, their names in files, and what is other; a probe on another
image chose them."""

# Ways to compute that are measured beside the default: what they win, and what they cost in quality.
_OTHER_KERNELS = (Numerics("tf32"), Numerics("tf32", "networks"), Numerics("bfloat16", "networks"))
_OTHER_PRECISIONS = (Numerics("tf32"), Numerics("tf32,bfloat16"))
_FINER_METHODS = ("finer-sine", "finer-wavelet", "finer-gauss")

# What the queue is made for, where there is no bundle to say it.
_SCENE, _SHAPE = "lego", "armadillo"
_IMAGES = [f"div2k_{number:02}" for number in range(8)]

# Their layers are complex: about twice the work.
_COMPLEX = ("wire", "finer-wavelet")


@dataclass(frozen=True)
class Lengths:
    """Sizes of everything that is measured.

    Attributes:
        points: coordinates per step of the kernels' cells.
        repeats: of their rounds.
        ceilings: of the card.
        field: options of radiance fields, beside the method, the seed and the device.
        image: options of images.
        shape: options of shapes.
        effort: of measuring shapes.
    """

    points: tuple[int, ...]
    repeats: int
    ceilings: kernels.CeilingSizes
    field: dict[str, int]
    image: ImageOptions
    shape: ShapeOptions
    effort: Effort


_PAPER = Lengths(
    points=(65_536, 262_144),
    repeats=7,
    ceilings=kernels.CeilingSizes(),
    field={
        "steps": PROTOCOLS["nerf"].steps,
        "rays": PROTOCOLS["nerf"].batch_size or 0,
        "width": PROTOCOLS["nerf"].width,
    },
    image=ImageOptions(),
    shape=ShapeOptions(),
    effort=Effort(resolution=512),
)
# A processor takes a second or so for each cell.
_TOY = Lengths(
    points=(64, 128),
    repeats=1,
    ceilings=kernels.CeilingSizes(1 << 16, 64, 2),
    field={
        "steps": 20,
        "rays": 64,
        "width": 16,
        "samples_per_ray": 64,
        "most_samples": 4096,
        "grid_resolution": 16,
        "fog_steps": 16,
    },
    image=ImageOptions(steps=4, width=16),
    shape=ShapeOptions(steps=60, width=16, batch_size=500, learning_rate=2e-3),
    effort=Effort(resolution=24, iou_resolution=24, samples=500),
)


@dataclass(frozen=True)
class Trainers:
    """Programs of Nerfstudio's.

    Attributes:
        nerfacto: trains it.
        splats: trains a field, bakes it into splats and refines them.
        missing: says what is not installed of what "nerfacto" or "splats" need, None where all is.
    """

    nerfacto: fields.Trainer
    splats: fields.Trainer
    missing: Callable[[Literal["nerfacto", "splats"]], str | None]


def all_cells(bundle: Bundle | None, *, quick: bool = False, trainers: Trainers | None = None) -> list[QueueCell]:
    """Return all cells, the most valuable first.

    Args:
        bundle: with what they read. Without one, those that need it say so.
        quick: take toys.
        trainers: of the last two cells.
    """
    lengths = _TOY if quick else _PAPER
    speed, scenes = _kernels(lengths, quick), _fields(bundle, lengths, quick)
    # The paper's run, and what faster products make of it, come before the finer points of speed.
    some_speed, one_scene = 1 + 2 * len(KERNEL_METHODS), 1 + len(_OTHER_PRECISIONS)
    made = [
        *speed[:some_speed],
        *scenes[:one_scene],
        *speed[some_speed:],
        *scenes[one_scene:],
        *_images(bundle, lengths, quick),
        *_shapes(bundle, lengths, quick),
        *_programs(bundle, quick, trainers),
    ]
    return [replace(cell, name=f"quick-{cell.name}", quick=True) for cell in made] if quick else made


def _seconds(method: str, real: float, toy: float, quick: bool) -> float:
    return toy if quick else real * (2.0 if method in _COMPLEX else 1.0)


def _missing_bundle(bundle: Bundle | None) -> Callable[[Place], str | None]:
    sentence = "no bundle was given, which holds what it reads." if bundle is None else None
    return lambda _: sentence


def _kernels(lengths: Lengths, quick: bool) -> list[QueueCell]:
    ceiling = QueueCell(
        kernels.CEILINGS,
        "ceilings",
        "ceilings",
        "",
        asdict(lengths.ceilings),
        _seconds("", 5.0, 0.5, quick),
        lambda place: dict(kernels.ceilings(lengths.ceilings, place.device)),
    )
    cells = []
    for points in lengths.points:
        for case in cast("tuple[Literal['image', 'nerf'], ...]", ("image", "nerf")):
            for method in KERNEL_METHODS:
                settings = {"case": case, "method": method, "points": points, "repeats": lengths.repeats}
                cells.append(
                    QueueCell(
                        f"kernels-{case}-{method}-{points}",
                        "kernels",
                        f"{case}, {method}",
                        f"{points:,}",
                        settings,
                        _seconds(method, 6.0, 1.0, quick),
                        partial(kernels.measure_case, case, method, points, lengths.repeats, lengths.ceilings, 0),
                    )
                )
    few = f"{lengths.points[0]:,}"
    others = [cell for cell in cells if cell.item == few and cell.settings["method"] in _FINER_METHODS]
    at_few = 2 * len(KERNEL_METHODS)
    return [
        *map(computed, [ceiling, *cells[:at_few]]),
        *(computed(cell, numerics) for numerics in _OTHER_KERNELS for cell in others),
        *map(computed, cells[at_few:]),
    ]


def _fields(bundle: Bundle | None, lengths: Lengths, quick: bool) -> list[QueueCell]:
    scene = _SCENE if bundle is None else bundle.scene
    cells = []
    for method in FIELD_METHODS:
        options = {"method": method, "seed": 0, **lengths.field}
        name = f"{scene}-{method}"

        def work(place: Place, name: str = name, options: dict[str, Any] = options) -> dict[str, Any]:
            assert bundle is not None
            return fields.fit_and_measure(name, bundle.views["train"], bundle.views["test"], options, place)

        settings = {**options, "scene": scene, "views": None if bundle is None else bundle.descriptions["views"]}
        cells.append(
            QueueCell(
                name,
                "fields",
                method,
                scene,
                settings,
                _seconds(method, 180.0, 3.0, quick),
                work,
                _missing_bundle(bundle),
            )
        )
    first, *rest = cells
    # The paper's run comes first, and right after it what faster products would make of it.
    return [computed(first), *(computed(first, numerics) for numerics in _OTHER_PRECISIONS), *map(computed, rest)]


def _images(bundle: Bundle | None, lengths: Lengths, quick: bool) -> list[QueueCell]:
    rows = [(method, method, replace(lengths.image, method=method)) for method in IMAGE_METHODS]
    rows += [(row, short, replace(lengths.image, **changed)) for row, short, changed in IMAGE_VARIANTS]
    cells = []
    for image in _IMAGES if bundle is None else bundle.image_names:
        for row, short, options in rows:

            def work(place: Place, image: str = image, options: ImageOptions = options) -> dict[str, Any]:
                assert bundle is not None
                return images.fit_and_measure(f"{image}-{options.method}", bundle.images[image], options, place)

            content = None if bundle is None else bundle.descriptions["images"][image]
            cells.append(
                QueueCell(
                    f"{image}-{short}",
                    "images",
                    row,
                    image,
                    {"image": content, **_deciding(options)},
                    _seconds(options.method, 50.0, 1.0, quick),
                    work,
                    _missing_bundle(bundle),
                )
            )
    of_first = cells[: len(rows)]
    tried = [computed(cell, numerics) for cell in of_first[: len(IMAGE_METHODS)] for numerics in _OTHER_PRECISIONS]
    return [*map(computed, of_first), *tried, *map(computed, cells[len(rows) :])]


def _shapes(bundle: Bundle | None, lengths: Lengths, quick: bool) -> list[QueueCell]:
    shape = _SHAPE if bundle is None else bundle.shape_name
    evaluation = 1.0 if quick else 20.0
    cells = []
    for method in SHAPE_METHODS:
        options = replace(lengths.shape, method=method)
        steps = PROTOCOLS["sdf"].steps if options.steps is None else options.steps

        def work(place: Place, options: ShapeOptions = options) -> dict[str, Any]:
            assert bundle is not None
            return shapes.fit_and_measure(f"{shape}-{options.method}", bundle.shape, options, lengths.effort, place)

        settings = {"shape": None if bundle is None else bundle.descriptions["shape"], "effort": asdict(lengths.effort)}
        cells.append(
            QueueCell(
                f"{shape}-{method}",
                "shapes",
                method,
                shape,
                {**settings, **_deciding(options)},
                _seconds(method, 300.0, 2.0, quick),
                work,
                _missing_bundle(bundle),
                partial(shapes.remaining, steps=steps, evaluation=evaluation),
            )
        )
    return [computed(cell) for cell in cells]


def _deciding(options: FitOptions) -> dict[str, Any]:
    """The options that decide a result."""
    return {name: value for name, value in asdict(options).items() if name not in ("device", "minutes")}


def _programs(bundle: Bundle | None, quick: bool, trainers: Trainers | None) -> list[QueueCell]:
    scene = _SCENE if bundle is None else bundle.scene
    ours = [f"{'quick-' if quick else ''}{scene}-{method}" for method in FIELD_METHODS]
    # A field bakes only where it has opaque matter.
    least = 30.0 if quick else 0.0
    cells = []
    for program in cast("tuple[Literal['nerfacto', 'splats'], ...]", ("nerfacto", "splats")):

        def missing(place: Place, program: Literal["nerfacto", "splats"] = program) -> str | None:
            if trainers is None or bundle is None:
                return _missing_bundle(None)(place)
            waits = None if fields.best_seconds(place, ours) else "it waits for a radiance field to set its time."
            return trainers.missing(program) or waits

        def work(place: Place, program: str = program) -> dict[str, Any]:
            assert trainers is not None
            assert bundle is not None
            trainer: fields.Trainer = getattr(trainers, program)
            return fields.train_elsewhere(trainer, bundle.views["train"], bundle.views["test"], ours, least, place)

        cells.append(
            QueueCell(
                f"{scene}-{program}",
                cast("Literal['nerfacto', 'splats']", program),
                program,
                scene,
                {"program": program, "views": None if bundle is None else bundle.descriptions["views"]},
                120.0 if quick else 300.0,
                work,
                missing,
            )
        )
    return cells
