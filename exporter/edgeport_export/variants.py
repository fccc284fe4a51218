"""A model's variants: what all of them are made of, prepared once, and then one after the other.

An export makes those that it was asked for; a search for the best one makes many of the same graph.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from edgeport.bundle import Variant
from edgeport.errors import UsageError
from numpy.typing import NDArray
from torch import Tensor

from edgeport_export import package
from edgeport_export.calibration import load_calibration
from edgeport_export.capture import Captured, capture, capture_decoder
from edgeport_export.decoder_runner import DecoderRunner
from edgeport_export.graph_io import (
    MIN_ONNXRUNTIME,
    ON_CPU,
    OpenBy,
    operator_counts,
    page_out,
    return_freed_memory,
    runner,
    save_graph,
    time_run,
)
from edgeport_export.head import ExportHead
from edgeport_export.passes import FINISH, PREPARE, run_passes
from edgeport_export.progress import Progress
from edgeport_export.quantize import BeforeCapture, before_capture, quantize, quantize_before_capture
from edgeport_export.quantize.blockwise import Quantized
from edgeport_export.recipe import Recipe
from edgeport_export.samples import (
    Batch,
    capture_batch,
    evaluation_text,
    in_shape,
    timing_batches,
    validation_batches,
)
from edgeport_export.source import Source, sha256_of_weights
from edgeport_export.validate import Reference, Verdict, make_reference, text_quality, validate

__all__ = [
    "Prepared",
    "int8_samples",
    "make_variant",
    "open_variant",
    "prepare",
    "remove_variant",
    "validation_record",
]

_ROUNDED_BY = 128
"""Samples, at most, that weights are rounded by."""
_CALIBRATED_BY = 512
"""Samples, at most, that ranges of activations are set by."""
_CALIBRATED_LEAST = 16
"""Samples, at least."""


@dataclass(frozen=True)
class Prepared:
    """A model that was run, captured and optimized."""

    head: ExportHead
    source: Source
    graph: ir.Model
    """In fp32, before what a precision does to it."""
    sha256: str
    """Of the weights, before anything was changed."""
    capture: Mapping[str, Any]
    """How the graph came about, for the manifest."""
    reference: Reference | None
    """What the model said before anything was changed; None if nothing is to be compared with it."""
    samples: Sequence[Mapping[str, Tensor]]
    """What the model will see, for methods that round the model in torch."""
    seen: Sequence[Batch] = ()
    """What the model will see, for int8 that looks at what the graph does with it."""

    def rounding(self, precision: str, recipe: Recipe) -> BeforeCapture | None:
        """The method that rounds the model in torch, captured anew after that; None if its graph is rounded."""
        return before_capture(precision, recipe, generates=self.source.task.generates)


def prepare(head: ExportHead, source: Source, recipe: Recipe, progress: Progress) -> Prepared:
    """Run the model, capture its graph and optimize it."""
    generates = source.task.generates
    sampled = any(before_capture(p, recipe, generates=generates) is not None for p in recipe.precisions)
    samples = _samples(source, recipe) if sampled else []
    seen = int8_samples(source, recipe) if "int8" in recipe.precisions and not generates else []
    reference = _run_original(head, source, recipe, progress)
    weights = source.model.state_dict()  # as they are: while it is traced, the model has others
    with progress.stage("capture", "Capture the graph"), ThreadPoolExecutor(1, initializer=_step_back) as beside:
        # Half a second of hashing for 0.5 GB, while tracing keeps one core busy.
        sha256 = beside.submit(sha256_of_weights, weights)
        captured = _capture(head, source, recipe)
    with progress.stage("optimize", "Optimize the graph"):
        graph = run_passes(captured.model, PREPARE)
    record = package.capture_record(captured, graph)
    return Prepared(head, source, graph, sha256.result(), record, reference, samples, seen)


def _step_back() -> None:
    """Let this thread have what the others leave: a product that two threads share takes as long as the slower one."""
    if sys.platform == "linux":  # elsewhere it is the whole process that steps back
        os.nice(19)


def make_variant(
    prepared: Prepared, precision: str, recipe: Recipe, directory: Path, progress: Progress, *, name: str | None = None
) -> tuple[Variant, Verdict | None]:
    """Quantize, finish, save, and, with a reference, judge and time one variant.

    Args:
        prepared: Stays as it is.
        precision: One of the recipe's.
        recipe: Says how it is made.
        directory: Where its files go.
        progress: Shows the stages.
        name: Of the variant, in its files' names; the precision where left out.
    """
    source, reference = prepared.source, prepared.reference
    file = f"model.{name or precision}.onnx"
    with _graph_for(prepared, precision, recipe, progress) as (base, given):
        with progress.stage(precision, f"Make {name or precision}"):
            model = base.clone()
            seen = prepared.seen or (int8_samples(source, recipe) if precision == "int8" else [])
            note = quantize(model, precision, recipe, generates=source.task.generates, given=given, samples=seen)
            if source.integers and not given and precision.startswith("int"):
                note = f"rounded anew from the checkpoint's {source.bits} bits; {note}"
            model = run_passes(model, FINISH[precision])
            size = save_graph(model, directory / file)
            counts = operator_counts(model)
            del model
            gc.collect()  # a graph's nodes and values hold each other
            return_freed_memory()
            page_out(".safetensors")
        measured: dict[str, Any] = {}
        verdict = None
        if reference is not None:
            with progress.stage("validate", f"Compare {name or precision} with the original"):
                run = open_variant(directory / file, source)
                verdict = validate(run, reference, source.task, recipe.limits[precision])
                measured["parity"] = {**verdict.figures.to_dict(), "limits": asdict(recipe.limits[precision])}
                if verdict.passed and reference.text is not None and isinstance(run, DecoderRunner):
                    measured["quality"] = text_quality(run.predict, reference.text)
                measured["latency"] = {"milliseconds": _times(run, source, recipe), "provider": "cpu"}
                del run
                return_freed_memory()
    variant = Variant(
        precision=precision,
        graphs={"model": file},
        size_bytes=size,
        opset=recipe.opset,
        min_onnxruntime=MIN_ONNXRUNTIME[recipe.opset],
        providers=("cuda", "cpu") if precision == "fp16" else ("cpu",),
        operators=counts,
        notes=(note,),
        measured=measured,
    )
    return variant, verdict


def remove_variant(variant: Variant, directory: Path) -> None:
    """Delete a variant's files."""
    for name in variant.graphs.values():
        for file in (name, f"{name}.data"):
            (directory / file).unlink(missing_ok=True)


