"""Send images, shapes and radiance fields stage by stage: any prefix of the file is a picture, later bytes sharpen it.

    finer stream encode photo.jpg --steps 2000
    finer stream decode outputs/stream/photo/photo.finer --max-bytes 20000
    finer stream serve outputs/stream/photo/photo.finer
    finer stream compare photo.jpg --size 256 --steps 500
    finer stream pack outputs/lego/finer-sine-stream/2026-01-31_120000

A network is trained narrow and then widened several times; a stage of the file holds what a widening adds. Any HTTP
server can serve the file, and any client can stop reading at any byte.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from finer_nerfstudio.errors import InputError, UsageError, in_one_line
from finer_nerfstudio.nerf.run_folder import run_config
from finer_nerfstudio.runs.command_line import printable
from finer_nerfstudio.runs.processor import prepare_processor
from finer_nerfstudio.runs.results import METRICS_FILE
from finer_nerfstudio.streams.header import Precision, StreamHeader
from finer_nerfstudio.streams.reader import Stream, StreamReader
from finer_nerfstudio.tasks.streaming.encode import StreamOptions

_SHAPES = (".obj", ".ply", ".stl", ".off", ".glb", ".gltf", ".3mf", ".dae", ".xyz", ".asc", ".csv", ".pts", ".txt")


@dataclass(frozen=True)
class Encode(StreamOptions):
    """Train an image or a mesh into a stream."""

    source: tyro.conf.Positional[Path | None] = None
    """An image that Pillow reads, or a mesh or point cloud that trimesh reads; a generated sample image unless given.
    """
    size: int | None = None
    """Average the image down first, so that its longer side has this many pixels."""
    output_dir: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for the results; outputs/stream/<name of the source> unless given."""
    resume: bool = False
    """Go on with the run in the output folder; with more --widths, widen a finished stream further."""
    overwrite: bool = False
    """Replace the run in the output folder; its old metrics.json gets the ending .previous."""
    width: Annotated[int | None, tyro.conf.Suppress] = None


@dataclass(frozen=True)
class Compare(Encode):
    """Compare a stream with growth without shells, the base method, single networks and a slimmable one, and against
    JPEG and WebP."""


@dataclass(frozen=True)
class Pack:
    """Put a radiance field that ns-train has trained, finer-sine-stream or finer-wavelet-stream, into a stream."""

    source: tyro.conf.Positional[Path]
    """Folder of the run, or its config.yml; the scene's pictures have to be where they were in training."""
    precision: Precision | Literal["auto"] = "auto"
    """How weights are stored; auto takes the coarsest for each stage that costs less than --allowed-loss."""
    allowed_loss: float = 0.1
    """Largest loss in dB that rounding a stage may cost, on rays of training views."""
    views: int = 8
    """Test views to measure each stage on, evenly spread; 0 for all."""
    seed: int = 0
    """Of the rays by which the precision is chosen."""
    output_dir: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for the stream, a picture of each stage, metrics.json and report.html; outputs/stream/<scene> unless
    given."""
    overwrite: bool = False
    """Replace what is in the output folder; its old metrics.json gets the ending .previous."""


@dataclass(frozen=True)
class Decode:
    """Decode a file, or whatever has arrived of it, into pictures or surfaces."""

    source: tyro.conf.Positional[str]
    """File, or http(s) address of one."""
    stage: int | None = None
    """Stop after this stage, counted from 0; all that there are unless given."""
    max_bytes: int | None = None
    """Read no more than this many bytes; a web server is asked for no more."""
    size: int | None = None
    """Longer side of the pictures in pixels; that of the original unless given."""
    resolution: int = 128
    """Samples along each axis from which surfaces are extracted."""
    max_pixels: int = 1 << 25
    """Refuse pictures of more pixels than this, whatever the file claims."""
    frames: int | None = None
    """Of a radiance field, also write orbit.webp of the last stage: so many pictures once around the scene."""
    output_dir: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for stage-0.png, stage-1.png, ... (.ply for shapes; one test view for radiance fields), written as the
    stages arrive; outputs/decoded/<name> unless given."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, ..."""


@dataclass(frozen=True)
class Inspect:
    """Say what a file holds, without decoding a picture."""

    source: tyro.conf.Positional[str]
    """File, or http(s) address of one."""
    json: bool = False
    """Print JSON instead of tables."""


