"""``edgeport bench --scenario``: every scenario on every variant, as a table or JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import edgeport
from edgeport.bundle import Bundle
from edgeport.errors import UsageError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from edgeport_bench.inputs import sample_sentences
from edgeport_bench.options import BenchOptions
from edgeport_bench.scenarios import ScenarioResult, run_scenario
from edgeport_bench.targets import WRITING
from edgeport_bench.workload import read_texts

__all__ = ["run_scenarios"]

_RATES = (
    "Samples per second",
    "Completed samples per second",
    "Scheduled samples per second",
    "QPS w/o loadgen overhead",
)
_LATENCIES = {p: f"{p}.00 percentile latency (ns)" for p in (50, 90, 99)}


def run_scenarios(
    model: str, options: BenchOptions, scenarios: Sequence[str], rate: float | None, latency_ms: float, *, as_json: bool
) -> int:
    """Run them in order on the lines of the options' texts, or on sentences that come along.

    Raises:
        UsageError: no bundle of a model that reads, or no such scenario.
    """
    bundle = Bundle.open(Path(model))
    if bundle.manifest.task == WRITING:
        raise UsageError(f"--scenario is for models that read, and {model!r} is for {WRITING}: leave it out.")
    texts = sample_sentences() if options.texts is None else read_texts(options.texts)
    found = []
    if len(options.providers) > 1:
        raise UsageError(f"--scenario runs on one provider, and these are {len(options.providers)}: name one.")
    for variant in options.variants or tuple(bundle.manifest.variants):
        with edgeport.load(
            model, variant=variant, providers=next(iter(options.providers), None), threads=options.threads
        ) as pipe:
            found += [
                run_scenario(
                    pipe, texts, name, variant=variant, seconds=options.seconds, rate=rate, latency_ms=latency_ms
                )
                for name in scenarios
            ]
    if as_json:
        print(json.dumps([dataclasses.asdict(result) for result in found], indent=2))
    else:
        Console().print(_table(found))
    return 0


def _table(results: Sequence[ScenarioResult]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("scenario")
    table.add_column("variant")
    for name in ("texts/s", *(f"p{p}, ms" for p in _LATENCIES)):
        table.add_column(name, justify="right")
    table.add_column("valid")
    for result in results:
        rate = next((result.figures[name] for name in _RATES if name in result.figures), None)
        latencies = (result.figures.get(name) for name in _LATENCIES.values())
        table.add_row(
            result.scenario,
            result.variant,
            "–" if rate is None else f"{rate:.1f}",
            *("–" if ns is None else f"{ns / 1e6:.2f}" for ns in latencies),
            "yes" if result.valid else "no",
        )
    return table
