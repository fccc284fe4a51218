"""The stage of the export that makes zeros: the layers in order, and what the manifest says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgeport_export.calibration import load_calibration
from edgeport_export.progress import Progress
from edgeport_export.pruning import Sparsity
from edgeport_export.quantize.block_by_block import layers_of, rows_of, walk
from edgeport_export.quantize.block_stream import BlockStream, blocks_of
from edgeport_export.recipe import Recipe
from edgeport_export.source import Source
from edgeport_export.sparsify.magnitude import magnitude
from edgeport_export.sparsify.sparsegpt import sparsegpt
from edgeport_export.sparsify.wanda import wanda

__all__ = ["sparsify"]

_METHODS: Mapping[str, Callable[[Tensor, Any, Sparsity], Tensor]] = {
    "magnitude": magnitude,
    "wanda": wanda,
    "sparsegpt": sparsegpt,
}
_SAMPLES = 1024
"""Rows of the calibration file, at most."""
_TOKENS = 2**14
"""Of the samples, at most."""


def sparsify(source: Source, recipe: Recipe, progress: Progress | None = None) -> None:
    """Make zeros in the layers of the source's blocks as ``recipe.sparsity`` says, in place; tables and heads stay.

    Raises:
        UsageError: there are no samples, or they do not fit the task.
        ExportError: a weight is not float32.
    """
    choice, progress = recipe.sparsity, progress or Progress(show=False)
    if choice is None:
        return
    before = sum(p.numel() for p in source.model.parameters())
    record = {"parameters": before, "original_parameters": before, "samples": None, **source.pruning}
    record.setdefault("original_sha256", source.weights_sha256())
    samples = load_calibration(source, recipe, _SAMPLES, tokens=_TOKENS) if choice.wants_samples else None
    with progress.stage("sparsify", f"Choose weights by {choice.method}"):
        if samples is None:
            done = _by_itself(source.model, choice)
        else:
            record["samples"] = record["samples"] or str(samples)
            done = _by_what_it_reads(source.model, [batch.inputs for batch in samples.batches()], choice)
    weights = sum(layer.numel() for layer in done.values())
    record["sparsity"] = {
        "amount": choice.amount,
        "method": choice.method,
        "zeros": sum(int((layer == 0).sum()) for layer in done.values()),
        "of": weights,
        "layers": len(done),
    }
    source.pruning = record


@torch.no_grad()
def _by_itself(model: nn.Module, choice: Sparsity) -> dict[str, Tensor]:
    """Every layer's matrix, changed; by name."""
    done = {}
    for prefix, block in blocks_of(model):
        for name, layer in layers_of(prefix, block).items():
            done[name] = _changed(layer, None, choice)
    return done


def _by_what_it_reads(model: nn.Module, batches: Any, choice: Sparsity) -> dict[str, Tensor]:
    """The matrices of the layers that the samples reach, changed; by name."""
    done = {}

    def visit(stream: BlockStream, index: int, layers: Mapping[str, nn.Module]) -> None:
        for read in stream.inputs(index, layers):
            for name in read.layers:
                done[name] = _changed(layers[name], read.moments, choice)

    walk(model, batches, visit)
    return done


def _changed(layer: nn.Module, moments: Tensor | None, choice: Sparsity) -> Tensor:
    rows = rows_of(layer)
    rows.copy_(_METHODS[choice.method](rows, moments, choice))
    return rows
