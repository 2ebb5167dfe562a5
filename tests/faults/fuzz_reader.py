"""Give one reader many damaged files, and print as JSON what came of it.

    python tests/faults/fuzz_reader.py streams 10000 --seed 0 --folder /tmp/x

The file that is being read is in the folder, so that a crash leaves it there; what was answered with anything but a
sentence is kept there too.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import io
import json
import random
import resource
import struct
import sys
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import torch
from mutations import altered, damaged

from finer_nerfstudio import GrowingNetwork, bias_shells, preset
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files.checkpoint import load_model, save_model

# Longer than this, a user takes a reader for hung; the process ends itself after twice as long.
SECONDS_FOR_A_FILE = 20.0

Samples = dict[str, bytes]
Read = Callable[[Path], Any]


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Attributes:
        samples: whole files by their names.
        read: read one; gives what is compared with what the whole file gave, or None.
        rewritten: a file that is well-formed on the outside and absurd within, from the name of a sample.
        whole_or_nothing: whether whatever is read of a damaged file must be what was in the whole one.
    """

    samples: Samples
    read: Read
    rewritten: Callable[[str, random.Random], bytes] | None = None
    whole_or_nothing: Callable[[str, Any], bool] | None = None


# Streams ------------------------------------------------------------------------------------------------------------


def _streams(folder: Path) -> Reader:
    from finer_nerfstudio.streams.header import Precision, StreamedStage, StreamHeader, describe_network
    from finer_nerfstudio.streams.payload import pack_stage
    from finer_nerfstudio.streams.reader import StreamReader, read_stream
    from finer_nerfstudio.streams.writer import write_stream
    from finer_nerfstudio.tasks.streaming.subjects import picture_of

    del folder
    samples: Samples = {}
    kinds: list[tuple[str, Precision]] = [("finer-sine", "int8"), ("finer-wavelet", "float16"), ("pemlp", "bfloat16")]
    for method, precision in kinds:
        row, generator = preset(method, "image"), torch.Generator().manual_seed(0)
        octaves = row.encoding_frequencies
        network = GrowingNetwork(2, 3, depth=3, activation=row.activation, encoding_frequencies=octaves)
        payloads, rows = [], []
        for width, shell in zip((5, 9, 14), bias_shells(row.bias_range, 3), strict=True):
            stage = network.grow(width, bias_shell=shell, generator=generator)
            payloads.append(pack_stage([stage], precision))
            rows.append(StreamedStage([width], 0, precision, {"psnr": 20.0}, None if shell is None else list(shell)))
        signal = {"height": 7, "width": 11, "maximum": 255}
        header = StreamHeader([describe_network("image", network)], "image", signal, rows)
        samples[f"{precision}.finer"] = write_stream(header, payloads)[0]

    def weights(content: bytes) -> tuple[str, list[list[bytes]]]:
        stream = read_stream(content)
        stages: list[list[bytes]] = []
        for network in stream.networks:
            for i in range(stream.stages):
                found = network.stages[i].parameters()
                stages.append([parameter.detach().numpy().tobytes() for parameter in found])
        return repr(stream.header), stages

    def read(path: Path) -> Any:
        content = path.read_bytes()
        if path.name.startswith("rewritten"):
            stream = read_stream(content)
            return picture_of(stream, largest=1 << 16) if stream.header.task == "image" else None
        reader = StreamReader()  # in portions, as from a server
        for start in range(0, len(content), 1000):
            reader.feed(content[start : start + 1000])
        return weights(content)

    whole = {name: weights(content) for name, content in samples.items()}

    def is_prefix(name: str, found: Any) -> bool:
        header, stages = found
        return header == whole[name][0] and stages == whole[name][1][: len(stages)]

    def rewritten(name: str, rng: random.Random) -> bytes:
        """Another header or other payloads with digests that fit."""
        file = io.BytesIO(samples[name])
        first, *stages = (cbor2.CBORDecoder(file).decode() for _ in range(4))
        content = cbor2.loads(first[2])
        payloads = [stage[1] for stage in stages]
        if rng.random() < 0.75:
            content = altered(content, rng)
        else:
            index = rng.randrange(len(payloads))
            payloads[index] = damaged(payloads[index], rng)
        try:
            encoded = cbor2.dumps(content)
        except Exception:  # a lone surrogate
            encoded = b"\xff"
        digest = hashlib.blake2s(encoded, digest_size=16).digest()
        items = [cbor2.dumps([first[0], first[1], encoded, digest])]
        for i, payload in enumerate(payloads):
            checked = hashlib.blake2s(digest + i.to_bytes(4, "little") + payload, digest_size=16).digest()
            items.append(cbor2.dumps([i, payload, checked]))
        return b"".join(items)

    return Reader(samples, read, rewritten, is_prefix)