@dataclass(frozen=True)
class Serve:
    """Serve a stream with a page on which the picture sharpens as it arrives, decoded in the browser."""

    source: tyro.conf.Positional[Path]
    """A file that encode wrote."""
    truth: Path | None = None
    """The image that was encoded, or a larger one of it, to be shown beside the picture; original.png in the stream's
    folder, which encode leaves there, unless given. Visitors get it in at most 1,024 pixels."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all of this machine's."""
    port: int = 8000
    """Port to listen on, 0 for any free one."""
    kilobytes: float | None = None
    """Send no more kilobytes per second than this to each visitor, to see what slow links are like."""


def encode(command: Encode) -> None:
    from finer_nerfstudio.tasks.image.files import SourceImage
    from finer_nerfstudio.tasks.streaming.run import run_encode

    name, folder, options, signal = _prepared(command, "outputs/stream")
    metrics = run_encode(signal, options, folder, name, resume=command.resume, overwrite=command.overwrite)
    for note in signal.notes:
        print(f"note: {note}")
    _print_stages(metrics["stages"])
    _print_files(folder, f"{name}.finer", "serve" if isinstance(signal, SourceImage) else "decode")


def compare(command: Compare) -> None:
    from finer_nerfstudio.tasks.image.files import SourceImage
    from finer_nerfstudio.tasks.streaming.compare import run_comparison
    from finer_nerfstudio.tasks.streaming.report import comparison_table

    _, folder, options, signal = _prepared(command, "outputs/stream-comparison")
    if not isinstance(signal, SourceImage):
        raise UsageError("compare is for images.")
    metrics = run_comparison(signal, options, folder, resume=command.resume, overwrite=command.overwrite)
    for note in signal.notes:
        print(f"note: {note}")
    _print_table(comparison_table(metrics["ways"]))
    for file in ("report.html", "metrics.json"):
        print(folder / file)


def _prepared(command: Encode, folders: str) -> tuple[str, Path, StreamOptions, Any]:
    """Name, folder, options and signal of a command that trains."""
    from finer_nerfstudio.runs.training import require_not_written
    from finer_nerfstudio.tasks.image.files import read_image, sample_image

    name = "sample" if command.source is None else command.source.stem
    folder = command.output_dir or Path(folders) / name
    options = StreamOptions(**{item.name: getattr(command, item.name) for item in fields(StreamOptions)})
    require_not_written(command.source, folder)
    prepare_processor()
    if command.source is not None and command.source.suffix.lower() in _SHAPES:
        from finer_nerfstudio.tasks.sdf.shape import read_shape

        if command.size is not None:
            raise UsageError("--size is for images.")
        return name, folder, options, read_shape(command.source)
    if command.source is not None:
        image = read_image(command.source, size=command.size, scratch=folder / "scratch")
        return name, folder, options, image
    if command.size is not None and command.size < 1:
        raise UsageError(f"--size must be at least 1, not {command.size}.")
    print("note: no file is named, so that a generated picture is encoded.", flush=True)
    return name, folder, options, sample_image(256 if command.size is None else command.size)


def pack(command: Pack) -> None:
    config = run_config(command.source)
    # Nerfstudio's folders: <scene>/<method>/<time>/config.yml.
    name = config.resolve().parents[2].name or "scene"
    folder = command.output_dir or Path("outputs/stream") / name
    if (folder / METRICS_FILE).exists() and not command.overwrite:
        raise UsageError(f"{folder} holds a stream already: replace it by --overwrite, or choose another --output-dir.")
    print(f"opening {config}", flush=True)
    from finer_nerfstudio.nerf.streaming.files import write_packed
    from finer_nerfstudio.nerf.streaming.scene import pack_run
    from finer_nerfstudio.runs.folder import output_folder
    from finer_nerfstudio.runs.progress import stages

    prepare_processor()
    with output_folder(folder, resume=False, overwrite=command.overwrite), stages() as stage:
        packed = pack_run(
            config,
            precision=command.precision,
            allowed_loss=command.allowed_loss,
            views=command.views,
            seed=command.seed,
            report=stage,
        )
        metrics = write_packed(folder, name, packed, seed=command.seed, report=stage)
    _print_stages(metrics["stages"])
    _print_files(folder, f"{name}.finer", "decode")


