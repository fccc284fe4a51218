"""What a search chooses between, and how a choice becomes a recipe.

Every dimension is a short ordered list, so that a choice is a dictionary of plain values. The known-good choices are
tried first: what they teach is worth more than chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeport_export.compression.sensitivity import keep_pattern
from edgeport_export.pruning import CORPUS, Prune, Recover
from edgeport_export.recipe import Recipe

__all__ = ["NOTHING", "STEPS", "WHOLE", "Choice", "Space", "dimensions"]

Choice = Mapping[str, Any]
"""Dimension to one of its values."""

NOTHING = "nothing"
"""Of ``prune``."""
WHOLE = "whole"
"""Of ``vocabulary``."""
_UNCUT: Choice = {"prune": NOTHING, "recover": 0}
_CUTS: Mapping[str, tuple[Any, ...]] = {
    "prune": (
        NOTHING,
        *(f"flops={kept}" for kept in (0.85, 0.75, 0.65, 0.5, 0.35, 0.25)),
        *(f"layers={gone}" for gone in (1, 2)),
        *(f"layers={gone},flops={kept}" for gone in (1, 2) for kept in (0.75, 0.5, 0.35)),
    ),
    "recover": (0, 150, 300, 600, 1200, 2400),
}
"""``recover`` is how many steps a pruned model learns from the original. Minutes would be another number of steps on
another machine."""
_DYNAMIC, _STATIC = "int8 dynamic", "int8 static"
_READERS: Mapping[str, tuple[Any, ...]] = {
    **_CUTS,
    "vocabulary": (WHOLE, CORPUS),
    "precision": (_DYNAMIC, _STATIC, f"{_STATIC}, smooth", "int4"),
    "tables": (8, 4),
    "keep": (0, 1, 2, 4),
}
_READERS_ELSEWHERE: Mapping[str, tuple[Any, ...]] = {
    **_CUTS,
    "vocabulary": (WHOLE, CORPUS),
    "precision": ("fp16", "fp32"),
}
"""int8 of models that read is made of operators that onnxruntime has for the CPU."""
_WRITERS: Mapping[str, tuple[Any, ...]] = {
    **_CUTS,
    "bits": ("int8", "int4"),
    "method": ("rtn", "hqq", "gptq", "awq"),
    "block": (32, 64, 128),
    "tables": (8, 4),
    "keep": (0, 1, 2),
}
"""Models that write keep their vocabulary: perplexity counts tokens, and those of a trimmed one are others."""
_WRITERS_ELSEWHERE: Mapping[str, tuple[Any, ...]] = {**_WRITERS, "bits": ("fp16", "fp32", "int8", "int4")}
STEPS: tuple[int, ...] = _CUTS["recover"]
_STEPS_TO_HOLD = 600
"""After which half of a model has caught up with all of it: one of 77 intents lost 0.6 points after 300, none after
600."""
_METHOD = "hqq"
"""Of int4 where a model reads: it needs no samples, and rounds better than to nearest."""
_SMOOTH = 0.5
"""SmoothQuant's alpha (Xiao et al. 2022 found it to do well almost everywhere)."""


def dimensions(*, generates: bool, plain: str) -> Mapping[str, tuple[Any, ...]]:
    """Name to values, of models that write or of those that read, by the precision that the target likes best: int8 is
    the CPU's, where ranges may be found at run time."""
    if plain == "int8":
        return _WRITERS if generates else _READERS
    return _WRITERS_ELSEWHERE if generates else _READERS_ELSEWHERE


