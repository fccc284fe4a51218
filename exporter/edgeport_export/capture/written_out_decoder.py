"""The plugged form of models that compute their attention by themselves.

The model runs as it is, over keys and values that are appended to the past, and with one operator in place of its mask.
What it computed is recognised in the graph and becomes ``edgeport::CachedAttention``. Nothing of it can be compared
with torch before that, so every layer has to be recognised, and nothing else may look at the past: its size is the
buffer's at run time, not a row's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, IdentityEliminationPass, RemoveUnusedNodesPass
from torch import Tensor
from torch.onnx.ops import symbolic
from transformers import PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from edgeport_export.capture.attention import registered
from edgeport_export.capture.cached_attention import window_of
from edgeport_export.capture.causal_tables import causal_tables
from edgeport_export.capture.decoder_head import CacheShapes, DecoderHead
from edgeport_export.capture.tracing import trace
from edgeport_export.operators import CACHED_ATTENTION, CAUSAL_MASK, DOMAIN
from edgeport_export.passes.attend_to_cache import AttendToCache
from edgeport_export.passes.fold_constants import FoldConstants
from edgeport_export.passes.fuse_attention import FuseAttention
from edgeport_export.passes.match import attribute
from edgeport_export.passes.pin_squeeze import PinSqueeze

__all__ = ["capture_written_out"]

_RECOGNISE = (
    IdentityEliminationPass(),
    PinSqueeze(),
    FoldConstants(),
    IdentityEliminationPass(),
    RemoveUnusedNodesPass(),
    CommonSubexpressionEliminationPass(),
    FuseAttention(),
    AttendToCache(),
    RemoveUnusedNodesPass(),
)

_BIAS = 8
"""The input of a cached attention that may be as long as the past: only as much of it is read as there are keys."""


def capture_written_out(model: PreTrainedModel, shapes: CacheShapes, *, opset: int) -> ir.Model:
    """Capture ``model``, whose cache has these shapes.

    Raises:
        ValueError: the mask is not a causal one, or not every attention is recognised.
        Exception: whatever torch.onnx raises.
    """
    head = DecoderHead(model, "plugged", shapes, written_out=True)
    with _mask_as_operator(), causal_tables(model):
        traced = trace(head, head.sample(), head.axes(), opset=opset)
    captured = ir.passes.Sequential(*_RECOGNISE)(traced).model
    found = sum(node.op_type == CACHED_ATTENTION for node in captured.graph)
    if found != len(shapes):
        raise ValueError(f"{found} of {len(shapes)} written-out attentions are recognised")
    if _reads_past_otherwise(captured.graph):
        raise ValueError("something else than attention depends on the length of the cache")
    return captured


@contextmanager
def _mask_as_operator() -> Iterator[None]:
    """While masks of models that write their attention out are one operator."""
    with ExitStack() as stack:
        for name in ("eager", "sdpa"):
            stack.enter_context(registered(AttentionMaskInterface, name, _mask))
        yield


def _mask(
    *, batch_size: int, q_length: int, kv_length: int, mask_function: Callable[..., Tensor], **_: Any
) -> Tensor | None:
    window = window_of(mask_function)
    if not window:
        raise ValueError("a mask that is neither causal nor a sliding window")
    return symbolic(
        f"{DOMAIN}::{CAUSAL_MASK}",
        [],
        {"window": window},
        dtype=torch.float32,
        shape=(batch_size, 1, q_length, kv_length),
        version=1,
    )


def _reads_past_otherwise(graph: ir.Graph) -> bool:
    """Whether the past, or how long it is, reaches an output by another way than attention."""
    reached: set[ir.Value] = {value for value in graph.inputs if str(value.name).startswith("past.")}
    for node in graph:
        read = [number for number, value in enumerate(node.inputs) if value in reached]
        if node.op_type == "Shape" and attribute(node, "end", 4) == 1:  # how many rows there are
            continue
        if node.op_type != CACHED_ATTENTION:
            reached |= set(node.outputs) if read else set()
        elif any(number not in (3, 4, _BIAS) for number in read):
            return True
    return any(output in reached for output in graph.outputs)
