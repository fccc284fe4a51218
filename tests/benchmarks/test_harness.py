"""The order of the turns, with workers that only take notes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from edgeport.errors import EdgeportError
from edgeport_bench import harness
from edgeport_bench.process import Runs
from edgeport_bench.subjects import SubjectSpec

NOTES: list[tuple[str, str, int, int]] = []


class NotingWorker:
    """Claims that a run of subject ``a`` takes 1 ms and one of ``b`` 100 ms."""

    def __init__(self, spec: SubjectSpec) -> None:
        self.spec = spec
        self.started = 0.0
        self._ms = {"a": 1.0, "b": 100.0}.get(spec.name, 1.0)

    def __enter__(self) -> NotingWorker:
        return self

    def __exit__(self, *error: Any) -> None:
        NOTES.append((self.spec.name, "end", 0, 0))

    def load(self) -> dict[str, Any]:
        return {"import_ms": 1.0, "load_ms": 2.0, "rss": 3, "about": {"size_bytes": 4}}

    def feed(self, feeds: Any, new_tokens: int = 0) -> None:
        self._new_tokens = new_tokens

    def run(self, times: int, *, untimed: int = 0) -> Runs:
        NOTES.append((self.spec.name, "run", times, untimed))
        return Runs([[self._ms] + [0.25] * (self._new_tokens - 1) for _ in range(times)], [2 * self._ms] * times)

    def tokens(self, given: np.ndarray | None = None) -> np.ndarray:
        """Subject ``a`` writes threes; ``b`` prefers a four behind every other one."""
        written = np.full((1, self._new_tokens), 3)
        if given is not None:
            assert (given == written).all()
            written[:, ::2] = 4
        return written

    def outputs(self) -> dict[str, np.ndarray]:
        return {"x": np.array([[1.0, {"a": 0.0, "b": 1.0}[self.spec.name]]])}

    def memory(self) -> dict[str, int]:
        return {"rss": 5, "peak_rss": 6}


@pytest.fixture(autouse=True)
def noting(monkeypatch: pytest.MonkeyPatch) -> None:
    NOTES.clear()
    monkeypatch.setattr(harness, "Worker", NotingWorker)
    monkeypatch.setattr(harness, "sleep", lambda seconds: NOTES.append(("", "sleep", 0, 0)))


SPECS = [SubjectSpec("a", "bundle", {}), SubjectSpec("b", "bundle", {})]
FEEDS = {(1, 4): {"input_ids": np.ones((1, 4), dtype=np.int64)}}


def test_subjects_take_turns_and_swap_the_first_place() -> None:
    measurements = harness.measure_subjects(SPECS, FEEDS, seconds=0.05).measurements
    turns = "".join(name for name, what, _, _ in NOTES if what == "run")
    assert turns == "ab" + "abba" * (harness.ROUNDS // 2)
    assert [len(m.rounds) for m in measurements] == [harness.ROUNDS] * 2


def test_the_others_threads_get_time_to_fall_asleep_before_each_turn() -> None:
    harness.measure_subjects(SPECS, FEEDS, seconds=0.05)
    whats = [what for _, what, _, _ in NOTES if what != "end"]
    assert whats == ["sleep", "run"] * (len(whats) // 2)


def test_turns_fill_the_time_and_short_ones_begin_with_a_run_that_does_not_count() -> None:
    harness.measure_subjects(SPECS, FEEDS, seconds=0.05)
    runs = [note for note in NOTES if note[1] == "run"]
    assert runs[:2] == [("a", "run", 1, harness.WARM_UP), ("b", "run", 1, harness.WARM_UP)]
    assert runs[2:4] == [("a", "run", 5, 1), ("b", "run", 1, 0)]  # 5 ms a turn


def test_time_ends_the_rounds_but_not_before_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 100))  # every look at it costs 100 s
    monkeypatch.setattr(harness, "perf_counter", lambda: next(clock))
    measurements = harness.measure_subjects(SPECS, FEEDS, seconds=1.0).measurements
    assert {len(m.rounds) for m in measurements} == {harness.LEAST_ROUNDS}


def test_outputs_are_compared_with_the_reference() -> None:
    results = harness.measure_subjects(SPECS, FEEDS, seconds=0.01, reference="a")
    assert [m.cosine for m in results.measurements] == [None, pytest.approx(0.5**0.5)]
    found = [(r.name, r.load_ms, r.loaded_rss, r.peak_rss, r.steady_rss) for r in results.subjects]
    assert found == [("a", 2.0, 3, 6, 5), ("b", 2.0, 3, 6, 5)]


def test_written_tokens_are_timed_one_by_one_and_compared_along_the_reference_s() -> None:
    measurements = harness.measure_subjects(SPECS, FEEDS, seconds=0.01, reference="a", new_tokens=4).measurements
    assert [(m.subject, m.phase) for m in measurements] == [
        ("a", harness.FIRST), ("b", harness.FIRST), ("a", harness.NEXT), ("b", harness.NEXT),
    ]  # fmt: skip
    assert {ms for m in measurements[:2] for r in m.rounds for ms in r} == {1.0, 100.0}
    assert {(len(r), *r) for m in measurements[2:] for r in m.rounds} == {(3, 0.25, 0.25, 0.25)}
    assert [m.agreement for m in measurements] == [None, 0.5] * 2
    assert {m.cosine for m in measurements} == {None}


def test_a_peer_that_fails_is_told_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """One cannot be loaded; the other takes a batch of one only."""
    absent, single = (SubjectSpec(n, "bundle", {}, is_peer=True) for n in ("absent", "b"))
    load, feed = NotingWorker.load, NotingWorker.feed

    def fail(what: str) -> None:
        raise EdgeportError(f"there is no {what}.")

    monkeypatch.setattr(NotingWorker, "load", lambda w: fail("wheel") if w.spec.name == "absent" else load(w))
    monkeypatch.setattr(
        NotingWorker,
        "feed",
        lambda w, feeds, n=0: fail("room") if w.spec.name == "b" and len(feeds["input_ids"]) > 1 else feed(w, feeds, n),
    )
    feeds = {(2, 4): {"input_ids": np.ones((2, 4))}, **FEEDS}
    found = harness.measure_subjects([SPECS[0], absent, single], feeds, seconds=0.01)
    told = [(r.subject, r.where, r.reason) for r in found.refusals]
    assert told == [("absent", "", "there is no wheel."), ("b", "2 × 4", "there is no room.")]
    assert [r.name for r in found.subjects] == ["a", "b"]
    assert [(m.subject, m.batch) for m in found.measurements] == [("a", 2), ("a", 1), ("b", 1)]


def test_processor_time_is_the_mean_of_a_round() -> None:
    found = harness.measure_subjects(SPECS, FEEDS, seconds=0.01).measurements
    assert [set(m.cpu_ms) for m in found] == [{2.0}, {200.0}]


def test_an_error_ends_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    load = NotingWorker.load
    monkeypatch.setattr(NotingWorker, "load", lambda w: load(w) if w.spec.name == "a" else SimpleNamespace()[0])
    with pytest.raises(TypeError):
        harness.measure_subjects(SPECS, FEEDS, seconds=0.01)
    assert sorted(NOTES) == [("a", "end", 0, 0), ("b", "end", 0, 0)]


def test_cold_starts_take_turns() -> None:
    found = harness.measure_cold_starts(SPECS, FEEDS[1, 4], times=2)
    assert [name for name, what, _, _ in NOTES if what == "run"] == list("ababab")  # each once before it counts
    assert {name: len(times) for name, times in found.items()} == {"a": 2, "b": 2}


def test_a_peer_that_shows_no_outputs_does_not_pass_for_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(worker: NotingWorker, given: Any = None) -> Any:
        if worker.spec.name == "b":
            raise EdgeportError("there are none.")
        return {"x": np.ones((1, 2))} if given is None and not worker._new_tokens else np.full((1, 4), 3)

    monkeypatch.setattr(NotingWorker, "outputs", fail)
    monkeypatch.setattr(NotingWorker, "tokens", fail)
    specs = [SPECS[0], SubjectSpec("b", "bundle", {}, is_peer=True)]
    for new_tokens, found in ((0, "cosine"), (4, "agreement")):
        results = harness.measure_subjects(specs, FEEDS, seconds=0.01, reference="a", new_tokens=new_tokens)
        assert getattr(results.measurements[1], found) in (-1.0, 0.0)
        assert [r.reason for r in results.refusals] == ["there are none."]
