"""The report as one HTML file that needs no network: Plotly and its data are inside."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from edgeport_export.compression.stopwatch import PLAIN, TORCH

__all__ = ["page"]

_INK, _FAINT, _GREEN, _BLUE, _GREY, _RED = "#1f2933", "#7b8794", "#0b8457", "#2667c9", "#b8c2cc", "#c0392b"
_SHOWN_PARTS = 24


def page(report: Mapping[str, Any]) -> str:
    """The whole document."""
    title = f"{report['model']}, compressed"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script></head><body><main>
<header><h1>{_text(title)}</h1><p class="faint">{_text(report["task"])} · {_text(report["created"])} ·
{_text(report["machine"]["processor"])}, {report["machine"]["threads"]} threads</p></header>
<p class="summary {"good" if report["chosen"] else "bad"}">{_text(report["summary"])}</p>
{_tiles(report)}
<h2>What was tried</h2>
<p>Down and to the left is better; a marker's size is the size on disk.
Those on the front are beaten by none in both. Measured: {_text(report["metric"]["says"])}
Losses are those on the {report["rows"]["search"]} search rows with 95 % intervals; the chosen one's on
the {report["rows"]["test"]} test rows is above.</p>
{_figure(_trade_off(report))}
{_candidates(report)}
<h2>What {_text(report["sensitivity_precision"])} does to each part</h2>
<p>Each part quantized alone: the change of the outputs, as a share of their size. Red: kept in fp32.</p>
{_figure(_sensitivity(report))}
<h2>The chosen recipe</h2>{_recipe(report)}
<h2>Finalists, on rows that the search never saw</h2>{_finalists(report)}
<h2>Timing</h2>{_timing(report)}
<h2>Do it again</h2>{_reproduce(report)}
</main></body></html>
"""


def _tiles(report: Mapping[str, Any]) -> str:
    chosen, speed = report["chosen"], report["speed"]
    shown = chosen or next(iter(report["finalists"]), None)
    if shown is None or not speed:
        return ""
    ratios, loss = speed["times_as_fast_as"], shown["loss"]
    tiles = (
        (f"{ratios[TORCH]['value']:.1f}×", "as fast as torch fp32", _interval(ratios[TORCH])),
        (f"{ratios[PLAIN]['value']:.2f}×", f"as fast as {report['baseline']}", _interval(ratios[PLAIN])),
        *_estimated(report),
        (f"{shown['share_of_original']:.1%}", "of the original's size", f"{shown['size_bytes'] / 1e6:.1f} MB"),
        (
            f"{abs(loss['value']):.2f}",
            f"{loss['unit']} {'worse' if loss['value'] > 0 else 'better'} in {report['metric']['name']}",
            f"loss {loss['low']:.2f} to {loss['high']:.2f}, {loss['rows']} rows",
        ),
    )
    cells = "".join(f"<div><b>{_text(a)}</b><span>{_text(b)}</span><i>{_text(c)}</i></div>" for a, b, c in tiles)
    return f'<div class="tiles">{cells}</div>'