def decode(command: Decode) -> None:
    from finer_nerfstudio.runs.options import device_named
    from finer_nerfstudio.tasks.sdf.run import require_resolution
    from finer_nerfstudio.tasks.streaming.decode import portions_of

    for name, least in (("stage", 0), ("size", 1), ("frames", 2)):
        value = getattr(command, name)
        if value is not None and value < least:
            raise UsageError(f"--{name} must be at least {least}, not {value}.")
    require_resolution(command.resolution)
    prepare_processor()
    wanted = None if command.stage is None else command.stage + 1
    reader = StreamReader(device_named(command.device), most_stages=wanted)
    folder = command.output_dir or Path("outputs/decoded") / Path(command.source.rstrip("/")).stem
    for portion in portions_of(command.source, max_bytes=command.max_bytes):
        for index in _fed(reader, portion, command.source):
            assert reader.header is not None
            if wanted is not None and wanted > len(reader.header.stages):
                last = len(reader.header.stages) - 1
                raise UsageError(f"--stage {command.stage}: the stream has stages 0 to {last}.")
            stream = Stream(reader.header, reader.networks, index + 1, reader.header_bytes, None)
            target = _write_stage(command, stream, folder)
            print(f"{target}: of the first {_bytes_of(reader.header, reader.header_bytes, index):,} bytes", flush=True)
        if reader.is_done:
            break
    if reader.header is None:
        raise InputError(f"{command.source} ends within its header: nothing can be decoded before more of it arrives.")
    if command.frames is not None and reader.stages:
        from finer_nerfstudio.nerf.streaming.files import write_orbit

        stream = Stream(reader.header, reader.networks, reader.stages, reader.header_bytes, reader.damage)
        write_orbit(folder / "orbit.webp", stream, command.frames, size=command.size, max_pixels=command.max_pixels)
        print(folder / "orbit.webp")
    _require_stages(command, reader, reader.header)
    print(f"next: look at {folder}, which holds what each stage shows")
    missing = reader.wanted_stages - reader.stages
    if missing and command.max_bytes is None:
        total = _bytes_of(reader.header, reader.header_bytes, reader.wanted_stages - 1)
        print(
            f"note: {missing} of {reader.wanted_stages} stages are missing: it takes {total:,} bytes to have them all."
        )


def _write_stage(command: Decode, stream: Stream, folder: Path) -> Path:
    """Write what a stream shows that ends with its newest stage."""
    from finer_nerfstudio.files.meshes.mesh import Mesh
    from finer_nerfstudio.files.meshes.writing import write_ply
    from finer_nerfstudio.files.png import write_image
    from finer_nerfstudio.tasks.streaming.subjects import image_size, picture_of, surface_in_units

    header, name = stream.header, f"stage-{stream.stages - 1}"
    if header.task == "sdf":
        target = folder / f"{name}.ply"
        write_ply(target, Mesh(*surface_in_units(stream, command.resolution)))
        return target
    target = folder / f"{name}.png"
    if header.task == "nerf":
        from finer_nerfstudio.nerf.streaming.files import write_view

        write_view(target, stream, size=command.size, max_pixels=command.max_pixels)
        return target
    height, width, _ = image_size(header)
    resolution = None
    if command.size is not None:
        scale = command.size / max(height, width)
        resolution = max(1, round(scale * height)), max(1, round(scale * width))
    write_image(target, picture_of(stream, resolution=resolution, largest=command.max_pixels))
    return target


def _require_stages(command: Decode, reader: StreamReader, header: StreamHeader) -> None:
    """Refuse to be content with a damaged stream, or one without any stage."""
    if reader.damage is not None:
        kept = f"the {reader.stages} stages before it are decoded" if reader.stages else "nothing can be decoded"
        raise InputError(f"{command.source}: {reader.damage}; {kept}. Fetch the file again, or encode it anew.")
    if not reader.stages:
        needed = _bytes_of(header, reader.header_bytes, 0)
        raise InputError(
            f"{command.source} ends within its first stage, which takes {needed:,} bytes: fetch more of it."
        )


def _fed(reader: StreamReader, portion: bytes, source: str) -> list[int]:
    """The stages that a portion completes; an error says of which file it speaks."""
    try:
        return reader.feed(portion)
    except InputError as error:
        raise InputError(f"{source}: {error.message} Name a file that encode or pack wrote.") from error


def _in_words(values: dict[str, Any]) -> str:
    """The entries of a header, those within others too, without what is not set."""
    entries = []
    for name, value in values.items():
        if isinstance(value, dict):
            entries.append(f"{printable(name)} ({_in_words(value)})")
        elif value is not None:
            entries.append(f"{printable(name)} {printable(str(value))}")
    return ", ".join(entries)


def _bytes_of(header: StreamHeader, header_bytes: int, stage: int) -> int:
    """Where in the file a stage is complete."""
    return header_bytes + sum(row.bytes for row in header.stages[: stage + 1])


