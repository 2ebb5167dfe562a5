"""The container: what is written is read back, prefixes decode, damage and hostile headers are found out."""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import cbor2
import pytest
import torch
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finer_nerfstudio import GrowingNetwork, bias_shells, preset
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.streams.header import PRECISIONS, Precision, StreamedStage, StreamHeader, describe_network
from finer_nerfstudio.streams.payload import pack_stage, parameters_of, unpack_payload, unpack_stage_
from finer_nerfstudio.streams.reader import StreamReader, read_stream
from finer_nerfstudio.streams.writer import write_stream

GOLDEN = Path(__file__).parent


def made(
    method: str = "finer-sine", precision: Precision = "int8", widths: tuple[int, ...] = (5, 9, 14)
) -> tuple[bytes, list[int], GrowingNetwork]:
    """A stream, where its stages end, and the network in it."""
    row = preset(method, "image")
    generator = torch.Generator().manual_seed(0)
    network = GrowingNetwork(2, 3, depth=3, activation=row.activation, encoding_frequencies=row.encoding_frequencies)
    payloads, rows = [], []
    for width, shell in zip(widths, bias_shells(row.bias_range, len(widths)), strict=True):
        stage = network.grow(width, bias_shell=shell, generator=generator)
        with torch.no_grad():
            for parameter in stage.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        payloads.append(pack_stage([stage], precision))
        unpack_stage_([stage], payloads[-1], precision)
        rows.append(
            StreamedStage([width], 0, precision, {"psnr": 20.0 + width}, None if shell is None else list(shell))
        )
    signal = {"height": 7, "width": 11, "maximum": 255}
    header = StreamHeader([describe_network("image", network)], "image", signal, rows)
    return *write_stream(header, payloads), network


STREAM, ENDS, NETWORK = made()
COORDS = torch.rand(50, 2, generator=torch.Generator().manual_seed(5)) * 2 - 1


def weights(network: GrowingNetwork, stage: int) -> list[torch.Tensor]:
    return [tensor for tensor, _ in parameters_of(network.stages[stage])]


def require_a_prefix(content: bytes) -> int:
    """How many stages are decoded; each of them has to be the original's, whatever the bytes are."""
    try:
        stream = read_stream(content)
    except InputError:
        return -1
    assert stream.stages == len(stream.networks[0].stages)
    for stage in range(stream.stages):
        for found, truth in zip(weights(stream.networks[0], stage), weights(NETWORK, stage), strict=True):
            assert torch.equal(found, truth)
    assert stream.header.signal == {"height": 7, "width": 11, "maximum": 255}
    return stream.stages


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", ["pemlp", "finer-sine", "gauss", "finer-wavelet"])
def test_what_is_written_is_read_back(method: str, precision: Precision) -> None:
    content, ends, network = made(method, precision)
    assert ends[-1] == len(content)
    for stages, end in enumerate(ends, 1):
        stream = read_stream(content[:end])
        assert (stream.stages, stream.damage) == (stages, None)
        assert torch.equal(stream.networks[0](COORDS), network(COORDS, stages=stages))


@pytest.mark.parametrize(("precision", "largest"), [("float32", 0.0), ("bfloat16", 2**-8), ("float16", 2**-11)])
def test_roundings_are_those_of_the_precision(precision: Precision, largest: float) -> None:
    stage = made(precision="float32")[2].stages[1]
    before = [tensor.detach().clone() for tensor, _ in parameters_of(stage)]
    unpack_stage_([stage], pack_stage([stage], precision), precision)
    for (after, _), exact in zip(parameters_of(stage), before, strict=True):
        # Numbers near zero are denormal halves, 2^-24 apart.
        assert ((after - exact).abs() <= largest * exact.abs() + 2.0**-25 * (largest > 0)).all()


@pytest.mark.parametrize("step", [1.0, 2.5, 40.0])
def test_int8_errs_by_half_a_step_of_its_row(step: float) -> None:
    stage = made(precision="float32")[2].stages[1]
    before = [tensor.detach().clone() for tensor, _ in parameters_of(stage)]
    unpack_stage_([stage], pack_stage([stage], "int8", step), "int8")
    for (after, is_matrix), exact in zip(parameters_of(stage), before, strict=True):
        if is_matrix:
            steps = step / 127.0 * exact.abs().amax(dim=1, keepdim=True)
            assert ((after - exact).abs() <= 0.5001 * steps).all()
        else:
            assert ((after - exact).abs() <= 2.0**-11 * exact.abs() + 2.0**-25).all()


def test_it_is_a_cbor_sequence_with_digests() -> None:
    """Read by the CBOR library alone, as the format's description has it."""
    file = io.BytesIO(STREAM)
    name, version, encoded, digest = cbor2.load(file)
    assert (name, version) == ("finer-stream", 1)
    assert hashlib.blake2s(encoded, digest_size=16).digest() == digest
    header = cbor2.loads(encoded)
    assert [stage["widths"] for stage in header["stages"]] == [[5], [9], [14]]
    for index in range(3):
        start = file.tell()
        number, payload, stage_digest = cbor2.load(file)
        assert number == index
        assert file.tell() - start == header["stages"][index]["bytes"]
        assert file.tell() == ENDS[index]
        expected = hashlib.blake2s(digest + index.to_bytes(4, "little") + payload, digest_size=16).digest()
        assert stage_digest == expected
    assert not file.read()


