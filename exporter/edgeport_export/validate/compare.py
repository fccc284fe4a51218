"""Numbers on how far two sets of outputs are apart. Pure numpy; knows tasks only by which axis holds the labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeport_export.recipe import Limits
from edgeport_export.tasks import ExportTask

__all__ = ["Figures", "compare", "violations"]

Array = NDArray[np.float32]

_TIE = 1e-5
"""Of the outputs' root mean square: two labels this close in the original are the same label to a comparison."""


@dataclass(frozen=True)
class Figures:
    """How far a variant's outputs are from the original's, over all batches and outputs, padding left out."""

    max_abs: float
    mean_abs: float
    rms: float
    """Root mean square of the original's outputs: what ``max_abs`` is measured against."""
    cosine: float
    """Mean cosine of the rows (the last axis; the whole sequence for question-answering)."""
    cosine_min: float
    agreement: float | None
    """Share of positions with the same top label; None where the task has no labels."""
    rows: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    actual: Iterable[Sequence[Array]],
    expected: Sequence[Sequence[Array]],
    masks: Sequence[NDArray[np.int64]],
    task: ExportTask,
) -> Figures:
    """Compare outputs batch by batch.

    Args:
        actual: For each batch, the variant's outputs in the task's order, float; one batch is held at a time.
        expected: The same from the original.
        masks: For each batch, the attention mask, int64 (batch, sequence).
        task: Says which outputs have a sequence axis and where the labels are.
    """
    largest = total_difference = total_square = 0.0
    values = same = total = 0
    cosines: list[Array] = []
    for got_batch, want_batch, mask in zip(actual, expected, masks, strict=True):
        for got, want, padded in zip(got_batch, want_batch, task.padded, strict=True):
            if got.shape != want.shape:
                raise ValueError(f"the graph returns shape {got.shape} where the original returns {want.shape}")
            got_rows, want_rows = _rows(got, mask, padded), _rows(want, mask, padded)
            square = sum(map(_square, want_rows))
            total_square += square
            scale = math.sqrt(square / sum(r.size for r in want_rows)) or 1.0
            for a, b in zip(got_rows, want_rows, strict=True):
                difference = np.abs(a - b)
                largest = float(np.maximum(largest, difference.max()))  # NaN stays NaN
                total_difference += float(difference.sum(dtype=np.float64))
                values += b.size
                cosines.append(_cosine(a, b))
                if task.top_axis is not None and b.shape[-1] > 1:
                    chosen = np.take_along_axis(b, a.argmax(-1)[..., None], -1)[..., 0]
                    same += int((chosen >= b.max(-1) - _TIE * scale).sum())
                    total += chosen.size
    cosine = np.concatenate(cosines)
    return Figures(
        max_abs=float(np.nan_to_num(largest, nan=np.inf)),
        mean_abs=float(np.nan_to_num(total_difference / values, nan=np.inf)),
        rms=math.sqrt(total_square / values),
        cosine=float(np.nan_to_num(cosine.mean(), nan=-1.0)),
        cosine_min=float(np.nan_to_num(cosine.min(), nan=-1.0)),
        agreement=same / total if total else None,
        rows=int(cosine.size),
    )


def _rows(values: Array, mask: NDArray[np.int64], padded: bool) -> list[Array]:
    """One array (positions, width) a text: its unpadded tokens, or the text as one row."""
    if not padded:
        return [row.reshape(1, -1) for row in values]
    real = [row if m.all() else row[m.astype(bool)] for row, m in zip(values, mask, strict=True)]
    # Scores over the sequence (start, end) are one row a text: the label is a position.
    return [r[None] if r.ndim == 1 else r for r in real]


def _cosine(a: Array, b: Array) -> Array:
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    both_zero = norms < 1e-30
    cosine: Array = np.where(both_zero, 1.0, (a * b).sum(-1) / np.where(both_zero, 1.0, norms))
    return cosine


def _square(values: Array) -> float:
    """The sum of squares."""
    flat = values.ravel()
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))


def violations(figures: Figures, limits: Limits) -> list[str]:
    """What of ``figures`` is beyond ``limits``, a phrase each; empty means passed."""
    found = []
    if limits.max_abs is not None and not figures.max_abs <= limits.max_abs * max(figures.rms, 1e-6):
        found.append(
            f"largest difference {figures.max_abs:.2g} is {figures.max_abs / max(figures.rms, 1e-6):.2g} "
            f"of the outputs' size (allowed {limits.max_abs:g})"
        )
    if limits.cosine is not None and not figures.cosine >= limits.cosine:
        found.append(f"cosine {figures.cosine:.4f} (at least {limits.cosine:g})")
    if limits.agreement is not None and figures.agreement is not None and not figures.agreement >= limits.agreement:
        found.append(f"agreement {figures.agreement:.2%} (at least {limits.agreement:.2%})")
    return found
