"""``edgeport bench --profile``: where a graph's time goes, by kind of operator and by layer, against the roofline.

The times are onnxruntime's own, of its optimized graph on the CPU. A node belongs to the layer that its weights are
named after, or else to that of the node before it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeport.session import open_graph
from edgeport_export.profile import OperatorRun, Roofline, node_weights, read_profile

from edgeport_bench.inputs import Feeds

__all__ = ["Part", "Profile", "profile_graph"]

_LAYER = re.compile(r"(?:layers?|blocks?|h)[._/](\d+)(?:[._/]|$)", re.IGNORECASE)
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
    weights = node_weights(path)
    with TemporaryDirectory() as folder:
        session = open_graph(path, threads=threads, profile=Path(folder) / "profile")
        for _ in range(_WARM_UP + runs):
            session.run(None, feeds)
        ran = read_profile(Path(session.end_profiling()), weights)
    kinds, layers = defaultdict(list), defaultdict(list)
    layer = _OUTSIDE
    for node in _means(ran, runs):
        layer = _layer(node.name, weights[node.name].names) if node.name in weights else layer
        kinds[node.kind].append(node)
        layers[layer].append(node)
    return Profile(_parts(kinds, roofline), _parts(layers, roofline))


def _means(ran: Sequence[OperatorRun], runs: int) -> list[OperatorRun]:
    """The mean of each node's last ``runs`` runs, in the order of execution."""
    by_node: dict[str, list[OperatorRun]] = defaultdict(list)
    for operator in ran:
        by_node[operator.name].append(operator)
    lasts = [each[-runs:] for each in by_node.values()]
    return [replace(last[-1], seconds=sum(o.seconds for o in last) / len(last)) for last in lasts]


def _layer(node: str, weights: Sequence[str]) -> str:
    match = next(filter(None, map(_LAYER.search, [*weights, node])), None)
    return f"layer {match[1]}" if match else _OUTSIDE


def _parts(groups: Mapping[str, Sequence[OperatorRun]], roofline: Roofline) -> list[Part]:
    total = sum(node.seconds for nodes in groups.values() for node in nodes) or 1.0
    found = []
    for name, nodes in groups.items():
        products = [node for node in nodes if node.operations]
        seconds = sum(node.seconds for node in nodes)
        spent = sum(node.seconds for node in products)
        found.append(
            Part(
                name,
                len(nodes),
                1e3 * seconds,
                seconds / total,
                sum(node.operations for node in products),
                sum(node.read for node in products),
                any(node.is_int8 for node in products),
                sum(node.least(roofline) for node in products) / spent if spent else None,
            )
        )
    return sorted(found, key=lambda part: -part.milliseconds)
