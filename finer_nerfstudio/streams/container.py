"""The transmissible container: a network whose every prefix of bytes is a network too.

A file is a CBOR sequence (RFC 8742), one item after the other::

    ["finer-stream", 1, header: bytes, digest: bytes]
    [0, payload: bytes, digest: bytes]       the narrow network
    [1, payload: bytes, digest: bytes]       what the first widening adds
    ...

The header is itself a CBOR map: the networks' architecture, the task and its signal, and a table of stages with their
widths, bytes and quality. A payload is a zstd frame of the stage's parameters, for each network in order: weight and
bias of the first layer, of every hidden layer, and of the output. A complex weight is its real part and then its
imaginary part. Numbers are little-endian, and the bytes of a tensor's numbers are stored plane by plane, all first
bytes before all second ones, because those of high order resemble each other.

=========  ===========================================  ==============================
precision  matrices of hidden layers and of the output  first layer and biases
=========  ===========================================  ==============================
float32    float32                                      float32
bfloat16   the upper half of a float32                  float32
float16    float16                                      float16
int8       float32 scale of each row, then int8         float16
=========  ===========================================  ==============================

Digests are BLAKE2s of 16 bytes: of the header; and for a stage of the header's digest, the stage's number in four
bytes and the payload. Whoever has the first n stages has a working network, and what is cut short or damaged is found
out. Nothing that a file claims is believed before memory is set aside for it.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import cbor2
import numpy as np
import torch
import zstandard
from torch import Tensor, nn

from finer_nerfstudio._version import __version__
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.inr.activations import Activation
from finer_nerfstudio.inr.description import LARGEST_SIZES, activation_of, describe_activation
from finer_nerfstudio.inr.growth import GrowingNetwork, GrowthStage, units_of
from finer_nerfstudio.inr.network import ComplexLinear

NAME = "finer-stream"
VERSION = 1
Precision = Literal["float32", "float16", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_DIGEST_BYTES = 16
_LARGEST_HEADER = 1 << 20
_MOST_STAGES = 256
_MOST_NETWORKS = 16
# A payload may not grow by more than this when unpacked, beyond the first kilobytes: weights never do.
_LARGEST_RATIO = 64
_FREE_BYTES = 1 << 16
# Numbers in all weights of a stream; a network of 1,024 units and eight layers has half as many. With them, the bytes
# that a stage may have are bounded, and so is the memory of reading one, whatever a file claims.
LARGEST_PARAMETERS = 1 << 24
_ZSTD_LEVEL = 19


@dataclass(frozen=True)
class StreamedNetwork:
    """A network's architecture, all but its widths.

    Attributes:
        name: what it is for, such as "image" or "density".
        in_dim: number of coordinates.
        out_dim: number of signal values.
        depth: number of hidden layers.
        activation: as :func:`finer_nerfstudio.inr.description.describe_activation` gives it.
        encoding_frequencies: octaves of positional encoding.
    """

    name: str
    in_dim: int
    out_dim: int
    depth: int
    activation: dict[str, Any]
    encoding_frequencies: int = 0

    def empty(self) -> GrowingNetwork:
        """The network without any units."""
        return GrowingNetwork(
            self.in_dim,
            self.out_dim,
            depth=self.depth,
            activation=activation_of(self.activation),
            encoding_frequencies=self.encoding_frequencies,
        )


@dataclass(frozen=True)
class StreamedStage:
    """A row of the stage table.

    Attributes:
        widths: of each network's hidden layers from this stage on.
        bytes: length of the stage's item.
        precision: how matrices are stored.
        quality: measured after this stage, such as ``{"psnr": 31.2}``; empty where nobody measured.
        bias_shell: magnitudes of first-layer biases of the first network, None for PyTorch's default.
    """

    widths: list[int]
    bytes: int
    precision: Precision
    quality: dict[str, float] = field(default_factory=dict)
    bias_shell: list[float] | None = None


@dataclass(frozen=True)
class StreamHeader:
    """The header of a stream, which is sent before any weight.

    Attributes:
        networks: in the order of the payloads.
        task: "image", "sdf" or "nerf".
        signal: what the task needs to know of its signal, such as an image's height and width.
        stages: the table of stages.
        encoder: who wrote the file.
    """

    networks: list[StreamedNetwork]
    task: str
    signal: dict[str, Any]
    stages: list[StreamedStage]
    encoder: str = ""


@dataclass(frozen=True)
class Stream:
    """A stream as far as its file could be read.

    Attributes:
        header: all of it.
        networks: with the stages that have arrived whole.
        stages: how many these are.
        header_bytes: length of the first item.
        damage: a sentence about why there are no more stages although bytes follow; None where the rest is just
            missing, or nothing is.
    """

    header: StreamHeader
    networks: list[GrowingNetwork]
    stages: int
    header_bytes: int
    damage: str | None


def describe_network(name: str, network: GrowingNetwork) -> StreamedNetwork:
    """The architecture of ``network`` for a header.

    Raises:
        ValueError: for an activation that is a function of the user's own.
    """
    activation = describe_activation(network.activation)
    return StreamedNetwork(
        name, network.in_dim, network.out_dim, network.depth, activation, network.encoding_frequencies
    )


# Numbers ------------------------------------------------------------------------------------------------------------


def parameters_of(stage: GrowthStage) -> list[tuple[Tensor, bool]]:
    """A stage's tensors in the order of the container, and whether each is a matrix that precision applies to."""
    tensors: list[tuple[Tensor, bool]] = []
    for layer in (stage.first, *stage.hidden, stage.last):
        coarse = layer is not stage.first
        if isinstance(layer, ComplexLinear):
            tensors += [(layer.weight_real, coarse), (layer.weight_imaginary, coarse)]
        else:
            assert isinstance(layer, nn.Linear)
            tensors.append((layer.weight, coarse))
        if layer.bias is not None:
            tensors.append((layer.bias, False))
    return tensors


