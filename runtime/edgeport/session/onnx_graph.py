"""An ONNX model's main graph, read from the file's bytes without onnx: nodes, and what is said of tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgeport.bundle.onnx_wire import BYTES, Part, fields, integer, message, parts, varint

__all__ = ["FLOAT", "INT8", "INT32", "UINT8", "Graph", "Node", "Value", "number_attribute", "replace_graph"]

FLOAT, UINT8, INT8, INT32 = 1, 2, 3, 6
"""Types of tensors."""

# Numbers of fields (onnx.proto).
_GRAPH, _OPSET_IMPORT = 7, 8
_NODE, _CONSTANT, _INPUT, _OUTPUT, _VALUE = 1, 5, 11, 12, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _OPERATOR, _ATTRIBUTE, _DOMAIN = 1, 2, 3, 4, 5, 7
_ATTRIBUTE_NAME, _INTEGER, _TEXT, _SUBGRAPH, _ATTRIBUTE_TYPE, _SUBGRAPHS = 1, 3, 4, 6, 20, 11
_INTEGER_TYPE = 2


@dataclass(frozen=True)
class Value:
    """What a graph says of a tensor."""

    type: int = 0
    """As ONNX numbers them; 0 where nothing is said."""
    shape: tuple[int | str, ...] | None = None
    """Sizes and names of axes; None where nothing is said of one."""


class Node:
    """A node, and where its attributes stand."""

    def __init__(self, data: bytes, place: Part) -> None:
        self._data = data
        self.place = place
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.operator = self.domain = ""
        self.attributes: dict[str, tuple[int, int]] = {}
        for number, a, b in fields(data, place.start, place.end):
            if number == _NODE_INPUT:
                self.inputs.append(data[a:b].decode())
            elif number == _NODE_OUTPUT:
                self.outputs.append(data[a:b].decode())
            elif number == _OPERATOR:
                self.operator = data[a:b].decode()
            elif number == _DOMAIN:
                self.domain = data[a:b].decode()
            elif number == _ATTRIBUTE:
                name = next((data[x:y] for n, x, y in fields(data, a, b) if n == _ATTRIBUTE_NAME), b"")
                self.attributes[name.decode()] = (a, b)

    def input(self, index: int) -> str:
        """The name of an input; empty if it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def number(self, name: str, default: int | None = None) -> int | None:
        """An attribute that is an integer; the default where it is absent, or something else."""
        for part in parts(self._data, *self.attributes.get(name, (0, 0))):
            if part.number == _INTEGER:
                value = varint(self._data, part.start)[0]
                return value - 2**64 if value >= 2**63 else value
        return default

    def text(self, name: str, default: str) -> str:
        """An attribute that is text."""
        found = fields(self._data, *self.attributes.get(name, (0, 0)))
        return next((self._data[a:b].decode() for n, a, b in found if n == _TEXT), default)

    def attribute(self, name: str) -> bytes:
        """An attribute as a node's field; empty if it is absent."""
        return message(_ATTRIBUTE, self._data[slice(*self.attributes[name])]) if name in self.attributes else b""

    @property
    def nests(self) -> bool:
        """Whether it has graphs of its own, which may read any tensor of this one."""
        spans = self.attributes.values()
        return any(n in (_SUBGRAPH, _SUBGRAPHS) for span in spans for n, _, _ in fields(self._data, *span))

    def written(self, domain: str, inputs: Sequence[str], outputs: Sequence[str], attributes: bytes = b"") -> bytes:
        """The graph's field of this node, with another domain, other inputs and outputs, and more attributes."""
        names = [message(_NODE_INPUT, name.encode()) for name in inputs]
        names += [message(_NODE_OUTPUT, name.encode()) for name in outputs]
        kept = (
            message(number, self._data[a:b])
            for number, a, b in fields(self._data, self.place.start, self.place.end)
            if number in (_NODE_NAME, _OPERATOR, _ATTRIBUTE)
        )
        return message(_NODE, *names, *kept, attributes, message(_DOMAIN, domain.encode()))


