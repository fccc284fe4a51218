"""Which layers int8 hurts: each is quantized alone, and the outputs are compared with those in fp32.

One graph computes every product and every look-up both ways, and an input says for each which of the two goes on: so
nothing is exported or opened again for a layer, and asking after one costs a run of the model on some rows.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from edgeport.session import open_graph
from numpy.typing import NDArray

from edgeport_export.batch import Batch
from edgeport_export.graph_io import opened, save_graph
from edgeport_export.passes.match import name_of, new_weight
from edgeport_export.quantize.int8_dynamic import Int8Dynamic, dynamic_nodes
from edgeport_export.quantize.int8_products import Int8Weights, Product, QuantizationReport, find_products
from edgeport_export.quantize.int8_static import Int8Static, StaticInputs, activation_ranges

__all__ = ["keep_pattern", "sensitivity"]

_SWITCH = "edgeport_switch"


def sensitivity(model: ir.Model, batches: Sequence[Batch], config: Int8Dynamic | Int8Static) -> dict[str, float]:
    """What each product's quantization alone does to the outputs, the worst first.

    Args:
        model: In fp32, before the passes that finish it; is not changed.
        batches: Input name to int64 (rows, tokens). Some 32 rows rank the layers.
        config: How products are quantized; what it keeps in fp32 is left out.

    Returns:
        By the name of the weight, the error of the outputs relative to their size: root of the mean square of each.
    """
    switched = model.clone()
    names = _both_ways(switched, batches, config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "switched.onnx"
        save_graph(switched, path)
        outputs = [name_of(output) for output in switched.graph.outputs]
        del switched
        session = opened(path, open_graph)

        def run(batch: Batch, on: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
            results: list[NDArray[np.float32]] = session.run(outputs, {**batch, _SWITCH: on})
            return results

        none = np.zeros(len(names), np.bool_)
        wanted = [run(batch, none) for batch in batches]
        found = {}
        for number, name in enumerate(names):
            on = none.copy()
            on[number] = True
            found[name] = _error([run(batch, on) for batch in batches], wanted)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def keep_pattern(names: Sequence[str]) -> str:
    """The ``keep_fp32`` that finds exactly these weights."""
    return f"^({'|'.join(map(re.escape, names))})$"


def _both_ways(model: ir.Model, batches: Sequence[Batch], config: Int8Dynamic | Int8Static) -> list[str]:
    """Let an input of the graph choose between each product and its quantized form; the names of their weights."""
    graph = model.graph
    keep = re.compile(config.keep_fp32) if config.keep_fp32 else None
    products = [p for p in find_products(graph, QuantizationReport()) if not (keep and keep.search(p.name))]
    ranges = activation_ranges(model, batches, config) if isinstance(config, Int8Static) else {}
    products = [p for p in products if isinstance(config, Int8Dynamic) or name_of(p.source) in ranges]
    names = list(dict.fromkeys(p.name for p in products))
    switch = ir.Value(name=_SWITCH, shape=ir.Shape([len(names)]), type=ir.TensorType(ir.DataType.BOOL))
    graph.inputs.append(switch)
    weights, inputs = Int8Weights(graph), StaticInputs(graph, ranges)
    for product in products:
        nodes = inputs.nodes(product, weights) if ranges else dynamic_nodes(product, weights)
        _choose(graph, product, nodes, switch, names.index(product.name))
    graph.opset_imports["com.microsoft"] = 1
    return names


def _choose(graph: ir.Graph, product: Product, nodes: list[ir.Node], switch: ir.Value, number: int) -> None:
    """``nodes`` where the switch is on, the product itself where it is off."""
    plain, quantized = product.result, nodes[-1].outputs[0]
    nodes[-1].name = f"{product.node.name}.int8"
    value, name = name_of(plain), f"{_SWITCH}_{number}"
    index = graph.initializers.get(name) or new_weight(graph, name, ir.tensor(np.array(number, np.int64), name=name))
    chosen = ir.node("Gather", [switch, index], {"axis": 0})
    either = ir.node("Where", [chosen.outputs[0], quantized, plain])
    result = either.outputs[0]
    # The choice takes the value's name, by which its range is known.
    result.name, result.type, result.shape = value, plain.type, plain.shape
    for made, suffix in ((plain, "fp32"), (quantized, "int8"), (chosen.outputs[0], "on")):
        made.name = f"{value}.{suffix}"
    last = plain.producer()
    assert last is not None
    ir.convenience.replace_all_uses_with(plain, result, replace_graph_outputs=True)
    either.replace_input_with(2, plain)
    graph.insert_after(last, [*nodes, chosen, either])


def _error(found: Sequence[Sequence[NDArray[np.float32]]], wanted: Sequence[Sequence[NDArray[np.float32]]]) -> float:
    """The largest of the outputs' errors."""
    off, size = np.zeros(len(wanted[0])), np.zeros(len(wanted[0]))
    for got_batch, want_batch in zip(found, wanted, strict=True):
        for number, (got, want) in enumerate(zip(got_batch, want_batch, strict=True)):
            off[number] += np.square(got - want, dtype=np.float64).sum()
            size[number] += np.square(want, dtype=np.float64).sum()
    return float(np.sqrt(off / np.maximum(size, 1e-30)).max())
