"""The last rung: transformers' own ONNX exporter, which patches what torch.export cannot trace.

Slower than torch.onnx alone, and its graphs are larger, so it is asked last. Attention that is plugged in stays one
operator here too.
"""

from __future__ import annotations

import contextlib
import io
import re

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from edgeport_export.capture.decisions import Decisions
from edgeport_export.capture.obstacles import around_obstacles
from edgeport_export.head import ExportHead
from edgeport_export.samples import Batch

__all__ = ["capture_with_transformers"]


class _Named(nn.Module):
    """The head with names for its inputs and outputs, which is how the exporter wants them."""

    def __init__(self, head: ExportHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        results = self.head(*(inputs[name] for name in self.head.names))
        return dict(zip(self.head.outputs, results, strict=True))


def capture_with_transformers(head: ExportHead, batch: Batch, *, opset: int, fixed: bool) -> ir.Model:
    """Capture ``head`` with the inputs of ``batch``, as ``capture`` does; raises whatever the exporter raises."""
    decisions = Decisions()
    with decisions.record():
        head.run(batch)
    try:
        with decisions.repeat(numbers=False):
            model = _export(head, batch, opset=opset, fixed=fixed)
    except Exception:
        with decisions.repeat(numbers=True):
            model = _export(head, batch, opset=opset, fixed=fixed)
    if not fixed:
        _name_axes(model)
    return model


def _export(head: ExportHead, batch: Batch, *, opset: int, fixed: bool) -> ir.Model:
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    config = OnnxConfig(
        dynamic=not fixed,
        dynamic_shapes=None if fixed else {name: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for name in head.names},
        prefer_deferred_runtime_asserts_over_guards=True,
        opset_version=opset,
        optimize=False,
    )
    inputs = {name: torch.from_numpy(batch[name]) for name in head.names}
    # torch.onnx announces its stages on stdout.
    with contextlib.redirect_stdout(io.StringIO()), around_obstacles(head.model):
        program: ir.Model = OnnxExporter().export(_Named(head).eval(), inputs, config=config).program
    return program


def _name_axes(model: ir.Model) -> None:
    """Call the inputs' axes ``batch`` and ``sequence`` wherever they occur; the exporter calls them s77 and s27."""
    shapes = [value.shape for value in model.graph.inputs if value.shape is not None]
    names = {str(axis): name for shape in shapes for axis, name in zip(shape, ("batch", "sequence"), strict=True)}
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for value in ir.convenience.create_value_mapping(model.graph).values():
        if value.shape is None or value.shape.is_static():
            continue
        value.shape = ir.Shape([_renamed(axis, pattern, names) for axis in value.shape])


def _renamed(axis: int | ir.SymbolicDim, pattern: re.Pattern[str], names: dict[str, str]) -> int | str | None:
    if isinstance(axis, int) or axis.value is None:
        return axis if isinstance(axis, int) else None
    return pattern.sub(lambda found: names[found.group()], axis.value)