@dataclass(frozen=True)
class Space:
    """The dimensions for one model."""

    base: Recipe
    """What is the same for all candidates: task, revision, calibration, seed, ..."""
    generates: bool
    sensitive: Sequence[str]
    """Parts of the model, the one that int8 hurts most first."""
    steps: int = 0
    """Of distillation that there is time for in a candidate: one of ``STEPS``."""
    minimize: str = "latency"
    plain: str = "int8"
    """The precision that the target likes best as a rule."""

    @property
    def dimensions(self) -> Mapping[str, tuple[Any, ...]]:
        """Name to values: the same in a search that goes on with more or less time."""
        return dimensions(generates=self.generates, plain=self.plain)

    def affordable(self, choice: Choice) -> Choice:
        """The choice with no more distillation than there is time for."""
        return {**choice, "recover": min(choice["recover"], self.steps)}

    def known_good(self) -> list[Choice]:
        """What is tried first, in order."""
        return self._good_writers() if self.generates else self._good_readers()

    def _good_writers(self) -> list[Choice]:
        plain = {**_UNCUT, "bits": self.plain, "method": "rtn", "block": 128, "tables": 8, "keep": 0}
        four = {**plain, "bits": "int4"}
        best, *others = [{**four, "method": m, "block": b} for m in ("gptq", "hqq", "awq") for b in (32, 128)]
        cutting = [{**kind, **cut} for cut in self._cuts() for kind in (plain, best)]
        return [plain, best, *cutting, {**best, "tables": 4}, *others]

    def _good_readers(self) -> list[Choice]:
        on_cpu = self.plain == "int8"
        more = {"precision": _DYNAMIC, "tables": 4, "keep": 0} if on_cpu else {"precision": self.plain}
        plain = {**_UNCUT, "vocabulary": WHOLE, **more}
        # A trimmed vocabulary is smaller and no faster, and may cost something on words that are rare.
        first = plain if self.minimize == "latency" else {**plain, "vocabulary": CORPUS}
        kinds, last = [first], []
        if on_cpu:
            kinds += [{**first, "precision": "int4" if self.minimize == "size" else _STATIC}]
            last = [{**first, "tables": 8}, {**first, "keep": 2}]
        cutting = [{**kind, **cut} for cut in self._cuts() for kind in kinds]
        return [*([plain] if plain != first else []), *kinds, *cutting, *last]

    def _cuts(self) -> list[Choice]:
        """What is cut and for how many steps the rest learns, in the order of what is likely to pay. Of each, two kinds
        of numbers are tried: what was cut stays in memory for a while, and costs little the second time."""
        if not self.steps:  # nothing is learnt: the gentle ones first
            return [{"prune": f"flops={kept}", "recover": 0} for kept in (0.75, 0.65, 0.5, 0.85)]
        # Narrower layers lose less than fewer ones, at the same time, once the model has learnt from the original.
        # The first is sure to hold many a budget and needs less to learn; those after it are faster.
        gentle = min(self.steps, max(_STEPS_TO_HOLD, *(n for n in STEPS if 2 * n <= self.steps)))
        return [
            {"prune": cut, "recover": steps}
            for cut, steps in (
                ("flops=0.5", gentle),
                ("flops=0.35", self.steps),
                ("flops=0.25", self.steps),
                ("flops=0.75", 0),
                ("layers=1,flops=0.35", self.steps),
                ("flops=0.65", 0),
                ("flops=0.65", self.steps),
                ("flops=0.85", 0),
            )
        ]

    def recipe(self, choice: Choice) -> Recipe:
        """The recipe of a choice."""
        kinds = [] if choice["prune"] == NOTHING else [choice["prune"]]
        if choice.get("vocabulary", WHOLE) != WHOLE:
            kinds.append(f"vocabulary={choice['vocabulary']}")
        cut = Prune.parse(",".join(kinds)) if kinds else None
        # Where layers go, the others have other numbers: the parts that were measured are not there any more.
        parts = [] if cut is not None and cut.layers else self.sensitive[: choice.get("keep", 0)]
        steps = choice["recover"] if choice["prune"] != NOTHING else 0
        same = replace(
            self.base,
            prune=cut,
            recover=Recover(steps=steps) if steps else None,
            tables=choice.get("tables", self.base.tables),
            keep_fp32=keep_pattern(parts),
        )
        if self.generates:
            return replace(same, precisions=(choice["bits"],), method=choice["method"], block_size=choice["block"])
        precision, _, how = choice["precision"].partition(" ")
        if precision != "int8":
            return replace(same, precisions=(precision,), method=_METHOD)
        kind, _, smooth = how.partition(", ")
        return replace(same, precisions=(precision,), quantize=kind, smooth=_SMOOTH if smooth else None)
