"""A traced program that speaks torch.onnx's vocabulary already is taken as it is.

torch.onnx runs every traced program a second time, to replace operators that it does not know and operations in place,
and a third time, to see its types: half of the time of an export. A transformers model in eval mode mostly has neither
such operators nor such operations. Some operators that it has are spelled differently for the same thing; those are
respelled here. With any other, torch.onnx runs the program for the second time. The third is never needed.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from typing import Any

import torch
from onnxscript._internal.values import TracedOnnxFunction
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.onnx._internal.exporter import _fx_passes
from torch.onnx._internal.fx.passes import type_promotion

__all__ = ["spoken"]

_ATEN = torch.ops.aten

_IDLE = {_ATEN.dropout.default, _ATEN.alias.default, _ATEN.detach.default}
"""What hands its first input on in eval mode."""

_TYPES = {_ATEN.to.dtype, _ATEN.to.dtype_layout, _ATEN.to.device, _ATEN.to.other, _ATEN.type_as.default}
"""Conversions of type, or of what a graph does not have."""

_CHECKS = {_ATEN._assert_scalar.default, _ATEN._assert_tensor_metadata.default}
"""What torch.onnx drops."""


@contextlib.contextmanager
def spoken() -> Iterator[None]:
    """A context in which torch.onnx takes programs as they are where it can."""
    with _undistracted(), _taken_as_they_are(), _not_run_again():
        yield


@contextlib.contextmanager
def _undistracted() -> Iterator[None]:
    """While its vocabulary is gathered, torch.onnx asks each of the 500 functions for its domain, which it never uses,
    and each parses its own source to answer: half a second. A function's signature, which is there, knows it too."""
    usual = TracedOnnxFunction.function_ir
    TracedOnnxFunction.function_ir = TracedOnnxFunction.op_signature
    try:
        yield
    finally:
        TracedOnnxFunction.function_ir = usual


@contextlib.contextmanager
def _taken_as_they_are() -> Iterator[None]:
    usual = _fx_passes.decompose_with_registry

    def decompose(program: ExportedProgram, registry: Any) -> ExportedProgram:
        known = {entries[0].fx_target for entries in registry.functions.values()}
        if all(_is_known(node, known) for node in program.graph.nodes):
            _respell(program.graph_module)
            return program
        return usual(program, registry)

    _fx_passes.decompose_with_registry = decompose
    try:
        yield
    finally:
        _fx_passes.decompose_with_registry = usual


@contextlib.contextmanager
def _not_run_again() -> Iterator[None]:
    """To write down conversions that torch makes by itself, torch.onnx runs every operator once more: a tenth of the
    time of an export. What an operator gives is known from the trace; one that is changed says its new value itself."""
    interpreter = type_promotion._TypePromotionInterpreter
    usual = interpreter.run_node

    def run_node(self: Any, node: Node) -> Any:
        if node.op != "call_function" or "val" not in node.meta:
            return usual(self, node)
        with self._set_current_node(node):
            rule = type_promotion.get_type_promotion_rule(node, self.type_promotion_table)
            if rule is not None:
                self._maybe_promote_node(node, rule)
        return node.meta["val"]

    interpreter.run_node = run_node
    try:
        yield
    finally:
        interpreter.run_node = usual


def _is_known(node: Node, known: set[Any]) -> bool:
    if node.op != "call_function":
        return node.op != "get_attr"  # a graph inside the graph
    target = node.target
    if target in _IDLE | _TYPES | _CHECKS or target is operator.getitem:
        return True
    return target in known and not (isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable)


def _respell(module: GraphModule) -> None:
    """In place: no idle operators, one spelling of a conversion and of a reshape."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is _ATEN.reshape.default:
            node.target = _ATEN.view.default
        elif node.target in _TYPES:
            source = node.args[0]
            before, after = source.meta["val"].dtype, node.meta["val"].dtype
            if before == after and not _is_output(node):
                _skip(node)
            else:
                node.target, node.args, node.kwargs = _ATEN._to_copy.default, (source,), {"dtype": after}
        elif node.target in _IDLE and not _is_output(node):
            _skip(node)
    graph.lint()
    module.recompile()


def _is_output(node: Node) -> bool:
    """Whether the program's signature has the node's name."""
    return any(user.op == "output" for user in node.users)


def _skip(node: Node) -> None:
    node.replace_all_uses_with(node.args[0])
    node.graph.erase_node(node)
