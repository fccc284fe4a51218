"""Graph passes, ``ir.Model`` to ``ir.Model``, one file each; these lists are the optimizer.

``PREPARE`` runs once, before the variants part. ``FINISH`` runs on each variant, after quantization: a bias that is
fused into the next operator too early hides the matrix product from the quantizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)

from edgeport_export.passes.deinterleave_heads import DeinterleaveHeads
from edgeport_export.passes.drop_idle import DropIdle
from edgeport_export.passes.fold_constants import FoldConstants
from edgeport_export.passes.fuse_attention import FuseAttention
from edgeport_export.passes.fuse_bias_gelu import FuseBiasGelu
from edgeport_export.passes.fuse_rms_norm import FuseRmsNorm
from edgeport_export.passes.fuse_rotary import FuseRotary
from edgeport_export.passes.fuse_skip_layer_norm import FuseSkipLayerNorm
from edgeport_export.passes.fuse_tanh_gelu import FuseTanhGelu
from edgeport_export.passes.gather_rows import GatherRows
from edgeport_export.passes.lower_attention import LowerAttention
from edgeport_export.passes.lower_cached_attention import LowerCachedAttention
from edgeport_export.passes.pack_attention_input import PackAttentionInput
from edgeport_export.passes.pack_qkv import PackProjections
from edgeport_export.passes.pin_squeeze import PinSqueeze
from edgeport_export.passes.rotate_in_attention import RotateInAttention
from edgeport_export.passes.shape_products import ShapeProducts
from edgeport_export.passes.simplify_shapes import SimplifyShapes
from edgeport_export.passes.split_slices import SplitSlices
from edgeport_export.passes.unflatten_gemm import UnflattenGemm
from edgeport_export.passes.widen_bfloat16 import WidenBfloat16

__all__ = ["FINISH", "PREPARE", "run_passes"]

PREPARE: Sequence[ir.passes.PassBase] = (
    IdentityEliminationPass(),
    PinSqueeze(),
    WidenBfloat16(),
    FoldConstants(),
    IdentityEliminationPass(),
    RemoveUnusedNodesPass(),
    DropIdle(),
    CommonSubexpressionEliminationPass(),
    UnflattenGemm(),
    ShapeProducts(),
    FuseRmsNorm(),
    FuseTanhGelu(),
    DeinterleaveHeads(),
    FuseRotary(),
    RemoveUnusedNodesPass(),
    SplitSlices(),
    GatherRows(),
    RemoveUnusedNodesPass(),
    FuseAttention(),
    LowerAttention(),
    LowerCachedAttention(),
    SimplifyShapes(),
    RemoveUnusedNodesPass(),
    CommonSubexpressionEliminationPass(),
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    DeduplicateInitializersPass(),
    CommonSubexpressionEliminationPass(),
    PackProjections(),
    RotateInAttention(),
    PackAttentionInput(),
    RemoveUnusedNodesPass(),
    # The stack of each call, with the paths of this machine: four fifths of the file, and nobody else's business.
    ClearMetadataAndDocStringPass(),
)

_CPU: Sequence[ir.passes.PassBase] = (
    FuseBiasGelu(),
    RemoveUnusedNodesPass(),
)
_GPU: Sequence[ir.passes.PassBase] = (
    # Not for the CPU: onnxruntime 1.32's kernel there takes 0.62 ms for 128 x 768 values, where the addition and the
    # layer normalization that it replaces take 0.13 ms (BERT-base on one Zen 3 core); that is 9 % of the int8 model.
    FuseSkipLayerNorm(),
    *_CPU,
)

FINISH: Mapping[str, Sequence[ir.passes.PassBase]] = {"fp32": _CPU, "int8": _CPU, "int4": _CPU, "fp16": _GPU}
"""By precision: fp16 is for GPUs, the others run on the CPU first of all."""


def run_passes(model: ir.Model, passes: Sequence[ir.passes.PassBase]) -> ir.Model:
    """Run ``passes`` in order.

    Raises:
        onnx_ir.passes.PassError: a pass failed; the message names it.
    """
    return ir.passes.Sequential(*passes)(model).model
