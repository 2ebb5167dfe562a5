"""Reading a stream as its bytes arrive, without believing what they claim."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cbor2
import torch

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.inr.growth import GrowingNetwork
from finer_nerfstudio.streams.header import (
    LARGEST_HEADER,
    NAME,
    VERSION,
    StreamHeader,
    decoder,
    digest_of,
    header_of,
    is_whole,
    short,
    stage_shapes,
)
from finer_nerfstudio.streams.payload import parameters_of, unpack_payload


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
            item = decoder(file).decode()
        except cbor2.CBORDecodeEOF as error:
            if len(self._pending) > 2 * LARGEST_HEADER:
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
        if not is_whole(version, 1, 1 << 31):
            raise InputError(f"the stream's version {short(version)} is not understood.")
        if version > VERSION:
            raise InputError(f"the stream is of format version {version}: update this package, which knows {VERSION}.")
        if not isinstance(encoded, bytes) or not isinstance(digest, bytes) or digest_of(encoded) != digest:
            raise InputError("the stream's header is damaged: its digest does not fit.")
        try:
            self.header = header_of(encoded)
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
            decoded = decoder(file).decode()
        except Exception as error:  # whatever a parser of hostile bytes comes up with
            raise ValueError(str(error)) from error
        if not (isinstance(decoded, (list, tuple)) and len(decoded) == 3) or file.tell() != len(item):
            raise ValueError("it is no item of a stage")
        number, payload, digest = decoded
        if number != index or not isinstance(payload, bytes):
            raise ValueError("it is another item")
        if digest_of(self._header_digest + index.to_bytes(4, "little") + payload) != digest:
            raise ValueError("its digest does not fit")
        values = unpack_payload(payload, stage_shapes(self.header, index))
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
