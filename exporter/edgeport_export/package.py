"""The bundle's contents apart from the graphs: tokenizer, manifest, model card."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from edgeport import __version__
from edgeport.bundle import Manifest, ModelSource, TensorSpec, TextSpec, Variant
from edgeport.session import processor_name, usable_threads
from edgeport.session.kernels import PACKAGE, find_kernels
from tokenizers import Tokenizer

from edgeport_export.capture import Captured
from edgeport_export.recipe import Recipe
from edgeport_export.source import Source
from edgeport_export.versions import installed_versions

__all__ = ["capture_record", "machine", "manifest", "write_tokenizer"]

_ATTENTIONS = ("MultiHeadAttention", "GroupQueryAttention")
_ONNX_DTYPES = {ir.DataType.INT64: "int64", ir.DataType.INT32: "int32", ir.DataType.FLOAT: "float32"}


def write_tokenizer(source: Source, directory: Path) -> None:
    """Write tokenizer.json."""
    plain_tokenizer(source).save(str(directory / "tokenizer.json"))


def plain_tokenizer(source: Source) -> Tokenizer:
    """The tokenizer without the truncation and padding that somebody stored in it: the runtime does both."""
    backend = Tokenizer.from_str(source.tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def manifest(
    source: Source,
    recipe: Recipe,
    *,
    sha256: str,
    variants: Mapping[str, Variant],
    graph: ir.Graph,
    capture: Mapping[str, Any],
    validation: Mapping[str, Any],
    maskable_padding: bool,
) -> Manifest:
    """All that the bundle says of itself; ``files`` is for the writer to fill in."""
    return Manifest(
        task=source.task.name,
        source=_model_source(source, sha256),
        variants=variants,
        inputs=_tensor_specs(graph.inputs),
        outputs=_tensor_specs(graph.outputs),
        files={},
        text=_text_spec(source, recipe, maskable_padding=maskable_padding),
        labels=_labels(source),
        task_options=source.task_options,
        recipe=dataclasses.replace(recipe, task=source.task.name).to_dict(),
        pruning=source.pruning,
        capture=capture,
        validation=validation,
        versions=_tool_versions(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def capture_record(captured: Captured, prepared: ir.Model) -> dict[str, Any]:
    """How the graph came about; attention that a pass fused afterwards counts as well."""
    fused = sum(node.op_type in _ATTENTIONS for node in prepared.graph)
    return {"path": captured.path, "fused_attentions": fused, "reason": captured.reason}


def _text_spec(source: Source, recipe: Recipe, *, maskable_padding: bool) -> TextSpec:
    """How the runtime turns text into inputs."""
    tokenizer = source.tokenizer
    fixed_batch, fixed_length = recipe.fixed_shape or (None, None)
    return TextSpec(
        max_length=min(source.max_length, fixed_length or source.max_length),
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        pad_token=tokenizer.pad_token or "",
        pad_token_type_id=tokenizer.pad_token_type_id,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        special_tokens={k: str(v) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)},
        fixed_length=fixed_length,
        fixed_batch=fixed_batch,
        clean_up_tokenization_spaces=bool(getattr(tokenizer, "clean_up_tokenization_spaces", False)),
        maskable_padding=maskable_padding,
        add_prefix_space=bool(getattr(tokenizer, "add_prefix_space", False)),
    )


def _labels(source: Source) -> tuple[str, ...]:
    """Label of each class in the order of the logits; empty for tasks without labels."""
    if not source.task.has_labels:
        return ()
    names = {int(k): str(v) for k, v in source.config.id2label.items()}
    return tuple(names.get(i, f"LABEL_{i}") for i in range(source.config.num_labels))


def _model_source(source: Source, sha256: str) -> ModelSource:
    return ModelSource(
        id=source.id,
        architecture=type(source.model).__name__,
        model_type=source.config.model_type,
        revision=source.revision,
        sha256=source.pruning.get("original_sha256", sha256),
    )


def _tensor_specs(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
    """Name, dtype and shape of graph inputs or outputs."""
    return tuple(
        TensorSpec(
            name=str(v.name),
            dtype=_ONNX_DTYPES.get(v.dtype, str(v.dtype).lower()) if v.dtype is not None else "float32",
            shape=tuple(s if isinstance(s, int) else str(s.value or "?") for s in (v.shape or ())),
        )
        for v in values
    )


def _tool_versions() -> dict[str, str]:
    """Versions of what took part in the export."""
    found = {"edgeport": __version__, "python": platform.python_version()}
    return found | installed_versions(("torch", "transformers", "onnxruntime", "onnx-ir", "onnxscript", "tokenizers"))


def machine() -> Mapping[str, Any]:
    """What the latencies were measured on."""
    kernels = find_kernels()
    return {
        "processor": processor_name(),
        "system": platform.system(),
        "threads": usable_threads(),
        "kernels": f"{PACKAGE} {kernels.version}" if kernels is not None else None,
    }
