"""The page of a result: it holds what was measured, loads nothing, and no name in it can end its script."""

from __future__ import annotations

import json
import re

from edgeport_bench.harness import FIRST, NEXT, Measurement, Refusal, SubjectRecord
from edgeport_bench.html_report import html_report
from edgeport_bench.machine import describe_machine
from edgeport_bench.report import BenchReport, as_json, refusal_lines

EVIL = "</script><script>alert(1)</script>"


def _page() -> str:
    subjects = [SubjectRecord(n, "bundle", 1.0, 2.0, 3, {"size_bytes": 4_000_000}, 5, 6) for n in ("torch", EVIL)]
    rows = [
        Measurement("torch", 1, 16, [[4.0]] * 5, phase=FIRST),
        Measurement(EVIL, 1, 16, [[2.0]] * 5, agreement=0.9, phase=FIRST),
        Measurement("torch", 1, 16, [[4.0]] * 5, phase=NEXT),
        Measurement(EVIL, 1, 16, [[1.0] * 3000] * 5, agreement=0.9, phase=NEXT),
    ]
    refusals = [Refusal("llama.cpp", "", f"no {EVIL}")]
    settings = {"threads": 2}
    return html_report(
        as_json(
            BenchReport("b", EVIL, "t", describe_machine(), settings, subjects, rows, "torch", "torch", refusals, [])
        )
    )


def test_figures_hold_the_samples() -> None:
    drawn = re.search(r"^const figures = (.*);$", _page(), re.MULTILINE)
    assert drawn
    figures = json.loads(drawn[1])
    assert len(figures) == 5  # two for each phase, and one of sizes
    boxes = figures[0]["data"]
    assert [(b["name"], b["y"], set(b["x"])) for b in boxes] == [
        ("torch", [4.0] * 5, {"1 × 16"}), (EVIL, [2.0] * 5, {"1 × 16"}),
    ]  # fmt: skip
    assert len(figures[2]["data"][1]["y"]) <= 2000
    assert [t["y"] for t in figures[4]["data"]] == [[2.0], [4.0], [2.0]]  # what is best, then everybody


def test_the_page_needs_no_network_and_trusts_no_name() -> None:
    page = _page()
    outside = page.split("<script>", 2)
    own = outside[0] + outside[2].partition("</script>")[2] if len(outside) > 2 else page
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", page[:20000] + page[-20000:])
    assert EVIL not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in own
    assert "llama.cpp was not measured" in page


def test_one_reason_is_told_once() -> None:
    refusals = [Refusal("ct2", "1 × 16", "no"), Refusal("ct2", "1 × 128", "no"), Refusal("ov", "", "no")]
    assert refusal_lines(refusals) == ["ct2 was not measured at 1 × 16, 1 × 128: no", "ov was not measured: no"]
