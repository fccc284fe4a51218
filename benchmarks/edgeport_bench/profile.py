"""``edgeport bench --profile``: where a graph's time goes, by kind of operator and by layer, against the roofline.

The times are onnxruntime's own, of its optimized graph on the CPU. Recording them costs some, so they add up to more
than what is measured without. A node belongs to the layer that its weights are named after, or else to that of the node
before it.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeport.session import open_graph

from edgeport_bench.inputs import Feeds
from edgeport_bench.roofline import Roofline

__all__ = ["Part", "profile_graph"]

_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")
_INTEGERS = ("MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QLinearMatMul")
_LAYER = re.compile(r"(?:layers?|blocks?|h)[._/](\d+)(?:[._/]|$)", re.IGNORECASE)
_BYTES = {"float": 4, "float16": 2, "double": 8, "int64": 8, "int32": 4}
_WARM_UP = 3
_OUTSIDE = "outside the layers"


@dataclass(frozen=True)
class Part:
    """Nodes that share a kind or a layer."""

    name: str
    nodes: int
    milliseconds: float
    """Of a run."""
    share: float
    """Of all nodes' time, from 0 to 1."""
    operations: float
    """Of the products in it, a run; attention's own are not counted."""
    of_roofline: float | None
    """How near its time comes to the least that the machine allows, from 0 to 1; None without products."""


def profile_graph(
    path: Path, feeds: Feeds, roofline: Roofline, *, threads: int, runs: int = 20
) -> tuple[list[Part], list[Part]]:
    """The time of a graph by kind of operator and by layer, the longest first.

    Args:
        path: The ONNX file.
        feeds: Its inputs by name.
        roofline: Of this machine and as many threads.
        threads: Within an operation.
        runs: That are recorded, after some that are not.
    """
    with TemporaryDirectory() as folder:
        session = open_graph(path, threads=threads, profile=Path(folder) / "profile")
        for _ in range(_WARM_UP + runs):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kinds, layers = defaultdict(list), defaultdict(list)
    layer, known = _OUTSIDE, _layers(path)
    for node in _nodes(events, runs):
        layer = known.get(node.name, layer)
        kinds[node.kind].append(node)
        layers[layer].append(node)
    return _parts(kinds, roofline), _parts(layers, roofline)


@dataclass(frozen=True)
class _Node:
    name: str
    kind: str
    seconds: float
    """Of a run."""
    operations: float
    read: float


def _nodes(events: Sequence[Mapping[str, Any]], runs: int) -> list[_Node]:
    """The mean of each node's last ``runs`` runs, in the order of execution."""
    timed: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            timed[event["name"].removesuffix("_kernel_time")].append(event)
    found = []
    for name, times in timed.items():
        last, args = times[-runs:], times[-1]["args"]
        seconds = sum(e["dur"] for e in last) / 1e6 / len(last)
        found.append(_Node(name, args["op_name"], seconds, _operations(args), _read(args)))
    return found


def _operations(args: Mapping[str, Any]) -> float:
    """2 × rows × inner × columns of a product; 0 of anything else."""
    if args["op_name"] not in _PRODUCTS:
        return 0.0
    result = next(iter(args["output_type_shape"][0].values()))
    first = next(iter(args["input_type_shape"][0].values()))
    return 2.0 * math.prod(result) * (first[-1] if first else 1)


def _read(args: Mapping[str, Any]) -> float:
    """Bytes in and out."""
    ports = [*args["input_type_shape"], *args["output_type_shape"]]
    return float(sum(math.prod(shape) * _BYTES.get(kind, 1) for port in ports for kind, shape in port.items()))


def _layers(path: Path) -> dict[str, str]:
    """Node to layer, of those that have weights."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        own = [name for name in node.input if name in weights]
        if own:
            match = next(filter(None, map(_LAYER.search, [*own, node.name])), None)
            found[node.name] = f"layer {match[1]}" if match else _OUTSIDE
    return found


def _parts(groups: Mapping[str, Sequence[_Node]], roofline: Roofline) -> list[Part]:
    total = sum(node.seconds for nodes in groups.values() for node in nodes) or 1.0
    found = []
    for name, nodes in groups.items():
        products = [node for node in nodes if node.operations]
        seconds = sum(node.seconds for node in nodes)
        least = sum(
            node.seconds * roofline.share(node.operations, node.read, node.seconds, is_int8=node.kind in _INTEGERS)
            for node in products
        )
        spent = sum(node.seconds for node in products)
        found.append(
            Part(
                name,
                len(nodes),
                1e3 * seconds,
                seconds / total,
                sum(node.operations for node in products),
                least / spent if spent else None,
            )
        )
    return sorted(found, key=lambda part: -part.milliseconds)
