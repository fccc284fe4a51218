"""A profile as one HTML file: the roofline with every kind of product under it, and the time by operator and layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from edgeport_export.profile import Roofline

from edgeport_bench.offline_page import Figure, offline_page
from edgeport_bench.profile import Part, Profile

__all__ = ["profile_report"]

_FP32, _INT8, _BAR = "#3366cc", "#e2711d", "#3366cc"
_SHOWN = 14
"""Bars of a figure; what is left has one together."""


def profile_report(model: str, machine: str, roofline: Roofline, profiles: Mapping[str, Profile]) -> str:
    """The page.

    Args:
        model: What was profiled, as the user wrote it.
        machine: The line that the terminal shows of it.
        roofline: Of this machine.
        profiles: By what was run, such as ``int8, 1 × 128``.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    figures = [_roofline(roofline, profiles)]
    for name, profile in profiles.items():
        figures += [_bars(f"{name}: by operator", profile.kinds), _bars(f"{name}: by layer", profile.layers)]
    return offline_page(f"Profile of {model}", f'<p class="quiet">{escape(machine)}</p>', figures)


def _roofline(roofline: Roofline, profiles: Mapping[str, Profile]) -> Figure:
    points = [(name, part) for name, profile in profiles.items() for part in profile.kinds if part.operations]
    intensities = [part.operations / part.read for _, part in points] or [1.0]
    x = np.geomspace(min(*intensities, 1.0) / 2, max(*intensities, roofline.int8 / roofline.bandwidth) * 2, 60)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{kind} roof",
            "x": x.tolist(),
            "y": (np.minimum(peak, roofline.bandwidth * x) / 1e9).tolist(),
            "line": {"color": color, "width": 2},
            "hoverinfo": "skip",
        }
        for kind, peak, color in (("fp32", roofline.fp32, _FP32), ("int8", roofline.int8, _INT8))
    ]
    for is_int8, color in ((False, _FP32), (True, _INT8)):
        own = [(name, part) for name, part in points if part.is_int8 == is_int8]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"products in {'int8' if is_int8 else 'fp32'}",
                "x": [part.operations / part.read for _, part in own],
                "y": [part.operations / part.milliseconds / 1e6 for _, part in own],
                "text": [f"{name}: {part.name}, {part.milliseconds:.2f} ms" for name, part in own],
                "hovertemplate": "%{text}<br>%{x:.1f} operations a byte, %{y:.0f} GOP/s<extra></extra>",
                "marker": {"color": color, "size": 11, "line": {"color": "#fff", "width": 1}},
            }
        )
    return Figure(
        "Roofline",
        "What this machine allows, measured just now, and what each kind of product reaches. Under the slope memory is "
        "the limit, under the flat part arithmetic is.",
        traces,
        {
            "xaxis": {"title": {"text": "operations a byte"}, "type": "log"},
            "yaxis": {"title": {"text": "GOP/s"}, "type": "log"},
        },
    )


def _bars(heading: str, parts: Sequence[Part]) -> Figure:
    shown, rest = list(parts[:_SHOWN]), parts[_SHOWN:]
    names = [part.name for part in shown] + ([f"{len(rest)} others"] if rest else [])
    times = [part.milliseconds for part in shown] + ([sum(part.milliseconds for part in rest)] if rest else [])
    shares = [part.share for part in shown] + ([sum(part.share for part in rest)] if rest else [])
    return Figure(
        heading,
        "Milliseconds of a run, and the share of all.",
        [
            {
                "type": "bar",
                "orientation": "h",
                "x": times[::-1],
                "y": names[::-1],
                "text": [f"{time:.2f} ms, {share:.0%}" for time, share in zip(times, shares, strict=True)][::-1],
                "textposition": "auto",
                "marker": {"color": _BAR},
                "hoverinfo": "skip",
            }
        ],
        {
            "xaxis": {"title": {"text": "milliseconds"}, "rangemode": "tozero"},
            "yaxis": {"automargin": True},
            "margin": {"l": 16, "r": 16, "t": 16, "b": 56},
        },
    )