class Graph:
    """The nodes, in order, and what is said of tensors."""

    def __init__(self, data: bytes, place: Part) -> None:
        self._data = data
        self._parts = list(parts(data, place.start, place.end))
        self.nodes: list[Node] = []
        self.constants: set[str] = set()
        self._values: dict[str, Value] = {}
        self._results: set[str] = set()
        for part in self._parts:
            if part.kind != BYTES:
                continue
            if part.number == _NODE:
                self.nodes.append(Node(data, part))
            elif part.number == _CONSTANT:
                name, value = _constant(data, part)
                self._values[name] = value
                self.constants.add(name)
            elif part.number in (_INPUT, _OUTPUT, _VALUE):
                name, value = _described(data, part)
                self._values[name] = value
                if part.number == _OUTPUT:
                    self._results.add(name)
        self.readers: dict[str, list[Node]] = defaultdict(list)
        """Of each tensor; a node as often as it reads it."""
        self._makers: dict[str, Node] = {}
        for node in self.nodes:
            for name in node.inputs:
                self.readers[name].append(node)
            for name in node.outputs:
                self._makers[name] = node

    def value(self, name: str) -> Value:
        """What is said of a tensor."""
        return self._values.get(name, Value())

    def made_by(self, name: str, *operators: str, outputs: int = 1) -> Node | None:
        """The node that makes a tensor, if it is one of ONNX's own operators, with as many outputs."""
        node = self._makers.get(name)
        fits = node is not None and node.operator in operators and not node.domain and len(node.outputs) == outputs
        return node if fits else None

    def only_for(self, name: str, readers: Sequence[Node]) -> bool:
        """Whether these nodes alone read a tensor, each as often as it is listed."""
        return name not in self._results and sorted(map(id, self.readers[name])) == sorted(map(id, readers))

    def written(self, new: dict[Node, list[bytes]]) -> bytes:
        """The graph, with the fields ``new`` in the place of nodes; all others as they are."""
        places = {node.place.begin: fields for node, fields in new.items()}
        kept = ([self._data[p.begin : p.end]] if p.begin not in places else places[p.begin] for p in self._parts)
        return b"".join(piece for pieces in kept for piece in pieces)


def replace_graph(data: bytes, domain: str, change: Callable[[Graph], bytes | None]) -> bytes | None:
    """A model whose graph is what ``change`` makes of the one it has, and which has operators of ``domain``, version 1.

    Args:
        data: An ONNX file.
        domain: Of operators.
        change: The graph to its bytes; None if it is to stay as it is.

    Returns:
        The file; None if it is to stay as it is.

    Raises:
        ValueError, IndexError: it is no ONNX file.
    """
    graphs = [part for part in parts(data, 0, len(data)) if part.number == _GRAPH and part.kind == BYTES]
    if len(graphs) != 1:  # protobuf would merge them; nobody writes such files
        return None
    (place,) = graphs
    changed = change(Graph(data, place))
    if changed is None:
        return None
    opset = message(_OPSET_IMPORT, message(1, domain.encode()), integer(2, 1))
    return data[: place.begin] + message(_GRAPH, changed) + data[place.end :] + opset


def number_attribute(name: str, value: int) -> bytes:
    """A node's field: an attribute that is an integer, not negative."""
    return message(
        _ATTRIBUTE,
        message(_ATTRIBUTE_NAME, name.encode()),
        integer(_INTEGER, value),
        integer(_ATTRIBUTE_TYPE, _INTEGER_TYPE),
    )


def _constant(data: bytes, place: Part) -> tuple[str, Value]:
    """Name, and what is said, of a constant (TensorProto)."""
    name, kind, shape = "", 0, list[int]()
    for part in parts(data, place.start, place.end):
        if part.number == 1:
            shape += _integers(data, part)
        elif part.number == 2:
            kind = varint(data, part.start)[0]
        elif part.number == 8:
            name = data[part.start : part.end].decode()
    return name, Value(kind, tuple(shape))


def _integers(data: bytes, part: Part) -> Iterator[int]:
    """Of a repeated field, where they stand one by one or packed."""
    at = part.start
    while at < part.end:
        value, at = varint(data, at)
        yield value


def _described(data: bytes, place: Part) -> tuple[str, Value]:
    """Name, and what is said, of an input, output or tensor between (ValueInfoProto); nothing if it is no tensor."""
    found = {number: (a, b) for number, a, b in fields(data, place.start, place.end)}
    name = data[slice(*found[1])].decode() if 1 in found else ""
    tensor = next(((a, b) for n, a, b in fields(data, *found.get(2, (0, 0))) if n == 1), (0, 0))
    kind, shape = 0, None
    for part in parts(data, *tensor):
        if part.number == 1:
            kind = varint(data, part.start)[0]
        elif part.number == 2:
            axes = [_axis(data, a, b) for n, a, b in fields(data, part.start, part.end) if n == 1]
            shape = None if "" in axes else tuple(axes)
    return name, Value(kind, shape)


def _axis(data: bytes, start: int, end: int) -> int | str:
    """Its size, or its name; empty if it has neither."""
    for part in parts(data, start, end):
        if part.number == 1:
            return varint(data, part.start)[0]
        if part.number == 2:
            return data[part.start : part.end].decode()
    return ""