# Models -------------------------------------------------------------------------------------------------------------


def _models(folder: Path) -> Reader:
    samples: Samples = {}
    for method in ("finer-sine", "finer-wavelet", "pemlp"):
        network = preset(method, "image").network(2, 3, width=8, depth=2)
        signal = {"height": 7, "width": 11, "maximum": 255}
        path = folder / f"{method}.safetensors"
        save_model(path, network, task="image", signal=signal, configuration={"method": method})
        samples[path.name] = path.read_bytes()
        path.unlink()

    def rewritten(name: str, rng: random.Random) -> bytes:
        content = samples[name]
        (size,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + size])
        own = json.loads(header["__metadata__"]["finer_nerfstudio"])
        if rng.random() < 0.7:
            header["__metadata__"]["finer_nerfstudio"] = json.dumps(altered(own, rng))
        else:
            header = altered(header, rng)
        encoded = json.dumps(header).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(encoded)) + encoded + content[8 + size :]

    return Reader(samples, load_model, rewritten)


# Splats and grids -----------------------------------------------------------------------------------------------------


def _splats(folder: Path) -> Reader:
    from plyfile import PlyData

    from finer_nerfstudio.nerf.export.splat_file import read_splats, write_splats
    from finer_nerfstudio.nerf.export.splats import Splats

    samples: Samples = {}
    generator = torch.Generator().manual_seed(0)
    for terms in (1, 4):
        shapes = [(6, 3), (6, 3), (6, 4), (6, 3), (6,), (6, terms, 3)]
        path = folder / f"terms-{terms}.ply"
        write_splats(path, Splats(*(torch.randn(shape, generator=generator) for shape in shapes)))
        samples[path.name] = path.read_bytes()
        as_text, file = PlyData.read(io.BytesIO(samples[path.name])), io.BytesIO()
        as_text.text = True
        as_text.write(file)
        samples[f"text-{path.name}"] = file.getvalue()
        path.unlink()
    return Reader(samples, read_splats)


def _grids(folder: Path) -> Reader:
    from finer_nerfstudio.nerf.export.grid import SparseGrid, read_grid, write_grid

    generator = torch.Generator().manual_seed(0)
    grid = SparseGrid(
        torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]),
        8,
        torch.randint(0, 8, (20, 3), generator=generator),
        torch.rand(20, generator=generator),
        torch.nn.functional.normalize(torch.randn(20, 3, generator=generator), dim=1),
        torch.randn(20, 4, 3, generator=generator),
    )
    path = folder / "grid.npz"
    write_grid(path, grid)
    samples = {path.name: path.read_bytes()}
    path.unlink()
    with np.load(io.BytesIO(samples["grid.npz"])) as file:
        arrays = {name: file[name] for name in file.files}

    def rewritten(name: str, rng: random.Random) -> bytes:
        del name
        changed: dict[str, Any] = dict(arrays)
        key = rng.choice(list(changed))
        array = changed[key]
        choices: list[Callable[[], Any]] = [
            lambda: np.array(rng.choice((0, -1, 1 << 40, 3.5, np.nan, 1e300, True, "x", "finer-sparse-grid", b"x"))),
            lambda: np.array(rng.choice((2**63, 10**30, {"a": 1}, None)), dtype=object),
            lambda: array.astype(
                rng.choice(("S4", "U8", "f8", "i8", "u1", "bool", "complex64", "f2")), casting="unsafe"
            ),
            lambda: array[None],
            lambda: array.reshape(-1)[: rng.randrange(array.size + 1)],
            lambda: np.zeros((0, *array.shape[1:]), array.dtype),
            lambda: np.full_like(array, rng.choice((0, 1, 7, 8))) if array.dtype.kind in "iuf" else array,
            lambda: np.negative(array.astype(np.int64)) if array.dtype.kind in "iuf" else array,
            lambda: np.zeros(array.shape, [("a", "f4"), ("b", "O")]),
            lambda: array.astype("M8[s]") if array.dtype.kind in "iu" else array,
        ]
        if rng.random() < 0.08:
            del changed[key]
        else:
            with suppress(TypeError, ValueError, OverflowError):  # conversions that numpy does not know
                changed[key] = rng.choice(choices)()
        file = io.BytesIO()
        np.savez_compressed(file, **changed)
        return file.getvalue()

    return Reader(samples, read_grid, rewritten)


