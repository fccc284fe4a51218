"""What need not be made: choices that cannot be faster than what holds the budget, or will lose more than it."""

from __future__ import annotations

from typing import Any

import pytest
from edgeport_export.compression.candidate import COMPLETE, FAILED, STOPPED, Candidate
from edgeport_export.compression.outlook import Outlook
from edgeport_export.compression.space import NOTHING, Choice
from edgeport_export.quality.outcomes import Loss

OUTLOOK = Outlook(layers=6, budget=1.0, test_rows=1000)


def _choice(prune: str, recover: int = 0, **more: Any) -> Choice:
    return {"prune": prune, "recover": recover, "precision": "int8 dynamic", **more}


def _candidate(choice: Choice, loss: float, status: str = COMPLETE) -> Candidate:
    return Candidate(0, choice, "x", status, loss=Loss(loss, loss - 0.2, loss + 0.2, 0.95, 90, 90 - loss, 1000, False))


@pytest.mark.parametrize(
    ("prune", "left"),
    [(NOTHING, 1), ("flops=0.5", 0.5), ("layers=2", 4 / 6), ("layers=3,flops=0.5", 0.25)],
)
def test_arithmetic(prune: str, left: float) -> None:
    assert OUTLOOK.arithmetic(_choice(prune)) == pytest.approx(left)


def test_two_that_hold_are_enough_and_what_is_slower_is_not_made() -> None:
    one, other = _candidate(_choice("flops=0.35", 600), 0.1), _candidate(_choice("layers=3,flops=0.5", 600), 0.2)
    slower, faster = _choice("flops=0.5", 600), _choice("flops=0.25", 600)
    assert not OUTLOOK.hopeless(slower, [one])
    assert OUTLOOK.hopeless(slower, [one, other])
    assert not OUTLOOK.hopeless(faster, [one, other])
    assert not OUTLOOK.hopeless(_choice(NOTHING), [one, other])  # costs nothing to make
    again = _choice("flops=0.35", 600, precision="int8 static")
    assert not OUTLOOK.hopeless(again, [one, other])  # its cut is there


def test_what_cuts_more_than_one_that_lost_too_much_is_not_made() -> None:
    bad = _candidate(_choice("layers=1,flops=0.5", 300), 1.5, STOPPED)
    for prune, steps, hopeless in (
        ("layers=1,flops=0.35", 300, True),
        ("layers=2,flops=0.5", 300, True),
        ("layers=2,flops=0.5", 0, True),
        ("layers=2,flops=0.5", 600, True),
        ("layers=2,flops=0.5", 1200, False),  # may learn more
        ("flops=0.35", 300, False),  # has all its layers
        ("layers=1,flops=0.75", 300, False),
    ):
        assert OUTLOOK.hopeless(_choice(prune, steps), [bad]) == hopeless, prune
    assert not OUTLOOK.hopeless(_choice("layers=2,flops=0.5", 300, precision="int8 static"), [bad])
    near = _candidate(bad.choice, 0.9)  # its interval ends beyond the budget
    assert OUTLOOK.hopeless(_choice("layers=2,flops=0.5", 600), [near])
    assert not OUTLOOK.hopeless(_choice("layers=2,flops=0.5", 1200), [near])
    assert not OUTLOOK.hopeless(_choice("flops=0.65", 600), [near])
    assert not OUTLOOK.hopeless(_choice("layers=2,flops=0.5", 300), [_candidate(bad.choice, 0.7)])
    failed = Candidate(0, bad.choice, "x", FAILED, "does not work")
    assert not OUTLOOK.hopeless(_choice("layers=2,flops=0.5", 300), [failed])


def test_models_that_write_text_by_their_bits() -> None:
    four = {"prune": NOTHING, "recover": 0, "bits": "int4", "method": "rtn", "block": 32, "tables": 8, "keep": 0}
    bad = _candidate(four, 4.0)
    assert OUTLOOK.hopeless({**four, "prune": "flops=0.75"}, [bad])
    assert not OUTLOOK.hopeless({**four, "prune": "flops=0.75", "recover": 300}, [bad])
    assert not OUTLOOK.hopeless({**four, "prune": "flops=0.75", "bits": "int8"}, [bad])
