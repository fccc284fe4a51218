"""Products with weights of 4 and 8 bits, and attention to a cache, by the package edgeport-kernels where it is there.

A bundle's graph stays what any onnxruntime runs. Where the kernels suit the processor, the graph is read with another
domain at the nodes of these kinds, of the same length, under which the package's library has the operator. The library
comes from the installed package and never from a bundle.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgeport.bundle.onnx_wire import fields, varint
from edgeport.session.cpu import cpu_features

__all__ = ["CHOICE", "DOMAIN", "PACKAGE", "Kernels", "find_kernels"]

CHOICE = "EDGEPORT_KERNELS"
"""Environment variable: 0 leaves the kernels alone, 1 takes them wherever they run."""

PACKAGE = "edgeport-kernels"
DOMAIN = "edgeport.simd"
"""Of its operators."""

_THEIRS, _OURS = b"com.microsoft", DOMAIN.encode()
_OPSET_IMPORT = b"\x42\x11\x0a\x0d" + _OURS + b"\x10\x01"
"""Field 8 of a model: the domain, version 1. A message may be continued at its end."""
_LARGEST = 2**26
"""Bytes. In a larger file the weights stand among the nodes: it is not read into memory for this."""
_FLOAT, _UINT8 = 1, 2
_GRAPH, _NODE, _CONSTANT, _INPUT = 7, 1, 5, 11
"""Fields of a model, and of its graph."""
_MOST_INPUTS = 16
_UNTRIED = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Where onnxruntime has instructions that these kernels do without: nobody has measured which is faster there."""


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
        if not any(operator in data for operator in _FITS):
            return None
        domains = list(_replaceable(data))
        for at in domains:
            data[at : at + len(_OURS)] = _OURS
        return bytes(data) + _OPSET_IMPORT if domains else None


def find_kernels() -> Kernels | None:
    """The installed kernels, if they run on this processor and are known to be faster there."""
    asked, features = os.environ.get(CHOICE), cpu_features()
    slower = asked != "1" and any(name in features for name in _UNTRIED)
    if asked == "0" or "avx2" not in features or slower:
        return None
    try:
        import edgeport_kernels
    except ImportError:
        return None
    library = edgeport_kernels.library()
    return Kernels(library, edgeport_kernels.__version__) if library is not None else None


@dataclass(frozen=True)
class _Node:
    operator: bytes
    inputs: list[bytes]
    numbers: dict[bytes, int]
    """Attributes that are integers."""
    others: set[bytes]
    """Names of all other attributes."""
    domain: int
    """Where it stands; 0 if it is none that the library knows of."""


def _replaceable(data: bytearray) -> Iterator[int]:
    """Where the domain stands of each node that the library can run."""
    for number, start, end in fields(data, 0, len(data)):
        if number != _GRAPH:
            continue
        parts = list(fields(data, start, end))
        types = dict(_described(data, a, b, n) for n, a, b in parts if n in (_CONSTANT, _INPUT))
        for n, a, b in parts:
            if n == _NODE and any(data.find(operator, a, b) >= 0 for operator in _FITS):
                node = _read_node(data, a, b)
                if node.domain and node.operator in _FITS and _FITS[node.operator](node, types):
                    yield node.domain


def _read_node(data: bytearray, start: int, end: int) -> _Node:
    node = _Node(b"", [], {}, set(), 0)
    for number, a, b in fields(data, start, end):
        if number == 1:
            node.inputs.append(bytes(data[a:b]))
        elif number == 4:
            node = replace(node, operator=bytes(data[a:b]))
        elif number == 5:
            attribute = {n: (x, y) for n, x, y in fields(data, a, b)}
            name = bytes(data[slice(*attribute[1])])
            if 3 in attribute:
                node.numbers[name] = varint(data, attribute[3][0])[0]
            else:
                node.others.add(name)
        elif number == 7 and data[a:b] == _THEIRS:
            node = replace(node, domain=a)
    node.inputs.extend([b""] * (_MOST_INPUTS - len(node.inputs)))
    return node


def _fits_product(node: _Node, types: Mapping[bytes, int]) -> bool:
    """Whether a MatMulNBits is of the kind that the library has."""
    _, values, scales, zeros, order, bias = node.inputs[:6]
    return (
        node.numbers.get(b"accuracy_level") == 4
        and node.numbers.get(b"bits", 4) in (4, 8)
        and node.numbers.get(b"block_size") in (16, 32, 64, 128, 256)
        and (types.get(values), types.get(scales)) == (_UINT8, _FLOAT)
        and types.get(zeros, _UINT8 if not zeros else 0) == _UINT8
        and types.get(bias, _FLOAT if not bias else 0) == _FLOAT
        and not order
    )


def _fits_attention(node: _Node, types: Mapping[bytes, int]) -> bool:
    """Likewise of a GroupQueryAttention: a cache in fp32, and nothing but rotation asked for."""
    known = {b"num_heads", b"kv_num_heads", b"do_rotary", b"rotary_interleaved", b"scale"}
    cache = node.inputs[3:5]
    return (
        {name for name, number in node.numbers.items() if number} | node.others <= known
        and all(types.get(name) == _FLOAT for name in cache)
        and not any(node.inputs[9:])
    )


def _described(data: bytearray, start: int, end: int, kind: int) -> tuple[bytes, int]:
    """Name and element type of a constant or of an input; type 0 if it is no tensor."""
    parts = {number: (a, b) for number, a, b in fields(data, start, end)}
    if kind == _CONSTANT:
        name, element = parts.get(8), parts.get(2)
    else:
        name, element = parts.get(1), parts.get(2)
        for _ in range(2):  # type, tensor_type
            element = {n: (a, b) for n, a, b in fields(data, *element)}.get(1) if element else None
    return bytes(data[slice(*name)]) if name else b"", varint(data, element[0])[0] if element else 0


_FITS: Mapping[bytes, Callable[[_Node, Mapping[bytes, int]], bool]] = {
    b"MatMulNBits": _fits_product,
    b"GroupQueryAttention": _fits_attention,
}
