"""torch to onnx_ir: graph (the ladder of models that read), decoder (that of models that write), attention (plugs)."""

from edgeport_export.capture.decoder import capture_decoder
from edgeport_export.capture.graph import Captured, capture

__all__ = ["Captured", "capture", "capture_decoder"]
