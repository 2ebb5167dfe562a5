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
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import cbor2

from finer_nerfstudio.inr.activations import Activation
from finer_nerfstudio.inr.description import LARGEST_SIZES, activation_of, describe_activation
from finer_nerfstudio.inr.growth import GrowingNetwork, units_of

NAME = "finer-stream"


VERSION = 1


Precision = Literal["float32", "float16", "bfloat16", "int8"]


PRECISIONS: tuple[Precision, ...] = get_args(Precision)


DIGEST_BYTES = 16


LARGEST_HEADER = 1 << 20


_MOST_STAGES = 256


_MOST_NETWORKS = 16


# Numbers in all weights of a stream; a network of 1,024 units and eight layers has half as many. With them, the bytes
# that a stage may have are bounded, and so is the memory of reading one, whatever a file claims.
LARGEST_PARAMETERS = 1 << 24


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


def describe_network(name: str, network: GrowingNetwork) -> StreamedNetwork:
    """The architecture of ``network`` for a header.

    Raises:
        ValueError: for an activation that is a function of the user's own.
    """
    activation = describe_activation(network.activation)
    return StreamedNetwork(
        name, network.in_dim, network.out_dim, network.depth, activation, network.encoding_frequencies
    )


def fine_precision(precision: Precision) -> Precision:
    """Of the first layer and of biases: they are few, and phases are made of them."""
    return "float32" if precision in ("float32", "bfloat16") else "float16"


def raw_bytes(shape: tuple[int, ...], precision: Precision) -> int:
    size = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}[precision] * math.prod(shape)
    return size + (4 * shape[0] if precision == "int8" else 0)


def digest_of(content: bytes) -> bytes:
    return hashlib.blake2s(content, digest_size=DIGEST_BYTES).digest()


def decoder(file: io.BytesIO) -> cbor2.CBORDecoder:
    return cbor2.CBORDecoder(file, max_depth=16, allow_indefinite=False, allow_duplicate_keys=False)


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
    return sum(raw_bytes(shape, kind) for shape, kind in shapes)


def stage_shapes(header: StreamHeader, index: int) -> list[tuple[tuple[int, ...], Precision]]:
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
    fine, new = fine_precision(coarse), after - before
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


def header_of(encoded: bytes) -> StreamHeader:
    """The header in its encoded form, every field of it checked.

    Raises:
        ValueError: saying what is wrong.
    """
    if len(encoded) > LARGEST_HEADER:
        raise ValueError(f"it has {len(encoded):,} bytes, more than the {LARGEST_HEADER:,} that are allowed")
    try:
        content = decoder(io.BytesIO(encoded)).decode()
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
        longest = _longest_item(sum(raw_bytes(shape, precision) for shape, precision in shapes))
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
        if not is_whole(row.get(name), smallest, LARGEST_SIZES[name]):
            raise ValueError(
                f"{name} must be a whole number from {smallest} to {LARGEST_SIZES[name]}, not {short(row.get(name))}"
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
        if not is_whole(width, 1, LARGEST_SIZES["width"]):
            raise ValueError(f"a width must be from 1 to {LARGEST_SIZES['width']}, not {short(width)}")
    if not is_whole(row.get("bytes"), 1, 1 << 40):
        raise ValueError(f"a stage's length must be a positive number of bytes, not {short(row.get('bytes'))}")
    if row.get("precision") not in PRECISIONS:
        raise ValueError(f"precision {short(row.get('precision'))} is not known; known are {', '.join(PRECISIONS)}")
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


def is_whole(value: Any, smallest: int, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and smallest <= value <= largest


def short(value: Any) -> str:
    return repr(value)[:40]