def inspect(command: Inspect) -> None:
    import json
    from dataclasses import asdict

    from finer_nerfstudio.tasks.streaming.decode import portions_of

    reader, read = StreamReader(), 0
    for portion in portions_of(command.source):
        read += len(portion)
        _fed(reader, portion, command.source)
        if reader.is_done:
            break
    if reader.header is None:
        raise InputError(f"{command.source} ends within its header: fetch more of it.")
    header = reader.header
    total = _bytes_of(header, reader.header_bytes, len(header.stages))
    read = min(read, total)
    content = {
        **asdict(header),
        "header_bytes": reader.header_bytes,
        "bytes": read,
        "bytes_when_complete": total,
        "complete_stages": reader.stages,
        "damage": reader.damage,
    }
    if command.json:
        print(json.dumps(content, indent=2))
        return
    arrived = f"{reader.stages} of {len(header.stages)} stages"
    print(f"{printable(header.task)} by {printable(header.encoder)}: {read:,} of {total:,} bytes, {arrived}")
    print(f"signal: {_in_words(header.signal)}")
    for network in header.networks:
        layers = f"{network.in_dim} -> {network.depth} hidden layers -> {network.out_dim}"
        print(f"network {printable(network.name)}: {layers}, {_in_words(network.activation)}")
    so_far, rows = reader.header_bytes, []
    for stage in header.stages:
        so_far += stage.bytes
        widths = " ".join(map(str, stage.widths))
        rows.append({"width": widths, "bytes": so_far, "precision": stage.precision, **stage.quality})
    _print_stages(rows)
    if reader.damage is not None:
        raise InputError(f"{command.source}: {reader.damage}. Fetch the file again, or encode it anew.")
    print(f"next: finer stream decode {shlex.quote(command.source)}")


def serve(command: Serve) -> None:
    from finer_nerfstudio.streams.reader import read_stream
    from finer_nerfstudio.tasks.streaming.serve import ORIGINAL_NAME, original_of, serving

    try:
        header = read_stream(command.source.read_bytes()).header
    except OSError as error:
        raise InputError(
            f"{command.source} cannot be read ({in_one_line(error)}): name a .finer file that encode wrote."
        ) from error
    except InputError as error:
        raise InputError(f"{command.source}: {error.message} Name a file that encode wrote.") from error
    if header.task != "image":
        raise InputError(f"{command.source} is no image: the page shows images; use decode.")
    original, beside = None, command.source.with_name(ORIGINAL_NAME)
    if command.truth is not None:
        original = original_of(header, command.truth)
    elif beside.exists():
        try:
            original = original_of(header, beside)
        except InputError as error:
            print(f"note: there is no original beside the picture: {error.on_command_line()}")
    speed = command.kilobytes
    with serving(command.source, host=command.host, port=command.port, kilobytes=speed, original=original) as server:
        host, port = server.server_address[:2]
        shown = command.source if original is None else f"{command.source} beside {command.truth or beside}"
        print(f"http://{host}:{port}/ shows {shown}; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _print_files(folder: Path, stream: str, verb: str) -> None:
    for file in (stream, "report.html", "metrics.json"):
        print(folder / file)
    print(f"next: finer stream {verb} {shlex.quote(str(folder / stream))}")


def _print_stages(rows: list[dict[str, Any]]) -> None:
    from finer_nerfstudio.runs.report import Table
    from finer_nerfstudio.runs.stage_report import stage_table

    columns = ("width", "bytes", "bits_per_pixel", "psnr", "ssim", "iou", "precision")
    cells = stage_table([{name: row.get(name) for name in columns} for row in rows])
    _print_table(Table(["stage", *cells.header], [[str(i), *row] for i, row in enumerate(cells.rows)]))


def _print_table(content: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*content.header)
    for row in content.rows:
        table.add_row(*row)
    Console(highlight=False, soft_wrap=True).print(table)


OPTIONS = (
    Annotated[Encode, tyro.conf.subcommand("encode", prefix_name=False)]
    | Annotated[Compare, tyro.conf.subcommand("compare", prefix_name=False)]
    | Annotated[Pack, tyro.conf.subcommand("pack", prefix_name=False)]
    | Annotated[Decode, tyro.conf.subcommand("decode", prefix_name=False)]
    | Annotated[Inspect, tyro.conf.subcommand("inspect", prefix_name=False)]
    | Annotated[Serve, tyro.conf.subcommand("serve", prefix_name=False)]
)
_VERBS: dict[type, Callable[[Any], None]] = {
    Encode: encode,
    Compare: compare,
    Pack: pack,
    Decode: decode,
    Inspect: inspect,
    Serve: serve,
}


def run(command: Encode | Compare | Pack | Decode | Inspect | Serve) -> None:
    _VERBS[type(command)](command)
