"""How alike two vectors are: the four measures that sentence-transformers knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UsageError

__all__ = ["MEASURES", "similarity"]

Array = npt.NDArray[np.float32]


def similarity(name: str, a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
    """The measure ``name`` of each row of ``a`` (n, d) with each row of ``b`` (m, d): float32 (n, m).

    Raises:
        UsageError: an unknown measure, or vectors of different sizes.
    """
    if name not in MEASURES:
        raise UsageError(f"similarity {name!r} is unknown: use one of {', '.join(MEASURES)}.")
    rows = [np.atleast_2d(np.asarray(x, dtype=np.float32)) for x in (a, b)]
    if rows[0].shape[1] != rows[1].shape[1]:
        raise UsageError(f"vectors of {rows[0].shape[1]} and {rows[1].shape[1]} dimensions cannot be compared.")
    return MEASURES[name](*rows)


def _unit(a: Array) -> Array:
    return a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)


def _cosine(a: Array, b: Array) -> Array:
    return _unit(a) @ _unit(b).T


def _dot(a: Array, b: Array) -> Array:
    return a @ b.T


def _manhattan(a: Array, b: Array) -> Array:
    return _by_row(a, b, lambda difference: np.abs(difference).sum(axis=1))


def _euclidean(a: Array, b: Array) -> Array:
    return _by_row(a, b, lambda difference: np.linalg.norm(difference, axis=1))


def _by_row(a: Array, b: Array, distance: Callable[[Array], Any]) -> Array:
    """Negative distances; row by row, since all differences at once would take n * m * d numbers."""
    return np.stack([-distance(b - row) for row in a]).astype(np.float32)


MEASURES: dict[str, Callable[[Array, Array], Array]] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}
