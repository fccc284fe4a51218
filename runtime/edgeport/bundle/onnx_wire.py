"""The fields of protobuf messages, as they lie in a file: enough to find one's way in an ONNX model without onnx."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import TypeAlias

__all__ = ["Data", "fields", "varint"]

Data: TypeAlias = "bytes | bytearray | mmap.mmap"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(data: Data, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields in ``data[start:end]`` whose values are integers, text or messages.

    Yields:
        Number, first byte, byte after the last; for an integer the same byte twice, where it begins.

    Raises:
        ValueError: it is no protobuf, or cut off. IndexError: it is cut off within an integer.
    """
    at = start
    while at < end:
        key, at = varint(data, at)
        kind = key & 7
        if kind == _BYTES:
            length, at = varint(data, at)
            if at + length > end:
                raise ValueError("it is cut off")
            yield key >> 3, at, at + length
            at += length
        elif kind == _VARINT:
            yield key >> 3, at, at
            _, at = varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"byte {at} is no protobuf")
    if at > end:
        raise ValueError("it is cut off")


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
