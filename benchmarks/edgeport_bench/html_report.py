"""A result as one HTML file: how latencies spread, throughput against latency, and speed against size and closeness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

from edgeport_bench.harness import FIRST, NEXT, READ, TEXTS, Refusal, shape_of
from edgeport_bench.offline_page import Figure, log_axis, offline_page
from edgeport_bench.report import refusal_lines

__all__ = ["html_report"]

_COLORS = ("#3366cc", "#e2711d", "#2a9d5c", "#a23bb0", "#c22f3e", "#0f8b9d", "#8a6d1d", "#5a6577", "#d4588f", "#4b7f1f")
_PHASES = {
    READ: "a batch",
    TEXTS: "all texts, tokenizing included",
    FIRST: "the first token, prompt and all",
    NEXT: "each token after it",
}
_MOST_POINTS = 2000
"""Samples of a measurement that are drawn; more are thinned out evenly."""


def html_report(result: Mapping[str, Any]) -> str:
    """The page of a result, as ``as_json`` gives it.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    names = [s["name"] for s in result["subjects"]]
    color = {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(names)}
    figures = []
    for phase in dict.fromkeys(m["phase"] for m in result["measurements"]):
        rows = [m for m in result["measurements"] if m["phase"] == phase]
        figures += [_spread(rows, phase, color), _trade(rows, phase, color)]
    if len(names) > 1:
        figures.append(_pareto(result, color))
    after = _table(result) + _costs(result)
    return offline_page(f"Benchmark of {result['source']}", _summary(result), figures, after)


def _spread(rows: Sequence[Mapping[str, Any]], phase: str, color: Mapping[str, str]) -> Figure:
    traces, drawn = [], []
    for name in dict.fromkeys(m["subject"] for m in rows):
        shapes, samples = [], []
        for m in rows:
            if m["subject"] == name:
                found = [ms for r in m["samples_ms"] for ms in r]
                found = found[:: -(-len(found) // _MOST_POINTS)]
                samples += found
                shapes += [_shape(m)] * len(found)
        drawn += samples
        look = {"marker": {"color": color[name], "size": 3}, "line": {"width": 1.2}}
        traces.append({"type": "box", "name": name, "x": shapes, "y": samples, "boxpoints": "outliers", **look})
    return Figure(
        f"Latency: {_PHASES.get(phase, phase)}",
        "All runs that were timed, by shape: batch × tokens. A box holds the middle half, its line is the median, "
        "points are runs far from it.",
        traces,
        {
            "boxmode": "group",
            "yaxis": log_axis("milliseconds", drawn),
            "xaxis": {"title": {"text": "shape"}, "type": "category"},
        },
    )


def _trade(rows: Sequence[Mapping[str, Any]], phase: str, color: Mapping[str, str]) -> Figure:
    rate, unit = _rate(rows)
    traces = []
    for name in dict.fromkeys(m["subject"] for m in rows):
        own = [m for m in rows if m["subject"] == name]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [m["p50_ms"] for m in own],
                "y": [m[rate] for m in own],
                "text": [_shape(m) for m in own],
                "hovertemplate": f"%{{text}}: %{{x:.2f}} ms, %{{y:.0f}} {unit}<extra>" + escape(name) + "</extra>",
                "marker": {
                    "color": color[name],
                    "size": [7 + 3 * min(m["batch"], 8) ** 0.5 for m in own],
                    "opacity": 0.85,
                },
            }
        )
    return Figure(
        f"Throughput against latency: {_PHASES.get(phase, phase)}",
        "Each point is a shape; larger points are larger batches. Up and to the left is better.",
        traces,
        {
            "xaxis": log_axis("median, milliseconds", [m["p50_ms"] for m in rows]),
            "yaxis": log_axis(unit, [m[rate] for m in rows]),
        },
    )


