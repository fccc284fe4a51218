"""torch to onnx_ir: one ladder for all architectures.

1. fused: attention plugged in through transformers' interfaces, one operator each;
2. written out: the model computes its attention by itself, which becomes plain operators;
3. fallback: ``transformers.exporters`` (see ``fallback``), for what torch.onnx cannot trace as it is.

Before a rung is taken, its torch side is compared with the model as it was, so that a model that does something of its
own with masks falls to the next rung instead of into a wrong graph.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch

from edgeport.errors import ExportError
from edgeport_export.capture.attention import fused_attention
from edgeport_export.capture.fallback import capture_with_transformers
from edgeport_export.head import ExportHead
from edgeport_export.samples import Batch

__all__ = ["Captured", "capture"]


@dataclass
class Captured:
    """A graph and how it came about."""

    model: ir.Model
    path: str
    """``fused``, ``written-out`` or ``fallback``."""
    attentions: int
    """How many attentions became one operator."""
    reason: str
    """Why not a higher rung; empty for ``fused``."""


def capture(head: ExportHead, batch: Batch, *, opset: int, fixed: bool = False) -> Captured:
    """Capture ``head`` as a graph with the inputs of ``batch``.

    Args:
        head: The model, in eval mode.
        batch: Sample inputs, int64 (batch, sequence), at least two rows.
        opset: ONNX opset of the result.
        fixed: Keep the sample's shape instead of naming the axes ``batch`` and ``sequence``.

    Raises:
        ExportError: no rung carries the model; the message gives the last reason.
    """
    reasons: list[str] = []
    expected = head.run(batch)
    with fused_attention(head.model) as calls:
        reason = _difference(head, batch, expected, calls)
        if not reason:
            before = calls()
            try:
                model = _export(head, batch, opset=opset, fixed=fixed)
                return Captured(model, "fused", calls() - before, "")
            except Exception as e:
                reason = f"torch.onnx could not trace it ({_first_line(e)})"
    reasons.append(reason)
    try:
        return Captured(_export(head, batch, opset=opset, fixed=fixed), "written-out", 0, reasons[0])
    except Exception as e:
        reasons.append(f"torch.onnx could not trace it ({_first_line(e)})")
    try:
        return Captured(capture_with_transformers(head, batch, opset=opset), "fallback", 0, reasons[-1])
    except Exception as e:
        raise ExportError(
            f"{type(head.model).__name__} cannot be exported: {reasons[-1]}, and transformers.exporters could not either "
            f"({_first_line(e)})."
        ) from e


def _difference(head: ExportHead, batch: Batch, expected: Sequence[torch.Tensor], calls: object) -> str:
    """Why the plug cannot carry this model; empty if it can."""
    try:
        actual = head.run(batch)
    except Exception as e:
        return f"its attention does not fit transformers' interface ({_first_line(e)})"
    if not calls():  # type: ignore[operator]
        return f"{type(head.model).__name__} computes its attention by itself"
    mask = torch.from_numpy(batch["attention_mask"]).bool() if "attention_mask" in batch else None
    for got, want in zip(actual, expected, strict=True):
        if mask is not None and want.shape[:2] == mask.shape:
            got, want = got[mask], want[mask]
        scale = want.abs().max().clamp(min=1e-3)
        if not torch.allclose(got / scale, want / scale, atol=1e-4, rtol=0):
            return f"{type(head.model).__name__} does something of its own with the attention mask"
    return ""


def _export(head: ExportHead, batch: Batch, *, opset: int, fixed: bool) -> ir.Model:
    axes = None if fixed else ({0: "batch", 1: "sequence"},) * len(head.names)
    with _quiet(), _no_garbage_collection(), torch.no_grad():
        program = torch.onnx.export(
            head,
            tuple(torch.from_numpy(batch[name]) for name in head.names),
            dynamo=True,
            input_names=list(head.names),
            output_names=list(head.outputs),
            dynamic_shapes=None if axes is None else (axes,),
            opset_version=opset,
            optimize=False,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx returned no program")
    return program.model


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Tracing makes millions of objects that live to its end: collecting them in between is a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.onnx and transformers warn about each other on every trace; what matters comes as an exception."""
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "torch.onnx._internal.exporter._registration", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160].rstrip('.')}" if lines else type(error).__name__
