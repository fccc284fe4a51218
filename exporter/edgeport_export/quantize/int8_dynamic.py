"""Dynamic int8: weights are int8 with a scale a channel, activations are quantized as they come.

Products with a constant matrix become ``com.microsoft::DynamicQuantizeMatMul``, which quantizes its input, multiplies
in int8 and adds the bias in one kernel. Embedding tables are the business of ``tables``. A table that an output layer
shares is stored once: the product reads it transposed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx_ir as ir

from edgeport_export.quantize.int8_products import Int8Weights, Product, QuantizationReport, find_products
from edgeport_export.quantize.tables import quantize_tables

__all__ = ["Int8Dynamic", "dynamic_nodes", "quantize_int8_dynamic"]


@dataclass(frozen=True)
class Int8Dynamic:
    """Configuration of dynamic int8 quantization."""

    keep_fp32: str | None = None
    """Regular expression; weights whose names it finds stay in fp32."""
    tables: int = 8
    """Bits of embedding tables: 8 or 4."""


def quantize_int8_dynamic(model: ir.Model, config: Int8Dynamic) -> QuantizationReport:
    """Quantize ``model`` in place.

    Biases must still stand next to their products, so this runs before the passes that fuse them elsewhere.
    """
    graph, report = model.graph, QuantizationReport()
    keep = re.compile(config.keep_fp32) if config.keep_fp32 else None
    weights = Int8Weights(graph)
    quantize_tables(graph, config.tables, weights, report, keep)
    for product in find_products(graph, report):
        if report.wants(product.weight, keep):
            product.replace(graph, dynamic_nodes(product, weights))
    graph.opset_imports["com.microsoft"] = 1
    return report


def dynamic_nodes(product: Product, weights: Int8Weights) -> list[ir.Node]:
    """What computes ``product`` in int8 and quantizes its input as it comes."""
    weight, scale = weights.of(product)
    inputs = [product.source, weight, scale, None, product.bias]
    return [ir.node("DynamicQuantizeMatMul", inputs, domain="com.microsoft", name=product.node.name)]
