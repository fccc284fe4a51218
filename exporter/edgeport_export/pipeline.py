"""The export, from a model to a bundle: the stages in order, and nothing of their insides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from edgeport.bundle import BundleWriter, Manifest, Variant
from edgeport.errors import ExportError, ValidationError
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from edgeport_export import package
from edgeport_export.calibration import load_calibration
from edgeport_export.capture import Captured, capture, capture_decoder
from edgeport_export.card import model_card
from edgeport_export.decoder_runner import DecoderRunner
from edgeport_export.graph_io import (
    MIN_ONNXRUNTIME,
    operator_counts,
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
    padding_batches,
    timing_batches,
    validation_batches,
)
from edgeport_export.source import Source, load_source
from edgeport_export.validate import Reference, Verdict, hides_padding, make_reference, text_quality, validate

__all__ = ["ExportResult", "export"]

_FIXED_LENGTH = 512
"""Tokens, at most, of the one shape that is tried for a model that cannot be captured for all shapes."""

_ROUNDED_BY = 128
"""Samples, at most, that weights are rounded by."""


@dataclass(frozen=True)
class ExportResult:
    """What an export did."""

    path: Path
    manifest: Manifest
    refused: dict[str, str] = field(default_factory=dict)
    """Variants that failed validation and were left out, and why."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time by stage."""


