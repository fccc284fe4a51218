"""What int8 techniques share: the products of a graph with a constant matrix, their weights in int8, and the report.

Knows where a product begins and ends (bias included) and how its weight is stored; what quantizes the activations is
the techniques' own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeport_export.passes.fold_constants import transposes_second
from edgeport_export.passes.match import attribute, is_weight, name_of, new_weight, sole_user, tensor_of

__all__ = ["Int8Weights", "Product", "QuantizationReport", "find_products", "quantize_symmetric"]

_LARGEST = 63
"""Weights use 7 of the 8 bits. x86 processors without VNNI add pairs of products in 16 bits, which 8-bit weights
overflow: entity F1 of a MiniLM fell by 0.55 points there. The exact kernel for 8-bit weights takes 1.4 times as long.
With 7 bits the fast kernel is exact, and every processor gives the same numbers; on three MiniLMs the seventh bit cost
0.1 points of Spearman, 0.06 of accuracy and nothing in F1 (the table in docs/design.md)."""

_PARTS = np.linspace(1.0, 0.6, 17)
"""Of the scale that reaches a channel's largest weight: the scales that are tried."""

_CACHED = 2**17
"""Elements that are quantized at a time: few enough to stay in the processor's cache through all the tries."""


@dataclass
class QuantizationReport:
    """What was quantized, and what was not and why."""

    quantized: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def wants(self, weight: ir.Value, keep: re.Pattern[str] | None) -> bool:
        """Count ``weight`` as quantized, unless ``keep`` finds its name: then say so and return False."""
        name = name_of(weight)
        if keep is not None and keep.search(name):
            self.skipped[name] = "kept in fp32 as asked"
            return False
        if name not in self.quantized:
            self.quantized.append(name)
        return True

    def __str__(self) -> str:
        total = len(self.quantized) + len(self.skipped)
        text = f"quantized {len(self.quantized)} of {total} weights"
        if self.skipped:
            reasons = sorted(set(self.skipped.values()))
            listed = [f"{reason}: {', '.join(n for n, r in self.skipped.items() if r == reason)}" for reason in reasons]
            text += f"; skipped — {'; '.join(listed)}"
        return text


@dataclass(frozen=True)
class Product:
    """``source @ weight + bias``."""

    node: ir.Node
    weight: ir.Value
    """(in, out), or (out, in) where ``transposed``."""
    transposed: bool
    bias: ir.Value | None
    """(out,)"""
    add: ir.Node | None
    """The node that adds the bias, where the product itself does not."""

    @property
    def name(self) -> str:
        """The weight's name, which names the product too."""
        return name_of(self.weight)

    @property
    def source(self) -> ir.Value:
        """What is multiplied, (..., in), float."""
        assert self.node.inputs[0] is not None
        return self.node.inputs[0]

    @property
    def result(self) -> ir.Value:
        return (self.add or self.node).outputs[0]

    def replace(self, graph: ir.Graph, nodes: list[ir.Node]) -> None:
        """Put ``nodes`` in the product's place; the first output of the last of them becomes the result."""
        old, new = self.result, nodes[-1].outputs[0]
        new.name, new.type, new.shape = old.name, old.type or ir.TensorType(ir.DataType.FLOAT), old.shape
        replaced = [n for n in (self.add, self.node) if n is not None]
        ir.convenience.replace_nodes_and_values(graph, self.node, replaced, nodes, [old], [new])


def find_products(graph: ir.Graph, report: QuantizationReport) -> list[Product]:
    """Every product with a constant matrix; ``report`` is told of those that int8 cannot take over."""
    found = []
    for node in graph:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if weight is None or node.op_type not in ("MatMul", "FusedMatMul", "Gemm", "Conv") or not is_weight(weight):
            continue
        if node.op_type == "Conv":
            report.skipped[name_of(weight)] = "convolutions stay in fp32"
        elif is_weight(weight, rank=2):
            product = _gemm(node, weight) if node.op_type == "Gemm" else _matmul(node, weight)
            if isinstance(product, str):
                report.skipped[name_of(weight)] = product
            else:
                found.append(product)
    return found


def _matmul(node: ir.Node, weight: ir.Value) -> Product | str:
    transposed = transposes_second(node)
    if attribute(node, "alpha", 1.0) != 1.0 or any(
        attribute(node, name, 0) for name in ("transA", "transBatchA", "transBatchB")
    ):
        return "scaled or transposed product"
    add = _bias_add(node, weight, transposed)
    bias = next((i for i in add.inputs if is_weight(i, rank=1)), None) if add is not None else None
    return Product(node, weight, transposed, bias, add)


