"""One call of torch.onnx: a module and sample inputs in, a graph with named axes out, and nothing said meanwhile."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch
from edgeport.errors import ExportError
from torch import Tensor, nn
from torch.fx.experimental import _config

from edgeport_export.capture.obstacles import around_obstacles
from edgeport_export.capture.repeat_layers import repeat_layers
from edgeport_export.capture.repetition import Repetition, find_repetition, shortened
from edgeport_export.capture.vocabulary import spoken

__all__ = ["quiet", "trace"]

_LOUD = (
    "onnxscript",
    "torch.export",
    "torch.onnx",
    "torch.onnx._internal.exporter._registration",
    "transformers",
    "transformers.exporters",
)


def trace(head: Any, inputs: Sequence[Tensor], axes: Sequence[dict[int, str]] | None, *, opset: int) -> ir.Model:
    """Trace ``head``.

    Args:
        head: A module in eval mode around a transformers model, ``head.model``; it takes the tensors that
            ``head.names`` lists and returns those of ``head.outputs``; ``head.of_layers(n)`` is one around the same
            model when that has only so many layers, with the first of its names.
        inputs: A sample for each of its names.
        axes: For each input, the names of its open axes; None keeps the sample's shapes.
        opset: ONNX opset of the result.

    Raises:
        Exception: whatever torch.onnx raises on a model that it cannot trace.
    """
    assert isinstance(head, nn.Module)
    with quiet(), _no_garbage_collection(), torch.no_grad(), around_obstacles(head.model), spoken(), _any_size():
        # Whatever is in the way of a shortened model, the one in its full length decides.
        with contextlib.suppress(Exception):
            repetition = find_repetition(head, head.names, inputs)
            if repetition is not None:
                return _trace_shortened(head, inputs, axes, repetition, opset=opset)
        return _trace(head, inputs, axes, opset=opset)


def _trace_shortened(
    head: Any, inputs: Sequence[Tensor], axes: Sequence[dict[int, str]] | None, repetition: Repetition, *, opset: int
) -> ir.Model:
    """Trace as few layers as there are different ones, and repeat them."""
    short = head.of_layers(repetition.traced)
    taken = len(short.names)
    with shortened(head, repetition):
        model = _trace(short, inputs[:taken], axes and axes[:taken], opset=opset)
    repeat_layers(model, head, repetition)
    return model


def _trace(head: Any, inputs: Sequence[Tensor], axes: Sequence[dict[int, str]] | None, *, opset: int) -> ir.Model:
    program = torch.onnx.export(
        head,
        tuple(inputs),
        dynamo=True,
        input_names=list(head.names),
        output_names=list(head.outputs),
        dynamic_shapes=None if axes is None else (tuple(axes),),
        opset_version=opset,
        optimize=False,
        verbose=False,
    )
    if program is None:
        raise ExportError("torch.onnx returned no program")
    return program.model


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Tracing makes millions of objects that live to its end: collecting them in between is a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _any_size() -> contextlib.AbstractContextManager[None]:
    """Decide by no sample whether a size is 1 where torch can do without: an eighth of the time of a GPT-2."""
    patched: contextlib.AbstractContextManager[None] = _config.patch(backed_size_oblivious=True)
    return patched


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch.onnx and transformers warn about each other on every trace; what matters comes as an exception."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        # torch.export prints the graph of what it could not trace.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
