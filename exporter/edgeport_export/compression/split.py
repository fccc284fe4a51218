"""Which rows a candidate is chosen by, which ones it is judged by at the end, and which ones it may learn from.

No row is in two parts, and the same seed gives the same parts. Equal rows stay together: a text that stands in the file
twice must not be seen before it is judged by. What is said once in a text that models write is found in it once, so
a text is cut into pieces, and the pieces are shared out.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from edgeport.errors import UsageError

from edgeport_export.quality.rows import Row

__all__ = ["Parts", "split_rows", "text_pieces"]

_SEARCH_SHARE = 1 / 3
_SEARCH_MOST = 1024
_CALIBRATION_SHARE = 0.25
_LEAST = 20
"""Rows without which nothing can be said."""
_PIECE = 600
"""Characters of a text: near 128 tokens."""


@dataclass(frozen=True)
class Parts:
    """Rows, in a random order each."""

    search: Sequence[Row]
    test: Sequence[Row]
    calibration: Sequence[Row]
    """Empty where a file of its own is given."""


def split_rows(rows: Sequence[Row], seed: int, *, calibration: bool, group: str | None = None) -> Parts:
    """Share out ``rows``.

    Args:
        rows: All of them.
        seed: Decides the order.
        calibration: Whether a part is to be learnt from.
        group: A column; rows with the same value there go together (the documents of a query).

    Raises:
        UsageError: there are too few.
    """
    bundles: dict[str, list[Row]] = {}
    for row in rows:
        key = str(row[group]) if group else json.dumps(row, sort_keys=True, default=str)
        bundles.setdefault(key, []).append(row)
    if len(bundles) < _LEAST:
        kind = f"different values of {group!r}" if group else "different rows"
        raise UsageError(
            f"the evaluation data have {len(bundles)} {kind}: give at least {_LEAST}, and hundreds to prove 1 point."
        )
    shuffled = [bundles[key] for key in random.Random(seed).sample(list(bundles), len(bundles))]
    learn = round(len(shuffled) * _CALIBRATION_SHARE) if calibration else 0
    search = min(round((len(shuffled) - learn) * _SEARCH_SHARE), _SEARCH_MOST)
    parts = shuffled[:learn], shuffled[learn : learn + search], shuffled[learn + search :]
    learnt, searched, tested = ([row for bundle in part for row in bundle] for part in parts)
    return Parts(searched, tested, learnt)


def text_pieces(rows: Sequence[Row]) -> list[Row]:
    """Texts cut at line ends, or else at spaces, into pieces of some hundred characters."""
    return [{"text": piece} for row in rows for piece in _cut(str(row["text"]))]


def _cut(text: str) -> list[str]:
    pieces = []
    while len(text) > 1.5 * _PIECE:
        at = next((p for p in (text.rfind(c, _PIECE // 2, _PIECE) for c in ("\n\n", "\n", " ")) if p > 0), _PIECE)
        pieces.append(text[:at])
        text = text[at:].lstrip()
    return [piece for piece in (*pieces, text) if len(piece.split()) > 1]
