"""``edgeport bench compare``: two results to a table, and an exit status that a build can act on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeport_bench.compare import Change, Condition, compare, only_in, parse_condition, read_result

__all__ = ["run_compare"]

_BYTES = ("size", "peak_rss", "steady_rss")


def run_compare(before: Path, after: Path, fail_if: Sequence[str], *, as_json: bool) -> int:
    """Print what changed; returns 1 where a condition of ``fail_if`` holds.

    Raises:
        UsageError: a file or a condition that is none.
    """
    conditions = [parse_condition(text) for text in fail_if]
    old, new = read_result(before), read_result(after)
    changes = compare(old, new, list(dict.fromkeys(["p50", *(c.metric for c in conditions)])))
    failed = [[c for c in conditions if c.holds(change)] for change in changes]
    if as_json:
        print(json.dumps(_as_json(old, new, changes, failed), indent=2))
    else:
        console = Console()
        console.print(_table(changes, failed))
        for note in _notes(old, new, before, after):
            console.print(f"[yellow]![/] {escape(note)}", highlight=False, soft_wrap=True)
        for change, broken in zip(changes, failed, strict=True):
            for condition in broken:
                what = ", ".join(filter(None, (change.subject, change.where)))
                line = f"{condition.text}: {change.metric} of {what} changed by {change.percent:+.1f} %"
                console.print(f"[bold red]✗[/] {escape(line)}", highlight=False, soft_wrap=True)
        if conditions and not any(failed):
            console.print("[green]✓[/] no condition holds", highlight=False)
    return int(any(failed))


def _as_json(
    old: Mapping[str, Any], new: Mapping[str, Any], changes: Sequence[Change], failed: Sequence[Sequence[Condition]]
) -> dict[str, Any]:
    rows = [
        {**dataclasses.asdict(change), "fails": bool(broken), "conditions": [c.text for c in broken]}
        for change, broken in zip(changes, failed, strict=True)
    ]
    return {
        "processors": [result["machine"]["processor"] for result in (old, new)],
        "only_before": only_in(old, new),
        "only_after": only_in(new, old),
        "changes": rows,
    }


def _notes(old: Mapping[str, Any], new: Mapping[str, Any], before: Path, after: Path) -> Iterator[str]:
    """What keeps the two from being compared as a whole."""
    processors = [result["machine"]["processor"] for result in (old, new)]
    if processors[0] != processors[1]:
        yield f"taken on two machines: {processors[0]}, {processors[1]}"
    for path, missing in ((before, only_in(old, new)), (after, only_in(new, old))):
        if missing:
            yield f"only in {path}: {'; '.join(missing)}"


def _table(changes: Sequence[Change], failed: Sequence[Sequence[Condition]]) -> Table:
    """A heading for each subject: 80 columns hold the rest."""
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        caption="p: probability of rounds that differ as much at equal speed (Mann-Whitney); interval: 95 %; figures "
        "without them were taken once",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for name in ("before", "after", "change", "interval", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    subject = None
    for c, broken in zip(changes, failed, strict=True):
        if c.subject != subject:
            table.add_row(f"[bold]{escape(c.subject)}[/]")
            subject = c.subject
        sampled = c.p_value is not None
        table.add_row(
            "  " + " ".join(filter(None, (c.where, c.metric))),
            _figure(c, c.before),
            _figure(c, c.after),
            f"{c.percent:+.1f} %",
            f"{c.low:+.1f} – {c.high:+.1f}" if sampled else "",
            f"{c.p_value:.3f}" if sampled else "",
            style="bold red" if broken else None,
        )
    return table


def _figure(change: Change, value: float) -> str:
    return f"{value / 1e6:,.1f} MB" if change.metric in _BYTES else f"{value:,.4g} ms"
