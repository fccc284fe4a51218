"""The export, from a model to a bundle: the stages in order, and nothing of their insides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from edgeport.bundle import BundleWriter, Manifest, Variant
from edgeport.errors import ExportError, ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from edgeport_export import package
from edgeport_export.card import model_card
from edgeport_export.head import ExportHead
from edgeport_export.progress import Progress
from edgeport_export.prune import prune
from edgeport_export.recipe import Recipe
from edgeport_export.samples import padding_batches
from edgeport_export.source import Source, load_source
from edgeport_export.sparsify import sparsify
from edgeport_export.validate import hides_padding
from edgeport_export.variants import make_variant, prepare, remove_variant, validation_record

__all__ = ["ExportResult", "export"]

_FIXED_LENGTH = 512
"""Tokens, at most, of the one shape that is tried for a model that cannot be captured for all shapes."""


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
        recipe: Every choice; the default is fp32 and int8, of models that write text int8 alone, validated.
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
            recipe = recipe.settled(source.bits, generates=source.task.generates)
            head = ExportHead(source)
        progress.note(f"{type(source.model).__name__}, {_parameters(source)} parameters, task {source.task.name}")
        prune(source, recipe, progress)
        sparsify(source, recipe, progress)
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
                sha256=made.sha256,
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
    sha256: str
    capture: Mapping[str, Any]
    validation: Mapping[str, Any] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def _make(head: ExportHead, source: Source, recipe: Recipe, directory: Path, progress: Progress) -> _Made:
    """Prepare the model, and make and judge every variant."""
    prepared = prepare(head, source, recipe, progress)
    made = _Made(prepared.graph.graph, prepared.sha256, prepared.capture)
    progress.note(_capture_note(made.capture))
    # The graph holds the model's own memory, and what is rounded before the capture is rounded in place: it comes last.
    for precision in sorted(recipe.precisions, key=lambda p: prepared.rounding(p, recipe) is not None):
        variant, verdict = make_variant(prepared, precision, recipe, directory, progress)
        if verdict is None or verdict.passed:
            made.variants[precision] = variant
            continue
        made.refused[precision] = "; ".join(verdict.violations)
        progress.note(f"{precision} is refused: {made.refused[precision]}")
        remove_variant(variant, directory)
    _require_something(made)
    made.validation = validation_record(prepared.reference, made.refused)
    return made


def _shapes_may_be_why(error: ExportError, source: Source, recipe: Recipe) -> bool:
    """Whether the same export might do for inputs of one shape: not if int8 alone was refused for its precision."""
    if source.task.generates:
        return False
    return recipe.fixed_shape is None and (not isinstance(error, ValidationError) or "fp32" in recipe.precisions)


def _hides_padding(head: ExportHead, source: Source, progress: Progress) -> bool:
    with progress.stage("reference", "Look whether padding matters"):
        maskable = all(hides_padding(head, *pair) for pair in padding_batches(source))
    if not maskable:
        progress.note("the model notices padding in spite of the mask: the runtime pads no more than it must")
    return maskable


def _require_something(made: _Made) -> None:
    if "fp32" in made.refused:
        raise ValidationError(f"the fp32 graph is not the original: {made.refused['fp32']}; nothing was written.")
    if not made.variants:
        listed = "; ".join(f"{k}: {v}" for k, v in made.refused.items())
        raise ValidationError(
            f"no variant came close enough to the original ({listed}); nothing was written. --precision fp32 leaves "
            "weights as they are, --keep-fp32 REGEX those that it finds."
        )


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