# Meshes -------------------------------------------------------------------------------------------------------------


def _meshes(folder: Path) -> Reader:
    import trimesh

    from finer_nerfstudio.tasks.sdf.shape import read_shape

    del folder
    ball = trimesh.creation.icosphere(subdivisions=1, radius=2.0)
    exported: dict[str, Any] = {
        "ball.ply": ball.export(file_type="ply"),
        "text.ply": ball.export(file_type="ply", encoding="ascii"),
        "ball.stl": ball.export(file_type="stl"),
        "text.stl": ball.export(file_type="stl_ascii"),
        "ball.obj": ball.export(file_type="obj"),
        "ball.off": ball.export(file_type="off"),
        "ball.glb": ball.export(file_type="glb"),
        "ball.gltf": json.dumps(_with_data(ball)),
    }
    samples: Samples = {
        name: content if isinstance(content, bytes) else content.encode() for name, content in exported.items()
    }
    rows = np.hstack([ball.vertices, ball.vertex_normals])
    samples["ball.xyz"] = "\n".join(" ".join(f"{number:.6f}" for number in row) for row in rows).encode()

    def rewritten(name: str, rng: random.Random) -> bytes:
        """GLB and glTF of another scene description; other formats are text, which ``damaged`` knows."""
        content = samples[name]
        if name.endswith(".gltf"):
            return json.dumps(altered(json.loads(content), rng)).encode("utf-8", "surrogatepass")
        if not name.endswith(".glb"):
            return damaged(damaged(content, rng), rng)
        (size,) = struct.unpack("<I", content[12:16])
        described = altered(json.loads(content[20 : 20 + size]), rng)
        encoded = json.dumps(described).encode("utf-8", "surrogatepass")
        encoded += b" " * (-len(encoded) % 4)
        rest = content[20 + size :]
        head = struct.pack("<III", 0x46546C67, 2, 20 + len(encoded) + len(rest))
        return head + struct.pack("<II", len(encoded), 0x4E4F534A) + encoded + rest

    return Reader(samples, read_shape, rewritten)


def _with_nodes(nodes: list[dict[str, Any]], roots: list[int]) -> Callable[[dict[str, Any]], None]:
    def change(described: dict[str, Any]) -> None:
        described["nodes"] = nodes
        described["scenes"][0]["nodes"] = roots

    return change


def _with_data(mesh: Any) -> dict[str, Any]:
    import base64

    files = mesh.export(file_type="gltf")
    described = json.loads(files.pop("model.gltf"))
    for buffer in described["buffers"]:
        data = base64.b64encode(files[buffer["uri"]]).decode()
        buffer["uri"] = f"data:application/octet-stream;base64,{data}"
    return described


# Scenes -------------------------------------------------------------------------------------------------------------