def test_a_thousand_truncations_give_the_last_whole_stage() -> None:
    for cut in random.Random(0).sample(range(len(STREAM) + 1), min(1000, len(STREAM))):
        header_end = ENDS[0] - read_stream(STREAM).header.stages[0].bytes
        expected = -1 if cut < header_end else sum(cut >= end for end in ENDS)
        assert require_a_prefix(STREAM[:cut]) == expected


mutations = st.lists(
    st.tuples(
        st.sampled_from(["set", "flip", "insert", "delete", "repeat", "swap"]),
        st.integers(0, len(STREAM) - 1),
        st.integers(0, 255),
        st.integers(1, 64),
    ),
    min_size=1,
    max_size=4,
)


def mutated(content: bytes, changes: list[tuple[str, int, int, int]]) -> bytes:
    out = bytearray(content)
    for kind, position, value, length in changes:
        at = position % max(1, len(out))
        if kind == "set":
            out[at : at + 1] = bytes([value])
        elif kind == "flip":
            out[at : at + 1] = bytes([out[at] ^ (1 << value % 8)])
        elif kind == "insert":
            out[at:at] = bytes([value]) * length
        elif kind == "delete":
            del out[at : at + length]
        elif kind == "repeat":
            out[at:at] = out[at : at + length]
        else:
            other = value * len(out) // 256
            out[at : at + length], out[other : other + length] = out[other : other + length], out[at : at + length]
    return bytes(out)


@given(changes=mutations)
@example(changes=[("flip", 0, 0, 1)])
@settings(max_examples=10_000, deadline=None)
def test_mutations_are_found_out(changes: list[tuple[str, int, int, int]]) -> None:
    content = mutated(STREAM, changes)
    stages = require_a_prefix(content)
    if content[: len(STREAM)] != STREAM:
        assert stages < 3


def with_header(change: Any) -> bytes:
    """The stream with another header, whose digest fits."""
    file = io.BytesIO(STREAM)
    name, version, encoded, _ = cbor2.load(file)
    header = cbor2.loads(encoded)
    header = change(header) or header
    encoded = header if isinstance(header, bytes) else cbor2.dumps(header)
    digest = hashlib.blake2s(encoded, digest_size=16).digest()
    items = [cbor2.dumps([name, version, encoded, digest])]
    for index in range(3):
        _, payload, _ = cbor2.load(file)
        number = index.to_bytes(4, "little")
        items.append(cbor2.dumps([index, payload, hashlib.blake2s(digest + number + payload, digest_size=16).digest()]))
    return b"".join(items)


HOSTILE = {
    "huge width": lambda h: h["stages"][0].update(widths=[1 << 40]),
    "negative width": lambda h: h["stages"][0].update(widths=[-5]),
    "no width": lambda h: h["stages"][0].update(widths=[]),
    "widths that fall": lambda h: h["stages"][1].update(widths=[3]),
    "a text as width": lambda h: h["stages"][0].update(widths=["5"]),
    "a truth as width": lambda h: h["stages"][0].update(widths=[True]),
    "huge depth": lambda h: h["networks"][0].update(depth=1 << 50),
    "no depth": lambda h: h["networks"][0].pop("depth") and None,
    "huge output": lambda h: h["networks"][0].update(out_dim=1 << 33),
    "negative length": lambda h: h["stages"][0].update(bytes=-1),
    "unknown precision": lambda h: h["stages"][0].update(precision="int3"),
    "unknown activation": lambda h: h["networks"][0].update(activation={"family": "exec"}),
    "infinite frequency": lambda h: h["networks"][0]["activation"].update(omega_0=float("inf")),
    "thousands of stages": lambda h: h.update(stages=h["stages"] * 5000),
    "no stages": lambda h: h.update(stages=[]),
    "no networks": lambda h: h.update(networks=[]),
    "another type": lambda h: [1, 2, 3],
    "signal of another type": lambda h: h.update(signal=7),
    "quality of another type": lambda h: h["stages"][0].update(quality={"psnr": "good"}),
    "recursion": lambda h: b"\x81" * 100_000 + b"\x00",
    "recursion in a map": lambda h: b"\xa1\x61a" * 100_000 + b"\x00",
    "a claim of many items": lambda h: b"\x9b\x00\x00\x00\xff\xff\xff\xff\xff",
    "no CBOR": lambda h: b"\xff\xff\xff",
    "endless text": lambda h: b"\x7f" + b"\x61a" * 1000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="header"):
        read_stream(with_header(HOSTILE[name]))


