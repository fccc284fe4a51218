"""SmoothQuant: channels with large activations hand some of their size over to the weights, before both are quantized.

Xiao et al. 2022, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models". What a
product reads is divided, channel by channel, by ``largest activation ^ alpha / largest weight ^ (1 - alpha)``, and its
weight is multiplied by the same: exact in real numbers. The division goes into what makes the value, as far up as it
can be carried: a normalization's weights, another product's outputs (through an attention: the values' channels), one
side of a gate. Where something else reads a normalization's output too, as the residual of a post-norm layer does, it
stays a node there. All other values are left as they are, as in the paper.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeport_export.batch import Batch
from edgeport_export.passes.match import attribute, is_weight, name_of, new_weight, sizes, tensor_of
from edgeport_export.quantize.int8_products import Product, QuantizationReport, find_products
from edgeport_export.quantize.observe import largest_by_channel

__all__ = ["Smooth", "smooth"]

Factors = NDArray[np.float32]

_LEAST = 1e-5
"""Magnitudes below count as this: a channel that no sample reaches is left as it is, nearly."""


@dataclass(frozen=True)
class Smooth:
    """Configuration of SmoothQuant."""

    alpha: float = 0.5
    """How much of their size activations hand over: 0 none, 1 all."""
    keep_fp32: str | None = None
    """Regular expression; products whose weights' names it finds are left alone."""


def smooth(model: ir.Model, batches: Iterable[Batch], config: Smooth) -> str:
    """Move the sizes of channels from activations to weights, in place; returns one line on what was done.

    Biases must still stand next to their products. Weights that several products read stay as they are.
    """
    smoother = _Smoother(model.graph)
    groups = smoother.groups(re.compile(config.keep_fp32) if config.keep_fp32 else None)
    largest = largest_by_channel(model, list(groups), batches)
    for name, products in groups.items():
        smoother.migrate(products, _factors(largest[name], products, config.alpha))
    carried = f"{smoother.carried} of them at no cost"
    return f"smoothed the inputs of {smoother.carried + smoother.divided} products, {carried} (alpha {config.alpha:g})"


def _factors(largest: Factors, products: list[Product], alpha: float) -> Factors:
    """What the weights are multiplied by, (channels,)."""
    weight = np.zeros_like(largest)
    for product in products:
        values = np.abs(tensor_of(product.weight).numpy())
        weight = np.maximum(weight, values.max(axis=0 if product.transposed else 1))
    factors = np.maximum(largest, _LEAST) ** alpha / np.maximum(weight, _LEAST) ** (1 - alpha)
    return np.asarray(factors, np.float32)


