"""Which parts of a model a precision hurts: each quantized alone, and what that does to the outputs.

Of models that read a part is one weight (``quantize.sensitivity``). Of models that write text it is what the weights'
names say up to the layer's number and one word further (``layers.3.mlp``), or up to the number alone where that makes
too many: each costs a graph of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeport_export.passes.match import is_weight, tensor_of
from edgeport_export.progress import Progress
from edgeport_export.quantize import Int8Dynamic, sensitivity
from edgeport_export.recipe import Recipe
from edgeport_export.samples import Batch
from edgeport_export.variants import Prepared, make_variant, open_variant, remove_variant

__all__ = ["Sensitivity", "keep_pattern", "measure_sensitivity"]

_SMALL = 2**12
"""Elements of a weight that is not worth a part of its own."""
_MOST = 24


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one part alone does."""

    part: str
    error: float
    """Root mean square of the change of the outputs, as a share of the outputs' own."""
    weights: int
    """Elements in the part."""


def measure_sensitivity(
    prepared: Prepared, recipe: Recipe, precision: str, batches: Sequence[Batch], folder: Path
) -> list[Sensitivity]:
    """The parts of the model, the most sensitive first.

    Args:
        prepared: The original.
        recipe: Says how ``precision`` is made.
        precision: A quantized one.
        batches: Real inputs.
        folder: For files that are deleted again.
    """
    if not prepared.source.task.generates:
        sizes = {name: tensor_of(value).size for name, value in prepared.graph.graph.initializers.items()}
        errors = sensitivity(prepared.graph, batches, Int8Dynamic())
        return [Sensitivity(name, error, sizes.get(name, 0)) for name, error in errors.items()]
    return _one_by_one(prepared, recipe, precision, batches, folder)


def _one_by_one(
    prepared: Prepared, recipe: Recipe, precision: str, batches: Sequence[Batch], folder: Path
) -> list[Sensitivity]:
    quiet, alone = Progress(show=False), replace(prepared, reference=None)

    def outputs(precision: str, keep: str | None) -> list[np.ndarray]:
        variant, _ = make_variant(alone, precision, replace(recipe, keep_fp32=keep), folder, quiet, name="part")
        try:
            run = open_variant(folder / variant.graphs["model"], prepared.source)
            return [np.concatenate([o.ravel() for o in run(batch)]) for batch in batches]
        finally:
            remove_variant(variant, folder)

    wanted = outputs("fp32", None)
    size = float(np.sqrt(np.mean(np.concatenate(wanted) ** 2)))
    found = []
    for part, elements in parts_of(prepared).items():
        got = outputs(precision, f"^(?!{re.escape(part)}(\\.|$))")
        error = float(np.sqrt(np.mean((np.concatenate(got) - np.concatenate(wanted)) ** 2)))
        found.append(Sensitivity(part, error / max(size, 1e-12), elements))
    return sorted(found, key=lambda s: -s.error)


def keep_pattern(parts: Sequence[str]) -> str | None:
    """The regular expression that keeps ``parts`` in fp32; None for none."""
    return "^(" + "|".join(re.escape(part) for part in parts) + ")(\\.|$)" if parts else None


def parts_of(prepared: Prepared) -> dict[str, int]:
    """Part to its number of weights, in the graph's order."""
    sizes = {
        name: tensor_of(value).size
        for name, value in prepared.graph.graph.initializers.items()
        if is_weight(value, rank=2) and tensor_of(value).size >= _SMALL
    }
    for words in (1, 0):
        parts: dict[str, int] = {}
        for name, size in sizes.items():
            part = _part(name, words)
            parts[part] = parts.get(part, 0) + size
        if len(parts) <= _MOST:
            break
    return parts


def _part(name: str, words: int) -> str:
    match = re.match(rf"(.*?\.\d+)((?:\.[^.\d]+){{{words}}})", name)
    return match[0] if match else name.rsplit(".", 1)[0]
