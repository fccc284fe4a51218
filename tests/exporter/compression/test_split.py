"""Rows in parts: none in two, all of them used, the same again for the same seed."""

from __future__ import annotations

import json

import pytest
from edgeport.errors import UsageError
from edgeport_export.compression.split import split_rows, text_pieces

ROWS = [{"text": f"row {i % 90}", "label": str(i % 3 if i < 90 else i % 90 % 3)} for i in range(100)]  # ten twice


def _keys(rows: object) -> set[str]:
    return {json.dumps(row, sort_keys=True) for row in rows}  # type: ignore[attr-defined]


@pytest.mark.parametrize("calibration", [False, True])
def test_no_row_is_in_two_parts(calibration: bool) -> None:
    parts = split_rows(ROWS, 3, calibration=calibration)
    every = [*parts.search, *parts.test, *parts.calibration]
    assert len(every) == len(ROWS)
    keys = [_keys(part) for part in (parts.search, parts.test, parts.calibration)]
    assert sum(map(len, keys)) == len(_keys(ROWS))  # equal rows went together
    assert bool(parts.calibration) == calibration
    assert len(parts.test) > len(parts.search) > 0


def test_the_seed_decides() -> None:
    assert split_rows(ROWS, 3, calibration=True) == split_rows(ROWS, 3, calibration=True)
    assert split_rows(ROWS, 3, calibration=True) != split_rows(ROWS, 4, calibration=True)


def test_what_is_searched_by_is_bounded() -> None:
    rows = [{"text": str(i)} for i in range(9000)]
    parts = split_rows(rows, 0, calibration=False)
    assert (len(parts.search), len(parts.test)) == (1024, 9000 - 1024)


def test_a_query_s_documents_stay_together() -> None:
    rows = [{"query": f"q{i // 4}", "text": str(i), "score": i % 2} for i in range(200)]
    parts = split_rows(rows, 0, calibration=False, group="query")
    searched, tested = ({row["query"] for row in part} for part in (parts.search, parts.test))
    assert not searched & tested
    assert len(searched | tested) == 50


def test_too_few_rows() -> None:
    with pytest.raises(UsageError, match="have 12 different rows: give at least 20"):
        split_rows(ROWS[:12], 0, calibration=False)


def test_a_text_is_cut_where_lines_end() -> None:
    text = "\n".join(f"line {i} of a text that goes on and on" for i in range(200))
    pieces = [str(row["text"]) for row in text_pieces([{"text": text}])]
    assert "\n".join(pieces) == text
    assert all(len(piece) <= 900 for piece in pieces)
    assert len(text_pieces([{"text": "x" * 5000 + " y"}])) >= 1  # no place to cut: cut all the same
