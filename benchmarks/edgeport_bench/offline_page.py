"""A page with figures in one file that needs no network: plotly.js comes along. Figures are Plotly's JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

from edgeport.errors import MissingExtraError

__all__ = ["Figure", "log_axis", "offline_page"]

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2330; background: #fff; margin: 0 auto; max-width: 1120px;
  padding: 24px 16px 64px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 40px 0 4px; }
p { margin: 4px 0 12px; max-width: 75ch; }
.quiet { color: #5a6577; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 4px 12px 4px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid #e3e7ee; }
th { font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
.figure { width: 100%; height: 440px; }
ul { padding-left: 20px; }
"""
_LAYOUT: dict[str, Any] = {
    "margin": {"l": 64, "r": 16, "t": 16, "b": 56},
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1c2330"},
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
    "hoverlabel": {"align": "left"},
    "plot_bgcolor": "#f7f8fa",
    "paper_bgcolor": "#fff",
}


@dataclass(frozen=True)
class Figure:
    """A drawing with a heading."""

    heading: str
    text: str
    """What it shows, in a sentence or two."""
    traces: Sequence[dict[str, Any]]
    """Plotly's ``data``."""
    layout: dict[str, Any] = field(default_factory=dict)
    """Plotly's ``layout``, beside what all figures share."""


def offline_page(title: str, before: str, figures: Sequence[Figure], after: str = "") -> str:
    """The page as HTML.

    Args:
        title: Of the page, plain text.
        before: HTML above the figures.
        figures: In order.
        after: HTML below them.

    Raises:
        MissingExtraError: plotly, which brings plotly.js, is not installed.
    """
    parts = [
        f'<h2>{escape(f.heading)}</h2><p class="quiet">{escape(f.text)}</p><div class="figure" id="figure{i}"></div>'
        for i, f in enumerate(figures)
    ]
    drawn = [{"data": list(f.traces), "layout": _LAYOUT | f.layout} for f in figures]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
<script>{_plotly()}</script>
</head>
<body>
<h1>{escape(title)}</h1>
{before}
{chr(10).join(parts)}
{after}
<script>
const figures = {_embed(drawn)};
const settings = {{responsive: true, displayModeBar: false}};
figures.forEach((f, i) => Plotly.newPlot(`figure${{i}}`, f.data, f.layout, settings));
</script>
</body>
</html>
"""


def log_axis(title: str, values: Sequence[float]) -> dict[str, Any]:
    """Plotly's logarithmic axis for values above 0, with numbers at 1, 2 and 5: its own ticks say 2 for 20."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 2)
    ticks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    return {
        "title": {"text": title},
        "type": "log",
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks],
    }


def _embed(value: Any) -> str:
    """JSON that no text in it can end the script that it stands in."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _plotly() -> str:
    try:
        return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError) as e:
        raise MissingExtraError("a report as HTML", "bench") from e
