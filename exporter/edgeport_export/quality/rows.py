"""Labelled rows from files: JSON lines, CSV with a header, or the plain format that a task's data usually comes in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError

from edgeport_export.quality.outcomes import Outcomes

__all__ = ["Row", "Scorer", "columns_of", "parse_columns", "read_rows"]

Row = Mapping[str, Any]
"""Column to value."""


@dataclass(frozen=True)
class Scorer:
    """What it takes to score a task."""

    columns: tuple[str, ...]
    """The columns that it reads."""
    score: Callable[..., dict[str, float]]
    """Pipeline and rows to metrics by name, the one that decides first; shares and correlations times 100."""
    plain: Callable[[str, str], list[Row]] | None = None
    """A headerless file's text, and its name for messages, to rows; None if there is no such format."""
    options: tuple[str, ...] = ()
    """Keyword arguments that ``score`` takes beside pipeline and rows."""
    sample: Callable[[], list[Row]] | None = None
    """Rows that come with this package, for want of a file."""
    outcomes: Callable[..., Mapping[str, Outcomes]] | None = None
    """Pipeline and rows to what each row adds to a metric, by the metric's name, the one that decides first."""


def read_rows(path: Path, scorer: Scorer, renamed: Mapping[str, str] | None = None) -> list[Row]:
    """The rows of a file: ``.jsonl`` and ``.csv`` (with a header) by column, any other ending in the plain format.

    Args:
        path: The file, UTF-8.
        scorer: Says which columns there must be.
        renamed: A scorer's column to the file's name for it, e.g. ``{"label": "category"}``.

    Raises:
        UsageError: the file cannot be read, lacks a column, or holds no rows.
    """
    text = _text(path)
    if path.suffix in (".jsonl", ".json"):
        rows = _pick(_json_lines(text, str(path)), scorer.columns, renamed or {}, str(path))
    elif path.suffix == ".csv" or scorer.plain is None:
        rows = _pick(list(csv.DictReader(io.StringIO(text))), scorer.columns, renamed or {}, str(path))
    else:
        rows = scorer.plain(text, str(path))
    if not rows:
        raise UsageError(f"{str(path)!r} has no rows: give a file with {', '.join(scorer.columns)}.")
    return rows


def columns_of(path: Path) -> set[str]:
    """All columns that some row of a ``.jsonl`` or ``.csv`` file has; none of other files.

    Raises:
        UsageError: the file cannot be read.
    """
    if path.suffix not in (".jsonl", ".json", ".csv"):
        return set()
    text = _text(path)
    if path.suffix == ".csv":
        return set(csv.DictReader(io.StringIO(text)).fieldnames or ())
    return {column for row in _json_lines(text, str(path)) for column in row}


def parse_columns(text: str | None) -> dict[str, str]:
    """``label=category,text=query`` as a dictionary.

    Raises:
        UsageError: it is no list of pairs.
    """
    pairs = [part.split("=") for part in text.split(",")] if text else []
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise UsageError(f"--columns {text!r} is no list of NAME=NAME: write it like label=category.")
    return {pair[0]: pair[1] for pair in pairs}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{str(path)!r} cannot be read ({e}): give a UTF-8 file of labelled rows.") from e


def _json_lines(text: str, name: str) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as e:
            raise UsageError(f"line {number} of {name} is not JSON ({e}): write one object a line.") from e
        if not isinstance(row, dict):
            raise UsageError(f"line {number} of {name} is no JSON object: write one object a line.")
        rows.append(row)
    return rows


def _pick(rows: Sequence[Row], columns: Sequence[str], renamed: Mapping[str, str], name: str) -> list[Row]:
    """The wanted columns under the scorer's names."""
    unknown = [column for column in renamed if column not in columns]
    if unknown:
        raise UsageError(f"column {unknown[0]!r} is not one that is read: choose from {', '.join(columns)}.")
    picked: list[Row] = []
    for number, row in enumerate(rows, 1):
        absent = [c for c in columns if row.get(renamed.get(c, c)) is None]
        if absent:
            raise UsageError(
                f"row {number} of {name} has no column {renamed.get(absent[0], absent[0])!r} (it has "
                f"{', '.join(map(str, row))}): pass --columns {absent[0]}=NAME."
            )
        picked.append({c: row[renamed.get(c, c)] for c in columns})
    return picked
