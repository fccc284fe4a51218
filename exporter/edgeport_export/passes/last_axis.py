"""Questions about the last axis of values, where heads and their halves are cut and joined. Knows onnx_ir."""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.passes.match import attribute, constant, producer

__all__ = ["on_last_axis", "part_of", "width_of"]


def part_of(value: ir.Value | None) -> tuple[ir.Value, int, int, int] | None:
    """(x, start, stop, step), where ``value`` is that part of x along its last axis."""
    node = producer(value, "Slice", "Split")
    source = node.inputs[0] if node is not None else None
    size = width_of(source)
    if node is None or source is None or source.shape is None or size is None:
        return None
    if node.op_type == "Split":
        widths = [width_of(v) for v in node.outputs]
        if not on_last_axis(node, source) or any(w is None for w in widths):
            return None
        at = next(n for n, v in enumerate(node.outputs) if v is value)
        start = sum(w or 0 for w in widths[:at])
        return source, start, start + (widths[at] or 0), 1
    numbers = [constant(v, 1) for v in node.inputs[1:]]
    if len(numbers) < 3 or any(n is None for n in numbers):
        return None
    start, stop, axis, *step = (int(n.item()) for n in numbers if n is not None)
    if axis not in (-1, len(source.shape) - 1):
        return None
    start, stop = (max(n + size, 0) if n < 0 else min(n, size) for n in (start, stop))
    return source, start, stop, step[0] if step else 1


def on_last_axis(node: ir.Node, like: ir.Value | None) -> bool:
    """Whether the node's ``axis`` is the last one of ``like``."""
    axis = attribute(node, "axis", 0)
    return axis == -1 or (like is not None and like.shape is not None and axis == len(like.shape) - 1)


def width_of(value: ir.Value | None) -> int | None:
    """The size of the last axis, where it is known."""
    size = value.shape[-1] if value is not None and value.shape else None
    return size if isinstance(size, int) else None
