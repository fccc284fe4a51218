"""torch to onnx_ir: attention (the plug), graph (the ladder), fallback (transformers' own exporter)."""

from edgeport_export.capture.graph import Captured, capture

__all__ = ["Captured", "capture"]
