"""Slices that cut a value into parts without a gap, to one ``Split``: one node, and one that other passes know."""

from __future__ import annotations

from collections import defaultdict

import onnx_ir as ir

from edgeport_export.passes.last_axis import part_of, width_of
from edgeport_export.passes.match import shared_vector

__all__ = ["SplitSlices"]


class SplitSlices(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        cuts: dict[ir.Value, list[tuple[int, int, ir.Node]]] = defaultdict(list)
        for node in model.graph:
            part = part_of(node.outputs[0]) if node.op_type == "Slice" and node.domain == "" else None
            if part is not None and part[3] == 1:
                cuts[part[0]].append((part[1], part[2], node))
        changed = False
        for source, found in cuts.items():
            changed |= _split(model.graph, source, found)
        return ir.passes.PassResult(model, modified=changed)


def _split(graph: ir.Graph, source: ir.Value, found: list[tuple[int, int, ir.Node]]) -> bool:
    parts = sorted(found, key=lambda cut: cut[0])
    starts, stops = [start for start, _, _ in parts], [stop for _, stop, _ in parts]
    if len(parts) < 2 or starts != [0, *stops[:-1]] or stops[-1] != width_of(source):
        return False
    widths = [stop - start for start, stop, _ in parts]
    split = ir.node("Split", [source, shared_vector(graph, "split", widths)], {"axis": -1}, num_outputs=len(parts))
    for (_, _, node), new in zip(parts, split.outputs, strict=True):
        old = node.outputs[0]
        new.name, new.type, new.shape = old.name, old.type, old.shape
    # Where the first of the slices stood: what they read exists there, what reads them comes later.
    graph.insert_before(found[0][2], split)
    for (_, _, node), new in zip(parts, split.outputs, strict=True):
        ir.convenience.replace_all_uses_with(node.outputs[0], new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    return True
