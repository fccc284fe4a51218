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
_CUTS: Mapping[str, tuple[Any, ...]] = {
    "prune": (
        NOTHING,
        *(f"flops={kept}" for kept in (0.85, 0.75, 0.65, 0.5, 0.35, 0.25)),
        *(f"layers={gone}" for gone in (1, 2)),
        *(f"layers={gone},flops={kept}" for gone in (1, 2) for kept in (0.75, 0.5, 0.35)),
    ),
    "recover": (0, 150, 300, 600, 1200, 2400),
}
_READERS: Mapping[str, tuple[Any, ...]] = {
    **_CUTS,
    "vocabulary": (WHOLE, CORPUS),
    "int8": ("dynamic", "static", "static, smooth"),
    "tables": (8, 4),
    "keep": (0, 1, 2, 4),
}
_WRITERS: Mapping[str, tuple[Any, ...]] = {
    **_CUTS,
    "bits": ("int8", "int4"),
    "method": ("rtn", "hqq", "gptq", "awq"),
    "block": (32, 64, 128),
    "tables": (8, 4),
    "keep": (0, 1, 2),
}
"""``recover`` is how many steps a pruned model learns from the original. Minutes would be another number of steps on
another machine. Models that write keep their vocabulary: perplexity counts tokens, and those of a trimmed one are
others."""
STEPS: tuple[int, ...] = _CUTS["recover"]
_STEPS_TO_HOLD = 600
"""After which half of a model has caught up with all of it: one of 77 intents lost 0.6 points after 300, none after
600."""
_SMOOTH = 0.5
"""SmoothQuant's alpha (Xiao et al. 2022 found it to do well almost everywhere)."""


def dimensions(*, generates: bool) -> Mapping[str, tuple[Any, ...]]:
    """Name to values, of models that write or of those that read."""
    return _WRITERS if generates else _READERS


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

    @property
    def dimensions(self) -> Mapping[str, tuple[Any, ...]]:
        """Name to values: the same in a search that goes on with more or less time."""
        return dimensions(generates=self.generates)

    def affordable(self, choice: Choice) -> Choice:
        """The choice with no more distillation than there is time for."""
        return {**choice, "recover": min(choice["recover"], self.steps)}

    def known_good(self) -> list[Choice]:
        """What is tried first, in order."""
        uncut = {"prune": NOTHING, "recover": 0, "keep": 0}
        cuts = [{"prune": cut, "recover": steps} for cut, steps in self._cuts()]
        if self.generates:
            plain = {**uncut, "bits": "int8", "method": "rtn", "block": 128, "tables": 8}
            four = {**plain, "bits": "int4"}
            best, *others = [{**four, "method": m, "block": b} for m in ("gptq", "hqq", "awq") for b in (32, 128)]
            # What was cut stays in memory for a while: the same in fewer bits costs little.
            cutting = [kind | cut for cut in cuts for kind in (plain, best)]
            return [plain, best, *cutting, {**best, "tables": 4}, *others]
        plain = {**uncut, "vocabulary": WHOLE, "int8": "dynamic", "tables": 4}
        # A trimmed vocabulary is smaller and no faster, and may cost something on words that are rare.
        trimmed = {**plain, "vocabulary": CORPUS}
        cutting = [(plain if self.minimize == "latency" else trimmed) | cut for cut in cuts]
        static = [{**plain, "int8": "static"}, {**plain, "prune": "flops=0.75", "int8": "static"}]
        first = [plain] if self.minimize == "latency" else [plain, trimmed]
        return [*first, *cutting, *static, {**plain, "tables": 8}, {**plain, "keep": 2}]

    def _cuts(self) -> Sequence[tuple[str, int]]:
        """What is cut and for how many steps the rest learns, in the order of what is likely to pay."""
        if not self.steps:  # nothing is learnt: the gentle ones first
            return [(f"flops={kept}", 0) for kept in (0.75, 0.65, 0.5, 0.85)]
        # Narrower layers lose less than fewer ones, at the same time, once the model has learnt from the original.
        # The first is sure to hold many a budget and needs less to learn; those after it are faster.
        return [
            ("flops=0.5", min(self.steps, max(_STEPS_TO_HOLD, *(n for n in STEPS if 2 * n <= self.steps)))),
            ("flops=0.35", self.steps),
            ("flops=0.25", self.steps),
            ("flops=0.75", 0),
            ("layers=1,flops=0.35", self.steps),
            ("flops=0.65", 0),
            ("flops=0.65", self.steps),
            ("flops=0.85", 0),
        ]

    def recipe(self, choice: Choice) -> Recipe:
        """The recipe of a choice."""
        kinds = [] if choice["prune"] == NOTHING else [choice["prune"]]
        if choice.get("vocabulary", WHOLE) != WHOLE:
            kinds.append(f"vocabulary={choice['vocabulary']}")
        cut = Prune.parse(",".join(kinds)) if kinds else None
        # Where layers go, the others have other numbers: the parts that were measured are not there any more.
        parts = [] if cut is not None and cut.layers else self.sensitive[: choice["keep"]]
        steps = choice["recover"] if choice["prune"] != NOTHING else 0
        same = replace(
            self.base,
            prune=cut,
            recover=Recover(steps=steps) if steps else None,
            tables=choice["tables"],
            keep_fp32=keep_pattern(parts),
        )
        if self.generates:
            return replace(same, precisions=(choice["bits"],), method=choice["method"], block_size=choice["block"])
        kind, _, smooth = choice["int8"].partition(", ")
        return replace(same, precisions=("int8",), quantize=kind, smooth=_SMOOTH if smooth else None)
