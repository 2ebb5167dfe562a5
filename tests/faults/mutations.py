"""Damage done to files on purpose: the same seed gives the same damage."""

from __future__ import annotations

import random
import struct
from typing import Any

_HUGE = (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 1 << 24, 1 << 31, 1 << 40)
_WORDS = (
    b"-1", b"0", b"1e999", b"nan", b"-inf", b"1e-320", b"9" * 500, b"4294967296", b"99999999999", b"null", b"true",
    b'"x"', b"[" * 3000, b"{}", b"\x00", b"\xff\xfe", b"\x1b[2J", b"..", b"/dev/zero", b"0.5.5",
)  # fmt: skip
HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2, 1 << 31, 1 << 40, 1 << 64, 10**400, 1e308, 1e-308, float("inf"), float("-inf"),
    float("nan"), "", "x", "\x1b[2J", "x" * 5000, "../../etc/passwd", "/dev/zero", "\x00", "\ud800", [], {}, [[]],
    [None], [0] * 1000, [[1e200] * 4] * 4, {"": {}}, -0.0, 0.5,
)  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return ``content`` with one to four faults: bits, cuts, insertions, zeros, swapped parts, huge numbers."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        rng.choice(_FAULTS)(data, rng)
    return bytes(data)


def _place(data: bytearray, rng: random.Random) -> int:
    """Anywhere, but half of the time near the beginning, where headers are."""
    return rng.randrange(max(1, min(len(data), 200) if rng.random() < 0.5 else len(data)))


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    if data:
        data[_place(data, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    del data[start : start + rng.choice((1, 2, 4, 16, 256))]


def _insert(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    data[start:start] = rng.randbytes(rng.choice((1, 2, 4, 16, 300)))


def _zero(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    stop = min(len(data), start + rng.choice((2, 4, 16, 512, 4096)))
    data[start:stop] = bytes(max(0, stop - start))


def _repeat(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    data[start:start] = data[start : start + rng.choice((1, 8, 64, 1024))] * rng.choice((1, 2, 20))


def _swap(data: bytearray, rng: random.Random) -> None:
    size = rng.choice((1, 2, 4, 8, 64))
    a, b = _place(data, rng), _place(data, rng)
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def _huge(data: bytearray, rng: random.Random) -> None:
    kind = rng.choice(["<I", ">I", "<Q", ">Q", "<H", ">H"])
    start, largest = _place(data, rng), (1 << 8 * struct.calcsize(kind)) - 1
    data[start : start + struct.calcsize(kind)] = struct.pack(kind, rng.choice(_HUGE) & largest)


def _word(data: bytearray, rng: random.Random) -> None:
    """Something else in the place of a number, where the file is of text."""
    start = _place(data, rng)
    while start < len(data) and data[start : start + 1] not in b"0123456789.-":
        start += 1
    stop = start
    while stop < len(data) and data[stop : stop + 1] in b"0123456789.-eE+":
        stop += 1
    data[start:stop] = rng.choice(_WORDS)


_FAULTS = (_flip, _flip, _set, _cut, _remove, _insert, _zero, _repeat, _swap, _huge, _huge, _word, _word)


def altered(value: Any, rng: random.Random) -> Any:
    """Return JSON-like ``value`` with one of its parts, at any depth, replaced, left out, or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        changed = dict(value)
        key = rng.choice(list(changed))
        kind = rng.random()
        if kind < 0.1:
            del changed[key]
        elif kind < 0.15:
            changed["another " + str(key)] = changed.pop(key)
        else:
            changed[key] = altered(changed[key], rng)
        return changed
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.85:
        items = list(value)
        index = rng.randrange(len(items))
        kind = rng.random()
        if kind < 0.1:
            del items[index]
        elif kind < 0.2:
            items.insert(index, items[index])
        else:
            items[index] = altered(items[index], rng)
        return items
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.4:
        factor = rng.choice((-1, 0, 2, 1000, 1e30))
        return value * factor if isinstance(value, float) else int(value * factor)
    if isinstance(value, bytes) and rng.random() < 0.7:
        return damaged(value, rng)
    return rng.choice(HOSTILE_VALUES)