def _scenes(folder: Path) -> Reader:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    from finer_nerfstudio.files.png import write_image
    from finer_nerfstudio.nerf.data.captures import checked_captures
    from finer_nerfstudio.nerf.data.dataparser import BlenderViewsDataParserConfig
    from finer_nerfstudio.tasks.image.files import sample_image

    blender, capture = folder / "blender", folder / "capture"
    poses = []
    for i in range(4):
        angle = np.pi / 2 * i
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        poses.append(np.vstack([np.hstack([turn, turn[:, 2:] * 4]), [0, 0, 0, 1]]).tolist())
        for scene in (blender, capture):
            write_image(scene / f"view-{i}.png", sample_image(16).pixels)
    frames = [{"file_path": f"view-{i}.png", "transform_matrix": pose} for i, pose in enumerate(poses)]
    lens = {"fl_x": 20.0, "fl_y": 20.0, "cx": 8.0, "cy": 8.0, "w": 16, "h": 16, "k1": 0.01, "k2": 0.0, "p1": 0.0}
    lens |= {"camera_model": "OPENCV", "applied_scale": 1.0, "applied_transform": poses[0][:3]}
    described = {
        "transforms_train.json": {"camera_angle_x": 0.7, "frames": frames},
        "transforms.json": {**lens, "frames": [{**frame, **lens} for frame in frames]},
    }
    samples = {name: json.dumps(content).encode() for name, content in described.items()}

    def read(path: Path) -> None:
        name = path.name.removeprefix("rewritten-").removeprefix("damaged-")
        scene = capture if name == "transforms.json" else blender
        (scene / name).write_bytes(path.read_bytes())
        config = BlenderViewsDataParserConfig(data=scene)
        if scene is capture:
            config = checked_captures(NerfstudioDataParserConfig(data=scene))
        parser = config.setup()
        for split in ("train", "val", "test"):
            outputs = parser.get_dataparser_outputs(split)
            rays = outputs.cameras.generate_rays(0)
            if not bool(torch.isfinite(rays.directions).all() and torch.isfinite(rays.origins).all()):
                raise ArithmeticError("rays that are no numbers")

    def rewritten(name: str, rng: random.Random) -> bytes:
        return json.dumps(altered(described[name], rng)).encode("utf-8", "surrogatepass")

    return Reader(samples, read, rewritten)


# Pictures -----------------------------------------------------------------------------------------------------------


