"""torch to onnx_ir: one ladder for all architectures.

Attention comes in two forms: plugged in through transformers' interfaces, one operator each, or written out by the
model itself as plain operators. Either is traced by torch.onnx or, where that cannot, by transformers' own exporter,
which knows how to get around more of what models do (see ``fallback``).

Before the plugged form is traced, its torch side is compared with the model as it was, so that a model that does
something of its own with masks is written out instead of becoming a wrong graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir
import torch
from edgeport.errors import ExportError

from edgeport_export.capture.attention import fused_attention
from edgeport_export.capture.fallback import capture_with_transformers
from edgeport_export.capture.tracing import quiet, trace
from edgeport_export.head import ExportHead
from edgeport_export.messages import first_line, root_cause
from edgeport_export.operators import DOMAIN
from edgeport_export.samples import Batch

__all__ = ["Captured", "capture", "nearly_equal"]


@dataclass
class Captured:
    """A graph and how it came about."""

    model: ir.Model
    path: str
    """``fused`` or ``written-out``, as traced by torch.onnx; ``fallback`` if transformers' exporter traced it; for a
    model that writes text its form, see ``decoder``."""
    reason: str
    """Why not all that could be wished for; empty for ``fused`` and ``plugged``."""


def capture(head: ExportHead, batch: Batch, *, opset: int, fixed: bool = False) -> Captured:
    """Capture ``head`` as a graph with the inputs of ``batch``.

    Args:
        head: The model, in eval mode.
        batch: Sample inputs, int64 (batch, sequence), at least two rows.
        opset: ONNX opset of the result.
        fixed: Keep the sample's shape instead of naming the axes ``batch`` and ``sequence``.

    Raises:
        ExportError: the model wants more than text, or nothing on the ladder carries it; the message gives the reason.
    """
    expected = head.run(batch)
    with fused_attention(head.model) as calls:
        reason = _why_unfit(head, batch, expected, calls)
        if not reason:
            try:
                captured = _trace(head, batch, opset=opset, fixed=fixed)
                if captured.path == "fallback" or any(node.domain == DOMAIN for node in captured.model.graph):
                    return captured
                return replace(captured, path="written-out", reason="no operator has all that its attention does")
            except ExportError as e:
                reason = str(e)
    captured = _trace(head, batch, opset=opset, fixed=fixed)
    return replace(captured, path="written-out", reason=reason) if captured.path == "fused" else captured


def _why_unfit(head: ExportHead, batch: Batch, expected: Sequence[torch.Tensor], calls: Callable[[], int]) -> str:
    """Why the plug cannot carry this model; empty if it can."""
    name = type(head.model).__name__
    try:
        actual = head.run(batch)
    except Exception as e:
        if calls():
            return f"{name} wants a mask of its own ({_first_line(e)})"
    if not calls():
        return f"{name} computes its attention by itself"
    mask = torch.from_numpy(batch["attention_mask"]).bool() if "attention_mask" in batch else None
    for got, want in zip(actual, expected, strict=True):
        if mask is not None and want.shape[:2] == mask.shape:
            got, want = got[mask], want[mask]
        if not nearly_equal(got, want):
            return f"{name} does something of its own with the attention mask"
    return ""


def nearly_equal(got: torch.Tensor, want: torch.Tensor) -> bool:
    """Whether two tensors of one shape agree to 1e-4 of the largest value wanted."""
    scale = want.abs().max().clamp(min=1e-3)
    return torch.allclose(got / scale, want / scale, atol=1e-4, rtol=0)


def _trace(head: ExportHead, batch: Batch, *, opset: int, fixed: bool) -> Captured:
    """The model as it stands, by the first exporter that can."""
    try:
        model, path, reason = _export(head, batch, opset=opset, fixed=fixed), "fused", ""
    except Exception as first:
        reason = f"torch.onnx could not trace it ({_first_line(first)})"
        try:
            with quiet():
                model, path = capture_with_transformers(head, batch, opset=opset, fixed=fixed), "fallback"
        except Exception as second:
            raise ExportError(
                f"{type(head.model).__name__} cannot be exported: {reason}, and transformers.exporters could not "
                f"either ({_first_line(second)})."
            ) from second
    return Captured(model, path, reason)


def _export(head: ExportHead, batch: Batch, *, opset: int, fixed: bool) -> ir.Model:
    axes = None if fixed else [{0: "batch", 1: "sequence"}] * len(head.names)
    return trace(head, [torch.from_numpy(batch[name]) for name in head.names], axes, opset=opset)


def _first_line(error: BaseException) -> str:
    return first_line(root_cause(error), 160)
