"""A result as one HTML file: how latencies spread, throughput against latency, and speed against size and closeness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgeport_bench.harness import Refusal
from edgeport_bench.offline_page import Figure, offline_page
from edgeport_bench.report import refusal_lines

__all__ = ["html_report"]

_COLORS = ("#3366cc", "#e2711d", "#2a9d5c", "#a23bb0", "#c22f3e", "#0f8b9d", "#8a6d1d", "#5a6577", "#d4588f", "#4b7f1f")
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
    figures.append(_pareto(result, color))
    return offline_page(f"Benchmark of {result['source']}", _summary(result), figures, _table(result))


def _spread(rows: Sequence[Mapping[str, Any]], phase: str, color: Mapping[str, str]) -> Figure:
    traces = []
    for name in dict.fromkeys(m["subject"] for m in rows):
        shapes, samples = [], []
        for m in rows:
            if m["subject"] == name:
                found = [ms for r in m["samples_ms"] for ms in r]
                found = found[:: -(-len(found) // _MOST_POINTS)]
                samples += found
                shapes += [_shape(m)] * len(found)
        look = {"marker": {"color": color[name], "size": 3}, "line": {"width": 1.2}}
        traces.append({"type": "box", "name": name, "x": shapes, "y": samples, "boxpoints": "outliers", **look})
    return Figure(
        f"Latency: {phase}",
        "All runs that were timed, by batch × tokens. A box holds the middle half, its line is the median, points are "
        "runs far from it.",
        traces,
        {
            "boxmode": "group",
            "yaxis": {"title": {"text": "milliseconds"}, "type": "log", "dtick": "D2"},
            "xaxis": {"title": {"text": "batch × tokens"}, "type": "category"},
        },
    )


def _trade(rows: Sequence[Mapping[str, Any]], phase: str, color: Mapping[str, str]) -> Figure:
    traces = []
    for name in dict.fromkeys(m["subject"] for m in rows):
        own = [m for m in rows if m["subject"] == name]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [m["p50_ms"] for m in own],
                "y": [m["tokens_per_second"] for m in own],
                "text": [_shape(m) for m in own],
                "hovertemplate": "%{text}: %{x:.2f} ms, %{y:.0f} tokens/s<extra>" + escape(name) + "</extra>",
                "marker": {
                    "color": color[name],
                    "size": [7 + 3 * min(m["batch"], 8) ** 0.5 for m in own],
                    "opacity": 0.85,
                },
            }
        )
    return Figure(
        f"Throughput against latency: {phase}",
        "Each point is a shape; larger points are larger batches. Up and to the left is better.",
        traces,
        {
            "xaxis": {"title": {"text": "median, milliseconds"}, "type": "log", "dtick": "D2"},
            "yaxis": {"title": {"text": "tokens/s"}, "type": "log", "dtick": "D2"},
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
    heads = ("subject", "phase", "batch × tokens", "p50, ms", "95 %", "p90", "p99", "tokens/s", "closeness", "speed-up")
    body = []
    for m in result["measurements"]:
        low, high = m["interval_ms"]["p50"]
        speedup = m["speedup"]
        cells = [
            m["subject"],
            m["phase"],
            _shape(m),
            f"{m['p50_ms']:.2f}",
            f"{low:.2f}–{high:.2f}",
            f"{m['p90_ms']:.2f}",
            f"{m['p99_ms']:.2f}",
            f"{m['tokens_per_second']:,.0f}",
            _likeness(m, result["reference"]),
            f"{speedup['value']:.2f} ({speedup['low']:.2f}–{speedup['high']:.2f})" if speedup else "",
        ]
        body.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return (
        f'<h2>Figures</h2><p class="quiet">Speed-up over {escape(str(result["baseline"]))}: ratio of medians, with the '
        f'interval that holds it with 95 % confidence.</p><div class="scroll"><table><tr>{head}</tr>{"".join(body)}'
        "</table></div>"
    )


def _likeness(m: Mapping[str, Any], reference: str | None) -> str:
    if m["agreement"] is not None:
        return f"{m['agreement']:.1%} of tokens"
    return "" if m["cosine"] is None or reference is None else f"cosine {m['cosine']:.4f}"


def _shape(m: Mapping[str, Any]) -> str:
    return f"{m['batch']} × {m['length']}"
