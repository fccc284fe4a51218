"""Run a graph on arrays that stay where they are: inputs and outputs bound once, changed in place, shared by both.

What a loop needs that runs a graph once a token: a cache of hundreds of megabytes is neither copied nor looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from edgeport.errors import InputError
from edgeport.session.open_graph import first_line

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["Binding"]

Array = npt.NDArray[Any]


class Binding:
    """The arrays of one loop over a graph, for one thread at a time; bindings do not disturb each other."""

    def __init__(self, graph: InferenceSession) -> None:
        """Use ``Session.bind`` instead."""
        from onnxruntime import OrtValue

        self._graph = graph
        self._values = OrtValue
        self._io = graph.io_binding()
        self._held: dict[str, Any] = {}
        self._outputs: list[str] = []

    def input(self, name: str, array: Array) -> None:
        """Read the input ``name`` from ``array`` (contiguous) at every run, as it is then."""
        self._held[name] = value = self._values.ortvalue_from_numpy(array)
        self._io.bind_ortvalue_input(name, value)

    def shared(self, name: str, output: str, array: Array) -> None:
        """Read the input ``name`` from ``array`` and let the graph write ``output`` over it."""
        self.input(name, array)
        self._io.bind_ortvalue_output(output, self._held[name])

    def output(self, name: str) -> None:
        """Return the output ``name`` from every run, in the order of these calls and before all shared ones."""
        self._io.bind_output(name)
        self._outputs.append(name)

    def run(self) -> list[Array]:
        """Run the graph; returns the outputs that are not shared.

        Raises:
            InputError: the graph does not take the arrays.
        """
        for name in self._outputs:
            self._io.bind_output(name)  # anew: the array of the last run would be written over, whatever its shape
        try:
            self._graph.run_with_iobinding(self._io)
        except Exception as e:  # onnxruntime's errors share no class but this one
            raise InputError(f"the graph does not run on what it was given ({first_line(e)}).") from e
        values = self._io.get_outputs()
        return [values[i].numpy() for i in range(len(self._outputs))]
