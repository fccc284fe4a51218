"""Measure several subjects in one interleaved run: A B, B A, A B, ... until the time is used.

A machine drifts within minutes, and only what was taken side by side can be compared. A run reads a batch, or writes
tokens after it, each of which is timed. Knows workers and shapes; knows no kind of subject and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import Any

from edgeport_bench.inputs import Feeds, Shape
from edgeport_bench.measure import agreement, least_cosine
from edgeport_bench.process import Worker
from edgeport_bench.subjects import SubjectSpec

__all__ = ["FIRST", "NEXT", "READ", "Measurement", "SubjectRecord", "measure_cold_starts", "measure_subjects"]

WARM_UP = 2
"""Runs before the clock counts, at every new shape; one more then tells how long a run takes."""
ROUNDS = 10
"""Turns that each subject's time is divided into."""
LEAST_ROUNDS = 5
"""Even where a single run takes longer than its share: fewer say nothing about the spread."""
SETTLE_SECONDS = 0.1
"""Pause before each turn. After a run, ONNX Runtime's idle threads spin for some 40 ms (torch's for 10): without the
pause they would take the processors from whoever is next."""
WAKE_UP_BELOW = 50.0
"""Milliseconds. Each turn of shorter runs begins with one that does not count: it finds its threads asleep, and its
caches full of another's data."""

READ, FIRST, NEXT = "read", "first token", "next token"
"""What is timed: reading a batch; or reading a prompt and choosing the token after it, and each one that follows."""

Say = Callable[[str], None]


_Runs = list[list[list[float]]]
"""Round, run in it, time in that."""


@dataclass(frozen=True)
class Measurement:
    """The times of one subject at one shape."""

    subject: str
    batch: int
    length: int
    rounds: list[list[float]]
    """Milliseconds, by round; the rounds of all subjects at this shape were taken in turn."""
    cosine: float | None = None
    """Least cosine of a row of outputs with the reference's; None for the reference, and where there is none."""
    agreement: float | None = None
    """Of models that write: the share of the reference's tokens that it prefers too, after the same text."""
    phase: str = READ


@dataclass
class SubjectRecord:
    """What was found about a subject apart from its speed."""

    name: str
    kind: str
    import_ms: float
    load_ms: float
    loaded_rss: int | None
    """Bytes, once it was loaded."""
    about: dict[str, Any]
    peak_rss: int | None = None
    """Bytes, over all shapes."""
    cold_ms: list[float] = field(default_factory=list)
    """From the start of a process to its first result, without tokenization."""


def measure_subjects(
    specs: Sequence[SubjectSpec],
    feeds: Mapping[Shape, Feeds],
    *,
    seconds: float,
    reference: str | None = None,
    new_tokens: int = 0,
    say: Say = lambda doing: None,
) -> tuple[list[SubjectRecord], list[Measurement]]:
    """Load each subject into a process, and measure all of them at every shape.

    Args:
        specs: The subjects; their names must differ.
        feeds: The tensors of each shape, the same for all.
        seconds: Time of measuring for each subject and shape.
        reference: Name of the subject whose outputs the others' are compared with.
        new_tokens: What a run writes after the tensors; 0 where it only reads them.
        say: Is told what is being done.

    Raises:
        EdgeportError: a subject cannot be opened or run.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(spec)) for spec in specs]
        records = []
        for worker in workers:
            say(f"loading {worker.spec.name}")
            found = worker.load()
            records.append(
                SubjectRecord(
                    worker.spec.name,
                    worker.spec.kind,
                    found["import_ms"],
                    found["load_ms"],
                    found["rss"],
                    found["about"],
                )
            )
        measurements = []
        for (batch, length), tensors in feeds.items():
            say(f"measuring {batch} × {length} tokens")
            runs = _measure_shape(workers, tensors, seconds, new_tokens)
            likeness = _compare_tokens(workers, reference) if new_tokens else _compare(workers, reference)
            for phase in (FIRST, NEXT) if new_tokens else (READ,):
                measurements += [
                    Measurement(w.spec.name, batch, length, _phase(r, phase), phase=phase, **likeness[w.spec.name])
                    for w, r in zip(workers, runs, strict=True)
                ]
        for worker, record in zip(workers, records, strict=True):
            record.peak_rss = worker.memory()["peak_rss"]
    return records, measurements


def measure_cold_starts(
    specs: Sequence[SubjectSpec],
    feeds: Feeds,
    *,
    times: int = 3,
    writes: bool = False,
    say: Say = lambda doing: None,
) -> dict[str, list[float]]:
    """Milliseconds from the start of a process to its first result, by subject, in turn; the files are in memory.

    The result of a model that ``writes`` is its first token.
    """
    found: dict[str, list[float]] = {spec.name: [] for spec in specs}
    for i in range(times):
        for spec in specs:
            say(f"cold start {i + 1} of {times}, {spec.name}")
            with Worker(spec) as worker:
                worker.load()
                worker.feed(feeds, int(writes))
                worker.run(1)
                found[spec.name].append((perf_counter() - worker.started) * 1e3)
    return found


def _measure_shape(workers: Sequence[Worker], tensors: Feeds, seconds: float, new_tokens: int) -> list[_Runs]:
    """The runs of each worker, in the workers' order."""
    turns = []
    for worker in workers:
        worker.feed(tensors, new_tokens)
        sleep(SETTLE_SECONDS)
        once = worker.run(1, untimed=WARM_UP)[0]
        turns.append((max(1, round(seconds * 1e3 / ROUNDS / max(sum(once), 1e-3))), int(once[0] < WAKE_UP_BELOW)))
    rounds: list[_Runs] = [[] for _ in workers]
    end = perf_counter() + (seconds + ROUNDS * SETTLE_SECONDS) * len(workers)
    order = list(range(len(workers)))
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and perf_counter() > end:
            break
        for i in order:
            times, untimed = turns[i]
            sleep(SETTLE_SECONDS)
            rounds[i].append(workers[i].run(times, untimed=untimed))
        order.reverse()  # so that nobody always follows the same one
    return rounds


def _phase(runs: _Runs, phase: str) -> list[list[float]]:
    """The times of a phase, by round: a run's first one, or all that follow."""
    if phase == NEXT:
        return [[ms for run in turn for ms in run[1:]] for turn in runs]
    return [[run[0] for run in turn] for turn in runs]


def _compare(workers: Sequence[Worker], reference: str | None) -> dict[str, dict[str, float]]:
    """``Measurement.cosine`` by subject, for the tensors fed last."""
    found: dict[str, dict[str, float]] = {w.spec.name: {} for w in workers}
    if reference is None or len(workers) < 2:
        return found
    outputs = {w.spec.name: w.outputs() for w in workers}
    theirs = outputs.pop(reference)
    return found | {name: {"cosine": least_cosine(ours, theirs)} for name, ours in outputs.items()}


def _compare_tokens(workers: Sequence[Worker], reference: str | None) -> dict[str, dict[str, float]]:
    """``Measurement.agreement`` by subject. All follow one text: alone, a model leaves it for good at a near tie."""
    found: dict[str, dict[str, float]] = {w.spec.name: {} for w in workers}
    if reference is None or len(workers) < 2:
        return found
    theirs = next(w for w in workers if w.spec.name == reference).tokens()
    others = [w for w in workers if w.spec.name != reference]
    return found | {w.spec.name: {"agreement": agreement(w.tokens(theirs), theirs)} for w in others}
