"""An ONNX graph as the package edgeport-kernels runs it.

Nodes that its operators can run get their domain. A product takes in what stands around it, where nothing else reads
what is between: a normalization or an activation before it, and the addition of a residual behind it. With one token at
a time, handing a tensor from node to node takes longer than most nodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from edgeport.session.onnx_graph import FLOAT, INT8, INT32, UINT8, Graph, Node, Value, number_attribute, replace_graph

__all__ = ["ATTENTION", "DOMAIN", "DYNAMIC", "HEADS", "WEIGHT_ONLY", "rewritten"]

DOMAIN = "edgeport.simd"
"""Of the package's operators, which have the names of onnxruntime's."""

WEIGHT_ONLY, DYNAMIC = "MatMulNBits", "DynamicQuantizeMatMul"
ATTENTION, HEADS = "GroupQueryAttention", "MultiHeadAttention"

_PRODUCTS = (WEIGHT_ONLY, DYNAMIC)
_LARGEST_HEAD = 256
"""As runtime/kernels/src/attention.h has it."""

_MICROSOFT = "com.microsoft"

# Prologues, as runtime/kernels/src/prologue.h numbers them: normalizations, and activations with their form.
_NORMS = {"SimplifiedLayerNormalization": 1, "LayerNormalization": 2}
_SILU = 3
_ACTIVATIONS = {("Gelu", "tanh"): 4, ("Gelu", "none"): 5, ("Relu", "none"): 6}

_NORM_SCALE, _NORM_BIAS, _RESIDUAL = 6, 7, 8
"""Inputs that the library's product has and onnxruntime's has not."""


def rewritten(data: bytes, operators: Collection[str]) -> bytes | None:
    """An ONNX file with ``operators`` replaced, which the library has; None if there are none.

    Raises:
        ValueError, IndexError: it is no ONNX file.
    """
    if not any(operator.encode() in data for operator in operators):
        return None
    return replace_graph(data, DOMAIN, lambda graph: _changed(graph, operators))


def _changed(graph: Graph, operators: Collection[str]) -> bytes | None:
    named = (node for node in graph.nodes if node.domain == _MICROSOFT and node.operator in operators)
    fitting = [node for node in named if _FITS[node.operator](node, graph)]
    if not fitting:
        return None
    products = [_Product(node, graph) for node in fitting if node.operator in _PRODUCTS]
    others = {node: node.inputs for node in fitting if node.operator not in _PRODUCTS}
    new: dict[Node, list[bytes]] = {}
    if not any(node.nests for node in graph.nodes):
        _take_in_prologues(graph, products, new)
        _take_in_additions(graph, products, new)
        _take_in_splits(graph, others, new)
    new.update((node, [node.written(DOMAIN, inputs, node.outputs)]) for node, inputs in others.items())
    new.update((product.node, []) for product in products)
    for product in products:
        new[product.place].append(product.written())
    return graph.written(new)


class _Product:
    """A product and what it has taken in."""

    def __init__(self, node: Node, graph: Graph) -> None:
        self.node = self.place = node
        """Where it stands: at what it has taken in behind it, where that may have been computed meanwhile."""
        self.inputs, self.output, self.attributes = list(node.inputs), node.outputs[0], b""
        self.width = node.number("K")
        """Columns of the activations."""
        if node.operator == DYNAMIC:
            self.width, rows = _matrix(node, graph)
            self.attributes = number_attribute("K", self.width) + number_attribute("N", rows)
            self.inputs[3:4] = ["", ""]  # one zero point becomes two inputs that are absent, as MatMulNBits has them

    def put(self, index: int, name: str) -> None:
        """Set an input; no name is an absent one."""
        if name:
            self.inputs.extend([""] * (index + 1 - len(self.inputs)))
            self.inputs[index] = name

    def written(self) -> bytes:
        return self.node.written(DOMAIN, self.inputs, [self.output], self.attributes)


@dataclass(frozen=True)
class _Prologue:
    """What stands before products, and is there for nothing else."""

    kind: int
    source: str
    """What it reads."""
    nodes: Sequence[Node]
    gated: bool = False
    scale: str = ""
    bias: str = ""
    epsilon: bytes = b""
    """The attribute."""


def _take_in_prologues(graph: Graph, products: Sequence[_Product], new: dict[Node, list[bytes]]) -> None:
    readers: dict[str, list[_Product]] = defaultdict(list)
    for product in products:
        readers[product.node.inputs[0]].append(product)
    for name, alike in readers.items():
        widths = {product.width for product in alike}
        if len(widths) != 1 or not graph.only_for(name, [product.node for product in alike]):
            continue
        (width,) = widths
        prologue = _norm(graph, name, width) or _gate(graph, name, width) or _activation(graph, name)
        if prologue is None or graph.value(prologue.source).type != FLOAT:
            continue
        new.update((node, []) for node in prologue.nodes)
        for product in alike:
            product.put(0, prologue.source)
            product.put(_NORM_SCALE, prologue.scale)
            product.put(_NORM_BIAS, prologue.bias)
            product.attributes += number_attribute("prologue", prologue.kind) + prologue.epsilon
            product.attributes += number_attribute("gated", 1) if prologue.gated else b""


def _take_in_additions(graph: Graph, products: Sequence[_Product], new: dict[Node, list[bytes]]) -> None:
    for product in products:
        name = product.output
        add = graph.readers[name][0] if graph.readers[name] else None
        if add is None or add in new or (add.operator, add.domain) != ("Add", "") or not graph.only_for(name, [add]):
            continue
        said, *others = (graph.value(n) for n in (*add.inputs, *add.outputs))
        if said.type != FLOAT or said.shape is None or others != [said, said]:
            continue
        new[add] = []
        product.put(_RESIDUAL, add.inputs[1] if add.inputs[0] == name else add.inputs[0])
        product.output, product.place = add.outputs[0], add


def _take_in_splits(graph: Graph, attentions: dict[Node, list[str]], new: dict[Node, list[bytes]]) -> None:
    """Queries, keys and values of a MultiHeadAttention may stand side by side in one tensor."""
    for node, inputs in attentions.items():
        split = graph.made_by(inputs[0], "Split", outputs=3) if node.operator == HEADS else None
        if split is None or split.outputs != inputs[:3] or split.number("axis", 0) not in (-1, 2):
            continue
        if all(graph.only_for(part, [node]) for part in split.outputs):
            new[split] = []
            attentions[node] = [split.inputs[0], "", "", *inputs[3:]]


def _norm(graph: Graph, name: str, width: int | None) -> _Prologue | None:
    node = graph.made_by(name, *_NORMS)
    if node is None or node.number("axis", -1) != -1:
        return None
    source, scale, bias = (node.input(i) for i in range(3))
    vectors = {graph.value(vector) for vector in (scale, bias) if vector}
    if width is None or vectors != {Value(FLOAT, (width,))}:
        return None
    kind, epsilon = _NORMS[node.operator], node.attribute("epsilon")
    return _Prologue(kind, source, [node], scale=scale, bias=bias, epsilon=epsilon)


def _activation(graph: Graph, name: str) -> _Prologue | None:
    """SiLU, as the product of a tensor and its sigmoid, GELU of both kinds, or ReLU."""
    if (product := graph.made_by(name, "Mul")) is not None:
        for source, factor in (product.inputs, product.inputs[::-1]):
            sigmoid = graph.made_by(factor, "Sigmoid")
            if sigmoid is not None and sigmoid.inputs == [source] and graph.only_for(factor, [product]):
                return _Prologue(_SILU, source, [product, sigmoid])
        return None
    node = graph.made_by(name, "Gelu", "Relu")
    kind = _ACTIVATIONS.get((node.operator, node.text("approximate", "none"))) if node is not None else None
    return _Prologue(kind, node.inputs[0], [node]) if node is not None and kind is not None else None


def _gate(graph: Graph, name: str, width: int | None) -> _Prologue | None:
    """The activation of a tensor's first half times its second half."""
    product = graph.made_by(name, "Mul")
    for gate, factor in (product.inputs, product.inputs[::-1]) if product is not None else ():
        split, activation = graph.made_by(factor, "Split", outputs=2), _activation(graph, gate)
        if product is None or split is None or activation is None or split.number("axis", 0) != -1:
            continue
        shapes = [graph.value(half).shape for half in split.outputs]
        first = activation.source
        if (
            split.outputs == [first, factor]
            and all(shape is not None and shape[-1:] == (width,) for shape in shapes)
            and graph.only_for(gate, [product])
            and graph.only_for(factor, [product])
            and graph.only_for(first, [node for node in activation.nodes if first in node.inputs])
        ):
            return _Prologue(activation.kind, split.inputs[0], [product, *activation.nodes, split], gated=True)
    return None


