"""Heads and neurons of many architectures: found by probing, cut, exported; the same numbers as zeroing them gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny_model, tiny_tokenizer
from edgeport_export import export
from edgeport_export.head import ExportHead
from edgeport_export.prune.cut import cut, cuttable
from edgeport_export.prune.find import find_units
from edgeport_export.prune.units import Units, masked
from edgeport_export.pruning import Prune
from edgeport_export.recipe import Limits, Recipe
from edgeport_export.samples import capture_batch
from edgeport_export.source import Source, load_source
from torch import Tensor

LAYERS = {"num_hidden_layers": 2}
# model type, task, sizes, heads a layer, neurons a layer, the attention operator and how many
CASES = (
    ("bert", "text-classification", LAYERS, 4, 64, "MultiHeadAttention", 2),
    ("modernbert", "fill-mask", LAYERS, 4, 64, "MultiHeadAttention", 2),  # query, key, value packed; up and gate packed
    ("deberta-v2", "token-classification", LAYERS, 4, 64, "MultiHeadAttention", 2),
    ("eurobert", "token-classification", {**LAYERS, "num_key_value_heads": 2}, 2, 64, "MultiHeadAttention", 2),
    ("roformer", "text-classification", LAYERS, 4, 64, "MultiHeadAttention", 2),
    ("esm", "fill-mask", LAYERS, 4, 64, "MultiHeadAttention", 2),
    ("gpt2", "text-generation", {"n_layer": 2}, 4, 128, "GroupQueryAttention", 2),  # Conv1D
    ("llama", "text-generation", {**LAYERS, "num_key_value_heads": 2}, 2, 64, "GroupQueryAttention", 2),
    ("qwen3", "text-generation", LAYERS, 4, 64, "GroupQueryAttention", 2),
    ("codegen", "text-generation", {"n_layer": 2, "rotary_dim": 4}, 4, 128, "GroupQueryAttention", 2),  # interleaved
    ("phi3", "text-generation", LAYERS, 4, 64, "GroupQueryAttention", 2),  # counts heads in its configuration
    ("minicpm3", "text-generation", LAYERS, 4, 64, "GroupQueryAttention", 2),  # heads of a latent
    ("gemma2", "text-generation", {**LAYERS, "sliding_window": 4}, 2, 64, "GroupQueryAttention", 2),
)
IDS = [case[0] for case in CASES]


def source_for(model_type: str, task: str, more: dict[str, Any]) -> Source:
    return load_source(tiny_model(model_type, task, **more), Recipe(task=task), tokenizer=tiny_tokenizer())


def runner_for(source: Source) -> Callable[[], Tensor]:
    head = ExportHead(source)
    batch = {name: torch.from_numpy(array) for name, array in capture_batch(source).items()}

    def run() -> Tensor:
        with torch.inference_mode():
            return torch.cat([output.flatten() for output in head(*(batch[name] for name in head.names))])

    return run


def units_of(source: Source) -> tuple[list[Units], list[Units]]:
    inputs = {name: torch.from_numpy(array) for name, array in capture_batch(source).items()}
    return cuttable(source.model, find_units(source.model, inputs), runner_for(source))


@pytest.mark.parametrize(("model_type", "task", "more", "heads", "ffn", "_operator", "_count"), CASES, ids=IDS)
def test_cut_is_what_zeroing_gives(
    model_type: str, task: str, more: dict[str, Any], heads: int, ffn: int, _operator: str, _count: int
) -> None:
    source = source_for(model_type, task, more)
    run = runner_for(source)
    before = run()
    found, _ = units_of(source)
    assert torch.equal(run(), before)  # a trial leaves nothing behind
    assert [(u.kind, u.count) for u in found] == [("heads", heads), ("ffn", ffn)] * 2
    torch.manual_seed(0)
    masks = [torch.randperm(u.count) < max(1, u.count * (i + 2) // 8) for i, u in enumerate(found)]
    with masked(found, [mask.float() for mask in masks]):
        zeroed = run()
    assert (zeroed - before).abs().max() > 1e-2 * before.abs().max()
    for units, mask in zip(found, masks, strict=True):
        cut(units, mask.nonzero()[:, 0])
    torch.testing.assert_close(run(), zeroed, atol=1e-5 * float(zeroed.abs().max()), rtol=1e-5)


@pytest.mark.parametrize(("model_type", "task", "more", "heads", "_ffn", "operator", "count"), CASES, ids=IDS)
def test_odd_numbers_of_heads_export_and_fuse(
    model_type: str, task: str, more: dict[str, Any], heads: int, _ffn: int, operator: str, count: int, tmp_path: Path
) -> None:
    model = tiny_model(model_type, task, **more)
    recipe = Recipe(
        task=task,
        precisions=("fp32",),
        prune=Prune(heads=0.5 if heads == 2 else 0.4, ffn=0.4, importance="random", reconstruct=False),
        limits={"fp32": Limits(max_abs=1e-3, cosine=0.99999), "fp16": Limits(), "int8": Limits(), "int4": Limits()},
        seed=1,
    )
    manifest = export(model, tmp_path / "b", recipe, tokenizer=tiny_tokenizer()).manifest
    (variant,) = manifest.variants.values()
    assert variant.measured["parity"]["max_abs"] < 1e-4 * variant.measured["parity"]["rms"] * 10
    assert variant.operators.get(operator, 0) == count
    kept = manifest.pruning["heads"]
    assert sum(kept["by_layer"].values()) == kept["kept"] < kept["of"] == 2 * heads
    assert json.loads((tmp_path / "b" / "edgeport.json").read_text())["pruning"]["heads"] == kept
    assert "The original was pruned: removed" in (tmp_path / "b" / "README.md").read_text()
