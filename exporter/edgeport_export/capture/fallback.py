"""The last rung: transformers' own ONNX exporter, which patches what torch.export cannot trace."""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.head import ExportHead
from edgeport_export.samples import Batch

__all__ = ["capture_with_transformers"]


def capture_with_transformers(head: ExportHead, batch: Batch, *, opset: int) -> ir.Model:
    raise NotImplementedError
