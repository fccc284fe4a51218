"""Nodes that hand on what they are given: slices of everything, reshapes and expansions to the shape at hand.

They come from indexing and broadcasting in the models' code, where ``x[:, :, -n:]`` or ``view(-1, x.shape[-1])`` may or
may not do something; each would be a copy in every layer or step.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.passes.match import constant

__all__ = ["DropIdle"]

_END = 2**31 - 1
"""A slice up to this or beyond goes to the end, however long the axis is."""


class DropIdle(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in list(model.graph):
            idle = _TESTS.get(node.op_type)
            source, result = (node.inputs[0] if node.inputs else None), node.outputs[0]
            if idle is None or node.domain != "" or source is None or result.is_graph_output() or not idle(node):
                continue
            if source.shape is None:
                source.shape = result.shape
            ir.convenience.replace_all_uses_with(result, source)
            model.graph.remove(node, safe=True)
            changed = True
        return ir.passes.PassResult(model, modified=changed)


def _slices_nothing_off(node: ir.Node) -> bool:
    source = node.inputs[0]
    parts = [constant(v) for v in node.inputs[1:]]
    if len(parts) < 3 or any(p is None for p in parts) or source is None or source.shape is None:
        return False
    starts, ends, axes, *steps = ([int(n) for n in p.reshape(-1)] for p in parts if p is not None)
    if any(start != 0 for start in starts) or any(step != 1 for each in steps for step in each):
        return False
    sizes = [source.shape[axis] for axis in axes]
    return all(end >= (size if isinstance(size, int) else _END) for end, size in zip(ends, sizes, strict=True))


def _keeps_shape(node: ir.Node) -> bool:
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None:
        return False
    known = all(isinstance(size, int) or size.value is not None for size in source.shape)
    return known and source.shape == result.shape


_TESTS = {"Slice": _slices_nothing_off, "Reshape": _keeps_shape, "Expand": _keeps_shape}
