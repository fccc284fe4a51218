"""Run a graph on arrays that stay where they are: inputs and outputs bound once, changed in place, shared by both.

What a loop needs that runs a graph once a token: a cache of hundreds of megabytes is neither copied nor looked at, and
lies in the memory of the device that the graph runs on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import InputError
from edgeport.session.open_graph import first_line

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

__all__ = ["Binding", "Buffer"]

Array = npt.NDArray[Any]


class Buffer:
    """An array that a graph reads and writes over, in the memory of the CPU or of an accelerator."""

    def __init__(self, value: OrtValue, array: Array | None) -> None:
        """Use ``Binding.shared`` instead; ``array`` is the value's own memory, where numpy can see it."""
        self._value = value
        self._array = array

    def read(self) -> Array:
        """What is in it: the memory itself on the CPU, a copy elsewhere. Changes count once they are written."""
        return self._value.numpy() if self._array is None else self._array

    def write(self, array: Array) -> None:
        """Take over an ``array`` that ``read`` gave, changed."""
        if self._array is None:
            self._value.update_inplace(array)


class Binding:
    """The arrays of one loop over a graph, for one thread at a time; bindings do not disturb each other."""

    def __init__(self, graph: InferenceSession, memory: str = "cpu", *, copied: bool = False) -> None:
        """Use ``Session.bind`` instead.

        Args:
            graph: What is run.
            memory: The device in whose memory the operators work that write over their inputs.
            copied: Whether inputs may be read on another device than the CPU.
        """
        from onnxruntime import OrtValue

        self._graph = graph
        self._memory = memory
        self._copied = copied
        self._values = OrtValue
        self._io = graph.io_binding()
        self._inputs: dict[str, OrtValue] = {}
        self._shared: list[OrtValue] = []
        self._outputs: list[str] = []

    def input(self, name: str, array: Array) -> None:
        """Read the input ``name`` from ``array`` (contiguous) at every run, as it is then."""
        self._inputs[name] = value = self._values.ortvalue_from_numpy(array)
        self._io.bind_ortvalue_input(name, value)

    def shared(self, name: str, output: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Buffer:
        """Zeros that the graph reads as the input ``name`` and writes ``output`` over."""
        array = np.zeros(shape, dtype)
        on_cpu = self._memory == "cpu"
        value = self._values.ortvalue_from_numpy(array, self._memory)
        self._shared.append(value)
        self._io.bind_ortvalue_input(name, value)
        self._io.bind_ortvalue_output(output, value)
        return Buffer(value, array if on_cpu else None)

    def output(self, name: str) -> None:
        """Return the output ``name`` from every run, in the order of these calls and before all shared ones."""
        self._io.bind_output(name)
        self._outputs.append(name)

    def run(self) -> list[Array]:
        """Run the graph; returns the outputs that are not shared.

        Raises:
            InputError: the graph does not take the arrays.
        """
        if self._copied:
            for name, value in self._inputs.items():
                self._io.bind_ortvalue_input(name, value)  # anew: binding is when it is copied to the device
        for name in self._outputs:
            self._io.bind_output(name)  # anew: the array of the last run would be written over, whatever its shape
        try:
            self._graph.run_with_iobinding(self._io)
        except Exception as e:  # onnxruntime's errors share no class but this one
            raise InputError(f"the graph does not run on what it was given ({first_line(e)}).") from e
        values = self._io.get_outputs()
        return [values[i].numpy() for i in range(len(self._outputs))]