def pack_stage(stages: Sequence[GrowthStage], precision: Precision, step: float = 1.0) -> bytes:
    """A stage's payload.

    Args:
        stages: what the stage adds to each network.
        precision: how matrices are stored.
        step: for int8, the distance of representable numbers as a multiple of the finest one, a 127th of the row's
            largest number. Coarser steps take fewer bytes once they are packed.

    Raises:
        InputError: for numbers that the precision does not reach.
    """
    parts = []
    for stage in stages:
        for tensor, coarse in parameters_of(stage):
            parts.append(_tensor_bytes(tensor, precision if coarse else _fine(precision), step))
    raw = b"".join(parts)
    packed = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(raw)
    if len(raw) > _allowed_size(len(packed)):
        # Readers would take it for an attempt to exhaust their memory: a frame of stored blocks is as long as its data.
        packed = _stored_frame(raw)
    return packed


def unpack_stage_(stages: Sequence[GrowthStage], payload: bytes, precision: Precision) -> None:
    """Fill a stage's parameters in place with those of a payload.

    Raises:
        ValueError: where the payload does not hold what the stage needs; the stage is then as before.
    """
    tensors = [pair for stage in stages for pair in parameters_of(stage)]
    shapes: list[tuple[tuple[int, ...], Precision]] = []
    for tensor, coarse in tensors:
        shapes.append((tuple(tensor.shape), precision if coarse else _fine(precision)))
    values = _unpack(payload, shapes)
    with torch.no_grad():
        for (tensor, _), value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def _stored_frame(raw: bytes) -> bytes:
    """A zstd frame (RFC 8878) of uncompressed blocks."""
    # Single segment, content size in 8 bytes.
    frame = [b"\x28\xb5\x2f\xfd", bytes([0xE0]), len(raw).to_bytes(8, "little")]
    block = 1 << 17
    for start in range(0, len(raw), block):
        part = raw[start : start + block]
        is_last = start + block >= len(raw)
        frame += [(len(part) << 3 | is_last).to_bytes(3, "little"), part]
    return b"".join(frame)


def _allowed_size(packed: int) -> int:
    return _FREE_BYTES + _LARGEST_RATIO * packed


def _fine(precision: Precision) -> Precision:
    """Of the first layer and of biases: they are few, and phases are made of them."""
    return "float32" if precision in ("float32", "bfloat16") else "float16"


def _tensor_bytes(tensor: Tensor, precision: Precision, step: float) -> bytes:
    values = tensor.detach().cpu().float().contiguous()
    if not values.isfinite().all():
        raise InputError("the network has weights that are not finite: training diverged.")
    if precision == "int8":
        scales, whole = _whole_numbers(values, step)
        return _planes(scales.numpy().astype("<f4")) + whole.to(torch.int8).numpy().tobytes()
    if precision == "bfloat16":
        halves = values.to(torch.bfloat16).view(torch.int16).numpy().astype("<i2")
        return _planes(halves)
    with np.errstate(over="ignore"):  # said below
        numbers = values.numpy().astype("<f4" if precision == "float32" else "<f2")
    if not np.isfinite(numbers).all():
        raise InputError("the network has weights beyond what float16 holds: choose bfloat16 or float32.")
    return _planes(numbers)


