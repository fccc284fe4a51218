"""How long graphs would take on another machine: what each operator takes here, by what the two machines can do.

A product takes as much longer as the roofline allows it less. Whatever else there is to do works in the caches, and
goes with the processor's fp32. What an operator takes that has nothing to do comes before that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep

import numpy as np

from edgeport_export.compression.timing import SETTLE_SECONDS, WARM_UP, Timed
from edgeport_export.profile import Machine, OperatorRun, node_weights, read_profile

__all__ = ["Estimator", "Work"]

_ROUNDS = 9


@dataclass(frozen=True)
class Work:
    """What a model does in a turn."""

    graph: Path
    open: Callable[[Path], Sequence[Callable[[], object]]]
    """Opens the graph so that it records what its operators take, in files that begin as told; calls, one a batch."""


@dataclass(frozen=True)
class Estimator:
    """From this machine to another."""

    here: Machine
    there: Machine

    def seconds(self, ran: OperatorRun) -> float:
        """What an operator would take there."""
        here, there = self.here.roofline, self.there.roofline
        slower = ran.least(there) / ran.least(here) if ran.operations else here.fp32 / there.fp32
        return self.there.operator + max(0.0, ran.seconds - self.here.operator) * slower

    def take_turns(self, models: Mapping[str, Work]) -> dict[str, Timed]:
        """Milliseconds a batch there, from runs here that take turns."""
        with TemporaryDirectory() as folder:
            opened = {name: work.open(Path(folder) / f"{n}-") for n, (name, work) in enumerate(models.items())}
            batches = {name: len(runs) for name, runs in opened.items()}
            for _ in range(WARM_UP + _ROUNDS):
                for runs in opened.values():
                    sleep(SETTLE_SECONDS)
                    for run in runs:
                        run()
            del run, runs, opened  # onnxruntime writes what it has recorded when a session ends
            return {
                name: self._timed(next(Path(folder).glob(f"{n}-*")), work.graph, batches[name])
                for n, (name, work) in enumerate(models.items())
            }

    def _timed(self, profile: Path, graph: Path, batches: int) -> Timed:
        each = np.array([self.seconds(ran) for ran in read_profile(profile, node_weights(graph))])
        rounds = each.reshape(WARM_UP + _ROUNDS, -1).sum(axis=1)[WARM_UP:]
        return Timed(tuple((rounds * 1e3 / batches).tolist()))
