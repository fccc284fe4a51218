"""Measure several subjects in one interleaved run: A B, B A, A B, ... until the time is used.

A machine drifts within minutes, and only what was taken side by side can be compared. A run reads a batch, or writes
tokens after it, each of which is timed. Knows workers and shapes; knows no kind of subject and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import Any

from edgeport.errors import EdgeportError

from edgeport_bench.energy import read_joules, used_joules
from edgeport_bench.inputs import Feeds, Shape
from edgeport_bench.measure import agreement, least_cosine
from edgeport_bench.process import Runs, Worker
from edgeport_bench.subjects import SubjectSpec

__all__ = [
    "FIRST",
    "NEXT",
    "READ",
    "TEXTS",
    "Measurement",
    "Refusal",
    "Results",
    "SubjectRecord",
    "measure_cold_starts",
    "measure_subjects",
    "shape_of",
]

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

READ, TEXTS, FIRST, NEXT = "read", "texts", "first token", "next token"
"""What is timed: reading a batch of tokens; many texts, tokenizing included; or reading a prompt and choosing the token
after it, and each one that follows."""

Say = Callable[[str], None]


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
    cpu_ms: list[float] = field(default_factory=list)
    """Milliseconds of processor time, all threads together, a run: the mean of each round."""
    joules: list[float] = field(default_factory=list)
    """Energy of the processor package, a run: the mean of each round; empty where the machine does not tell."""


@dataclass(frozen=True)
class Refusal:
    """A peer that could not be measured, and why."""

    subject: str
    where: str
    """The shape, or empty where it could not be measured at all."""
    reason: str


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
    steady_rss: int | None = None
    """Bytes, after the last run."""
    cold_ms: list[float] = field(default_factory=list)
    """From the start of a process to its first result, without tokenization."""
    quality: dict[str, float] = field(default_factory=dict)
    """Metrics on labelled data; empty unless asked for."""


@dataclass
class Results:
    """Everything that was found in one interleaved run."""

    subjects: list[SubjectRecord] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def shape_of(batch: int, length: int) -> str:
    """The batch and, where there are tokens, the length."""
    return f"{batch} × {length}" if length else str(batch)


def measure_subjects(
    specs: Sequence[SubjectSpec],
    feeds: Mapping[Shape, Feeds | Sequence[str]],
    *,
    seconds: float,
    reference: str | None = None,
    new_tokens: int = 0,
    say: Say = lambda doing: None,
) -> Results:
    """Load each subject into a process, and measure all of them at every shape.

    Args:
        specs: The subjects; their names must differ.
        feeds: The tensors of each shape, or texts, the same for all.
        seconds: Time of measuring for each subject and shape.
        reference: Name of the subject whose outputs the others' are compared with.
        new_tokens: What a run writes after the tensors; 0 where it only reads them.
        say: Is told what is being done.

    Raises:
        EdgeportError: a subject that is no peer cannot be opened or run.
    """
    results = Results()
    with ExitStack() as stack:
        workers = []
        for spec in specs:
            say(f"loading {spec.name}")
            worker = stack.enter_context(Worker(spec))
            with _refusing(results, spec):
                results.subjects.append(_load(worker))
                workers.append(worker)
        for (batch, length), tensors in feeds.items():
            say(f"measuring {shape_of(batch, length)}{' tokens' if length else ''}")
            ready = _feed(workers, tensors, new_tokens, shape_of(batch, length), results)
            turns = _take_turns(ready, seconds)
            compare = _compare_tokens if new_tokens else _compare
            likeness = compare([w for w, _ in ready], reference, shape_of(batch, length), results)
            reading = READ if isinstance(tensors, Mapping) else TEXTS
            for phase in (FIRST, NEXT) if new_tokens else (reading,):
                results.measurements += [
                    _measurement(w.spec.name, batch, length, phase, taken, likeness.get(w.spec.name, {}))
                    for (w, _), taken in zip(ready, turns, strict=True)
                ]
        for worker, record in zip(workers, results.subjects, strict=True):
            memory = worker.memory()
            record.peak_rss, record.steady_rss = memory["peak_rss"], memory["rss"]
    return results


def measure_cold_starts(
    specs: Sequence[SubjectSpec],
    feeds: Feeds | Sequence[str],
    *,
    times: int = 3,
    writes: bool = False,
    say: Say = lambda doing: None,
) -> dict[str, list[float]]:
    """Milliseconds from the start of a process to its first result, by subject, in turn; the files are in memory, and
    what is imported is compiled: each starts once before it counts.

    The result of a model that ``writes`` is its first token.
    """
    found: dict[str, list[float]] = {spec.name: [] for spec in specs}
    for i in range(times + 1):
        for spec in specs:
            say(f"cold start {i} of {times}, {spec.name}")
            with Worker(spec) as worker:
                worker.load()
                worker.feed(feeds, int(writes))
                worker.run(1)
                if i:
                    found[spec.name].append((perf_counter() - worker.started) * 1e3)
    return found


@dataclass(frozen=True)
class _Turn:
    """What one subject did in one round."""

    runs: Runs
    joules: float | None
    """Of a run."""


@contextmanager
def _refusing(results: Results, spec: SubjectSpec, where: str = "") -> Iterator[None]:
    """What goes wrong with a peer is noted, and the rest goes on; with our own it ends the benchmark."""
    try:
        yield
    except EdgeportError as e:
        if not spec.is_peer:
            raise
        results.refusals.append(Refusal(spec.name, where, str(e)))


def _load(worker: Worker) -> SubjectRecord:
    found, spec = worker.load(), worker.spec
    return SubjectRecord(spec.name, spec.kind, found["import_ms"], found["load_ms"], found["rss"], found["about"])


def _feed(
    workers: Sequence[Worker], tensors: Feeds | Sequence[str], new_tokens: int, where: str, results: Results
) -> list[tuple[Worker, list[float]]]:
    """The workers that take the tensors, and the times of a run of each, warmed up."""
    ready = []
    for worker in workers:
        with _refusing(results, worker.spec, where):
            worker.feed(tensors, new_tokens)
            sleep(SETTLE_SECONDS)
            ready.append((worker, worker.run(1, untimed=WARM_UP).ms[0]))
    return ready


def _take_turns(ready: Sequence[tuple[Worker, list[float]]], seconds: float) -> list[list[_Turn]]:
    """The turns of each worker, in the workers' order."""
    counts = [
        (max(1, round(seconds * 1e3 / ROUNDS / max(sum(once), 1e-3))), int(once[0] < WAKE_UP_BELOW))
        for _, once in ready
    ]
    rounds: list[list[_Turn]] = [[] for _ in ready]
    end = perf_counter() + (seconds + ROUNDS * SETTLE_SECONDS) * len(ready)
    order = list(range(len(ready)))
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and perf_counter() > end:
            break
        for i in order:
            times, untimed = counts[i]
            sleep(SETTLE_SECONDS)
            before = read_joules()
            runs = ready[i][0].run(times, untimed=untimed)
            rounds[i].append(_Turn(runs, used_joules(before, read_joules(), times + untimed)))
        order.reverse()  # so that nobody always follows the same one
    return rounds