def _fits_product(node: Node, graph: Graph) -> bool:
    """Whether a MatMulNBits is of the kind that the library has."""
    values, scales, zeros, order, bias = (node.input(i) for i in range(1, 6))
    return (
        node.number("accuracy_level") == 4
        and node.number("bits", 4) in (4, 8)
        and node.number("block_size") in (16, 32, 64, 128, 256)
        and (graph.value(values).type, graph.value(scales).type) == (UINT8, FLOAT)
        and (not zeros or graph.value(zeros).type == UINT8)
        and (not bias or graph.value(bias).type == FLOAT)
        and not order
    )


def _fits_dynamic(node: Node, graph: Graph) -> bool:
    """Whether a DynamicQuantizeMatMul has a constant matrix of signed integers, with a scale a column."""
    matrix, scales, zeros, bias = (node.input(i) for i in range(1, 5))
    if graph.value(matrix).type != INT8 or matrix not in graph.constants or len(graph.value(matrix).shape or ()) != 2:
        return False
    column = Value(FLOAT, _matrix(node, graph)[1:])
    return graph.value(scales) == column and not zeros and (not bias or graph.value(bias) == column)


def _matrix(node: Node, graph: Graph) -> tuple[int, ...]:
    """Sizes of a DynamicQuantizeMatMul's matrix: columns of the activations, and of the result."""
    return tuple(int(size) for size in graph.value(node.inputs[1]).shape or ())