class _Smoother:
    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._products = {p.name: p for p in find_products(graph, QuantizationReport()) if len(p.weight.uses()) == 1}
        self._made_by = {id(p.result): p for p in self._products.values()}
        self.carried = self.divided = 0

    def groups(self, keep: re.Pattern[str] | None) -> dict[str, list[Product]]:
        """Products by what they read."""
        found: dict[str, list[Product]] = defaultdict(list)
        for name, product in self._products.items():
            if product.source.producer() is not None and not (keep and keep.search(name)):
                found[name_of(product.source)].append(product)
        return found

    def migrate(self, products: list[Product], factors: Factors) -> None:
        source, inverse = products[0].source, np.float32(1) / factors
        if self._carry(source, inverse, {p.node for p in products}):
            self.carried += 1
        elif (maker := source.producer()) is not None and maker.op_type in _NORMS:
            self._divide(source, inverse, products)
            self.divided += 1
        else:
            return
        for product in products:
            self._scale(product.node, 1, factors if product.transposed else factors[:, None])

    def _carry(self, value: ir.Value | None, by: Factors, readers: set[ir.Node]) -> bool:
        """Multiply the channels of ``value`` in what makes it; False if that cannot be done, and nothing is changed."""
        node = value.producer() if value is not None else None
        if value is None or node is None or value.is_graph_output():
            return False
        if len(value.uses()) != len(readers) or {use.node for use in value.uses()} != readers:
            return False
        if (product := self._made_by.get(id(value))) is not None:
            self._scale(product.node, 1, by[:, None] if product.transposed else by)
            if product.bias is not None:
                self._scale_vector(product.add or product.node, product.bias, by)
            return True
        above = _CARRIERS.get(node.op_type)
        if node.op_type in _NORMS and attribute(node, "axis", -1) in (-1, 2) and is_weight(node.inputs[1], rank=1):
            for vector in node.inputs[1:3]:
                self._scale_vector(node, vector, by)
            return True
        return above is not None and any(self._carry(v, factors, {node}) for v, factors in above(node, value, by))

    def _divide(self, source: ir.Value, by: Factors, products: list[Product]) -> None:
        """A node between ``source`` and the products; others read it as it is."""
        name = f"{name_of(source)}.smooth"
        node = ir.node("Mul", [source, new_weight(self._graph, f"{name}.by", ir.tensor(by, name=f"{name}.by"))])
        made = node.outputs[0]
        made.name, made.type, made.shape = name, source.type, source.shape
        first = min(products, key=lambda p: self._position(p.node)).node
        self._graph.insert_before(first, node)
        for product in products:
            product.node.replace_input_with(0, made)

    def _position(self, node: ir.Node) -> int:
        return next(i for i, other in enumerate(self._graph) if other is node)

    def _scale_vector(self, node: ir.Node, vector: ir.Value | None, by: Factors) -> None:
        """A normalization's weights or a bias. Equal ones are shared between layers: then this one gets its own."""
        if vector is None:
            return
        index = node.inputs.index(vector)
        if len(vector.uses()) > 1:
            name = f"{node.outputs[0].name}.{name_of(vector)}"
            node.replace_input_with(index, new_weight(self._graph, name, tensor_of(vector)))
        self._scale(node, index, by)

    def _scale(self, node: ir.Node, index: int, by: Factors) -> None:
        """Multiply a weight, when it is read: so that no second copy of the model is held."""
        weight = node.inputs[index]
        tensor = tensor_of(weight)
        assert weight is not None
        weight.const_value = ir.LazyTensor(
            lambda: ir.Tensor(np.asarray(tensor.numpy() * by, np.float32), name=weight.name),
            dtype=tensor.dtype,
            shape=ir.Shape(sizes(tensor)),
            name=weight.name,
        )


def _attention(node: ir.Node, value: ir.Value, by: Factors) -> Iterator[tuple[ir.Value | None, Factors]]:
    """Its output is a mean of the values, channel by channel."""
    if value is node.outputs[0] and (len(node.inputs) < 4 or node.inputs[3] is None):
        yield node.inputs[2], by


def _split(node: ir.Node, value: ir.Value, by: Factors) -> Iterator[tuple[ir.Value | None, Factors]]:
    if attribute(node, "axis", 0) != -1 or any(o.shape is None for o in node.outputs):
        return
    widths = [output.shape[-1] for output in node.outputs]  # type: ignore[index]
    if all(isinstance(width, int) for width in widths):
        parts = [
            by if output is value else np.ones(width, np.float32)  # type: ignore[arg-type]
            for output, width in zip(node.outputs, widths, strict=True)
        ]
        # The parts are views of one value; their readers are not its own.
        yield node.inputs[0], np.concatenate(parts)


def _gate(node: ir.Node, value: ir.Value, by: Factors) -> Iterator[tuple[ir.Value | None, Factors]]:
    for side in reversed(node.inputs):
        if side is not None and side.shape is not None and side.shape == value.shape:
            yield side, by


def _relu(node: ir.Node, value: ir.Value, by: Factors) -> Iterator[tuple[ir.Value | None, Factors]]:
    yield node.inputs[0], by


_CARRIERS = {"MultiHeadAttention": _attention, "Split": _split, "Mul": _gate, "Relu": _relu}
"""What a factor of a value becomes above the node that makes it: for inputs that could take it, which factors."""
_NORMS = ("LayerNormalization", "SimplifiedLayerNormalization")
