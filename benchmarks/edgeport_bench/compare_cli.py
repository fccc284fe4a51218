"""``edgeport bench compare``: two results to a table, and an exit status that a build can act on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from edgeport_bench.compare import Change, compare, parse_condition, read_result

__all__ = ["run_compare"]


def run_compare(before: Path, after: Path, fail_if: Sequence[str], *, as_json: bool) -> int:
    """Print what changed; returns 1 where a condition of ``fail_if`` holds.

    Raises:
        UsageError: a file or a condition that is none.
    """
    conditions = [parse_condition(text) for text in fail_if]
    old, new = read_result(before), read_result(after)
    changes = compare(old, new, list(dict.fromkeys(["p50", *(c.metric for c in conditions)])))
    bad = {i for i, change in enumerate(changes) if any(c.holds(change) for c in conditions)}
    processors = [result["machine"]["processor"] for result in (old, new)]
    if as_json:
        rows = [{**dataclasses.asdict(change), "fails": i in bad} for i, change in enumerate(changes)]
        print(json.dumps({"processors": processors, "changes": rows}, indent=2))
    else:
        console = Console()
        console.print(_table(changes, bad))
        if processors[0] != processors[1]:
            console.print(f"[yellow]![/] taken on two machines: {processors[0]}, {processors[1]}", highlight=False)
    return int(bool(bad))


def _table(changes: Sequence[Change], bad: set[int]) -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        caption="p: probability of rounds that differ as much at equal speed (Mann-Whitney); interval: 95 %",
        caption_justify="left",
    )
    for name in ("subject", "where", "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("before", "after", "change", "interval", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for i, c in enumerate(changes):
        sampled = c.p_value is not None
        table.add_row(
            c.subject,
            c.where,
            c.metric,
            f"{c.before:.5g}",
            f"{c.after:.5g}",
            f"{c.percent:+.1f} %",
            f"{c.low:+.1f} – {c.high:+.1f}" if sampled else "",
            f"{c.p_value:.3f}" if sampled else "",
            style="bold red" if i in bad else None,
        )
    return table
