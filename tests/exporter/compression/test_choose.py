"""Which candidates are tried on the test rows, and what is decided there."""

from __future__ import annotations

from typing import Any

import pytest
from edgeport_export.compression.candidate import COMPLETE, STOPPED, Candidate
from edgeport_export.compression.choose import HELD, MISSED, UNPROVEN, decide, finalists, pareto
from edgeport_export.quality.outcomes import Loss


def _loss(value: float, half: float, rows: int = 1000) -> Loss:
    return Loss(value, value - half, value + half, 0.95, 90.0, 90.0 - value, rows, False)


def _candidate(number: int, value: float, ratio: float, half: float = 0.4, **more: Any) -> Candidate:
    return Candidate(number, {}, f"c{number}", loss=_loss(value, half), ratio=ratio, size_bytes=number + 1, **more)


SAFE, FAST, FASTER, RISKY = (
    _candidate(0, 0.0, 1.0, 0.1),
    _candidate(1, 0.3, 2.0),
    _candidate(2, 0.4, 3.0),
    _candidate(3, 0.9, 9.0),
)


def test_the_fastest_that_is_expected_to_hold_comes_first_and_the_safest_last() -> None:
    assert finalists([SAFE, FAST, FASTER, RISKY], 1.0, 1000, "latency") == [FASTER, FAST, SAFE]


def test_more_test_rows_narrow_what_is_expected() -> None:
    tight = _candidate(4, 0.7, 5.0)
    assert tight not in finalists([SAFE, FAST, FASTER, tight], 1.0, 1000, "latency")
    assert finalists([SAFE, FAST, FASTER, tight], 1.0, 4000, "latency")[0] == tight


def test_where_none_is_expected_to_hold_the_safest_are_tried() -> None:
    bad = [_candidate(i, 2.0 + i, 5.0) for i in range(5)]
    assert finalists(bad, 1.0, 1000, "latency") == bad[:3]


def test_what_was_stopped_is_no_finalist() -> None:
    stopped = _candidate(5, 0.0, 4.0, status=STOPPED)
    assert finalists([stopped, SAFE], 1.0, 1000, "latency") == [SAFE]


def test_noise_across_a_rounding_s_edge_does_not_decide() -> None:
    for first in (2.96, 3.0, 3.04, 3.08):
        pair = [_candidate(0, 0.3, first), _candidate(1, 0.1, 3.0)]
        assert finalists(pair, 1.0, 1000, "latency")[0].number == 1
    assert finalists([_candidate(0, 0.3, 3.3), _candidate(1, 0.1, 3.0)], 1.0, 1000, "latency")[0].number == 0


def test_times_that_differ_by_noise_do_not_decide() -> None:
    a, b = _candidate(0, 0.1, 3.001), _candidate(1, 0.3, 3.0)
    again = [_candidate(0, 0.1, 3.0), _candidate(1, 0.3, 3.003)]
    assert [c.number for c in finalists([a, b], 1, 1000, "latency")] == [
        c.number for c in finalists(again, 1, 1000, "latency")
    ]


@pytest.mark.parametrize(
    ("losses", "verdicts", "chosen"),
    [
        ([_loss(0.2, 0.3)], [HELD], 0),
        ([_loss(1.2, 0.3), _loss(0.2, 0.3)], [MISSED, HELD], 1),
        ([_loss(0.8, 0.4), _loss(0.1, 0.2)], [UNPROVEN, HELD], 1),  # proven is better than fast
        ([_loss(0.8, 0.4), _loss(1.5, 0.2)], [UNPROVEN, MISSED], 0),
        ([_loss(1.2, 0.3), _loss(3.0, 0.3)], [MISSED, MISSED], None),
    ],
)
def test_the_budget_is_held_on_the_safe_side(losses: list[Loss], verdicts: list[str], chosen: int | None) -> None:
    asked: list[float] = []

    def judge(candidate: Candidate, confidence: float) -> Loss:
        asked.append(confidence)
        return losses[candidate.number]

    candidates = [_candidate(i, 0.0, 1.0) for i in range(len(losses))]
    decision = decide(candidates, 1.0, judge)
    assert [f.verdict for f in decision.tried] == verdicts
    assert (None if decision.chosen is None else decision.chosen.candidate.number) == chosen
    assert asked == [1 - 0.05 / 2**i for i in range(len(losses))]  # each further try has to be surer
    assert decision.closest is not None
    assert decision.closest.loss.value == min(loss.value for loss in losses)


def test_no_candidate() -> None:
    decision = decide([], 1.0, lambda *_: _loss(0, 0))
    assert (decision.chosen, decision.closest) == (None, None)


def test_pareto() -> None:
    beaten = _candidate(7, 0.5, 2.5)
    assert pareto([RISKY, beaten, FASTER, FAST, SAFE], "latency") == [SAFE, FAST, FASTER, RISKY]


def test_a_candidate_survives_json() -> None:
    import json

    assert Candidate.from_dict(json.loads(json.dumps(FAST.to_dict()))) == FAST
    assert FAST.status == COMPLETE