def _whole_numbers(values: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Scale of each row ``[rows, 1]``, and the row in multiples of it, at most 127."""
    finest = values.abs().amax(dim=1, keepdim=True) / 127.0
    scales = finest * step
    return scales, (values / scales.where(scales > 0, 1.0)).round().clamp(-127, 127)


def _tensor_from(raw: bytes, shape: tuple[int, ...], precision: Precision) -> Tensor:
    count = math.prod(shape)
    if precision == "int8":
        rows = shape[0]
        scales = torch.from_numpy(_from_planes(raw[: 4 * rows], "<f4", rows).astype(np.float32))
        whole = torch.from_numpy(np.frombuffer(raw, np.int8, offset=4 * rows).astype(np.float32))
        return whole.reshape(shape) * scales[:, None]
    if precision == "bfloat16":
        halves = _from_planes(raw, "<i2", count).astype(np.int16)
        return torch.from_numpy(halves).view(torch.bfloat16).float().reshape(shape)
    kind = "<f4" if precision == "float32" else "<f2"
    return torch.from_numpy(_from_planes(raw, kind, count).astype(np.float32)).reshape(shape)


def _planes(numbers: np.ndarray) -> bytes:
    return numbers.reshape(-1, 1).view(np.uint8).T.tobytes()


def _from_planes(raw: bytes, kind: str, count: int) -> np.ndarray:
    size = np.dtype(kind).itemsize
    return np.frombuffer(np.frombuffer(raw, np.uint8).reshape(size, count).T.tobytes(), kind)


def _raw_bytes(shape: tuple[int, ...], precision: Precision) -> int:
    size = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}[precision] * math.prod(shape)
    return size + (4 * shape[0] if precision == "int8" else 0)


# Writing ------------------------------------------------------------------------------------------------------------


def write_stream(header: StreamHeader, payloads: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """A whole file, and where in it each stage is complete.

    Args:
        header: the lengths in its table are filled in here.
        payloads: from :func:`pack_stage`, one for each stage.

    Raises:
        ValueError: for a header that no reader would accept.
    """
    rows = []
    for i, (row, payload) in enumerate(zip(header.stages, payloads, strict=True)):
        rows.append(replace(row, bytes=len(cbor2.dumps([i, payload, bytes(_DIGEST_BYTES)]))))
    encoder = header.encoder or f"finer_nerfstudio {__version__}"
    encoded = cbor2.dumps(asdict(replace(header, stages=rows, encoder=encoder)))
    _header_of(encoded)
    digest = _digest(encoded)
    items = [cbor2.dumps([NAME, VERSION, encoded, digest])]
    for i, payload in enumerate(payloads):
        items.append(cbor2.dumps([i, payload, _digest(digest + i.to_bytes(4, "little") + payload)]))
    ends = list(itertools.accumulate(len(item) for item in items))
    return b"".join(items), ends[1:]


def _digest(content: bytes) -> bytes:
    return hashlib.blake2s(content, digest_size=_DIGEST_BYTES).digest()


# Reading ------------------------------------------------------------------------------------------------------------


class StreamReader:
    """Takes bytes as they arrive, and gives networks that grow with every stage that is complete.

    Attributes:
        header: None until it is complete.
        header_bytes: length of the first item, 0 until it is complete.
        networks: with the stages so far.
        stages: how many these are.
        damage: a sentence about a damaged stage; nothing is read after it.
        device: where the networks are.
        most_stages: where to stop; None for all stages.
    """

    def __init__(self, device: torch.device | str = "cpu", *, most_stages: int | None = None) -> None:
        self.header: StreamHeader | None = None
        self.header_bytes = 0
        self.networks: list[GrowingNetwork] = []
        self.stages = 0
        self.damage: str | None = None
        self.device = torch.device(device)
        self.most_stages = most_stages
        self._pending = bytearray()
        self._header_digest = b""

    def feed(self, content: bytes) -> list[int]:
        """Read on; gives the numbers of the stages that are complete now and were not before.

        Raises:
            InputError: where the header is not one, or claims what cannot be.
        """
        if self.is_done:
            return []
        self._pending += content
        if self.header is None and not self._read_header():
            return []
        assert self.header is not None
        complete = []
        while self.stages < self.wanted_stages and self.damage is None:
            length = self.header.stages[self.stages].bytes
            if len(self._pending) < length:
                break
            item = bytes(self._pending[:length])
            del self._pending[:length]
            try:
                self._read_stage(item)
            except ValueError as error:
                self.damage = f"stage {self.stages} is damaged ({error})"
                break
            complete.append(self.stages)
            self.stages += 1
        return complete

    @property
    def wanted_stages(self) -> int:
        """How many stages there are to read; 0 before the header is complete."""
        if self.header is None:
            return 0
        there = len(self.header.stages)
        return there if self.most_stages is None else min(self.most_stages, there)

    @property
    def is_done(self) -> bool:
        """Whether no further byte would be read: all stages are there, or one is damaged."""
        return self.header is not None and (self.damage is not None or self.stages >= self.wanted_stages)

    def _read_header(self) -> bool:
        file = io.BytesIO(self._pending)
        try:
            item = _decoder(file).decode()
        except cbor2.CBORDecodeEOF as error:
            if len(self._pending) > 2 * _LARGEST_HEADER:
                raise InputError("this is no finer stream: its header does not end.") from error
            # Refuse what cannot become one as early as possible.
            start = cbor2.dumps(NAME)
            if self._pending and not bytes(self._pending[1 : 1 + len(start)]) == start[: len(self._pending) - 1]:
                raise InputError("this is no finer stream: it begins with other bytes.") from error
            return False
        except Exception as error:  # whatever a parser of hostile bytes comes up with
            raise InputError(f"this is no finer stream: {error}.") from error
        if not (isinstance(item, (list, tuple)) and len(item) == 4 and item[0] == NAME):
            raise InputError("this is no finer stream: it begins with other data.")
        _, version, encoded, digest = item
        if not _is_whole(version, 1, 1 << 31):
            raise InputError(f"the stream's version {_short(version)} is not understood.")
        if version > VERSION:
            raise InputError(f"the stream is of format version {version}: update this package, which knows {VERSION}.")
        if not isinstance(encoded, bytes) or not isinstance(digest, bytes) or _digest(encoded) != digest:
            raise InputError("the stream's header is damaged: its digest does not fit.")
        try:
            self.header = _header_of(encoded)
        except ValueError as error:
            raise InputError(f"the stream's header is refused: {error}.") from error
        self._header_digest = digest
        self.header_bytes = file.tell()
        del self._pending[: self.header_bytes]
        self.networks = [network.empty() for network in self.header.networks]
        return True

    def _read_stage(self, item: bytes) -> None:
        assert self.header is not None
        index, row = self.stages, self.header.stages[self.stages]
        try:
            file = io.BytesIO(item)
            decoded = _decoder(file).decode()
        except Exception as error:  # whatever a parser of hostile bytes comes up with
            raise ValueError(str(error)) from error
        if not (isinstance(decoded, (list, tuple)) and len(decoded) == 3) or file.tell() != len(item):
            raise ValueError("it is no item of a stage")
        number, payload, digest = decoded
        if number != index or not isinstance(payload, bytes):
            raise ValueError("it is another item")
        if _digest(self._header_digest + index.to_bytes(4, "little") + payload) != digest:
            raise ValueError("its digest does not fit")
        values = _unpack(payload, _stage_shapes(self.header, index))
        arrived = iter(values)
        for network, width in zip(self.networks, row.widths, strict=True):
            stage = network.grow(width, generator=torch.Generator())
            with torch.no_grad():
                for tensor, _ in parameters_of(stage):
                    tensor.copy_(next(arrived))
            network.requires_grad_(False)
            network.to(self.device)


def read_stream(content: bytes, *, stages: int | None = None, device: torch.device | str = "cpu") -> Stream:
    """Read a file, or as much of one as there is.

    Args:
        content: the file or any prefix of it that holds the header.
        stages: read only so many.
        device: where the networks are wanted.

    Raises:
        InputError: where even the header is missing, damaged or refused.
    """
    reader = StreamReader(device, most_stages=stages)
    portion = 1 << 16
    for start in range(0, len(content), portion):
        reader.feed(content[start : start + portion])
    if reader.header is None:
        raise InputError("the stream ends within its header: nothing can be decoded yet.")
    return Stream(reader.header, reader.networks, reader.stages, reader.header_bytes, reader.damage)


def _decoder(file: io.BytesIO) -> cbor2.CBORDecoder:
    return cbor2.CBORDecoder(file, max_depth=16, allow_indefinite=False, allow_duplicate_keys=False)


def _unpack(payload: bytes, shapes: Sequence[tuple[tuple[int, ...], Precision]]) -> list[Tensor]:
    """The tensors in a payload, which has to hold as much as they need, before memory is set aside."""
    expected = sum(_raw_bytes(shape, precision) for shape, precision in shapes)
    if expected > _allowed_size(len(payload)):
        raise ValueError(f"it claims {expected:,} bytes of weights in {len(payload):,}")
    try:
        held = zstandard.get_frame_parameters(payload).content_size
        if held == zstandard.CONTENTSIZE_UNKNOWN:
            raise ValueError("it does not say how many bytes it holds")
        if held != expected:
            raise ValueError(f"it holds {held:,} bytes of weights, not {expected:,}")
        raw = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(payload, max_output_size=expected)
    except zstandard.ZstdError as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error
    if len(raw) != expected:
        raise ValueError(f"it holds {len(raw):,} bytes of weights, not {expected:,}")
    tensors, start = [], 0
    for shape, precision in shapes:
        stop = start + _raw_bytes(shape, precision)
        tensors.append(_tensor_from(raw[start:stop], shape, precision))
        if not tensors[-1].isfinite().all():
            raise ValueError("its weights are not all finite numbers")
        start = stop
    return tensors


def stage_bytes(
    before: int, after: int, *, n_in: int, out_dim: int, depth: int, activation: Activation, precision: Precision
) -> int:
    """Bytes of a stage's parameters before they are packed.

    Args:
        before: units of a hidden layer before the stage, 0 for the first one.
        after: units with it.
        n_in: numbers that the first layer reads.
        out_dim: number of signal values.
        depth: number of hidden layers.
        activation: of every hidden layer.
        precision: of matrices.
    """
    shapes = _shapes(before, after, n_in, out_dim, depth, activation, precision)
    return sum(_raw_bytes(shape, kind) for shape, kind in shapes)


def _stage_shapes(header: StreamHeader, index: int) -> list[tuple[tuple[int, ...], Precision]]:
    """Shapes and precisions of a stage's tensors from the header alone, in the order of :func:`parameters_of`."""
    return _shapes_of(header.networks, header.stages, index)


def _shapes_of(
    networks: Sequence[StreamedNetwork], stages: Sequence[StreamedStage], index: int
) -> list[tuple[tuple[int, ...], Precision]]:
    shapes: list[tuple[tuple[int, ...], Precision]] = []
    row = stages[index]
    for i, network in enumerate(networks):
        activation = activation_of(network.activation)
        before = units_of(stages[index - 1].widths[i], activation) if index else 0
        n_in = network.in_dim * (1 + 2 * network.encoding_frequencies)
        after = units_of(row.widths[i], activation)
        shapes += _shapes(before, after, n_in, network.out_dim, network.depth, activation, row.precision)
    return shapes


def _shapes(
    before: int, after: int, n_in: int, out_dim: int, depth: int, activation: Activation, coarse: Precision
) -> list[tuple[tuple[int, ...], Precision]]:
    fine, new = _fine(coarse), after - before
    parts = 2 if activation.complex_valued else 1
    shapes: list[tuple[tuple[int, ...], Precision]] = [((new, n_in), fine), ((new,), fine)]
    for _ in range(depth - 1):
        for _ in range(parts):
            shapes.append(((new, after), coarse))
        shapes.append(((parts * new,), fine))
    for _ in range(parts):
        shapes.append(((out_dim, new), coarse))
    if before == 0:
        shapes.append(((out_dim,), fine))
    return shapes


def _header_of(encoded: bytes) -> StreamHeader:
    """The header in its encoded form, every field of it checked.

    Raises:
        ValueError: saying what is wrong.
    """
    if len(encoded) > _LARGEST_HEADER:
        raise ValueError(f"it has {len(encoded):,} bytes, more than the {_LARGEST_HEADER:,} that are allowed")
    try:
        content = _decoder(io.BytesIO(encoded)).decode()
    except Exception as error:  # whatever a parser of hostile bytes comes up with
        raise ValueError(f"it is not understood ({error})") from error
    if not isinstance(content, dict):
        raise ValueError("it is no map")
    rows = _list_of(content, "networks", _MOST_NETWORKS)
    networks = [_network_row(row) for row in rows]
    if not networks:
        raise ValueError("it has no networks")
    stages = [_stage_row(row, networks) for row in _list_of(content, "stages", _MOST_STAGES)]
    if not stages:
        raise ValueError("it has no stages")
    for i, network in enumerate(networks):
        units = [units_of(stage.widths[i], activation_of(network.activation)) for stage in stages]
        if any(b <= a for a, b in itertools.pairwise(units)):
            raise ValueError("widths do not increase from stage to stage")
    _require_bounded(networks, stages)
    task, signal, encoder = content.get("task"), content.get("signal"), content.get("encoder", "")
    if not isinstance(task, str) or not isinstance(encoder, str) or not isinstance(signal, dict):
        raise ValueError("task, signal or encoder is missing or of another type")
    return StreamHeader(networks, task, signal, stages, encoder)


def _require_bounded(networks: Sequence[StreamedNetwork], stages: Sequence[StreamedStage]) -> None:
    """Check that no stage is longer than its widths need, and that all of them fit into memory."""
    parameters = 0
    for i, stage in enumerate(stages):
        shapes = _shapes_of(networks, stages, i)
        parameters += sum(math.prod(shape) for shape, _ in shapes)
        if parameters > LARGEST_PARAMETERS:
            raise ValueError(f"its networks have more than the {LARGEST_PARAMETERS:,} weights that are allowed")
        longest = _longest_item(sum(_raw_bytes(shape, precision) for shape, precision in shapes))
        if stage.bytes > longest:
            raise ValueError(f"stage {i} claims {stage.bytes:,} bytes, and its widths need no more than {longest:,}")


def _longest_item(raw: int) -> int:
    """Bytes of a stage's item at most: zstd adds three for each of its blocks to what it cannot pack."""
    return raw + raw // 256 + 1024


def _network_row(row: Any) -> StreamedNetwork:
    if not isinstance(row, dict):
        raise ValueError("a network's row is no map")
    for name in ("in_dim", "out_dim", "depth", "encoding_frequencies"):
        smallest = 0 if name == "encoding_frequencies" else 1
        if not _is_whole(row.get(name), smallest, LARGEST_SIZES[name]):
            raise ValueError(
                f"{name} must be a whole number from {smallest} to {LARGEST_SIZES[name]}, not {_short(row.get(name))}"
            )
    name = row.get("name")
    if not isinstance(name, str):
        raise ValueError("a network has no name")
    activation_of(row.get("activation"))
    return StreamedNetwork(
        name, row["in_dim"], row["out_dim"], row["depth"], row["activation"], row["encoding_frequencies"]
    )


def _stage_row(row: Any, networks: Sequence[StreamedNetwork]) -> StreamedStage:
    if not isinstance(row, dict):
        raise ValueError("a stage's row is no map")
    widths = row.get("widths")
    if not isinstance(widths, list) or len(widths) != len(networks):
        raise ValueError("a stage needs a width for each network")
    for width in widths:
        if not _is_whole(width, 1, LARGEST_SIZES["width"]):
            raise ValueError(f"a width must be from 1 to {LARGEST_SIZES['width']}, not {_short(width)}")
    if not _is_whole(row.get("bytes"), 1, 1 << 40):
        raise ValueError(f"a stage's length must be a positive number of bytes, not {_short(row.get('bytes'))}")
    if row.get("precision") not in PRECISIONS:
        raise ValueError(f"precision {_short(row.get('precision'))} is not known; known are {', '.join(PRECISIONS)}")
    quality = row.get("quality", {})
    if not isinstance(quality, dict) or not all(
        isinstance(key, str) and isinstance(value, (int, float)) for key, value in quality.items()
    ):
        raise ValueError("a stage's quality is no map of numbers")
    shell = row.get("bias_shell")
    if shell is not None and not (
        isinstance(shell, list) and len(shell) == 2 and all(isinstance(bound, (int, float)) for bound in shell)
    ):
        raise ValueError("a bias shell is no pair of numbers")
    return StreamedStage(widths, row["bytes"], row["precision"], quality, shell)


def _list_of(content: dict[Any, Any], name: str, most: int) -> list[Any]:
    rows = content.get(name)
    if not isinstance(rows, list) or len(rows) > most:
        raise ValueError(f"{name} must be a list of at most {most}")
    return rows


def _is_whole(value: Any, smallest: int, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and smallest <= value <= largest


def _short(value: Any) -> str:
    return repr(value)[:40]
