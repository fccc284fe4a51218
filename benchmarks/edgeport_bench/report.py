"""A benchmark's result: from raw runs to figures, as JSON for programs and as tables for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeport_bench.harness import FIRST, NEXT, READ, TEXTS, Measurement, Refusal, SubjectRecord, shape_of
from edgeport_bench.machine import Machine
from edgeport_bench.measure import Ratio, latency, latency_intervals, median_rate, ratio_of_medians, throughput

__all__ = ["BenchReport", "as_json", "print_report", "refusal_lines", "speedups", "wrong_outputs"]

SCHEMA = 2
LEAST_COSINE = 0.9
"""Below it a subject computes something else than the reference, and its speed is not compared."""
LEAST_AGREEMENT = 0.7
"""Likewise, of the tokens that it would write after the same text."""

_TITLES = {FIRST: "The first token, by the prompt's length", NEXT: "Each token after it"}


@dataclass(frozen=True)
class BenchReport:
    """Everything that was measured, and on what."""

    target: str
    """What was given to the command."""
    source: str
    task: str
    machine: Machine
    settings: dict[str, Any]
    subjects: Sequence[SubjectRecord]
    measurements: Sequence[Measurement]
    reference: str | None
    """The subject that outputs are compared with."""
    baseline: str | None
    """The subject that speed is compared with."""
    refusals: Sequence[Refusal]
    """Peers that could not be measured."""
    warnings: Sequence[str]


def speedups(report: BenchReport) -> list[Ratio | None]:
    """For each measurement the baseline's median over its own.

    None for the baseline itself, where there is none, and for outputs that are not the reference's.
    """
    baseline = {(m.batch, m.length, m.phase): m.rounds for m in report.measurements if m.subject == report.baseline}
    return [
        None
        if (m.batch, m.length, m.phase) not in baseline or m.subject == report.baseline or _is_wrong(m)
        else ratio_of_medians(baseline[m.batch, m.length, m.phase], m.rounds)
        for m in report.measurements
    ]


def wrong_outputs(measurements: Sequence[Measurement], reference: str | None) -> list[str]:
    """One sentence for each subject whose outputs are not the reference's."""
    found = {}
    for m in sorted(filter(_is_wrong, measurements), key=lambda m: m.cosine or m.agreement or 0.0, reverse=True):
        if m.agreement is None:
            found[m.subject] = f"cosine {m.cosine:.3f}, at least {LEAST_COSINE} is asked for"
        else:
            found[m.subject] = f"{m.agreement:.0%} of its tokens, at least {LEAST_AGREEMENT:.0%} is asked for"
    return [
        f"{name} gives other outputs than {reference} ({how}): its speed is not compared."
        for name, how in found.items()
    ]


