"""Techniques that change a graph's number format, one file each; dispatch is on the type of the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from torch import Tensor, nn

from edgeport_export.batch import Batch
from edgeport_export.quantize.awq import AWQ, awq
from edgeport_export.quantize.blockwise import Grid, Quantized
from edgeport_export.quantize.fp16 import convert_fp16
from edgeport_export.quantize.gptq import GPTQ, gptq
from edgeport_export.quantize.hqq import HalfQuadratic
from edgeport_export.quantize.int8_dynamic import Int8Dynamic, quantize_int8_dynamic
from edgeport_export.quantize.int8_products import QuantizationReport
from edgeport_export.quantize.int8_static import Int8Static, activation_ranges, quantize_int8_static
from edgeport_export.quantize.round_to_nearest import RoundToNearest
from edgeport_export.quantize.sensitivity import keep_pattern, sensitivity
from edgeport_export.quantize.smooth import Smooth, smooth
from edgeport_export.quantize.weight_only import WeightOnly, quantize_weight_only
from edgeport_export.recipe import CALIBRATED, Recipe

__all__ = [
    "BeforeCapture",
    "Grid",
    "Int8Dynamic",
    "Int8Static",
    "QuantizationReport",
    "WeightOnly",
    "before_capture",
    "keep_pattern",
    "quantize",
    "quantize_before_capture",
    "quantize_int8_dynamic",
    "sensitivity",
]

BeforeCapture = GPTQ | AWQ
"""Methods that round the torch model; dispatch is on the type."""


def quantize(
    model: ir.Model,
    precision: str,
    recipe: Recipe,
    *,
    generates: bool = False,
    given: Mapping[str, Quantized] | None = None,
    samples: Sequence[Batch] = (),
) -> str:
    """Turn the fp32 ``model`` into ``precision``, in place; returns one line on what was done.

    Args:
        model: After the passes that prepare it.
        precision: One of the recipe's.
        recipe: Says how.
        generates: Whether it writes text: reading its weights is then what takes the time, so they alone are quantized.
        given: Integers that were chosen before the capture, see ``handed_over``.
        samples: What the model will see, where ``recipe.samples_int8``.
    """
    if precision == "int8" and not generates and not given:
        return _int8(model, recipe, samples)
    if precision in _BITS:
        config = WeightOnly(
            grid=_grid(_BITS[precision], recipe),
            exceptions={_TABLES: _grid(recipe.tables, recipe)},
            rounding=HalfQuadratic() if recipe.method == "hqq" else RoundToNearest(),
            keep_fp32=recipe.keep_fp32,
        )
        how = f"{recipe.method}, blocks of {config.grid.block_size}"
        if given and recipe.method not in CALIBRATED:
            how = f"the checkpoint's integers, all else by {how}"
        return f"{how}: {quantize_weight_only(model, config, given)}"
    if precision == "fp16":
        convert_fp16(model)
        return "weights and arithmetic in fp16"
    return "as captured"


def before_capture(precision: str, recipe: Recipe, *, generates: bool) -> BeforeCapture | None:
    """The configuration of the method that rounds the torch model of a variant; None if its graph is rounded."""
    if precision not in _BITS or (precision == "int8" and not generates):
        return None
    grid = _grid(_BITS[precision], recipe)
    if recipe.method == "gptq":
        return GPTQ(grid=grid, keep_fp32=recipe.keep_fp32)
    if recipe.method == "awq":
        return AWQ(grid=grid, keep_fp32=recipe.keep_fp32)
    return None


def quantize_before_capture(
    model: nn.Module, batches: Sequence[Mapping[str, Tensor]], config: BeforeCapture
) -> dict[str, Quantized]:
    """Round the torch ``model`` in place; see ``block_by_block`` for arguments, result and errors."""
    return awq(model, batches, config) if isinstance(config, AWQ) else gptq(model, batches, config)


def _int8(model: ir.Model, recipe: Recipe, samples: Sequence[Batch]) -> str:
    """int8 of a model that reads."""
    notes = []
    if recipe.smooth is not None:
        notes.append(smooth(model, samples, Smooth(recipe.smooth, recipe.keep_fp32)))
    if recipe.quantize == "static":
        static = Int8Static(recipe.calibrator, recipe.keep_fp32, recipe.tables)
        ranges = activation_ranges(model, samples, static)
        notes.append(f"static, ranges by {recipe.calibrator}: {quantize_int8_static(model, ranges, static)}")
    else:
        notes.append(str(quantize_int8_dynamic(model, Int8Dynamic(recipe.keep_fp32, recipe.tables))))
    return "; ".join(notes)


_BITS = {"int8": 8, "int4": 4}

_TABLES = r"lm_head|embed|wte|wpe|output_layer"
"""Names of embedding tables and output layers, which have bits of their own, 8 unless the recipe says 4: in a tied
GPT-2 of 9M parameters they carried 95 % of what 4 bits everywhere cost (divergence of the next token 0.0025 against
0.0001 nats)."""


_BLOCK_SIZES = {4: 32, 8: 128}
"""By bits. 8 bits lose nothing to large blocks, and onnxruntime's kernel is faster with them: 1024 x 5632 on two cores
with VNNI took 0.70 instead of 0.80 ms for one row, 37 instead of 52 ms for 512."""


def _grid(bits: int, recipe: Recipe) -> Grid:
    return Grid(bits, recipe.block_size or _BLOCK_SIZES[bits], recipe.symmetric)
