"""Is the export the original? reference (what torch says), compare (numbers), verdict (numbers against limits).

And how good is what it writes? prediction, which has no verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeport_export.recipe import Limits
from edgeport_export.samples import Batch
from edgeport_export.tasks import ExportTask
from edgeport_export.validate.compare import Figures, compare, violations
from edgeport_export.validate.prediction import text_quality
from edgeport_export.validate.reference import Reference, hides_padding, make_reference

__all__ = ["Figures", "Reference", "Verdict", "hides_padding", "make_reference", "text_quality", "validate"]


@dataclass(frozen=True)
class Verdict:
    """A variant's figures and what is wrong with them."""

    figures: Figures
    violations: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.violations


def validate(
    run: Callable[[Batch], list[NDArray[np.float32]]], reference: Reference, task: ExportTask, limits: Limits
) -> Verdict:
    """Run a variant on the reference's batches and judge it.

    Args:
        run: The variant: a batch to its outputs, in the task's order.
        reference: Batches and the original's outputs.
        task: The task.
        limits: How far it may be away.
    """
    actual = (run(batch) for batch in reference.batches)
    figures = compare(actual, reference.outputs, reference.masks, task)
    return Verdict(figures, tuple(violations(figures, limits)))
