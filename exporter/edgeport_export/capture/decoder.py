"""Models that write text: one graph for reading the prompt and for every token after it.

Three forms, the best that a model takes:

- ``plugged``: attention over the cache becomes one operator a layer, whose past and present may share a buffer. Either
  attention is met at an interface (``plugged_decoder``) or recognised in the graph (``written_out_decoder``);
- ``appended``: keys and values are appended to the past as the model asks for it, and rows are padded on the left;
- ``uncached``: the model keeps a state of another kind (a recurrence, say); the graph reads the whole text every time.

What goes in and out of each is told in ``decoder_head``.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import torch
from edgeport.errors import ExportError
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from edgeport_export.capture.attention import fused_attention
from edgeport_export.capture.decoder_head import CacheShapes, DecoderHead, cache_argument
from edgeport_export.capture.graph import Captured
from edgeport_export.capture.plugged_decoder import UnreachedError, capture_plugged
from edgeport_export.capture.tracing import trace
from edgeport_export.capture.written_out_decoder import capture_written_out
from edgeport_export.generation import context_length
from edgeport_export.messages import first_line, root_cause
from edgeport_export.operators import CONTEXT_LENGTH

__all__ = ["FORMS", "capture_decoder"]

FORMS = ("plugged", "appended", "uncached")


def capture_decoder(model: PreTrainedModel, *, opset: int) -> Captured:
    """Capture ``model``, in eval mode, in the best form that it takes.

    Raises:
        ExportError: it takes none; the message gives the reason for each.
    """
    shapes, reason = _cache_shapes(model)
    reasons = [reason] if reason else []
    ladder: list[tuple[str, Callable[[], ir.Model]]] = []
    if shapes is not None:
        ladder.append(("plugged", lambda: _plugged(model, shapes, opset)))
        ladder.append(("appended", lambda: _traced(DecoderHead(model, "appended", shapes), opset)))
    ladder.append(("uncached", lambda: _traced(DecoderHead(model, "uncached", []), opset)))
    for form, attempt in ladder:
        try:
            captured = Captured(attempt(), form, "; ".join(reasons))
        except Exception as e:
            reasons.append(f"not {form}: {first_line(root_cause(e), 160)}")
        else:
            captured.model.meta[CONTEXT_LENGTH] = context_length(model)
            return captured
    raise ExportError(f"{type(model).__name__} cannot be exported for text-generation ({'; '.join(reasons)}).")


@torch.no_grad()
def _cache_shapes(model: PreTrainedModel) -> tuple[CacheShapes | None, str]:
    """The shapes of the model's cache, found by filling one; None and the reason if it is of another kind."""
    try:
        cache = DynamicCache()
        model(input_ids=torch.tensor([[3, 4]]), use_cache=True, **{cache_argument(model): cache})
        keys = [(layer.keys, layer.values) for layer in cache.layers]
        if not keys or any(k is None or k.ndim != 4 or k.shape[2] != 2 for k, _ in keys):
            return None, "its cache is not one of keys and values for every layer"
        return [((k.shape[1], k.shape[3]), (v.shape[1], v.shape[3])) for k, v in keys], ""
    except Exception as e:
        return None, f"its cache is of another kind ({first_line(root_cause(e), 120)})"


def _plugged(model: PreTrainedModel, shapes: CacheShapes, opset: int) -> ir.Model:
    try:
        return capture_plugged(model, len(shapes), opset=opset)
    except UnreachedError:
        return capture_written_out(model, shapes, opset=opset)


def _traced(head: DecoderHead, opset: int) -> ir.Model:
    with fused_attention(head.model):
        return trace(head, head.sample(), head.axes(), opset=opset)
