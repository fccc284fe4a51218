"""Dynamic int8: weights are int8 with a scale a channel, activations are quantized as they come.

Products with a constant matrix become ``com.microsoft::DynamicQuantizeMatMul``, which quantizes its input, multiplies
in int8 and adds the bias in one kernel. Embedding tables are stored in int8 with a scale a row and read row by row. A
table that an output layer shares is stored once: the product reads it transposed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeport_export.passes.fold_constants import transposes_second
from edgeport_export.passes.match import is_weight, new_weight, sole_user, tensor_of

__all__ = ["Int8Dynamic", "QuantizationReport", "quantize_int8_dynamic"]

_LARGE_TABLE = 2**14
"""Elements. A smaller embedding table (token types, say) stays in fp32: nothing to save, and two nodes saved."""

_LARGEST = 63
"""Weights use 7 of the 8 bits. x86 processors without VNNI add pairs of products in 16 bits, which 8-bit weights
overflow: entity F1 of a MiniLM fell by 0.55 points there. The exact kernel for 8-bit weights takes 1.4 times as long.
With 7 bits the fast kernel is exact, and every processor gives the same numbers; on three MiniLMs the seventh bit cost
0.1 points of Spearman, 0.06 of accuracy and nothing in F1 (the table in docs/design.md)."""

_PARTS = np.linspace(1.0, 0.6, 17)
"""Of the scale that reaches a channel's largest weight: the scales that are tried."""

_CACHED = 2**17
"""Elements that are quantized at a time: few enough to stay in the processor's cache through all the tries."""


@dataclass(frozen=True)
class Int8Dynamic:
    """Configuration of dynamic int8 quantization."""

    keep_fp32: str | None = None
    """Regular expression; weights whose names it finds stay in fp32."""


@dataclass
class QuantizationReport:
    """What was quantized, and what was not and why."""

    quantized: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        total = len(self.quantized) + len(self.skipped)
        text = f"quantized {len(self.quantized)} of {total} weights"
        if self.skipped:
            reasons = sorted(set(self.skipped.values()))
            listed = [f"{reason}: {', '.join(n for n, r in self.skipped.items() if r == reason)}" for reason in reasons]
            text += f"; skipped — {'; '.join(listed)}"
        return text


def quantize_int8_dynamic(model: ir.Model, config: Int8Dynamic) -> QuantizationReport:
    """Quantize ``model`` in place.

    Biases must still stand next to their products, so this runs before the passes that fuse them elsewhere.
    """
    graph, report = model.graph, QuantizationReport()
    keep = re.compile(config.keep_fp32) if config.keep_fp32 else None
    quantizer = _Quantizer(graph, keep, report)
    for node in list(graph):
        if node.op_type in ("MatMul", "FusedMatMul"):
            quantizer.product(node)
        elif node.op_type == "Gemm":
            quantizer.gemm(node)
        elif node.op_type == "Gather":
            quantizer.embedding(node)
        elif node.op_type == "Conv" and is_weight(node.inputs[1]):
            report.skipped[_name(node.inputs[1])] = "convolutions stay in fp32"
    graph.opset_imports["com.microsoft"] = 1
    return report


