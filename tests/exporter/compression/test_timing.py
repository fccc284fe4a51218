"""Turns and ratios, with a clock that is made up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from edgeport_export.compression import timing
from edgeport_export.compression.timing import Timed, ratio_of, take_turns


class _Clock:
    now = 0.0


def test_nobody_always_follows_the_same_one_and_nothing_else_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ran = _Clock(), []

    def model(name: str, seconds: float) -> list[Callable[[], object]]:
        def run() -> None:
            ran.append(name)
            clock.now += seconds

        return [run] * 3

    def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(timing, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(timing, "sleep", sleep)
    times = take_turns({"a": model("a", 0.002), "b": model("b", 0.004)}, turns=20)
    assert times["a"].milliseconds == pytest.approx(2)
    assert times["b"].milliseconds == pytest.approx(4)
    assert times["a"].spread == pytest.approx(0, abs=1e-9)
    turns = [name for i, name in enumerate(ran[12:]) if i % 4 == 0]  # one run wakes the threads, three count
    pairs = list(zip(turns[::2], turns[1::2], strict=True))
    assert {*pairs} == {("a", "b"), ("b", "a")}
    assert pairs != [pairs[0], pairs[1]] * 10
    assert ratio_of(times["b"], times["a"]).value == pytest.approx(2)


def test_what_disturbs_a_turn_disturbs_both() -> None:
    noise = np.random.default_rng(0).uniform(1, 3, 30)
    slow, fast = Timed(tuple(4 * noise)), Timed(tuple(2 * noise))
    ratio = ratio_of(slow, fast)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((2, 2, 2))
    other = ratio_of(slow, Timed(tuple(2 * np.random.default_rng(1).uniform(1, 3, 30))))
    assert other.low < other.value < other.high


def test_a_drift_of_the_machine_is_no_difference() -> None:
    drift = np.linspace(1, 2, 21)
    ratio = ratio_of(Timed(tuple(3 * drift)), Timed(tuple(drift)))
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((3, 3, 3))
    jump = Timed((2.0, 2.0, 2.0, 4.0, 4.0))
    assert ratio_of(jump, Timed((1.0, 1.0, 1.0, 2.0, 2.0))).value == pytest.approx(2)


def test_slow_models_get_fewer_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()

    def slow() -> None:
        clock.now += 10

    monkeypatch.setattr(timing, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(timing, "sleep", lambda seconds: None)
    assert len(take_turns({"a": [slow]}, turns=50, seconds=1)["a"].turns) == 7
    assert len(take_turns({"a": [slow]}, turns=5, seconds=1)["a"].turns) == 5