def _pictures(folder: Path) -> Reader:
    import tifffile
    from PIL import Image

    from finer_nerfstudio.files.png import write_image
    from finer_nerfstudio.tasks.image.files import read_image, sample_image

    color = sample_image(24).pixels
    deep = color.astype(np.uint16) * 257
    samples: Samples = {}

    def by_pillow(name: str, mode: str, **options: Any) -> None:
        file = io.BytesIO()
        Image.fromarray(color).convert(mode).save(file, Path(name).suffix[1:].replace("jpg", "jpeg"), **options)
        samples[name] = file.getvalue()

    for name, mode in (
        ("color.png", "RGB"), ("alpha.png", "RGBA"), ("palette.png", "P"), ("grey.png", "L"), ("bits.png", "1"),
        ("color.jpg", "RGB"), ("cmyk.jpg", "CMYK"), ("color.webp", "RGB"), ("color.gif", "P"), ("color.bmp", "RGB"),
        ("color.ppm", "RGB"), ("color.tiff", "RGB"), ("color.tga", "RGB"), ("color.ico", "RGB"), ("color.pcx", "RGB"),
    ):  # fmt: skip
        by_pillow(name, mode)
    by_pillow("packed.tiff", "RGB", compression="tiff_lzw")
    by_pillow("progressive.jpg", "RGB", progressive=True)
    deep_kinds: list[tuple[str, Any, dict[str, Any]]] = [
        ("deep.tiff", deep, {"photometric": "rgb"}),
        ("planar.tiff", np.moveaxis(deep, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        ("float.tiff", color[..., 0].astype(np.float32) / 255, {"compression": "zlib"}),
        ("tiles.tiff", deep[..., 0], {"tile": (16, 16), "compression": "zlib"}),
    ]
    for name, values, options in deep_kinds:
        file = io.BytesIO()
        tifffile.imwrite(file, values, **options)
        samples[name] = file.getvalue()
    write_image(folder / "deep.png", deep)
    samples["deep.png"] = (folder / "deep.png").read_bytes()
    samples["deep.pgm"] = b"P5 24 24 65535\n" + deep[..., 0].astype(">u2").tobytes()
    samples["text.ppm"] = b"P3 8 8 65535\n" + b" ".join(b"%d" % number for number in deep[:8, :8].reshape(-1))

    def rewritten(name: str, rng: random.Random) -> bytes:
        """PNG whose chunks have the right sums; other formats have none."""
        content = samples[name]
        if not name.endswith(".png"):
            return damaged(content, rng)
        chunks, at = [], 8
        while at < len(content):
            (size,) = struct.unpack(">I", content[at : at + 4])
            chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
            at += 12 + size
        index = rng.randrange(len(chunks))
        chunks[index] = (chunks[index][0], damaged(chunks[index][1], rng))
        return content[:8] + b"".join(_chunk(kind, data) for kind, data in chunks)

    return Reader(samples, read_image, rewritten)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# Files made to take memory --------------------------------------------------------------------------------------------


def greedy_files(folder: Path) -> Iterator[tuple[Path, Read]]:
    """Small files that claim, or unpack to, much more than a machine has; with who reads them."""
    streams, models, splats, grids = _streams(folder), _models(folder), _splats(folder), _grids(folder)
    meshes, pictures = _meshes(folder), _pictures(folder)

    def made(name: str, content: bytes, reader: Reader) -> tuple[Path, Read]:
        path = folder / name
        path.write_bytes(content)
        return path, reader.read

    head = b"\x89PNG\r\n\x1a\n"
    for name, depth, color, side in (("deep", 16, 6, 30_000), ("grey", 8, 0, 32_000), ("sides", 8, 2, 2**31 - 1)):
        start = head + _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, color, 0, 0, 0))
        yield made(
            f"claims-{name}.png", start + _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b""), pictures
        )
    start = head + _chunk(b"IHDR", struct.pack(">IIBBBBB", 16_000, 16_000, 8, 2, 0, 0, 0))
    bomb = zlib.compressobj(9)
    packed = b"".join([bomb.compress(bytes(48_001)) for _ in range(16_000)]) + bomb.flush()
    yield made("unpacks.png", start + _chunk(b"IDAT", packed) + _chunk(b"IEND", b""), pictures)
    text = zlib.compress(bytes(1 << 29))
    start = head + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    for kind, data in ((b"zTXt", b"x\0\0"), (b"iCCP", b"x\0\0"), (b"iTXt", b"x\0\1\0\0\0")):
        chunks = _chunk(kind, data + text) + _chunk(b"IDAT", zlib.compress(bytes(4))) + _chunk(b"IEND", b"")
        yield made(f"unpacks-{kind.decode()}.png", start + chunks, pictures)

    def tiff(entries: dict[int, tuple[int, int, int]]) -> bytes:
        rows = [struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items())]
        return b"II*\0" + struct.pack("<IH", 8, len(rows)) + b"".join(rows) + bytes(4)

    basic = {256: (4, 1, 60_000), 257: (4, 1, 60_000), 258: (3, 1, 16), 259: (3, 1, 1), 262: (3, 1, 1)}
    basic |= {273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, 60_000), 279: (4, 1, 100)}
    yield made("claims.tiff", tiff(basic), pictures)
    yield made("claims-strips.tiff", tiff(basic | {273: (4, 0x7FFFFFFF, 8), 279: (4, 0x7FFFFFFF, 8)}), pictures)
    yield made("claims-samples.tiff", tiff(basic | {256: (4, 1, 100), 257: (4, 1, 100), 277: (3, 1, 65535)}), pictures)
    small = basic | {256: (4, 1, 64), 257: (4, 1, 64), 278: (4, 1, 64)}
    tiles = {322: (4, 1, 1 << 16), 323: (4, 1, 1 << 16), 324: (4, 1, 8), 325: (4, 1, 100)}
    yield made(
        "claims-tiles.tiff", tiff({k: v for k, v in (small | tiles).items() if k not in (273, 278, 279)}), pictures
    )
    yield made("claims-text.tiff", tiff(small | {270: (2, 0xFFFFFFFF, 8), 700: (1, 0xFFFFFFF0, 8)}), pictures)
    strip = zlib.compress(bytes(1 << 30), 9)
    entries = small | {259: (3, 1, 8), 273: (4, 1, 8 + 2 + 12 * len(small) + 4), 279: (4, 1, len(strip))}
    yield made("unpacks.tiff", tiff(entries) + strip, pictures)
    yield made("claims.ppm", b"P6 30000 30000 255\n" + bytes(100), pictures)
    yield made("claims.pgm", b"P2 30000 30000 65535\n" + b"1 " * 100, pictures)
    yield made(
        "claims.bmp",
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 200, 0, 54, 40, 40_000, 40_000, 1, 24, 0, 0, 1, 1, 0, 0) + bytes(100),
        pictures,
    )
    yield made(
        "claims.gif",
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0xF0, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
        + b"\x02\x02L\x01\0;",
        pictures,
    )

    header = "ply\nformat {} 1.0\nelement vertex {}\n{}end_header\n"
    names = [
        "x",
        "y",
        "z",
        "f_dc_0",
        "f_dc_1",
        "f_dc_2",
        "opacity",
        "scale_0",
        "scale_1",
        "scale_2",
        "rot_0",
        "rot_1",
        "rot_2",
        "rot_3",
    ]
    fields = "".join(f"property float {name}\n" for name in names)
    for order in ("ascii", "binary_little_endian"):
        for count in (1 << 28, 1 << 31, 1 << 62):
            content = header.format(order, count, fields).encode() + b"0 " * 50
            yield made(f"claims-{order}-{count}-splats.ply", content, splats)
            yield made(f"claims-{order}-{count}-mesh.ply", content, meshes)
    lists = "property list uint float x\nproperty float y\nproperty float z\n"
    content = header.format("binary_little_endian", 1 << 31, lists).encode() + b"\xff\xff\xff\x7f" + bytes(100)
    yield made("claims-list-splats.ply", content, splats)
    yield made("claims-list-mesh.ply", content, meshes)
    content = header.format("binary_little_endian", 1 << 31, "").encode()
    yield made("claims-nothing-splats.ply", content, splats)
    yield made("claims-nothing-mesh.ply", content, meshes)
    content = (
        header.format("binary_little_endian", 1, fields)
        .encode()
        .replace(b"end_header", b"".join(b"property float f_rest_%d\n" % i for i in range(50_000)) + b"end_header")
    )
    yield made("claims-properties-splats.ply", content + bytes(400_000), splats)

    yield made("claims.stl", bytes(80) + struct.pack("<I", 0xFFFFFFFF) + bytes(200), meshes)
    yield made("claims.off", b"OFF\n4000000000 4000000000 0\n0 0 0\n", meshes)
    yield made("claims-corners.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n4000000000 0 1 2\n", meshes)
    yield made("claims.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4000000000\nf 1 2 -4000000000\n", meshes)
    for name, changed in (
        ("count", lambda d: d["accessors"][0].update(count=1 << 40)),
        ("length", lambda d: d["bufferViews"][0].update(byteLength=1 << 40)),
        ("buffer", lambda d: d["buffers"][0].update(byteLength=1 << 40)),
        ("stride", lambda d: d["bufferViews"][0].update(byteStride=1 << 40)),
        ("sparse", lambda d: (d["accessors"][0].pop("bufferView", None), d["accessors"][0].update(count=1 << 34))),
        ("nodes", lambda d: d.update(nodes=[{"mesh": 0, "children": [0]}])),
        ("instances", _with_nodes([{"mesh": 0}] * 300_000, list(range(300_000)))),
        ("tree", _with_nodes([*({"children": [i + 1, i + 1]} for i in range(40)), {"mesh": 0}], [0])),
    ):  # fmt: skip
        described = json.loads(meshes.samples["ball.gltf"])
        changed(described)
        yield made(f"claims-{name}.gltf", json.dumps(described).encode(), meshes)
    glb = bytearray(meshes.samples["ball.glb"])
    glb[8:16] = b"\xff" * 8
    yield made("claims.glb", bytes(glb), meshes)
    yield made("zeros.gltf", b'{"asset": ' + b"[" * (1 << 20), meshes)

    model = models.samples["finer-sine.safetensors"]
    yield made("claims-header.safetensors", struct.pack("<Q", 1 << 60) + model[8:], models)
    described = json.loads(model[8 : 8 + struct.unpack("<Q", model[:8])[0]])
    for name, value in (("width", 65_536), ("depth", 256), ("out_dim", 4096), ("encoding_frequencies", 64)):
        own = json.loads(described["__metadata__"]["finer_nerfstudio"])
        own["network"][name] = value
        changed_header = json.dumps({**described, "__metadata__": {"finer_nerfstudio": json.dumps(own)}}).encode()
        yield made(f"claims-{name}.safetensors", struct.pack("<Q", len(changed_header)) + changed_header, models)
    shape = {"dtype": "F32", "shape": [1 << 34], "data_offsets": [0, 1 << 36]}
    tensors = json.dumps({**described, "x": shape}).encode()
    yield made("claims-tensor.safetensors", struct.pack("<Q", len(tensors)) + tensors, models)

    for name, member in (("opacity.npy", 1 << 31), ("format.npy", 1 << 30), ("other.npy", 1 << 31)):
        file = io.BytesIO()
        with (
            zipfile.ZipFile(io.BytesIO(grids.samples["grid.npz"])) as old,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for item in old.namelist():
                if item != name:
                    new.writestr(item, old.read(item))
            with new.open(name, "w", force_zip64=True) as out:
                np.lib.format.write_array_header_1_0(
                    out, {"descr": "<f2", "fortran_order": False, "shape": (member // 2,)}
                )
                for _ in range(member >> 24):
                    out.write(bytes(1 << 24))
        yield made(f"unpacks-{name}.npz", file.getvalue(), grids)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(grids.samples["grid.npz"])) as old, zipfile.ZipFile(file, "w") as new:
        for item in old.namelist():
            if item != "opacity.npy":
                new.writestr(item, old.read(item))
        with new.open("opacity.npy", "w") as out:
            np.lib.format.write_array_header_1_0(out, {"descr": "<f2", "fortran_order": False, "shape": (1 << 40,)})
    yield made("claims-array.npz", file.getvalue(), grids)
    with np.load(io.BytesIO(grids.samples["grid.npz"])) as whole:
        arrays = {name: whole[name] for name in whole.files}
    for resolution in (1 << 20, 1 << 62):
        file = io.BytesIO()
        np.savez_compressed(file, **{**arrays, "resolution": np.array(resolution)})
        yield made(f"claims-resolution-{resolution}.npz", file.getvalue(), grids)

    source = streams.samples["int8.finer"]
    first = cbor2.CBORDecoder(io.BytesIO(source)).decode()
    for name, changed in (
        ("widths", lambda h: h["stages"][2].update(widths=[65_536])),
        ("bytes", lambda h: h["stages"][2].update(bytes=1 << 39)),
        ("depth", lambda h: h["networks"][0].update(depth=256)),
        ("signal", lambda h: h["signal"].update(height=1 << 30, width=1 << 30)),
        ("pixels", lambda h: h["signal"].update(height=1 << 15, width=1 << 15)),
        ("stages", lambda h: h.update(stages=h["stages"] * 80)),
    ):  # fmt: skip
        content = cbor2.loads(first[2])
        changed(content)
        encoded = cbor2.dumps(content)
        digest = hashlib.blake2s(encoded, digest_size=16).digest()
        yield made(f"rewritten-{name}.finer", cbor2.dumps([first[0], 1, encoded, digest]) + bytes(1 << 20), streams)
    yield made("claims-bytes.finer", source[:20] + b"\x5b" + b"\x00\x00\x00\xff" + bytes(100), streams)
    yield made("zeros.finer", bytes(64 << 20), streams)


# Driving ------------------------------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], Reader]] = {
    "streams": _streams,
    "models": _models,
    "splats": _splats,
    "grids": _grids,
    "meshes": _meshes,
    "scenes": _scenes,
    "pictures": _pictures,
}


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Outcome:
    """Counts, and what came out beside sentences."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs = self.refused = self.read = 0
        self.slowest = 0.0
        self.failures: list[str] = []
        self.slowest_file = ""

    def take(self, path: Path, read: Read, is_right: Callable[[Any], bool] | None = None) -> None:
        faulthandler.dump_traceback_later(2 * SECONDS_FOR_A_FILE, exit=True)
        start = time.monotonic()
        problem = ""
        try:
            found = read(path)
            self.read += 1
            if is_right is not None and not is_right(found):
                problem = "something else was read than the whole file holds"
        except InputError as error:
            self.refused += 1
            text = str(error)
            if "\n" in text.strip() or len(text) > 3000:
                problem = f"no sentence: {text[:200]!r}"
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__}: {str(error)[:150]} ({Path(last.filename).name}:{last.lineno})"
        finally:
            faulthandler.cancel_dump_traceback_later()
        seconds = time.monotonic() - start
        if seconds > self.slowest:
            self.slowest, self.slowest_file = seconds, path.name
        if seconds > SECONDS_FOR_A_FILE:
            problem = problem or f"took {seconds:.0f} s"
        self.inputs += 1
        if problem:
            kept = self.folder / f"failure-{len(self.failures)}-{path.name}"
            if len(self.failures) < 50 and path.exists():
                kept.write_bytes(path.read_bytes())
            self.failures.append(f"{kept.name}: {problem}")

    def summary(self, **more: Any) -> dict[str, Any]:
        return {
            "inputs": self.inputs,
            "refused": self.refused,
            "read": self.read,
            "failures": len(self.failures),
            "slowest_seconds": round(self.slowest, 2),
            **more,
        }


def fuzz(kind: str, count: int, seed: int, folder: Path) -> tuple[Outcome, dict[str, Any]]:
    """Read ``count`` damaged files of a kind."""
    reader = READERS[kind](folder)
    outcome = Outcome(folder)
    for name, content in reader.samples.items():  # whole ones must be read, and load what reading takes
        path = folder / name
        path.write_bytes(content)
        reader.read(path)
        path.unlink()
    idle, start = peak_bytes(), time.monotonic()
    names = list(reader.samples)
    for index in range(count):
        rng = random.Random(f"{seed} {kind} {index}")
        name = names[index % len(names)]
        absurd = reader.rewritten is not None and rng.random() < 0.5
        assert reader.rewritten is not None or not absurd
        content = reader.rewritten(name, rng) if absurd and reader.rewritten else damaged(reader.samples[name], rng)
        path = folder / f"{'rewritten' if absurd else 'damaged'}-{name}"
        path.write_bytes(content)
        check = None if absurd or reader.whole_or_nothing is None else partial(reader.whole_or_nothing, name)
        outcome.take(path, reader.read, check)
    above = (peak_bytes() - idle) / 1e6
    return outcome, outcome.summary(
        seconds=round(time.monotonic() - start, 1), peak_megabytes_above_idle=round(above, 1), seed=seed
    )


def read_greedy(folder: Path) -> tuple[Outcome, dict[str, Any]]:
    """Read the files that ask for memory, each measured for itself."""
    outcome, start = Outcome(folder), time.monotonic()
    largest, worst = 0.0, ""
    for kind in ("streams", "models", "splats", "grids", "meshes", "pictures"):
        reader = READERS[kind](folder)
        for name, content in reader.samples.items():
            (folder / name).write_bytes(content)
            reader.read(folder / name)
            (folder / name).unlink()
    for path, read in greedy_files(folder):
        Path("/proc/self/clear_refs").write_text("5")  # peak memory starts from what is used now
        idle = peak_of_now()
        outcome.take(path, read)
        above = (peak_of_now() - idle) / 1e6
        path.unlink()
        if above > largest:
            largest, worst = above, path.name
        if above > 500:
            outcome.failures.append(f"{path.name}: took {above:.0f} MB")
        print(f"{path.name}: {above:.0f} MB", file=sys.stderr)
    return outcome, outcome.summary(
        seconds=round(time.monotonic() - start, 1), peak_megabytes_above_idle=round(largest, 1), largest=worst
    )


def peak_of_now() -> int:
    """The most memory since the peak was forgotten."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=[*READERS, "greedy"])
    parser.add_argument("count", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.kind == "greedy":
        outcome, summary = read_greedy(options.folder)
    else:
        outcome, summary = fuzz(options.kind, options.count, options.seed, options.folder)
    for failure in outcome.failures:
        print(failure, file=sys.stderr)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