def _measurement(
    subject: str, batch: int, length: int, phase: str, turns: Sequence[_Turn], likeness: dict[str, float]
) -> Measurement:
    cpu = [] if phase == FIRST else [sum(turn.runs.cpu_ms) / len(turn.runs.cpu_ms) for turn in turns]
    joules = [] if phase == FIRST else [turn.joules for turn in turns if turn.joules is not None]
    rounds = [_phase(turn.runs.ms, phase) for turn in turns]
    return Measurement(subject, batch, length, rounds, phase=phase, cpu_ms=cpu, joules=joules, **likeness)


def _phase(runs: list[list[float]], phase: str) -> list[float]:
    """The times of a phase: each run's first one, or all that follow."""
    return [ms for run in runs for ms in run[1:]] if phase == NEXT else [run[0] for run in runs]


_Likeness = dict[str, dict[str, float]]
"""Subject to ``Measurement.cosine`` or ``Measurement.agreement``, where it could be compared."""


def _compare(workers: Sequence[Worker], reference: str | None, where: str, results: Results) -> _Likeness:
    """Of what was fed last."""
    outputs = {}
    if reference is not None and len(workers) > 1:
        for worker in workers:
            with _refusing(results, worker.spec, where):
                outputs[worker.spec.name] = worker.outputs()
    theirs = outputs.pop(reference or "", None)
    if theirs is None:
        return {}
    names = [w.spec.name for w in workers if w.spec.name != reference]
    return {n: {"cosine": least_cosine(outputs[n], theirs) if n in outputs else -1.0} for n in names}


def _compare_tokens(workers: Sequence[Worker], reference: str | None, where: str, results: Results) -> _Likeness:
    """All follow one text: alone, a model leaves it for good at a near tie."""
    theirs = next((w.tokens() for w in workers if w.spec.name == reference), None)
    found: _Likeness = {}
    for worker in workers:
        if theirs is not None and worker.spec.name != reference:
            found[worker.spec.name] = {"agreement": 0.0}  # until it shows better
            with _refusing(results, worker.spec, where):
                found[worker.spec.name] = {"agreement": agreement(worker.tokens(theirs), theirs)}
    return found
