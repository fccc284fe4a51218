"""``edgeport bench --scenario``: MLPerf's scenarios on a bundle's pipeline, driven by MLCommons' LoadGen.

single-stream sends a text when the last one is done; multi-stream eight at a time; offline all at once; server one by
one at random times, so many a second on average. LoadGen times them and says whether the run was long enough to be
valid. Reddi et al. 2020, "MLPerf Inference Benchmark".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from edgeport.errors import EdgeportError, MissingExtraError, UsageError

__all__ = ["SCENARIOS", "ScenarioResult", "run_scenario"]

SCENARIOS: Mapping[str, str] = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
    "server": "Server",
}
"""Name to LoadGen's."""

_AT_ONCE = 32
"""Texts that are answered together, at most, where more are waiting."""


@dataclass(frozen=True)
class ScenarioResult:
    """What LoadGen found."""

    scenario: str
    variant: str
    valid: bool
    """Whether the run was long enough, and a server kept to its latency."""
    figures: Mapping[str, float]
    """LoadGen's own names to its values: nanoseconds, or samples a second."""


def run_scenario(
    pipe: Callable[[list[str]], Any],
    texts: Sequence[str],
    scenario: str,
    *,
    variant: str,
    seconds: float,
    rate: float | None = None,
    latency_ms: float = 100.0,
) -> ScenarioResult:
    """Run one scenario.

    Args:
        pipe: Answers a list of texts.
        texts: What LoadGen chooses from.
        scenario: A key of ``SCENARIOS``.
        variant: What the pipeline runs, for the result.
        seconds: The least duration.
        rate: Texts a second that a server gets.
        latency_ms: What a server has to keep to in 99 of 100 cases.

    Raises:
        MissingExtraError: LoadGen is not installed.
        UsageError: an unknown scenario, or a server without a rate.
    """
    if scenario not in SCENARIOS:
        raise UsageError(f"--scenario {scenario!r} is unknown: choose from {', '.join(SCENARIOS)}.")
    if scenario == "server" and not rate:
        raise UsageError("the scenario server needs to know how many texts a second come: pass --rate.")
    try:
        import mlperf_loadgen as loadgen
    except ImportError as e:
        raise MissingExtraError("`edgeport bench --scenario`", "mlperf") from e

    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, SCENARIOS[scenario])
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1000 * seconds)
    settings.server_target_qps = rate or 1.0
    settings.server_target_latency_ns = round(1e6 * latency_ms)
    settings.offline_expected_qps = _texts_a_second(pipe, texts)
    with TemporaryDirectory() as folder:
        log = loadgen.LogSettings()
        log.log_output.outdir = folder
        log.enable_trace = False
        _drive(loadgen, pipe, texts, settings, log)
        return _read(Path(folder) / "mlperf_log_summary.txt", scenario, variant)


def _texts_a_second(pipe: Callable[[list[str]], Any], texts: Sequence[str]) -> float:
    """Roughly, and warm afterwards."""
    some = list(texts[:_AT_ONCE])
    pipe(some)
    start = time.perf_counter()
    pipe(some)
    return len(some) / (time.perf_counter() - start)


def _drive(loadgen: Any, pipe: Callable[[list[str]], Any], texts: Sequence[str], settings: Any, log: Any) -> None:
    """Answer what LoadGen asks, in a thread of its own, until it has enough.

    Raises:
        EdgeportError: the pipeline failed; LoadGen gets empty answers from then on, or it would wait for ever.
    """
    waiting: SimpleQueue[Any] = SimpleQueue()
    errors: list[Exception] = []

    def answer() -> None:
        while (query := waiting.get()) is not None:
            queries = [query]
            while len(queries) < _AT_ONCE and not waiting.empty() and queries[-1] is not None:
                queries.append(waiting.get())
            ended = queries[-1] is None
            queries = [q for q in queries if q is not None]
            if not errors:
                try:
                    pipe([texts[q.index] for q in queries])
                except Exception as e:  # any: LoadGen has to be let go before it can be told
                    errors.append(e)
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(q.id, 0, 0) for q in queries])
            if ended:
                return

    def issue(queries: Sequence[Any]) -> None:
        for query in queries:
            waiting.put(query)

    thread = Thread(target=answer, daemon=True)
    thread.start()
    system = loadgen.ConstructSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(len(texts), len(texts), lambda indices: None, lambda indices: None)
    try:
        loadgen.StartTestWithLogSettings(system, library, settings, log)
    finally:
        waiting.put(None)
        thread.join()
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)
    if errors:
        raise EdgeportError(f"the pipeline failed under load ({errors[0]}).") from errors[0]


def _read(path: Path, scenario: str, variant: str) -> ScenarioResult:
    """LoadGen's summary: lines of a name, a colon and a value."""
    pairs = [line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines() if ":" in line]
    found = {name.strip(): value.strip() for name, value in pairs}
    figures = {}
    for name, value in found.items():
        try:
            figures[name] = float(value)
        except ValueError:
            continue
    return ScenarioResult(scenario, variant, found.get("Result is") == "VALID", figures)
