"""What a layer's heads and neurons cost on this machine, by how many there are: measured in ONNX Runtime.

A layer's products are small, and halving a small one does not halve its time. So each size is built as a graph of its
own, products and attention of the layer's shapes some times over, and timed: in turns, with the threads that the
runtime takes, on a text of the samples' length.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from edgeport.session import usable_threads
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgeport_export.prune.units import DENSE, Units, weights_of

__all__ = ["measure"]

_COPIES = 4
"""Of a layer in a graph: the weights of one would stay in the processor's cache."""
_ROUNDS, _RUNS = 7, 5


def measure(units: Units, kept: Sequence[int], tokens: int) -> list[float]:
    """Milliseconds of one layer's products and attention with each of ``kept`` units, one row of ``tokens``.

    The least median of some rounds: whatever else runs on the machine only ever adds.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_threads()
    options.log_severity_level = 3
    graphs = [_graph(units, count).SerializeToString() for count in kept]
    sessions = [ort.InferenceSession(g, options, providers=["CPUExecutionProvider"]) for g in graphs]
    width = weights_of(_products(units)[0][0]).shape[1]
    read = {"x": np.random.default_rng(0).standard_normal((1, tokens, width), dtype=np.float32)}
    medians: list[list[float]] = [[] for _ in kept]
    for _ in range(_ROUNDS):
        for session, found in zip(sessions, medians, strict=True):
            session.run(None, read)
            found.append(statistics.median(_timed(session, read) for _ in range(_RUNS)))
    times = [min(found) / _COPIES for found in medians]
    return [max(times[: i + 1]) if i else times[0] for i in range(len(times))]  # more units are never faster


def _timed(session: ort.InferenceSession, read: dict[str, NDArray[Any]]) -> float:
    start = time.perf_counter()
    session.run(None, read)
    return (time.perf_counter() - start) * 1e3


def _products(units: Units) -> list[tuple[nn.Module, int]]:
    """What makes the consumer's input, and rows of it that are one unit."""
    return [(o.owner, o.index.shape[1]) for o in units.own if isinstance(o.owner, DENSE) and o.name == "weight"]


def _graph(units: Units, count: int) -> onnx.ModelProto:
    """Products, attention or activation, and products again, as wide as ``count`` units are."""
    graph = _Graph()
    out, inner = weights_of(units.consumer).shape[0], units.size * count
    width = first = weights_of(_products(units)[0][0]).shape[1]
    read = "x"
    for _ in range(_COPIES):
        made = [graph.product(read, width, rows * count, inner) for _, rows in _products(units)]
        if units.kind == "heads":
            query, key, value = (made * 3)[:3]
            mixed = graph.node("MultiHeadAttention", query, key, value, num_heads=count)
        else:
            mixed = graph.node("Gelu", made[0])
            mixed = graph.node("Mul", mixed, made[1]) if len(made) > 1 else mixed
        read, width = graph.product(mixed, inner, out, out), out
    return graph.model(first, read)


class _Graph:
    """Nodes one after the other, with random weights."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def node(self, operator: str, *read: str, **attributes: Any) -> str:
        name = f"t{len(self._nodes)}"
        domain = "com.microsoft" if operator in ("MultiHeadAttention", "Gelu") else ""
        self._nodes.append(helper.make_node(operator, list(read), [name], domain=domain, **attributes))
        return name

    def product(self, read: str, rows: int, columns: int, wanted: int) -> str:
        """A product with a matrix of its own, and of a packed one the columns that are wanted."""
        matrix = self._random.standard_normal((rows, columns), dtype=np.float32) / np.float32(rows**0.5)
        name = self.node("MatMul", read, self._constant(matrix))
        if columns <= wanted:
            return name
        ends = [self._constant(np.array([n], np.int64)) for n in (0, wanted, 2)]
        return self.node("Slice", name, *ends)

    def _constant(self, array: NDArray[Any]) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array, name))
        return name

    def model(self, width: int, output: str) -> onnx.ModelProto:
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "tokens", width])
        made = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self._nodes, "layer", [given], [made], self._weights)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)
