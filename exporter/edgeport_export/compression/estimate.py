"""How long a graph would take on another machine: what it takes here, times a factor.

The factor weighs each operator by what it takes here. A product goes with the rooflines of the two machines, whatever
else there is to do works in the caches and goes with the processor's fp32, and what an operator takes that has nothing
to do comes before that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from edgeport_export.profile import Machine, OperatorRun, node_weights, read_profile

__all__ = ["Estimator", "record"]

_WARM_UP, _ROUNDS = 2, 5


@dataclass(frozen=True)
class Estimator:
    """From this machine to another."""

    here: Machine
    there: Machine

    def factor(self, ran: Sequence[OperatorRun]) -> float:
        """How many times as long there as here, after what ran here."""
        # What the quickest takes is the recording's own time and an operator with nothing to do.
        least = min(operator.seconds for operator in ran)
        work = [(operator.seconds - least, self._slower(operator)) for operator in ran]
        here = len(ran) * self.here.operator + sum(seconds for seconds, _ in work)
        return (len(ran) * self.there.operator + sum(seconds * slower for seconds, slower in work)) / here

    def _slower(self, ran: OperatorRun) -> float:
        if not ran.operations:
            return self.here.roofline.fp32 / self.there.roofline.fp32
        return ran.least(self.there.roofline) / ran.least(self.here.roofline)


def record(graph: Path, open_by: Callable[[Path], Sequence[Callable[[], object]]]) -> list[OperatorRun]:
    """What the operators of a graph take, the median of some rounds.

    Args:
        graph: The file.
        open_by: Opens it so that onnxruntime writes what operators take, into a file that begins as told; gives what a
            round calls.
    """
    with TemporaryDirectory() as folder:
        runs = list(open_by(Path(folder) / "profile"))
        for _ in range(_WARM_UP + _ROUNDS):
            for run in runs:
                run()
        del run, runs  # onnxruntime writes the file when the session ends
        (profile,) = Path(folder).iterdir()
        ran = read_profile(profile, node_weights(graph))
    seconds = np.array([operator.seconds for operator in ran]).reshape(_WARM_UP + _ROUNDS, -1)
    medians = np.median(seconds[_WARM_UP:], axis=0)
    return [replace(operator, seconds=float(s)) for operator, s in zip(ran[-len(medians) :], medians, strict=True)]
