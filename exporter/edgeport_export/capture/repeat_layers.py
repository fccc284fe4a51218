"""The graph of a shortened model, completed: the nodes of its last period again, with the weights of later layers.

To be sure of what was recorded (see ``repetition``), the two periods that were traced have to be the same graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import onnx_ir as ir
from onnx_ir.tensor_adapters import TorchTensor
from torch import nn

from edgeport_export.capture.repetition import SMALL, Repetition, parted
from edgeport_export.passes.match import name_of, new_weight

__all__ = ["repeat_layers"]

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch.onnx tells in which modules a node was traced."""


def repeat_layers(model: ir.Model, head: Any, repetition: Repetition) -> None:
    """Complete ``model`` in place.

    Args:
        model: The graph of the shortened head, as torch.onnx makes it.
        head: The head in its full length, with ``names`` and ``outputs``.
        repetition: What repeats.

    Raises:
        ValueError: the two periods are not the same; nothing was changed.
    """
    graph = model.graph
    earlier, template = _periods(graph, repetition)
    twins = _twins(earlier, template)
    own = _own_values(earlier, template, twins, repetition)
    made, inside = set(twins.values()), {*earlier, *template}
    behind = [(value, use) for value in (*twins, *made) for use in value.uses() if use.node not in inside]
    if any(value in twins for value, _ in behind):
        raise ValueError("something behind the layers reads one of those in front")
    results = [n for n, value in enumerate(graph.outputs) if value in made and value not in own]

    copier = _Copier(graph, head, repetition, twins, own)
    end = template[-1]
    last = {value: value for value in made}
    for number in range(1, repetition.copies + 1):
        nodes, last = copier.copy(template, number, last)
        graph.insert_after(end, nodes)
        end = nodes[-1]
    for value, use in behind:
        use.node.replace_input_with(use.idx, last[value])
    for n in results:
        value = graph.outputs[n]
        value.name, last[value].name = last[value].name, value.name
        graph.outputs[n] = last[value]
    for names, ends in ((head.names, graph.inputs), (head.outputs, graph.outputs)):
        known = {value.name for value in ends}
        ends.extend(copier.own_values[name] for name in names if name not in known)


class _Copier:
    """Makes the nodes of a period again, with what belongs to another layer: weights, and parts of the cache."""

    def __init__(
        self,
        graph: ir.Graph,
        head: nn.Module,
        repetition: Repetition,
        twins: Mapping[ir.Value, ir.Value],
        own: Set[ir.Value],
    ) -> None:
        self.own_values: dict[str, ir.Value] = {}
        """What belongs to the layers that were copied."""
        self._graph = graph
        self._repetition = repetition
        self._twins = twins
        self._own = own
        self._weights = {**dict(head.named_parameters(remove_duplicate=False)), **dict(head.named_buffers())}

    def copy(
        self, template: Sequence[ir.Node], number: int, before: Mapping[ir.Value, ir.Value]
    ) -> tuple[list[ir.Node], dict[ir.Value, ir.Value]]:
        """The nodes of the period ``number`` behind the template, and what they make instead of its values; ``before``
        is that of the period in front."""
        made: dict[ir.Value, ir.Value] = {}

        def operand(value: ir.Value | None) -> ir.Value | None:
            if value is None:
                return None
            if value in made:
                return made[value]
            if value in self._twins:  # in the template it comes from the period in front
                return before[self._twins[value]]
            return self._given(value, number) if value in self._own else value

        nodes = []
        for node in template:
            outputs = [self._made(value, number) for value in node.outputs]
            nodes.append(
                ir.Node(
                    node.domain,
                    node.op_type,
                    [operand(value) for value in node.inputs],
                    node.attributes.values(),
                    overload=node.overload,
                    outputs=outputs,
                    version=node.version,
                    name=f"{node.name}.{number}",
                )
            )
            made.update(zip(node.outputs, outputs, strict=True))
        return nodes, made

    def _given(self, value: ir.Value, number: int) -> ir.Value:
        """In place of ``value``, a weight or a past."""
        name = self._renamed(value, number)
        if name not in self.own_values:
            self.own_values[name] = (
                new_weight(self._graph, name, TorchTensor(self._weights[name].detach(), name))
                if value.is_initializer()
                else _alike(value, name)
            )
        return self.own_values[name]

    def _made(self, value: ir.Value, number: int) -> ir.Value:
        """In place of ``value``, which a node makes."""
        if value not in self._own:
            return _alike(value, f"{value.name}.{number}")
        name = self._renamed(value, number)
        self.own_values[name] = _alike(value, name)
        return self.own_values[name]

    def _renamed(self, value: ir.Value, number: int) -> str:
        layer, name = parted(self._repetition.stack, name_of(value))
        assert layer is not None
        return name.replace("*", str(layer + number * self._repetition.period), 1)


