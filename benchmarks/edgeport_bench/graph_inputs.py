"""Inputs for an ONNX graph of which nothing is known but itself: bound by name, as large as the shape asks for.

An axis that has no number takes the batch where it comes first or is called so, the length where its name speaks of a
sequence or it comes second, and 0 where it speaks of a past; any other has to be given by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from edgeport.errors import UsageError

from edgeport_bench.inputs import Feeds, Shape

__all__ = ["GraphInput", "GraphInputs", "read_graph_inputs"]

_TYPES: Mapping[str, npt.DTypeLike] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_MOST_TOKEN = 100
"""Ids of tokens stay below: any vocabulary has as many."""


@dataclass(frozen=True)
class GraphInput:
    """One input of a graph."""

    name: str
    type: str
    """As onnxruntime writes it."""
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class GraphInputs:
    """A graph's inputs."""

    inputs: tuple[GraphInput, ...]
    axes: Mapping[str, int] = field(default_factory=dict)
    """Sizes of axes by name, given by the user."""
    values: Mapping[str, float] = field(default_factory=dict)
    """What inputs are filled with, by name, given by the user."""

    def default_batches(self) -> list[int]:
        """One, where the graph leaves it open."""
        return [next((axis for i in self.inputs for axis in i.shape[:1] if isinstance(axis, int)), 1)]

    def default_lengths(self) -> list[int]:
        """A short and a longer one, where the graph leaves it open; 0 where it takes no tokens."""
        if any(self._is_length(i, place) for i in self.inputs for place in range(len(i.shape))):
            return [16, 128]
        tokens = (i for i in self.inputs if len(i.shape) == 2 and ("int" in i.type or _is_named_length(i.shape[1])))
        return [next((self._size(i, 1, 1, 1) for i in tokens), 0)]

    def make_feeds(self, shapes: Sequence[Shape]) -> dict[Shape, Feeds]:
        """Random tensors for each shape, the same at every call; masks are ones, positions count, types are zeros.

        Raises:
            UsageError: an axis whose size nothing tells, an axis or an input that is given and not there, a length
                where none is open, or a type that is not known.
        """
        for name in self.values:
            if name not in {i.name for i in self.inputs}:
                known = ", ".join(i.name for i in self.inputs)
                raise UsageError(f"the graph has no input {name!r}: its inputs are {known}.")
        named = {axis for i in self.inputs for axis in i.shape if isinstance(axis, str)}
        for axis in self.axes:
            if axis not in named:
                known = f"those that have one are {', '.join(sorted(named))}" if named else "none has one"
                raise UsageError(f"no axis of the graph's inputs has the name {axis!r}: {known}.")
        lengths, fixed = sorted({length for _, length in shapes}), self.default_lengths()
        if len(fixed) == 1 and lengths != fixed:
            has = f"the graph's length is {fixed[0]} and not open" if fixed[0] else "the graph has no axis of a length"
            raise UsageError(f"{has}, and {', '.join(map(str, lengths))} was asked for: leave --length out.")
        return {(b, n): {i.name: self._tensor(i, b, n) for i in self.inputs} for b, n in shapes}

    def _tensor(self, port: GraphInput, batch: int, length: int) -> npt.NDArray[Any]:
        dtype = _TYPES.get(port.type)
        if dtype is None:
            raise UsageError(
                f"the input {port.name!r} is a {port.type}: those that can be made are {', '.join(_TYPES)}."
            )
        shape = [self._size(port, place, batch, length) for place in range(len(port.shape))]
        if port.name in self.values:
            return np.full(shape, self.values[port.name], dtype)
        rng, name = np.random.default_rng(0), port.name.lower()
        if "mask" in name or np.dtype(dtype) == np.bool_:
            return np.ones(shape, dtype)
        if "position" in name and shape:
            return np.broadcast_to(np.arange(shape[-1]), shape).astype(dtype)
        if np.issubdtype(dtype, np.floating):
            return rng.normal(size=shape).astype(dtype)
        return np.zeros(shape, dtype) if "type" in name else rng.integers(0, _MOST_TOKEN, shape).astype(dtype)

    def _size(self, port: GraphInput, place: int, batch: int, length: int) -> int:
        axis = port.shape[place]
        if isinstance(axis, int):
            return axis
        name = (axis or "").lower()
        if axis in self.axes:
            return self.axes[str(axis)]
        if _is_past(name):
            return 0
        if self._is_length(port, place):
            return length
        if "batch" in name or place == 0:
            return batch
        raise UsageError(
            f"axis {place} of the input {port.name!r} is {axis}, and nothing tells its size: pass --axis {axis}=SIZE."
            if axis
            else f"axis {place} of the input {port.name!r} is open and has no name: set its size in the graph, as with "
            "onnxruntime.tools.make_dynamic_shape_fixed."
        )

    def _is_length(self, port: GraphInput, place: int) -> bool:
        """Whether an axis is open, and what the length decides."""
        axis = port.shape[place]
        name = str(axis or "").lower()
        if isinstance(axis, int) or axis in self.axes or _is_past(name) or "batch" in name:
            return False
        return place != 0 and (_is_named_length(axis) or place == 1)


def _is_named_length(axis: int | str | None) -> bool:
    return isinstance(axis, str) and ("seq" in axis.lower() or "len" in axis.lower())


def _is_past(name: str) -> bool:
    """Whether an axis of that name counts the tokens of a cache alone, and none that are new."""
    return "past" in name and "+" not in name


def read_graph_inputs(path: Path) -> GraphInputs:
    """The inputs of the graph in a file.

    Raises:
        UsageError: onnxruntime cannot read it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime's errors share no class but this one
        reason = (str(e).strip().splitlines() or [""])[0][:160].rstrip(".")
        raise UsageError(f"onnxruntime cannot open {str(path)!r} ({reason}): give a valid ONNX model.") from e
    return GraphInputs(tuple(GraphInput(i.name, i.type, tuple(i.shape)) for i in session.get_inputs()))