def test_weights_that_a_payload_cannot_hold_are_refused_before_memory_is_set_aside() -> None:
    """In a process of its own, whose largest memory is looked at."""
    large = with_header(lambda h: [stage.update(widths=[2_000 + i]) for i, stage in enumerate(h["stages"])] and None)
    deep = with_header(lambda h: h["networks"][0].update(depth=250) or ([
        stage.update(widths=[200 + i]) for i, stage in enumerate(h["stages"])
    ] and None))  # fmt: skip
    code = """
import resource, sys
from finer_nerfstudio.streams.reader import read_stream
streams = [bytes.fromhex(line) for line in sys.stdin.read().split()]
read_stream(streams[0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for stream in streams[1:]:
    found = read_stream(stream)
    assert found.stages == 0 and "weights" in found.damage, found.damage
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    lines = "\n".join(content.hex() for content in (STREAM, large, deep))
    done = subprocess.run([sys.executable, "-c", code], input=lines, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 * 1024


@pytest.mark.parametrize(("depth", "width"), [(3, 60_000), (256, 20_000), (3, 2_900)])
def test_more_weights_than_are_allowed_are_refused_with_the_header(depth: int, width: int) -> None:
    content = with_header(lambda h: h["networks"][0].update(depth=depth) or ([
        stage.update(widths=[width + i]) for i, stage in enumerate(h["stages"])
    ] and None))  # fmt: skip
    with pytest.raises(InputError, match="more than the 16,777,216 weights"):
        read_stream(content)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_stage_that_is_longer_than_its_widths_need_is_refused(index: int) -> None:
    needed = 4 * (5 * 3 + 9 * 10 + 14 * 15) * 3  # more than all numbers of all layers, of four bytes
    with pytest.raises(InputError, match=rf"stage {index} claims .* bytes, and its widths need no more than"):
        read_stream(with_header(lambda h: h["stages"][index].update(bytes=needed + 4096)))
    # As long as numbers that cannot be packed: the longest that a writer makes.
    stages = [StreamedStage([1000], 0, "float32")]
    network = GrowingNetwork(2, 3, depth=3, activation=preset("siren", "image").activation)
    stage = network.grow(1000, generator=torch.Generator().manual_seed(0))
    payload = pack_stage([stage], "float32")
    read = read_stream(write_stream(StreamHeader([describe_network("x", network)], "image", {}, stages), [payload])[0])
    assert read.stages == 1


def test_what_follows_the_last_stage_is_not_kept() -> None:
    reader = StreamReader()
    reader.feed(STREAM)
    assert reader.is_done
    for _ in range(10):
        assert reader.feed(bytes(1 << 20)) == []
    assert len(reader._pending) < 1 << 16
    stopped = StreamReader(most_stages=1)
    stopped.feed(STREAM[: ENDS[0]])
    assert stopped.is_done


def test_a_frame_that_does_not_say_its_size_is_told_apart() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    with pytest.raises(ValueError, match="does not say how many bytes it holds"):
        unpack_payload(frame, [((250,), "float32")])


def test_a_stage_of_another_stream_is_not_taken() -> None:
    other, ends, _ = made("siren")
    start = ENDS[0]
    mixed = STREAM[:start] + other[ends[0] : ends[1]] + STREAM[ENDS[1] :]
    stream = read_stream(mixed)
    assert stream.stages == 1
    assert stream.damage is not None


def test_bytes_may_come_one_by_one() -> None:
    reader = StreamReader()
    complete = []
    for position in range(len(STREAM)):
        complete += [(index, position + 1) for index in reader.feed(STREAM[position : position + 1])]
    assert complete == list(enumerate(ENDS))


def test_reading_may_stop_at_a_stage() -> None:
    assert read_stream(STREAM, stages=2).stages == 2


def test_constant_weights_are_not_taken_for_a_bomb() -> None:
    network = GrowingNetwork(2, 3, depth=4, activation=preset("siren", "image").activation)
    stage = network.grow(400, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.zero_()
    payload = pack_stage([stage], "float32")
    row = StreamedStage([400], 0, "float32")
    content, _ = write_stream(StreamHeader([describe_network("image", network)], "image", {}, [row]), [payload])
    assert read_stream(content).stages == 1


def test_weights_beyond_a_precision_are_refused() -> None:
    _, _, network = made(precision="float32")
    with torch.no_grad():
        network.stages[0].first.weight[0, 0] = 1e6
    with pytest.raises(InputError, match="float16"):
        pack_stage([network.stages[0]], "float16")
    with torch.no_grad():
        network.stages[0].first.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="finite"):
        pack_stage([network.stages[0]], "float32")


def test_newer_versions_are_named() -> None:
    newer = cbor2.dumps(["finer-stream", 2, b"", b""])
    with pytest.raises(InputError, match="update this package"):
        read_stream(newer)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.finer")), ids=lambda path: path.stem)
def test_files_of_every_version_stay_readable(path: Path) -> None:
    """Against outputs that were computed in double precision when the file was made."""
    expected = json.loads(path.with_suffix(".json").read_text())
    stream = read_stream(path.read_bytes())
    coords = torch.tensor(expected["coords"])
    for stages, outputs in enumerate(expected["outputs"], 1):
        torch.testing.assert_close(stream.networks[0](coords, stages=stages), torch.tensor(outputs), atol=1e-4, rtol=0)
