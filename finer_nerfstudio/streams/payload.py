"""Payloads: the numbers of a stage, rounded, plane by plane, and compressed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import zstandard
from torch import Tensor, nn

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.inr.growth import GrowthStage
from finer_nerfstudio.inr.network import ComplexLinear
from finer_nerfstudio.streams.header import Precision, fine_precision, raw_bytes

# A payload may not grow by more than this when unpacked, beyond the first kilobytes: weights never do.
_LARGEST_RATIO = 64


_FREE_BYTES = 1 << 16


_ZSTD_LEVEL = 19


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
            parts.append(_tensor_bytes(tensor, precision if coarse else fine_precision(precision), step))
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
        shapes.append((tuple(tensor.shape), precision if coarse else fine_precision(precision)))
    values = unpack_payload(payload, shapes)
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


def unpack_payload(payload: bytes, shapes: Sequence[tuple[tuple[int, ...], Precision]]) -> list[Tensor]:
    """The tensors in a payload, which has to hold as much as they need, before memory is set aside."""
    expected = sum(raw_bytes(shape, precision) for shape, precision in shapes)
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
        stop = start + raw_bytes(shape, precision)
        tensors.append(_tensor_from(raw[start:stop], shape, precision))
        if not tensors[-1].isfinite().all():
            raise ValueError("its weights are not all finite numbers")
        start = stop
    return tensors
