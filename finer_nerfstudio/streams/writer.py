"""Writing a stream from its header and payloads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, replace

import cbor2

from finer_nerfstudio._version import __version__
from finer_nerfstudio.streams.header import DIGEST_BYTES, NAME, VERSION, StreamHeader, digest_of, header_of


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
        rows.append(replace(row, bytes=len(cbor2.dumps([i, payload, bytes(DIGEST_BYTES)]))))
    encoder = header.encoder or f"finer_nerfstudio {__version__}"
    encoded = cbor2.dumps(asdict(replace(header, stages=rows, encoder=encoder)))
    header_of(encoded)
    digest = digest_of(encoded)
    items = [cbor2.dumps([NAME, VERSION, encoded, digest])]
    for i, payload in enumerate(payloads):
        items.append(cbor2.dumps([i, payload, digest_of(digest + i.to_bytes(4, "little") + payload)]))
    ends = list(itertools.accumulate(len(item) for item in items))
    return b"".join(items), ends[1:]