def _alike(value: ir.Value, name: str) -> ir.Value:
    return ir.Value(name=name, type=value.type, shape=None if value.shape is None else value.shape.copy())


def _periods(graph: ir.Graph, repetition: Repetition) -> tuple[list[ir.Node], list[ir.Node]]:
    """The nodes of the two periods, without constants: those are shared among layers as torch.onnx likes."""
    nodes = [node for node in graph if node.op_type != "Constant"]
    starts = []
    for layer in (repetition.first, repetition.first + repetition.period):
        scope = repr(f"{repetition.stack}.{layer}")
        starts += [n for n, node in enumerate(nodes) if scope in node.metadata_props.get(_SCOPES, "")][:1]
    if len(starts) < 2:
        raise ValueError("a layer has no nodes")
    start, middle = starts
    return nodes[start:middle], nodes[middle : 2 * middle - start]


def _twins(earlier: Sequence[ir.Node], template: Sequence[ir.Node]) -> dict[ir.Value, ir.Value]:
    """For each value that the one period makes, the one that the other makes in the same place."""
    if [len(node.outputs) for node in earlier] != [len(node.outputs) for node in template]:
        raise ValueError("the periods are not of one form")
    pairs = zip(earlier, template, strict=True)
    return {a: b for one, other in pairs for a, b in zip(one.outputs, other.outputs, strict=True)}


def _own_values(
    earlier: Sequence[ir.Node], template: Sequence[ir.Node], twins: dict[ir.Value, ir.Value], repetition: Repetition
) -> set[ir.Value]:
    """Of the template, the weights and the parts of the cache that are its layers' own.

    Raises:
        ValueError: the periods are not the same.
    """
    own: set[ir.Value] = set()
    carried: dict[ir.Value, ir.Value] = {}

    def pair(a: ir.Value | None, b: ir.Value | None) -> bool:
        if a is None or b is None:
            return a is b
        if a in twins:
            return twins[a] is b
        if b in twins:
            return a is not b and carried.setdefault(b, a) is a
        if a is b:
            return True
        if _are_own(a, b, repetition):
            own.add(b)
            return True
        return _constant(a) is not None and _constant(a) == _constant(b)

    for one, other in zip(earlier, template, strict=True):
        if (
            one.op_identifier() != other.op_identifier()
            or len(one.inputs) != len(other.inputs)
            or _attributes(one) != _attributes(other)
            or not all(pair(a, b) for a, b in zip(one.inputs, other.inputs, strict=True))
        ):
            raise ValueError(f"{one.name} and {other.name} are not the same")
        for a, b in zip(one.outputs, other.outputs, strict=True):
            if a.is_graph_output() and _are_own(a, b, repetition):
                own.add(b)
            elif a.is_graph_output():
                raise ValueError(f"{a.name} is a result and no part of the cache")
    return own


def _are_own(a: ir.Value, b: ir.Value, repetition: Repetition) -> bool:
    layer, name = parted(repetition.stack, name_of(a))
    return layer is not None and parted(repetition.stack, name_of(b)) == (layer + repetition.period, name)


def _constant(value: ir.Value) -> object:
    """What is in a small tensor that is no weight, comparable; None for all else."""
    node = value.producer()
    if node is not None:
        return _attributes(node) if node.op_type == "Constant" else None
    tensor = value.const_value
    return _content(tensor) if tensor is not None and tensor.size <= SMALL else None


def _attributes(node: ir.Node) -> dict[str, object]:
    return {name: _comparable(attribute) for name, attribute in node.attributes.items()}


def _content(tensor: ir.TensorProtocol) -> object:
    return tensor.dtype, tuple(tensor.shape), tensor.tobytes()


def _comparable(attribute: ir.Attr) -> object:
    if attribute.type == ir.AttributeType.TENSOR:
        return _content(attribute.as_tensor())
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return object()  # nothing is the same as a graph of its own
    return attribute.type, attribute.value