def _pareto(result: Mapping[str, Any], color: Mapping[str, str]) -> Figure:
    first = result["measurements"][0] if result["measurements"] else None
    rows = [m for m in result["measurements"] if first and (m["phase"], _shape(m)) == (first["phase"], _shape(first))]
    about = {s["name"]: s for s in result["subjects"]}
    points = [(about[m["subject"]]["about"]["size_bytes"] / 1e6, m["p50_ms"], m) for m in rows]
    front = sorted(p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q[:2] != p[:2] for q in points))
    line = {"color": "#9aa4b5", "dash": "dot", "shape": "hv"}
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "nothing is smaller and faster",
            "x": [p[0] for p in front],
            "y": [p[1] for p in front],
            "line": line,
            "hoverinfo": "skip",
        }
    ]
    for size, ms, m in points:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": m["subject"],
                "x": [size],
                "y": [ms],
                "text": [_likeness(m, result["reference"])],
                "hovertemplate": "%{x:.1f} MB, %{y:.2f} ms<br>%{text}<extra>" + escape(m["subject"]) + "</extra>",
                "marker": {"color": color[m["subject"]], "size": 13},
            }
        )
    where = f" at {_shape(first)}" if first else ""
    return Figure(
        "Speed, size and closeness",
        f"Weights against the median{where}. Down and to the left is better; hover for how close the outputs are.",
        traces,
        {
            "xaxis": {"title": {"text": "weights, MB"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": "median, milliseconds"}, "rangemode": "tozero"},
        },
    )


def _summary(result: Mapping[str, Any]) -> str:
    machine, settings = result["machine"], result["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{result['task'] or 'ONNX graph'}, {settings['threads']} threads, {machine['processor']}",
        f"{machine['system']}, {machine['memory_bytes'] / 2**30:.0f} GiB; {versions}",
    ]
    notes = [*refusal_lines([Refusal(**r) for r in result["refusals"]]), *result["warnings"]]
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return "".join(f'<p class="quiet">{escape(line)}</p>' for line in lines) + (f"<ul>{listed}</ul>" if notes else "")


def _table(result: Mapping[str, Any]) -> str:
    reference, baseline = result["reference"], result["baseline"]
    rate, unit = _rate(result["measurements"])
    heads = ["subject", "of what", "shape", "p50, ms", "95 %", "p90", "p99", unit]
    heads += ["closeness"] * (reference is not None) + ["speed-up"] * (baseline is not None)
    body = []
    for m in result["measurements"]:
        low, high = m["interval_ms"]["p50"]
        cells = [
            m["subject"],
            _PHASES.get(m["phase"], m["phase"]),
            _shape(m),
            f"{m['p50_ms']:.2f}",
            f"{low:.2f}–{high:.2f}",
            f"{m['p90_ms']:.2f}",
            f"{m['p99_ms']:.2f}",
            f"{m[rate]:,.0f}",
        ]
        if reference is not None:
            cells.append(_likeness(m, reference))
        if baseline is not None:
            ratio = m["speedup"]
            cells.append(f"{ratio['value']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})" if ratio else "")
        body.append(cells)
    words = f"Speed-up over {baseline}: ratio of medians, with" if baseline is not None else "95 %: of p50,"
    return _html_table("Times", f"{words} the interval that holds it with 95 % confidence.", heads, body)


def _costs(result: Mapping[str, Any]) -> str:
    """What each subject takes apart from time."""
    subjects = result["subjects"]
    cold = any(s["cold_ms"] for s in subjects)
    metrics = list(dict.fromkeys(name for s in subjects for name in s["quality"]))
    heads = ["subject", "weights, MB", "import, ms", "load, ms", "peak RSS, MB", "steady RSS, MB"]
    heads += ["first result, ms"] * cold + metrics
    body = []
    for s in subjects:
        cells = [s["name"], f"{s['about']['size_bytes'] / 1e6:.1f}", f"{s['import_ms']:,.0f}", f"{s['load_ms']:,.0f}"]
        cells += ["unknown" if s[k] is None else f"{s[k] / 1e6:,.0f}" for k in ("peak_rss", "steady_rss")]
        if cold:
            cells.append(f"{median(s['cold_ms']):,.0f}" if s["cold_ms"] else "")
        body.append([*cells, *(f"{s['quality'][name]:.4g}" if name in s["quality"] else "" for name in metrics)])
    words = "Each in a process of its own. RSS: memory at its peak, and after the last run."
    return _html_table("What each takes", words, heads, body)


def _rate(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The key of what came through in a second, and its unit: tokens, or inputs where there are none."""
    counts = any(m["length"] for m in rows)
    return ("tokens_per_second", "tokens/s") if counts else ("texts_per_second", "inputs/s")


def _html_table(heading: str, words: str, heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in cells) for cells in body)
    return (
        f'<h2>{escape(heading)}</h2><p class="quiet">{escape(words)}</p><div class="scroll"><table><tr>'
        f"{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>"
        f"{''.join(f'<tr>{row}</tr>' for row in rows)}</table></div>"
    )


def _likeness(m: Mapping[str, Any], reference: str | None) -> str:
    if m["agreement"] is not None:
        return f"{m['agreement']:.1%} of tokens"
    return "" if m["cosine"] is None or reference is None else f"cosine {m['cosine']:.4f}"


def _shape(m: Mapping[str, Any]) -> str:
    return shape_of(m["batch"], m["length"])
