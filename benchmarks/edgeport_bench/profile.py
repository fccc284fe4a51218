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

__all__ = ["Part", "Profile", "profile_graph"]

_INT8_PRODUCTS = ("MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits")
_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", *_INT8_PRODUCTS)
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
    read: float
    """Bytes in and out of the products in it, a run."""
    is_int8: bool
    """Whether any of them computes in int8."""
    of_roofline: float | None
    """How near its time comes to the least that the machine allows, from 0 to 1; None without products."""


@dataclass(frozen=True)
class Profile:
    """Where a graph's time goes, the longest first."""

    kinds: Sequence[Part]
    """By operator."""
    layers: Sequence[Part]


def profile_graph(path: Path, feeds: Feeds, roofline: Roofline, *, threads: int, runs: int = 20) -> Profile:
    """The time of a graph by kind of operator and by layer.

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
    layer, weights = _OUTSIDE, _weights(path)
    for node in _nodes(events, runs, weights):
        layer = weights[node.name].layer if node.name in weights else layer
        kinds[node.kind].append(node)
        layers[layer].append(node)
    return Profile(_parts(kinds, roofline), _parts(layers, roofline))


@dataclass(frozen=True)
class _Node:
    name: str
    kind: str
    seconds: float
    """Of a run."""
    operations: float
    read: float


@dataclass(frozen=True)
class _Weights:
    """What a node of the file has of them."""

    layer: str
    bytes: Mapping[tuple[int, ...], int]
    """By shape."""


def _nodes(events: Sequence[Mapping[str, Any]], runs: int, weights: Mapping[str, _Weights]) -> list[_Node]:
    """The mean of each node's last ``runs`` runs, in the order of execution."""
    timed: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            timed[event["name"].removesuffix("_kernel_time")].append(event)
    found = []
    for name, times in timed.items():
        last, args = times[-runs:], times[-1]["args"]
        seconds = sum(e["dur"] for e in last) / 1e6 / len(last)
        read = _read(args, weights[name].bytes if name in weights else {})
        found.append(_Node(name, args["op_name"], seconds, _operations(args), read))
    return found


def _operations(args: Mapping[str, Any]) -> float:
    """2 × rows × inner × columns of a product; 0 of anything else."""
    if args["op_name"] not in _PRODUCTS:
        return 0.0
    result = next(iter(args["output_type_shape"][0].values()))
    first = next(iter(args["input_type_shape"][0].values()))
    return 2.0 * math.prod(result) * (first[-1] if first else 1)


def _read(args: Mapping[str, Any], weights: Mapping[tuple[int, ...], int]) -> float:
    """Bytes in and out. The weights that a kernel has packed for itself are not among the inputs that are recorded."""
    ports = [*args["input_type_shape"], *args["output_type_shape"]]
    recorded = sum(math.prod(shape) * _BYTES.get(kind, 1) for port in ports for kind, shape in port.items())
    seen = {tuple(shape) for port in args["input_type_shape"] for shape in port.values()}
    return float(recorded + sum(size for shape, size in weights.items() if shape not in seen))


def _weights(path: Path) -> dict[str, _Weights]:
    """Of every node that has some."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        own = [known[name] for name in node.input if name in known]
        if own:
            match = next(filter(None, map(_LAYER.search, [*(t.name for t in own), node.name])), None)
            sizes = {
                tuple(t.dims): math.prod(t.dims) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize
                for t in own
            }
            found[node.name] = _Weights(f"layer {match[1]}" if match else _OUTSIDE, sizes)
    return found


def _parts(groups: Mapping[str, Sequence[_Node]], roofline: Roofline) -> list[Part]:
    total = sum(node.seconds for nodes in groups.values() for node in nodes) or 1.0
    found = []
    for name, nodes in groups.items():
        products = [node for node in nodes if node.operations]
        seconds = sum(node.seconds for node in nodes)
        least = sum(
            node.seconds * roofline.share(node.operations, node.read, node.seconds, is_int8=node.kind in _INT8_PRODUCTS)
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
                sum(node.read for node in products),
                any(node.kind in _INT8_PRODUCTS for node in products),
                least / spent if spent else None,
            )
        )
    return sorted(found, key=lambda part: -part.milliseconds)
