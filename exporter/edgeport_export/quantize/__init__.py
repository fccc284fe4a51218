"""Techniques that change a graph's number format, one file each; dispatch is on the type of the configuration."""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.quantize.fp16 import convert_fp16
from edgeport_export.quantize.int8_dynamic import Int8Dynamic, QuantizationReport, quantize_int8_dynamic
from edgeport_export.recipe import Recipe

__all__ = ["Int8Dynamic", "QuantizationReport", "quantize"]


def quantize(model: ir.Model, precision: str, recipe: Recipe) -> str:
    """Turn the fp32 ``model`` into ``precision``, in place; returns one line on what was done."""
    if precision == "int8":
        return str(quantize_int8_dynamic(model, Int8Dynamic(keep_fp32=recipe.keep_fp32)))
    if precision == "fp16":
        convert_fp16(model)
        return "weights and arithmetic in fp16"
    return "as captured"
