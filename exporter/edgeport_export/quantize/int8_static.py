"""Static int8: as dynamic int8, with the ranges of activations set beforehand, by what they are on sample rows.

A product with a constant matrix becomes ``QuantizeLinear`` and ``com.microsoft::MatMulIntegerToFloat``: unsigned bytes
with a zero point times weights of 7 bits with a scale a channel, the bias added in the same kernel. A value that
several products read is quantized once. Between products everything stays in fp32: onnxruntime's CPU provider has
attention, GELU and layer normalization in no other form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from edgeport.errors import UsageError

from edgeport_export.batch import Batch
from edgeport_export.passes.match import name_of, new_weight
from edgeport_export.quantize.int8_products import Int8Weights, Product, QuantizationReport, find_products
from edgeport_export.quantize.observe import histograms
from edgeport_export.quantize.ranges import CALIBRATORS, Range
from edgeport_export.quantize.tables import quantize_tables

__all__ = ["Int8Static", "StaticInputs", "activation_ranges", "quantize_int8_static"]


@dataclass(frozen=True)
class Int8Static:
    """Configuration of static int8 quantization."""

    calibrator: str = "percentile"
    """How ranges are set: a key of ``CALIBRATORS``."""
    keep_fp32: str | None = None
    """Regular expression; weights whose names it finds stay in fp32."""
    tables: int = 8
    """Bits of embedding tables: 8 or 4."""


def activation_ranges(model: ir.Model, batches: Iterable[Batch], config: Int8Static) -> dict[str, Range]:
    """The range of every value that a product reads, by name.

    Args:
        model: In fp32; is not changed.
        batches: What the model will see: input name to int64 (rows, tokens).
        config: Says how ranges are set, and which weights need none.

    Raises:
        UsageError: the model has no product to quantize.
        ExportError: a value is not finite.
    """
    keep = re.compile(config.keep_fp32) if config.keep_fp32 else None
    products = [p for p in find_products(model.graph, QuantizationReport()) if not (keep and keep.search(p.name))]
    names = [name_of(p.source) for p in products if p.source.producer() is not None]
    if not names:
        raise UsageError("static int8 finds no product with a constant matrix in this model: export it in fp32.")
    seen = histograms(model, list(dict.fromkeys(names)), batches)
    return {name: CALIBRATORS[config.calibrator](histogram) for name, histogram in seen.items()}


def quantize_int8_static(model: ir.Model, ranges: Mapping[str, Range], config: Int8Static) -> QuantizationReport:
    """Quantize ``model`` in place, its activations in ``ranges``.

    Biases must still stand next to their products, so this runs before the passes that fuse them elsewhere.
    """
    graph, report = model.graph, QuantizationReport()
    keep = re.compile(config.keep_fp32) if config.keep_fp32 else None
    weights, inputs = Int8Weights(graph), StaticInputs(graph, ranges)
    quantize_tables(graph, config.tables, weights, report, keep)
    for product in find_products(graph, report):
        if name_of(product.source) not in ranges and not (keep and keep.search(product.name)):
            report.skipped[product.name] = "what it reads has no range"
        elif report.wants(product.weight, keep):
            product.replace(graph, inputs.nodes(product, weights))
    graph.opset_imports["com.microsoft"] = 1
    return report


class StaticInputs:
    """Values in bytes, each made once, in front of the first product that reads it."""

    def __init__(self, graph: ir.Graph, ranges: Mapping[str, Range]) -> None:
        self._graph, self._ranges = graph, ranges
        self._known: dict[str, tuple[ir.Value, ir.Value, ir.Value]] = {}

    def nodes(self, product: Product, weights: Int8Weights) -> list[ir.Node]:
        """What computes ``product`` in int8; its input in bytes is put in front of it."""
        source, scale, zero = self._quantized(product)
        weight, weight_scale = weights.of(product)
        inputs = [source, weight, scale, weight_scale, zero, None, product.bias]
        return [ir.node("MatMulIntegerToFloat", inputs, domain="com.microsoft", name=product.node.name)]

    def _quantized(self, product: Product) -> tuple[ir.Value, ir.Value, ir.Value]:
        """The product's input as uint8, with scale and zero point, both scalars."""
        name = name_of(product.source)
        if name not in self._known:
            scale, zero = (
                new_weight(self._graph, f"{name}.{suffix}", ir.tensor(np.array(number), name=f"{name}.{suffix}"))
                for number, suffix in zip(self._ranges[name].scale_and_zero(), ("scale", "zero"), strict=True)
            )
            node = ir.node("QuantizeLinear", [product.source, scale, zero])
            quantized = node.outputs[0]
            quantized.name, quantized.type = f"{name}.uint8", ir.TensorType(ir.DataType.UINT8)
            quantized.shape = product.source.shape
            self._graph.insert_before(product.node, node)
            self._known[name] = quantized, scale, zero
        return self._known[name]
