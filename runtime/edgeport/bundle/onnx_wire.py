"""Protobuf messages as they lie in a file: enough to find one's way in an ONNX model without onnx, and to change it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

__all__ = ["BYTES", "Data", "Part", "fields", "integer", "message", "parts", "varint"]

Data: TypeAlias = "bytes | bytearray | mmap.mmap"

BYTES = 2
"""The kind of values that are text or messages."""
_VARINT, _FIXED64, _FIXED32 = 0, 1, 5


class Part(NamedTuple):
    """A field: its number, the kind of its value, and bytes."""

    number: int
    kind: int
    begin: int
    """Where its key stands."""
    start: int
    """Where its value stands."""
    end: int


def parts(data: Data, start: int, end: int) -> Iterator[Part]:
    """All fields in ``data[start:end]``, one behind the other.

    Raises:
        ValueError: it is no protobuf, or cut off. IndexError: it is cut off within an integer.
    """
    at = start
    while at < end:
        begin = at
        key, at = varint(data, at)
        first, kind = at, key & 7
        if kind == BYTES:
            length, first = varint(data, at)
            at = first + length
        elif kind == _VARINT:
            _, at = varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"byte {at} is no protobuf")
        if at > end:
            raise ValueError("it is cut off")
        yield Part(key >> 3, kind, begin, first, at)


def fields(data: Data, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields in ``data[start:end]`` whose values are text or messages: number, first byte, byte after the last.

    Raises:
        ValueError: it is no protobuf, or cut off. IndexError: it is cut off within an integer.
    """
    return ((p.number, p.start, p.end) for p in parts(data, start, end) if p.kind == BYTES)


def varint(data: Data, at: int) -> tuple[int, int]:
    """The integer that begins at a byte, without a sign, and the byte after it.

    Raises:
        ValueError: it has more than 64 bits. IndexError: it is cut off.
    """
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"byte {at} is no protobuf")


def message(number: int, *contents: bytes) -> bytes:
    """A field that holds a message or text."""
    return _varint(number << 3 | BYTES) + _varint(sum(map(len, contents))) + b"".join(contents)


def integer(number: int, value: int) -> bytes:
    """A field that holds an integer, which is not negative."""
    return _varint(number << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
