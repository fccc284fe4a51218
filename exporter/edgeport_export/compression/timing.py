"""How long models take, side by side: short turns, in a new random order each time, each of all there is to do.

A machine drifts within minutes, so only what was taken in the same turn is compared, and as a ratio: the median over
turns. In an order that repeats, somebody always follows the same one, in its caches and at its clock rate. Idle thread
pools spin for a while (ONNX Runtime's for 40 ms), so everyone begins with a pause. Knows functions and numbers, no
model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, sleep

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ratio", "Timed", "ratio_of", "take_turns"]

_SETTLE_SECONDS = 0.06
_WARM_UP = 2
_LEAST_TURNS = 7


@dataclass(frozen=True)
class Timed:
    """Milliseconds a batch: a mean a turn, and the median of them."""

    turns: tuple[float, ...]

    @property
    def milliseconds(self) -> float:
        return float(np.median(self.turns))

    def times(self, factor: float) -> Timed:
        """What it would be on something that takes so many times as long."""
        return Timed(tuple(factor * turn for turn in self.turns))

    @property
    def spread(self) -> float:
        """Median absolute deviation over the median: what a turn differs by."""
        values = np.array(self.turns)
        return float(np.median(np.abs(values - np.median(values))) / np.median(values))


@dataclass(frozen=True)
class Ratio:
    """How many times as long the one takes as the other, and the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float


def take_turns(
    models: Mapping[str, Sequence[Callable[[], object]]],
    *,
    turns: int,
    seconds: float = math.inf,
    say: Callable[[str], None] = lambda doing: None,
) -> dict[str, Timed]:
    """Time ``models``.

    Args:
        models: What each does in a turn, in order, by name: calls, one a batch, that are back when the work is done.
        turns: Of each model.
        seconds: No turn is begun after these, once there are some.
        say: Is told what is being done.
    """
    for work in models.values():
        sleep(_SETTLE_SECONDS)
        for _ in range(_WARM_UP):
            for run in work:
                run()
    found: dict[str, list[float]] = {name: [] for name in models}
    chance, start = random.Random(0), perf_counter()
    for number in range(turns):
        if number >= _LEAST_TURNS and perf_counter() - start > seconds:
            break
        say(f"turn {number + 1} of {turns}")
        for name in chance.sample(list(models), len(models)):
            sleep(_SETTLE_SECONDS)
            models[name][0]()  # wakes its threads, and does not count
            found[name].append(_turn(models[name]))
    return {name: Timed(tuple(times)) for name, times in found.items()}


def _turn(work: Sequence[Callable[[], object]]) -> float:
    start = perf_counter()
    for run in work:
        run()
    return (perf_counter() - start) * 1e3 / len(work)


def ratio_of(slower: Timed, faster: Timed, *, resamples: int = 2000, seed: int = 0) -> Ratio:
    """The median of the ratios of the same turns, with a bootstrap over turns."""
    ratios = np.array(slower.turns) / np.array(faster.turns)
    draws = np.random.default_rng(seed).integers(len(ratios), size=(resamples, len(ratios)))
    medians: NDArray[np.float64] = np.median(ratios[draws], axis=1)
    low, high = (float(p) for p in np.percentile(medians, (2.5, 97.5)))
    return Ratio(float(np.median(ratios)), low, high)