@dataclass
class _Quantizer:
    graph: ir.Graph
    keep: re.Pattern[str] | None
    report: QuantizationReport

    def product(self, node: ir.Node) -> None:
        source, weight = node.inputs[0], node.inputs[1]
        transposed = transposes_second(node)
        if not is_weight(weight, rank=2) or not self._wanted(weight):
            return
        if transposed and is_weight(weight):
            quantized, scale = self._by_row(weight)
            swap = ir.node("Transpose", [quantized], {"perm": [1, 0]})
            swap.outputs[0].name = f"{_name(weight)}.int8.T"
            self.graph.insert_before(node, swap)
            quantized, scale = swap.outputs[0], self._flat(scale, weight)
        else:
            quantized, scale = self._by_column(weight)
        add = _bias_add(node)
        bias = next((i for i in add.inputs if is_weight(i, rank=1)), None) if add is not None else None
        last = (add or node).outputs[0]
        fused = ir.node(
            "DynamicQuantizeMatMul",
            [source, quantized, scale, None, bias],
            domain="com.microsoft",
            name=node.name,
        )
        new = fused.outputs[0]
        new.name, new.type, new.shape = last.name, last.type or ir.TensorType(ir.DataType.FLOAT), last.shape
        old = [n for n in (add, node) if n is not None]
        ir.convenience.replace_nodes_and_values(self.graph, node, old, [fused], [last], [new])

    def gemm(self, node: ir.Node) -> None:
        """Only the common form, alpha = beta = 1 and A as it is: it is a product and a bias."""
        attributes = {k: a.value for k, a in node.attributes.items()}
        weight = node.inputs[1]
        if not is_weight(weight, rank=2) or not self._wanted(weight):
            return
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        scaled = (
            attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0
        )
        if scaled or (bias is not None and not is_weight(bias, rank=1)):
            self.report.quantized.remove(_name(weight))
            self.report.skipped[_name(weight)] = "scaled Gemm" if scaled else "Gemm that adds more than a constant bias"
            return
        quantized, scale = self._by_column(weight, transpose=bool(attributes.get("transB", 0)))
        inputs = [node.inputs[0], quantized, scale, None, bias]
        fused = ir.node("DynamicQuantizeMatMul", inputs, domain="com.microsoft", name=node.name)
        new, old = fused.outputs[0], node.outputs[0]
        new.name, new.type, new.shape = old.name, old.type, old.shape
        ir.convenience.replace_nodes_and_values(self.graph, node, [node], [fused], [old], [new])

    def embedding(self, node: ir.Node) -> None:
        """Rows in int8 and a scale a row: gather both, multiply."""
        table, ids, result = node.inputs[0], node.inputs[1], node.outputs[0]
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        if axis != 0 or not is_weight(table, rank=2) or tensor_of(table).dtype != ir.DataType.FLOAT:
            return
        if tensor_of(table).size < _LARGE_TABLE or not self._wanted(table):
            return
        quantized, scale = self._by_row(table)
        rows = ir.node("Gather", [quantized, ids], {"axis": 0}, name=node.name)
        scales = ir.node("Gather", [scale, ids], {"axis": 0})
        cast = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
        product = ir.node("Mul", [cast.outputs[0], scales.outputs[0]])
        for value, suffix in ((rows, "int8"), (scales, "scale"), (cast, "cast")):
            value.outputs[0].name = f"{result.name}_{suffix}"
        new = product.outputs[0]
        new.name, new.type, new.shape = result.name, result.type, result.shape
        ir.convenience.replace_nodes_and_values(
            self.graph, node, [node], [rows, scales, cast, product], [result], [new]
        )

    def _wanted(self, weight: ir.Value | None) -> bool:
        name = _name(weight)
        if self.keep is not None and self.keep.search(name):
            self.report.skipped[name] = "kept in fp32 as asked"
            return False
        if name not in self.report.quantized:
            self.report.quantized.append(name)
        return True

    def _by_column(self, weight: ir.Value | None, *, transpose: bool = False) -> tuple[ir.Value, ir.Value]:
        """Weight (in, out) as int8 and scales (out,)."""
        return self._stored(weight, axis=0, keepdims=False, suffix="int8", transpose=transpose)

    def _by_row(self, weight: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        """Table (rows, width) as int8 and scales (rows, 1)."""
        return self._stored(weight, axis=1, keepdims=True, suffix="int8.rows", transpose=False)

    def _flat(self, scale: ir.Value, weight: ir.Value | None) -> ir.Value:
        name = f"{_name(weight)}.int8.scale"
        existing = self.graph.initializers.get(name)
        return existing or new_weight(self.graph, name, ir.tensor(tensor_of(scale).numpy().reshape(-1), name=name))

    def _stored(
        self, weight: ir.Value | None, *, axis: int, keepdims: bool, suffix: str, transpose: bool
    ) -> tuple[ir.Value, ir.Value]:
        name, scale_name = f"{_name(weight)}.{suffix}", f"{_name(weight)}.{suffix}.scale"
        if name in self.graph.initializers:
            return self.graph.initializers[name], self.graph.initializers[scale_name]
        values = tensor_of(weight).numpy()
        # A table that is only read, never multiplied, can use all 8 bits.
        only_read = weight is not None and all(use.node.op_type == "Gather" for use in weight.uses())
        largest = 127 if only_read else _LARGEST
        quantized, scale = quantize_symmetric(values.T if transpose else values, largest, axis=axis)
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


def _bias_add(product: ir.Node) -> ir.Node | None:
    add = sole_user(product.outputs[0])
    if add is None or add.op_type != "Add":
        return None
    width = tensor_of(product.inputs[1]).shape[0 if transposes_second(product) else 1]
    vectors = [i for i in add.inputs if is_weight(i, rank=1)]
    return add if len(vectors) == 1 and tensor_of(vectors[0]).shape[0] == width else None


def _name(value: ir.Value | None) -> str:
    assert value is not None
    assert value.name is not None
    return value.name
