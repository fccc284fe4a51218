"""Which other files an ONNX file would have read. Knows just enough protobuf to skip what does not matter.

The runtime has no onnx package, and onnxruntime must not be the first to look at a stranger's file: it would open the
paths that stand in it. Large weights are skipped by their length, so a scan takes milliseconds.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeport.bundle.onnx_wire import Data, fields
from edgeport.errors import BundleError

__all__ = ["external_files"]

# Message to the fields that can lead to a tensor: number to the field's message (onnx.proto).
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
_MAX_DEPTH = 64
_LOCATION = b"location"
_COMPILED = b"EPContext"
"""An operator that hands a file, or bytes of the graph, to a provider's driver as a program."""


def external_files(path: Path) -> frozenset[str]:
    """The locations of external data in the ONNX file ``path``, as they stand there, unchecked.

    Raises:
        BundleError: it is not an ONNX file, is cut off, or holds a program for a driver.
    """
    if path.stat().st_size == 0:
        raise BundleError(f"{path.name} is empty: copy the bundle again, or export it again.")
    try:
        with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if not any(number == 7 and first < last for number, first, last in fields(data, 0, len(data))):
                raise ValueError("it has no graph")
            return frozenset(_walk(data, "model", 0, len(data), 0))
    except (ValueError, IndexError) as e:
        raise BundleError(f"{path.name} is no whole ONNX file ({e}): copy the bundle again, or export it again.") from e


def _walk(data: Data, message: str, start: int, end: int, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"it nests deeper than {_MAX_DEPTH} messages")
    if message == "node" and not _worth_walking(data, start, end):
        return
    wanted = _FIELDS[message]
    for number, first, last in fields(data, start, end):
        if number not in wanted:
            continue
        if wanted[number] == "entry":
            entry = {n: data[a:b] for n, a, b in fields(data, first, last)}
            if entry.get(1) == _LOCATION:
                yield entry.get(2, b"").decode("utf-8", errors="replace")
        else:
            yield from _walk(data, wanted[number], first, last, depth + 1)


def _worth_walking(data: Data, start: int, end: int) -> bool:
    """Nodes are many and nearly never hold a tensor, so they are searched before they are parsed."""
    if data.find(_COMPILED, start, end) >= 0 and any(
        number == 4 and data[a:b] == _COMPILED for number, a, b in fields(data, start, end)
    ):
        raise BundleError("the graph holds a compiled program (EPContext) for a driver: do not use this bundle.")
    return data.find(_LOCATION, start, end) >= 0 or data.find(_COMPILED, start, end) >= 0
