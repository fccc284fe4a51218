"""Products with weights of 4 and 8 bits by the kernels of the package edgeport-kernels, where it is installed.

A bundle's graph stays what any onnxruntime runs. Where the kernels suit the processor, the graph is read with another
domain at its ``MatMulNBits`` nodes, of the same length, under which the package's library has the operator. The library
comes from the installed package and never from a bundle.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeport.bundle.onnx_wire import fields, varint
from edgeport.session.cpu import cpu_features

__all__ = ["DOMAIN", "OFF", "PACKAGE", "Kernels", "find_kernels"]

OFF = "EDGEPORT_KERNELS"
"""Environment variable; 0 leaves the kernels alone."""

PACKAGE = "edgeport-kernels"
DOMAIN = "edgeport.simd"
"""Of its operators."""

_THEIRS, _OURS = b"com.microsoft", DOMAIN.encode()
_OPERATOR = b"MatMulNBits"
_OPSET_IMPORT = b"\x42\x11\x0a\x0d" + _OURS + b"\x10\x01"
"""Field 8 of a model: the domain, version 1. A message may be continued at its end."""
_LARGEST = 2**26
"""Bytes. In a larger file the weights stand among the nodes: it is not read into memory for this."""
_FLOAT, _UINT8 = 1, 2
_FASTER_BY_ITSELF = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Where onnxruntime has instructions that these kernels do without."""


@dataclass(frozen=True)
class Kernels:
    """A library of operators, and who made it."""

    library: Path
    version: str

    def graph(self, path: Path) -> bytes | None:
        """The ONNX file with the operators replaced that the library has; None where there are none.

        Raises:
            ValueError, IndexError: it is no ONNX file.
        """
        if path.stat().st_size > _LARGEST:
            return None
        data = bytearray(path.read_bytes())
        replaced = 0
        for domain in list(_replaceable(data)):
            data[domain : domain + len(_OURS)] = _OURS
            replaced += 1
        return bytes(data) + _OPSET_IMPORT if replaced else None


def find_kernels() -> Kernels | None:
    """The installed kernels, if they run on this processor and are the faster ones there."""
    features = cpu_features()
    if os.environ.get(OFF) == "0" or "avx2" not in features or any(name in features for name in _FASTER_BY_ITSELF):
        return None
    try:
        import edgeport_kernels
    except ImportError:
        return None
    library = edgeport_kernels.library()
    return Kernels(library, edgeport_kernels.__version__) if library is not None else None


def _replaceable(data: bytearray) -> Iterator[int]:
    """Where the domain stands of each node that the library can run."""
    for number, start, end in fields(data, 0, len(data)):
        if number == 7:
            types = dict(_tensor(data, a, b) for n, a, b in fields(data, start, end) if n == 5)
            for n, a, b in fields(data, start, end):
                if n == 1 and data.find(_OPERATOR, a, b) >= 0 and (domain := _domain(data, a, b, types)):
                    yield domain


def _domain(data: bytearray, start: int, end: int, types: dict[bytes, int]) -> int | None:
    """Where the domain of the node stands; None if the node has to stay as it is.

    Args:
        data: The file.
        start: Of the node, and ``end``.
        types: Element types of the constants, by name.
    """
    inputs, attributes, operator, domain = [], {}, b"", 0
    for number, a, b in fields(data, start, end):
        if number == 1:
            inputs.append(bytes(data[a:b]))
        elif number == 4:
            operator = bytes(data[a:b])
        elif number == 5:
            attribute = {n: (x, y) for n, x, y in fields(data, a, b)}
            if 1 in attribute and 3 in attribute:
                attributes[bytes(data[slice(*attribute[1])])] = varint(data, attribute[3][0])[0]
        elif number == 7 and data[a:b] == _THEIRS:
            domain = a
    inputs += [b""] * (6 - len(inputs))
    _, values, scales, zeros, order, bias = inputs[:6]
    fits = (
        operator == _OPERATOR
        and attributes.get(b"accuracy_level") == 4
        and attributes.get(b"bits", 4) in (4, 8)
        and attributes.get(b"block_size") in (16, 32, 64, 128, 256)
        and (types.get(values), types.get(scales)) == (_UINT8, _FLOAT)
        and types.get(zeros, _UINT8 if not zeros else 0) == _UINT8
        and types.get(bias, _FLOAT if not bias else 0) == _FLOAT
        and not order
    )
    return domain if fits and domain else None


def _tensor(data: bytearray, start: int, end: int) -> tuple[bytes, int]:
    """Name and element type of a constant."""
    name, kind = b"", 0
    for number, a, b in fields(data, start, end):
        if number == 8:
            name = bytes(data[a:b])
        elif number == 2:
            kind = varint(data, a)[0]
    return name, kind