def _fits_attention(node: Node, graph: Graph) -> bool:
    """Likewise of a GroupQueryAttention: a cache in fp32, and nothing but rotation asked for."""
    known = {"num_heads", "kv_num_heads", "do_rotary", "rotary_interleaved", "scale"}
    return (
        all(name in known or node.number(name) == 0 for name in node.attributes)
        and all(graph.value(node.input(i)).type == FLOAT for i in (3, 4))
        and not any(node.inputs[9:])
    )


def _fits_heads(node: Node, graph: Graph) -> bool:
    """Likewise of a MultiHeadAttention: queries, keys and values of one width, and a mask of the keys or none."""
    (query, key, value, bias, mask), heads = (node.input(i) for i in range(5)), node.number("num_heads", 0) or 0
    shapes = [graph.value(name).shape or () for name in (query, key, value)]
    widths = {shape[-1] if len(shape) == 3 else "" for shape in shapes}
    (width,) = widths if len(widths) == 1 else ("",)
    return (
        all(name in ("num_heads", "scale") or node.number(name) == 0 for name in node.attributes)
        and all(graph.value(name).type == FLOAT for name in (query, key, value))
        and isinstance(width, int)
        and heads > 0
        and width % (8 * heads) == 0
        and 0 < width // heads <= _LARGEST_HEAD
        and (not mask or (graph.value(mask).type == INT32 and len(graph.value(mask).shape or ()) == 2))
        and not bias
        and not any(node.inputs[5:])
        and len(node.outputs) == 1
    )


_FITS: Mapping[str, Callable[[Node, Graph], bool]] = {
    WEIGHT_ONLY: _fits_product,
    DYNAMIC: _fits_dynamic,
    ATTENTION: _fits_attention,
    HEADS: _fits_heads,
}