def validation_record(reference: Reference | None, refused: dict[str, str]) -> dict[str, Any]:
    """What the manifest says of the comparison with the original."""
    if reference is None:
        return {"performed": False}
    text = {} if reference.text is None else {"text": reference.text.text.to_dict()}
    return {
        "performed": True,
        "against": "the original in PyTorch, fp32",
        **text,
        "batches": len(reference.batches),
        "rows": sum(b["input_ids"].shape[0] for b in reference.batches),
        "shapes": [list(b["input_ids"].shape) for b in reference.batches],
        "refused": refused,
        "machine": package.machine(),
    }


def _samples(source: Source, recipe: Recipe) -> list[Mapping[str, Tensor]]:
    return [batch.inputs for batch in load_calibration(source, recipe, _ROUNDED_BY).batches(8)]


def int8_samples(source: Source, recipe: Recipe) -> list[Batch]:
    """What int8 of a model that reads looks at: rows of the calibration file, in the shapes that the graph takes; none
    where the recipe's int8 looks at nothing.

    Raises:
        UsageError: the file has too few rows, or the model writes text.
    """
    if not recipe.samples_int8:
        return []
    if source.task.generates:
        option = "--quantize static" if recipe.quantize == "static" else "--smooth"
        raise UsageError(f"{option} is for models that read, and this one writes text: choose a --method instead.")
    calibration = load_calibration(source, recipe, _CALIBRATED_BY)
    if len(calibration.rows) < _CALIBRATED_LEAST:
        raise UsageError(
            f"--calibration {recipe.calibration!r} has {len(calibration.rows)} rows: give at least "
            f"{_CALIBRATED_LEAST}, better {_CALIBRATED_BY}, of what the model will see."
        )
    batches: list[Batch] = [{name: t.numpy() for name, t in b.inputs.items()} for b in calibration.batches()]
    if recipe.fixed_shape is None:
        return batches
    return [piece for batch in batches for piece in in_shape(source, batch, recipe.fixed_shape)]


@contextmanager
def _graph_for(
    prepared: Prepared, precision: str, recipe: Recipe, progress: Progress
) -> Iterator[tuple[ir.Model, Mapping[str, Quantized]]]:
    """The graph to make a variant of, and integers that its weights stand for: the prepared one, with those of the
    checkpoint; or one captured anew of the model rounded in torch, which has its own weights again afterwards."""
    source, method = prepared.source, prepared.rounding(precision, recipe)
    if method is None:
        yield prepared.graph, source.integers if precision == f"int{source.bits}" else {}
        return
    samples = prepared.samples or _samples(source, recipe)
    own = {name: weight.detach().clone() for name, weight in source.model.named_parameters()}
    try:
        with progress.stage(recipe.method, f"Round the weights by {recipe.method.upper()}"):
            given = quantize_before_capture(source.model, samples, method)
        with progress.stage("capture", "Capture the rounded graph"):
            rounded = run_passes(_capture(prepared.head, source, recipe).model, PREPARE)
        yield rounded, given
    finally:
        source.model.load_state_dict(own, strict=False)


def _capture(head: ExportHead, source: Source, recipe: Recipe) -> Captured:
    if source.task.generates:
        return capture_decoder(source.model, opset=recipe.opset)
    sample = capture_batch(source, recipe.fixed_shape)
    return capture(head, sample, opset=recipe.opset, fixed=recipe.fixed_shape is not None)


def _run_original(head: ExportHead, source: Source, recipe: Recipe, progress: Progress) -> Reference | None:
    """The original's outputs, before anything is changed; None if nothing will be compared with them."""
    if not recipe.validate:
        return None
    with progress.stage("reference", "Run the original"):
        text = evaluation_text(source, recipe) if source.task.generates else None
        return make_reference(head, validation_batches(source, recipe.fixed_shape, text), text)


def open_variant(path: Path, source: Source, how: OpenBy = ON_CPU) -> Callable[[Batch], list[NDArray[np.float32]]]:
    """A variant's file, opened: a batch to its outputs."""
    if source.task.generates:
        return DecoderRunner(path, source.task_options, how)
    return runner(path, source.task.outputs, how)


def _times(run: Callable[[Batch], list[NDArray[np.float32]]], source: Source, recipe: Recipe) -> dict[str, float]:
    """Median milliseconds, by batch x tokens or by what a text generator does."""
    batches = timing_batches(source, recipe.fixed_shape)
    if isinstance(run, DecoderRunner):
        return run.time([batch["input_ids"][0].tolist() for batch in batches])
    return {"x".join(map(str, b["input_ids"].shape)): round(time_run(run, b), 3) for b in batches}