def export(
    model: str | Path | PreTrainedModel,
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Export ``model`` into the folder ``out`` as a bundle.

    Args:
        model: Hub id, local folder, or a model in memory (then with ``tokenizer``).
        out: The bundle's folder; must not exist, unless ``force``.
        recipe: Every choice; the default is fp32 and int8, validated.
        tokenizer: For a model in memory.
        force: Replace an existing bundle, once the new one is complete.
        progress: Shows and times the stages; silent where left out.

    Raises:
        UsageError: a wrong argument, model or task.
        ExportError: the model cannot be exported.
        ValidationError: fp32, or every variant that was asked for, differs too much; nothing is written.
    """
    recipe = recipe or Recipe()
    progress = progress or Progress(show=False)
    with BundleWriter(Path(out), force=force) as writer:
        with progress.stage("load", "Load the model"):
            source = load_source(model, recipe, tokenizer=tokenizer)
            recipe = recipe.settled(source.bits)
            head = ExportHead(source)
        progress.note(f"{type(source.model).__name__}, {_parameters(source)} parameters, task {source.task.name}")
        # A model that writes text is padded outside of what it sees, whatever its mask does.
        maskable = source.task.generates or _hides_padding(head, source, progress)
        try:
            made = _make(head, source, recipe, writer.directory, progress)
        except ExportError as e:
            if not _shapes_may_be_why(e, source, recipe):
                raise
            recipe = replace(recipe, fixed_shape=(1, min(source.max_length, _FIXED_LENGTH)))
            shape = "{}x{}".format(*recipe.fixed_shape or ())
            progress.note(f"{e} Trying for {shape} alone; --fixed-shape chooses another.")
            try:
                made = _make(head, source, recipe, writer.directory, progress)
            except ExportError as second:
                raise type(e)(f"{e} Nor does it work for {shape} alone: {second}") from second
        with progress.stage("package", "Write the bundle"):
            package.write_tokenizer(source, writer.directory)
            manifest = package.manifest(
                source,
                recipe,
                variants=made.variants,
                graph=made.graph,
                capture=made.capture,
                validation=made.validation,
                maskable_padding=maskable,
            )
            (writer.directory / "README.md").write_text(model_card(manifest), encoding="utf-8")
            manifest = writer.commit(manifest)
    return ExportResult(Path(out), manifest, made.refused, dict(progress.seconds))


@dataclass
class _Made:
    """What the stages between loading and packaging leave: files in the bundle's folder, and this."""

    graph: ir.Graph
    capture: Mapping[str, Any]
    validation: Mapping[str, Any] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def _make(head: ExportHead, source: Source, recipe: Recipe, directory: Path, progress: Progress) -> _Made:
    """Capture, optimize, and make and judge every variant."""
    generates = source.task.generates
    early = {p: c for p in recipe.precisions if (c := before_capture(p, recipe, generates=generates)) is not None}
    samples = [b.inputs for b in load_calibration(source, recipe, _ROUNDED_BY).batches(8)] if early else []
    reference = _run_original(head, source, recipe, progress)
    with progress.stage("capture", "Capture the graph"):
        captured = _capture(head, source, recipe)
    with progress.stage("optimize", "Optimize the graph"):
        base = run_passes(captured.model, PREPARE)
    made = _Made(base.graph, package.capture_record(captured, base))
    progress.note(_capture_note(made.capture))
    # The graph holds the model's own memory, and what is rounded before the capture is rounded in place: it comes last.
    for precision in sorted(recipe.precisions, key=lambda p: p in early):
        method = early.get(precision)
        with _graph_for(precision, method, samples, base, head, source, recipe, progress) as (graph, given):
            variant, verdict = _make_variant(precision, graph, given, source, recipe, reference, directory, progress)
        if verdict is None or verdict.passed:
            made.variants[precision] = variant
            continue
        made.refused[precision] = "; ".join(verdict.violations)
        progress.note(f"{precision} is refused: {made.refused[precision]}")
        for name in variant.graphs.values():
            for file in (name, f"{name}.data"):
                (directory / file).unlink(missing_ok=True)
    _require_something(made)
    made.validation = _validation_record(reference, made.refused)
    return made


@contextmanager
def _graph_for(
    precision: str,
    method: BeforeCapture | None,
    samples: Sequence[Mapping[str, Tensor]],
    base: ir.Model,
    head: ExportHead,
    source: Source,
    recipe: Recipe,
    progress: Progress,
) -> Iterator[tuple[ir.Model, Mapping[str, Quantized]]]:
    """The graph to make a variant of, and integers that its weights stand for: ``base``, with those of the checkpoint;
    or one captured anew after ``method`` has rounded the model, which has its own weights again afterwards."""
    if method is None:
        yield base, source.integers if precision == f"int{source.bits}" else {}
        return
    own = {name: weight.detach().clone() for name, weight in source.model.named_parameters()}
    try:
        with progress.stage(recipe.method, f"Round the weights by {recipe.method.upper()}"):
            given = quantize_before_capture(source.model, samples, method)
        with progress.stage("capture", "Capture the rounded graph"):
            rounded = run_passes(_capture(head, source, recipe).model, PREPARE)
        yield rounded, given
    finally:
        source.model.load_state_dict(own, strict=False)


def _capture(head: ExportHead, source: Source, recipe: Recipe) -> Captured:
    if source.task.generates:
        return capture_decoder(source.model, opset=recipe.opset)
    sample = capture_batch(source, recipe.fixed_shape)
    return capture(head, sample, opset=recipe.opset, fixed=recipe.fixed_shape is not None)


def _shapes_may_be_why(error: ExportError, source: Source, recipe: Recipe) -> bool:
    """Whether the same export might do for inputs of one shape: not if int8 alone was refused for its precision."""
    if source.task.generates:
        return False
    return recipe.fixed_shape is None and (not isinstance(error, ValidationError) or "fp32" in recipe.precisions)


def _run_original(head: ExportHead, source: Source, recipe: Recipe, progress: Progress) -> Reference | None:
    """The original's outputs, before anything is changed; None if nothing will be compared with them."""
    if not recipe.validate:
        return None
    with progress.stage("reference", "Run the original"):
        text = evaluation_text(source, recipe) if source.task.generates else None
        return make_reference(head, validation_batches(source, recipe.fixed_shape), text)


def _hides_padding(head: ExportHead, source: Source, progress: Progress) -> bool:
    with progress.stage("reference", "Look whether padding matters"):
        maskable = all(hides_padding(head, *pair) for pair in padding_batches(source))
    if not maskable:
        progress.note("the model notices padding in spite of the mask: the runtime pads no more than it must")
    return maskable


def _make_variant(
    precision: str,
    base: ir.Model,
    given: Mapping[str, Quantized],
    source: Source,
    recipe: Recipe,
    reference: Reference | None,
    directory: Path,
    progress: Progress,
) -> tuple[Variant, Verdict | None]:
    """Quantize, finish, save, and, with a reference, judge and time one variant."""
    name = f"model.{precision}.onnx"
    with progress.stage(precision, f"Make {precision}"):
        model = base.clone()
        note = quantize(model, precision, recipe, generates=source.task.generates, given=given)
        if source.integers and not given and precision.startswith("int"):
            note = f"rounded anew from the checkpoint's {source.bits} bits; {note}"
        model = run_passes(model, FINISH[precision])
        size = save_graph(model, directory / name)
        counts = operator_counts(model)
        del model
        return_freed_memory()
    measured: dict[str, Any] = {}
    verdict = None
    if reference is not None:
        with progress.stage("validate", f"Compare {precision} with the original"):
            run = _open(directory / name, base, source)
            verdict = validate(run, reference, source.task, recipe.limits[precision])
            measured["parity"] = {**verdict.figures.to_dict(), "limits": asdict(recipe.limits[precision])}
            if verdict.passed and reference.text is not None and isinstance(run, DecoderRunner):
                measured["quality"] = text_quality(run.predict, reference.text)
            measured["latency"] = {"milliseconds": _times(run, source, recipe), "provider": "cpu"}
            del run
            return_freed_memory()
    variant = Variant(
        precision=precision,
        graphs={"model": name},
        size_bytes=size,
        opset=recipe.opset,
        min_onnxruntime=MIN_ONNXRUNTIME[recipe.opset],
        providers=("cuda", "cpu") if precision == "fp16" else ("cpu",),
        operators=counts,
        notes=(note,),
        measured=measured,
    )
    return variant, verdict


def _open(path: Path, base: ir.Model, source: Source) -> Callable[[Batch], list[NDArray[np.float32]]]:
    """The graph on the CPU: a batch to its outputs."""
    if source.task.generates:
        return DecoderRunner(path, base.graph, source.task_options)
    return runner(path, source.task.outputs)


def _times(run: Callable[[Batch], list[NDArray[np.float32]]], source: Source, recipe: Recipe) -> dict[str, float]:
    """Median milliseconds, by batch x tokens or by what a text generator does."""
    batches = timing_batches(source, recipe.fixed_shape)
    if isinstance(run, DecoderRunner):
        return run.time([batch["input_ids"][0].tolist() for batch in batches])
    return {"x".join(map(str, b["input_ids"].shape)): round(time_run(run, b), 3) for b in batches}


def _require_something(made: _Made) -> None:
    if "fp32" in made.refused:
        raise ValidationError(f"the fp32 graph is not the original: {made.refused['fp32']}; nothing was written.")
    if not made.variants:
        listed = "; ".join(f"{k}: {v}" for k, v in made.refused.items())
        raise ValidationError(f"no variant came close enough to the original ({listed}); nothing was written.")


def _validation_record(reference: Reference | None, refused: dict[str, str]) -> dict[str, Any]:
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


_HOW = {
    "fused": "attention fused by construction",
    "written-out": "attention written out as plain operators",
    "fallback": "captured by transformers.exporters",
    "plugged": "attention and cache in one operator by construction",
    "appended": "attention written out, the cache appended to",
    "uncached": "without a cache: every token reads the whole text again",
}


def _capture_note(record: Mapping[str, Any]) -> str:
    fused = f", {record['fused_attentions']} attentions fused" if record["fused_attentions"] else ""
    return _HOW[record["path"]] + fused + (f": {record['reason']}" if record["reason"] else "")


def _parameters(source: Source) -> str:
    count = sum(p.numel() for p in source.model.parameters())
    return f"{count / 1e6:.1f}M"