def refusal_lines(refusals: Sequence[Refusal]) -> list[str]:
    """One sentence for each subject and reason, with all shapes that it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for r in refusals:
        found.setdefault((r.subject, r.reason), []).append(r.where)
    return [
        f"{subject} was not measured{' at ' if any(where) else ''}{', '.join(filter(None, where))}: {reason}"
        for (subject, reason), where in found.items()
    ]


def as_json(report: BenchReport) -> dict[str, Any]:
    """Plain types; times in milliseconds, sizes in bytes, raw samples by round."""
    rows = []
    for m, speedup in zip(report.measurements, speedups(report), strict=True):
        found = latency(m.rounds)
        rows.append(
            {
                "subject": m.subject,
                "phase": m.phase,
                "batch": m.batch,
                "length": m.length,
                "p50_ms": found.p50,
                "p90_ms": found.p90,
                "p95_ms": found.p95,
                "p99_ms": found.p99,
                "mean_ms": found.mean,
                "runs": found.runs,
                "interval_ms": {k: list(ends) for k, ends in latency_intervals(m.rounds).items()},
                **_rates(m),
                "cpu_ms": median(m.cpu_ms) if m.cpu_ms else None,
                "joules": median(m.joules) if m.joules else None,
                "cosine": m.cosine,
                "agreement": m.agreement,
                "speedup": None if speedup is None else dataclasses.asdict(speedup),
                "samples_ms": [[round(ms, 4) for ms in r] for r in m.rounds],
            }
        )
    return {
        "schema": SCHEMA,
        "target": report.target,
        "source": report.source,
        "task": report.task,
        "machine": dataclasses.asdict(report.machine),
        "settings": report.settings,
        "reference": report.reference,
        "baseline": report.baseline,
        "refusals": [dataclasses.asdict(r) for r in report.refusals],
        "warnings": list(report.warnings),
        "subjects": [dataclasses.asdict(s) for s in report.subjects],
        "measurements": rows,
    }


def print_report(report: BenchReport, console: Console) -> None:
    """The tables: speed by shape, then what each subject costs."""
    machine = report.machine
    console.print(f"[bold]{escape(report.source)}[/], {report.task or 'ONNX graph'}", highlight=False)
    console.print(
        f"[dim]{machine.processor}, {report.settings['threads']} threads, onnxruntime "
        f"{machine.versions.get('onnxruntime', '?')}[/]",
        highlight=False,
    )
    ratios = speedups(report)
    for phase in dict.fromkeys(m.phase for m in report.measurements):
        console.print(_speed_table(report, phase, ratios))
    console.print(_cost_table(report))
    for line in refusal_lines(report.refusals):
        console.print(f"[yellow]–[/] {escape(line)}", highlight=False)
    for warning in report.warnings:
        console.print(f"[yellow]![/] {warning}", highlight=False)


def _speed_table(report: BenchReport, phase: str, ratios: Sequence[Ratio | None]) -> Table:
    last = phase != FIRST  # of two tables, the second explains both
    table = _table("shape", "subject", title=_TITLES.get(phase), caption=_caption(report, phase) if last else None)
    reads = phase in (READ, TEXTS)
    rates = (("texts/s", "tokens/s") if reads else ("tokens/s",)) if _takes_tokens(report) else ("inputs/s",)
    likeness = "cosine" if reads else "same"
    for name in ("p50", "p90", "p99", *rates, *([likeness] if report.reference else [])):
        table.add_column(name, justify="right")
    if report.baseline:
        table.add_column("speed-up", no_wrap=True)
    previous = None
    for m, speedup in zip(report.measurements, ratios, strict=True):
        if m.phase != phase:
            continue
        shape = shape_of(m.batch, m.length)
        if previous not in (None, shape):
            table.add_section()
        found = latency(m.rounds)
        cells = [
            shape if shape != previous else "",
            m.subject,
            *(_short(number) for number in (found.p50, found.p90, found.p99, *list(_rates(m).values())[: len(rates)])),
        ]
        if report.reference:
            cells.append(_likeness_cell(m))
        if report.baseline:
            cells.append(_speedup_cell(m, speedup, report.baseline))
        table.add_row(*cells)
        previous = shape
    return table


def _takes_tokens(report: BenchReport) -> bool:
    return any(m.length for m in report.measurements)


def _rates(m: Measurement) -> dict[str, float]:
    """Texts and tokens a second; of writing, tokens alone: of the prompts that are read, or of the texts that grow."""
    if m.phase in (READ, TEXTS):
        rate = throughput(m.rounds, m.batch, m.length)
        return {"texts_per_second": rate.texts, "tokens_per_second": rate.tokens}
    return {"tokens_per_second": median_rate(m.rounds, m.batch * (m.length if m.phase == FIRST else 1))}


def _likeness_cell(m: Measurement) -> str:
    if m.agreement is not None:
        return f"{m.agreement:.1%}"
    return "–" if m.cosine is None else f"{m.cosine:.4f}"


def _speedup_cell(m: Measurement, speedup: Ratio | None, baseline: str) -> str:
    if speedup is None:
        return "–" if m.subject == baseline else "[red]other outputs[/]"
    return f"[bold]{_short(speedup.value)}×[/] [dim]{_short(speedup.low)}–{_short(speedup.high)}[/]"


def _cost_table(report: BenchReport) -> Table:
    cold = any(s.cold_ms for s in report.subjects)
    table = _table("subject")
    metrics = list(dict.fromkeys(name for s in report.subjects for name in list(s.quality)[:1]))
    for name in ("weights, MB", "import, ms", "load, ms", "peak RSS, MB", *(["first result, ms"] if cold else [])):
        table.add_column(name, justify="right")
    for name in metrics:
        table.add_column(name, justify="right")
    for s in report.subjects:
        cells = [
            s.name,
            f"{s.about['size_bytes'] / 1e6:.1f}",
            f"{s.import_ms:,.0f}",
            f"{s.load_ms:,.0f}",
            "unknown" if s.peak_rss is None else f"{s.peak_rss / 1e6:,.0f}",
        ]
        if cold:
            cells.append(f"{median(s.cold_ms):,.0f}" if s.cold_ms else "–")
        cells += [f"{s.quality[name]:.2f}" if name in s.quality else "–" for name in metrics]
        table.add_row(*cells)
    return table


def _table(*columns: str, title: str | None = None, caption: str | None = None) -> Table:
    """Narrow enough for 80 columns of text."""
    table = Table(
        box=SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
    )
    for name in columns:
        table.add_column(name, no_wrap=name != "subject", overflow="fold")
    return table


def _caption(report: BenchReport, phase: str) -> str:
    parts = [f"shape: batch{' × tokens' if _takes_tokens(report) else ''}; p50, p90, p99: milliseconds"]
    if phase == NEXT:
        parts = ["shape: batch × tokens of the prompt; p50, p90, p99: milliseconds; tokens/s: at the median"]
    if report.reference and phase == NEXT:
        parts.append(f"same: tokens of {report.reference}'s greedy text that it would write too")
    elif report.reference:
        parts.append(f"cosine: the least of any row of outputs with that of {report.reference}")
    if report.baseline:
        parts.append(f"speed-up over {report.baseline}: ratio of medians, 95 % interval")
    return "; ".join(parts)


def _short(number: float) -> str:
    """Three digits or more, thousands apart."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _is_wrong(m: Measurement) -> bool:
    if m.agreement is not None:
        return m.agreement < LEAST_AGREEMENT
    return m.cosine is not None and m.cosine < LEAST_COSINE
