"""What onnxruntime wrote of each operator that it ran: its time, and the work that the roofline counts.

The times are of onnxruntime's optimized graph. Recording them costs some, so they add up to more than what is measured
without.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport_export.profile.roofline import Roofline

__all__ = ["NodeWeights", "OperatorRun", "node_weights", "read_profile"]

_INT8_PRODUCTS = (
    "MatMulInteger",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "QLinearMatMul",
    "QGemm",
    "MatMulNBits",
)
_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", *_INT8_PRODUCTS)
_BYTES = {"float": 4, "float16": 2, "double": 8, "int64": 8, "int32": 4}


@dataclass(frozen=True)
class OperatorRun:
    """One run of one operator."""

    name: str
    """Of the node."""
    kind: str
    """Of the operator."""
    seconds: float
    operations: float
    """Of a product; 0 of anything else, attention included."""
    read: float
    """Bytes in and out."""

    @property
    def is_int8(self) -> bool:
        """Whether it is a product in int8."""
        return self.kind in _INT8_PRODUCTS

    def least(self, roofline: Roofline) -> float:
        """The seconds that the product takes at least; 0 of anything else."""
        return roofline.least(self.operations, self.read, is_int8=self.is_int8) if self.operations else 0.0


@dataclass(frozen=True)
class NodeWeights:
    """What a node of a file has of them."""

    names: Sequence[str]
    bytes: Mapping[tuple[int, ...], int]
    """By shape."""


def node_weights(graph: Path) -> dict[str, NodeWeights]:
    """Name of a node to its weights, of every node of an ONNX file that has some."""
    import onnx

    proto = onnx.load(graph, load_external_data=False).graph
    known = {tensor.name: tensor for tensor in proto.initializer}
    found = {}
    for node in proto.node:
        own = [known[name] for name in node.input if name in known]
        if own:
            sizes = {
                tuple(t.dims): math.prod(t.dims) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize
                for t in own
            }
            found[node.name] = NodeWeights([t.name for t in own], sizes)
    return found


def read_profile(profile: Path, weights: Mapping[str, NodeWeights]) -> list[OperatorRun]:
    """All that ran, in order.

    Args:
        profile: What ``end_profiling`` wrote.
        weights: Of the graph that ran.
    """
    events = json.loads(profile.read_text(encoding="utf-8"))
    found = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name, args = event["name"].removesuffix("_kernel_time"), event["args"]
            read = _read(args, weights[name].bytes if name in weights else {})
            found.append(OperatorRun(name, args["op_name"], event["dur"] / 1e6, _operations(args), read))
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