def _estimated(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    if report["estimate"]:
        ratio = report["estimate"]["times_as_fast_as"][PLAIN]
        where = f"as fast as {report['baseline']} on {report['target']['name']}, estimated"
        yield f"{ratio['value']:.2f}×", where, _interval(ratio)


def _by_estimate(report: Mapping[str, Any]) -> str:
    return f" on {report['target']['name']}, estimated" if report["estimate"] else ""


def _interval(ratio: Mapping[str, float]) -> str:
    return f"{ratio['low']:.2f} to {ratio['high']:.2f}"


def _trade_off(report: Mapping[str, Any]) -> go.Figure:
    minimize = report["options"]["minimize"]
    figure = go.Figure()
    groups = (
        ("chosen", _GREEN, "star"),
        ("on the front", _BLUE, "circle"),
        ("beaten", _GREY, "circle"),
        ("stopped early", _RED, "x"),
    )
    sizes = [c["size_bytes"] for c in report["candidates"] if c["size_bytes"]] or [1]
    for name, color, symbol in groups:
        some = [c for c in report["candidates"] if _group(c, report) == name and _x(c, report) is not None]
        if not some:
            continue
        figure.add_scatter(
            x=[_x(c, report) for c in some],
            y=[c["loss"]["value"] for c in some],
            error_y={
                "type": "data",
                "array": [c["loss"]["high"] - c["loss"]["value"] for c in some],
                "arrayminus": [c["loss"]["value"] - c["loss"]["low"] for c in some],
                "thickness": 1,
                "width": 3,
            },
            mode="markers",
            name=name,
            marker={
                "color": color,
                "symbol": symbol,
                "size": [10 + 18 * math.sqrt(c["size_bytes"] / max(sizes)) for c in some],
                "line": {"color": "white", "width": 1},
            },
            text=[_hover(c, report["baseline"]) for c in some],
            hovertemplate="%{text}<extra></extra>",
        )
    unit = report["metric"]["unit"]
    budget = report["options"]["budget"]
    figure.add_hline(
        y=budget,
        line={"color": _RED, "dash": "dash", "width": 1},
        annotation_text=f"budget {budget:g}",
        annotation_position="top left",
    )
    if minimize != "size" and report["speed"]:
        figure.add_vline(
            x=_baseline(report), line={"color": _FAINT, "dash": "dot", "width": 1}, annotation_text=report["baseline"]
        )
    axis = {
        "latency": f"milliseconds a batch{_by_estimate(report)}",
        "size": "MB on disk",
        "memory": "MB in memory",
    }[minimize]
    figure.update_layout(**_LAYOUT, height=430, legend={"orientation": "h", "y": -0.22, "x": 0})
    figure.update_xaxes(title=axis, rangemode="tozero", gridcolor="#eef1f4")
    figure.update_yaxes(title=f"loss, {unit}", gridcolor="#eef1f4", zerolinecolor=_GREY)
    return figure


def _group(candidate: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    if candidate["status"] != "complete":
        return candidate["status"]
    if report["chosen"] and candidate["number"] == report["chosen"]["number"]:
        return "chosen"
    return "on the front" if candidate["number"] in report["pareto"] else "beaten"


def _baseline(report: Mapping[str, Any]) -> float:
    found: float = (report["estimate"] or report["speed"])["milliseconds"][PLAIN]
    return found


def _x(candidate: Mapping[str, Any], report: Mapping[str, Any]) -> float | None:
    minimize = report["options"]["minimize"]
    if minimize == "latency":
        return None if candidate["ratio"] is None or not report["speed"] else _baseline(report) / candidate["ratio"]
    value = candidate["size_bytes"] if minimize == "size" else candidate["memory_bytes"]
    return None if value is None else value / 1e6


def _hover(candidate: Mapping[str, Any], baseline: str) -> str:
    loss, ratio = candidate["loss"], candidate["ratio"]
    speed = "" if ratio is None else f"<br>{ratio:.2f} × {baseline}"
    return (
        f"<b>candidate {candidate['number']}</b><br>{_text(_words(candidate['choice']))}<br>loss {loss['value']:.2f} "
        f"({loss['low']:.2f} to {loss['high']:.2f}){speed}<br>{candidate['size_bytes'] / 1e6:.1f} MB"
    )


def _sensitivity(report: Mapping[str, Any]) -> go.Figure:
    parts = list(reversed(report["sensitivity"][:_SHOWN_PARTS]))
    kept = {p["part"] for p in report["sensitivity"][: (report["chosen"] or {}).get("choice", {}).get("keep", 0)]}
    figure = go.Figure(
        go.Bar(
            x=[100 * p["error"] for p in parts],
            y=[p["part"] for p in parts],
            orientation="h",
            marker={"color": [_RED if p["part"] in kept else _BLUE for p in parts]},
            hovertemplate="%{y}: %{x:.2f} %<extra></extra>",
        )
    )
    figure.update_layout(**_LAYOUT, height=80 + 20 * max(len(parts), 3))
    figure.update_xaxes(title="change of the outputs, %", gridcolor="#eef1f4")
    figure.update_yaxes(automargin=True, tickfont={"size": 11})
    return figure


def _candidates(report: Mapping[str, Any]) -> str:
    rows = []
    for c in sorted(report["candidates"], key=lambda c: (-(c["ratio"] or 0), c["number"])):
        loss = c["loss"]
        rows.append(
            (
                str(c["number"]),
                _words(c["choice"]),
                _group(c, report),
                "–" if loss is None else f"{loss['value']:.2f} ({loss['low']:.2f} to {loss['high']:.2f})",
                "–" if c["ratio"] is None else f"{c['ratio']:.2f}",
                f"{c['size_bytes'] / 1e6:.1f}" if c["size_bytes"] else "–",
                f"{sum(c['seconds'].values()):.0f}",
                c["reason"],
            )
        )
    head = (
        "#",
        "choice",
        "result",
        f"loss, {report['metric']['unit']}",
        f"× {report['baseline']}{_by_estimate(report)}",
        "MB",
        "cost, s",
        "",
    )
    return _table(head, rows, marked=lambda row: row[2] == "chosen", kind="long")


def _finalists(report: Mapping[str, Any]) -> str:
    rows = [
        (
            str(f["number"]),
            f["verdict"],
            f"{f['loss']['original']:.2f}",
            f"{f['loss']['model']:.2f}",
            f"{f['loss']['value']:.2f} ({f['loss']['low']:.2f} to {f['loss']['high']:.2f})",
            f"{f['loss']['confidence']:.2%}",
            str(f["loss"]["rows"]),
        )
        for f in report["finalists"]
    ]
    name = report["metric"]["name"]
    head = ("#", "budget", f"{name}, original", f"{name}, candidate", "loss", "confidence", "rows")
    return _table(head, rows) if rows else "<p>None came so far.</p>"


def _timing(report: Mapping[str, Any]) -> str:
    speed, drift = report["speed"], report["drift"]
    if not speed:
        return "<p>Nothing was timed.</p>"
    rows = [
        (name, f"{ms:.3f}", f"{speed['spread'][name]:.1%}", str(len(speed["turns"][name])))
        for name, ms in speed["milliseconds"].items()
    ]
    twice = speed["same_graph_twice"]
    text = (
        f"All in one interleaved run on {report['timed']['says']}. The same plain export, measured twice in it, "
        f"differed by a factor of {twice['value']:.3f} ({twice['low']:.3f} to {twice['high']:.3f}): less than that is "
        "noise."
    )
    if drift:
        text += (
            f" Over the search {report['baseline']} took {drift['least']:.3f} to {drift['most']:.3f} ms"
            f"{_by_estimate(report)} (median "
            f"{drift['median']:.3f}, {drift['measurements']} measurements): candidates are compared with it in the "
            "same turns, not by the clock."
        )
    return f"<p>{_text(text)}</p>" + _table(("model", "ms a batch, median", "spread of turns", "turns"), rows)


def _recipe(report: Mapping[str, Any]) -> str:
    chosen = report["chosen"]
    if chosen is None:
        return "<p>None: nothing was shipped.</p>"
    notes = "".join(f"<li>{_text(note)}</li>" for note in chosen["notes"])
    return f"<pre>{_text(chosen['recipe_toml'])}</pre><ul>{notes}</ul>"


def _reproduce(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in report["seconds"].items())
    again = "edgeport export MODEL OUT --recipe recipe.toml"
    return (
        f"<pre>{_text(report['command'])}</pre><p>Without a search: <code>{again}</code></p>"
        f"<p>Seed {report['options']['seed']}. Versions: {_text(versions)}. Seconds by stage: {_text(seconds)}. "
        "Every number here is in report.json beside this file.</p>"
    )


def _words(choice: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in choice.items())


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    marked: Callable[[Sequence[str]], bool] = lambda row: False,
    kind: str = "short",
) -> str:
    top = "".join(f"<th>{_text(h)}</th>" for h in head)
    body = "".join(
        f"<tr{' class=marked' if marked(row) else ''}>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(figure: go.Figure) -> str:
    made: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displayModeBar": False, "responsive": True}
    )
    return made


def _text(value: Any) -> str:
    return html.escape(str(value))


_LAYOUT: Mapping[str, Any] = {
    "margin": {"l": 60, "r": 20, "t": 24, "b": 50},
    "paper_bgcolor": "white",
    "plot_bgcolor": "white",
    "font": {"family": "system-ui, sans-serif", "color": _INK, "size": 13},
}

_STYLE = """
body { margin: 0; background: #f4f6f8; color: #1f2933; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px; background: white; box-sizing: border-box; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; } h2 { margin: 2rem 0 .5rem; font-size: 1.2rem; }
.faint { margin: 0; color: #7b8794; }
.summary { padding: 12px 16px; border-left: 5px solid; background: #f4f6f8; }
.good { border-color: #0b8457; } .bad { border-color: #c0392b; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 12px; }
.tiles div { padding: 12px 16px; border: 1px solid #dde3e9; border-radius: 8px; display: flex; flex-direction: column; }
.tiles b { font-size: 1.8rem; line-height: 1.2; } .tiles i { color: #7b8794; font-style: normal; font-size: .85rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { padding: 5px 10px; text-align: left; border-bottom: 1px solid #eef1f4; vertical-align: top; }
th { color: #52606d; white-space: nowrap; } td:not(:empty):last-child { min-width: 5em; }
.long td:nth-child(2), .long td:not(:empty):last-child { min-width: 15em; }
.long td:nth-child(4) { white-space: nowrap; }
.marked { background: #e6f5ee; font-weight: 600; }
pre { padding: 12px; background: #f4f6f8; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
"""