def _gemm(node: ir.Node, weight: ir.Value) -> Product | str:
    """Only the common form, alpha = beta = 1 and A as it is: it is a product and a bias."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return "scaled Gemm"
    if bias is not None and not is_weight(bias, rank=1):
        return "Gemm that adds more than a constant bias"
    return Product(node, weight, bool(attribute(node, "transB", 0)), bias, None)


def _bias_add(product: ir.Node, weight: ir.Value, transposed: bool) -> ir.Node | None:
    add = sole_user(product.outputs[0])
    if add is None or add.op_type != "Add":
        return None
    width = tensor_of(weight).shape[0 if transposed else 1]
    vectors = [i for i in add.inputs if is_weight(i, rank=1)]
    return add if len(vectors) == 1 and tensor_of(vectors[0]).shape[0] == width else None


@dataclass
class Int8Weights:
    """A graph's matrices in int8, each stored once. Products ask in the graph's order."""

    graph: ir.Graph
    transposed: dict[str, tuple[ir.Value, ir.Value]] = field(default_factory=dict)

    def of(self, product: Product) -> tuple[ir.Value, ir.Value]:
        """The product's weight as int8 (in, out), and its scales (out,)."""
        weight = product.weight
        if not (product.node.op_type == "FusedMatMul" and product.transposed):
            return self._stored(weight, axis=0, keepdims=False, suffix="int8", transpose=product.transposed)
        # A table that an output layer shares, or a weight that layers share: read as it is stored, transposed once.
        quantized, scale = self.rows(weight)
        name = name_of(weight)
        if name not in self.transposed:
            swap = ir.node("Transpose", [quantized], {"perm": [1, 0]})
            swap.outputs[0].name = f"{name}.int8.T"
            self.graph.insert_before(product.node, swap)
            flat = ir.tensor(tensor_of(scale).numpy().reshape(-1), name=f"{name}.int8.scale")
            self.transposed[name] = swap.outputs[0], new_weight(self.graph, f"{name}.int8.scale", flat)
        return self.transposed[name]

    def rows(self, table: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Table (rows, width) as int8 and scales (rows, 1)."""
        return self._stored(table, axis=1, keepdims=True, suffix="int8.rows", transpose=False)

    def _stored(
        self, weight: ir.Value, *, axis: int, keepdims: bool, suffix: str, transpose: bool
    ) -> tuple[ir.Value, ir.Value]:
        name, scale_name = f"{name_of(weight)}.{suffix}", f"{name_of(weight)}.{suffix}.scale"
        if name in self.graph.initializers:
            return self.graph.initializers[name], self.graph.initializers[scale_name]
        values = tensor_of(weight).numpy()
        # A table that is only read, never multiplied, can use all 8 bits.
        only_read = all(use.node.op_type == "Gather" for use in weight.uses())
        quantized, scale = quantize_symmetric(
            values.T if transpose else values, 127 if only_read else _LARGEST, axis=axis
        )
        return (
            new_weight(self.graph, name, ir.tensor(quantized, name=name)),
            new_weight(self.graph, scale_name, ir.tensor(scale if keepdims else scale.reshape(-1), name=scale_name)),
        )


def quantize_symmetric(
    values: NDArray[np.floating], largest: int, *, axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round to nearest with zero at zero: ``values ~ quantized * scale``.

    Each channel takes the scale, of a few at and below the one that reaches its largest magnitude, that has the least
    squared error: cutting off a rare large weight often costs less than coarser steps for all others (range setting by
    mean squared error, Nagel et al. 2021, "A White Paper on Neural Network Quantization", section 3.1).

    Args:
        values: (rows, columns), float.
        largest: The largest magnitude of the integers, e.g. 127.
        axis: The axis that shares a scale.

    Returns:
        int8 of the same shape, and float32 scales with ``axis`` of size 1.
    """
    channels = values.T if axis == 0 else values
    quantized = np.empty(channels.shape, np.int8)
    scales = np.empty((channels.shape[0], 1), np.float32)
    step = max(1, _CACHED // max(1, channels.shape[1]))
    for start in range(0, channels.shape[0], step):
        block = np.ascontiguousarray(channels[start : start + step], dtype=np.float32)
        quantized[start : start + step], scales[start : start + step] = _quantize_rows(block, largest)
    return (np.ascontiguousarray(quantized.T), scales.T) if axis == 0 else (quantized, scales)


def _quantize_rows(rows: NDArray[np.float32], largest: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Whole numbers, still float, and the scale of each row."""
    reach = np.abs(rows).max(axis=1, keepdims=True) / np.float32(largest)
    reach[reach == 0] = 1.0  # an empty channel: any scale will do
    best = np.full_like(reach, np.inf)
    scale = reach
    for part in _PARTS:
        tried = reach * np.float32(part)
        rounded = np.clip(np.rint(rows / tried), -largest, largest) * tried - rows
        error = np.einsum("rc,rc->r", rounded, rounded)[:, None]
        scale = np.where(error < best, tried, scale)
        best = np.minimum(error, best)
    return np.clip(np.rint(rows / scale), -largest, largest), scale
