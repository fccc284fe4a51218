"""The export, from a model to a bundle: the stages in order, and nothing of their insides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from edgeport.bundle import BundleWriter, Manifest, Variant
from edgeport.errors import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from edgeport_export import package
from edgeport_export.capture import Captured, capture
from edgeport_export.card import model_card
from edgeport_export.graph_io import MIN_ONNXRUNTIME, operator_counts, runner, save_graph, time_run
from edgeport_export.head import ExportHead
from edgeport_export.passes import FINISH, PREPARE, run_passes
from edgeport_export.progress import Progress
from edgeport_export.quantize import quantize
from edgeport_export.recipe import Recipe
from edgeport_export.samples import Batch, capture_batch, padding_batches, timing_batches, validation_batches
from edgeport_export.source import Source, load_source
from edgeport_export.validate import Reference, Verdict, hides_padding, make_reference, validate

__all__ = ["ExportResult", "export"]


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
            head = ExportHead(source)
        progress.note(f"{type(source.model).__name__}, {_parameters(source)} parameters, task {source.task.name}")
        reference = None
        with progress.stage("reference", "Run the original"):
            if recipe.validate:
                reference = make_reference(head, validation_batches(source, recipe.fixed_shape))
            maskable = all(hides_padding(head, *pair) for pair in padding_batches(source))
        if not maskable:
            progress.note("the model notices padding in spite of the mask: the runtime will not pad")
        with progress.stage("capture", "Capture the graph"):
            sample = capture_batch(source, recipe.fixed_shape)
            captured = capture(head, sample, opset=recipe.opset, fixed=recipe.fixed_shape is not None)
        progress.note(_capture_note(captured))
        with progress.stage("optimize", "Optimize the graph"):
            base = run_passes(captured.model, PREPARE)
        variants: dict[str, Variant] = {}
        refused: dict[str, str] = {}
        for precision in recipe.precisions:
            variant, verdict = _make_variant(precision, base, source, recipe, reference, writer.directory, progress)
            if verdict is None or verdict.passed:
                variants[precision] = variant
                continue
            refused[precision] = "; ".join(verdict.violations)
            progress.note(f"{precision} is refused: {refused[precision]}")
            for name in variant.graphs.values():
                for file in (name, f"{name}.data"):
                    (writer.directory / file).unlink(missing_ok=True)
        _require_something(variants, refused)
        with progress.stage("package", "Write the bundle"):
            package.write_tokenizer(source, writer.directory)
            manifest = Manifest(
                task=source.task.name,
                source=package.model_source(source),
                variants=variants,
                inputs=package.tensor_specs(base.graph.inputs),
                outputs=package.tensor_specs(base.graph.outputs),
                files={},
                text=package.text_spec(source, recipe, maskable_padding=maskable),
                labels=package.labels(source),
                task_options=source.task_options,
                recipe=replace(recipe, task=source.task.name).to_dict(),
                capture={"path": captured.path, "fused_attentions": captured.attentions, "reason": captured.reason},
                validation=_validation_record(reference, refused),
                versions=package.tool_versions(),
                created=package.created_now(),
            )
            (writer.directory / "README.md").write_text(model_card(manifest), encoding="utf-8")
            manifest = writer.commit(manifest)
    return ExportResult(Path(out), manifest, refused, dict(progress.seconds))


def _make_variant(
    precision: str,
    base: ir.Model,
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
        note = quantize(model, precision, recipe)
        model = run_passes(model, FINISH[precision])
        size = save_graph(model, directory / name)
        counts = operator_counts(model)
        del model
    measured: dict[str, Any] = {}
    verdict = None
    if reference is not None:
        with progress.stage("validate", f"Compare {precision} with the original"):
            run = runner(directory / name, source.task.outputs)
            verdict = validate(run, reference, source.task, recipe.limits[precision])
            measured["parity"] = {**verdict.figures.to_dict(), "limits": asdict(recipe.limits[precision])}
            measured["latency"] = _latency(run, timing_batches(source, recipe.fixed_shape))
            del run
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


def _latency(run: Any, batches: Sequence[Batch]) -> dict[str, Any]:
    """Median milliseconds by batch x tokens."""
    timed = {"x".join(map(str, b["input_ids"].shape)): round(time_run(run, b), 3) for b in batches}
    return {"milliseconds": timed, "provider": "cpu"}


def _require_something(variants: dict[str, Variant], refused: dict[str, str]) -> None:
    if "fp32" in refused:
        raise ValidationError(f"the fp32 graph is not the original: {refused['fp32']}; nothing was written.")
    if not variants:
        listed = "; ".join(f"{k}: {v}" for k, v in refused.items())
        raise ValidationError(f"no variant came close enough to the original ({listed}); nothing was written.")


def _validation_record(reference: Reference | None, refused: dict[str, str]) -> dict[str, Any]:
    if reference is None:
        return {"performed": False}
    return {
        "performed": True,
        "against": "the original in PyTorch, fp32",
        "batches": len(reference.batches),
        "rows": sum(b["input_ids"].shape[0] for b in reference.batches),
        "shapes": [list(b["input_ids"].shape) for b in reference.batches],
        "refused": refused,
        "machine": package.machine(),
    }


def _capture_note(captured: Captured) -> str:
    if captured.path == "fused":
        return f"{captured.attentions} attentions fused by construction"
    how = {"written-out": "attention written out as plain operators", "fallback": "captured by transformers.exporters"}
    return f"{how[captured.path]}: {captured.reason}"


def _parameters(source: Source) -> str:
    count = sum(p.numel() for p in source.model.parameters())
    return f"{count / 1e6:.1f}M"
