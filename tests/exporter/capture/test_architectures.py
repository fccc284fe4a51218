"""Every architecture through capture and passes, against torch. One line of ``ARCHITECTURES`` is one test."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from architectures import ARCHITECTURES, Architecture, tiny_model, tiny_tokenizer
from edgeport_export.capture import capture
from edgeport_export.head import ExportHead
from edgeport_export.passes import FINISH, PREPARE, run_passes
from edgeport_export.recipe import Recipe
from edgeport_export.samples import capture_batch, validation_batches
from edgeport_export.source import load_source

TOLERANCE = 1e-4


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_equals_torch(architecture: Architecture, tmp_path: Path) -> None:
    model = tiny_model(architecture.model_type, architecture.task, **architecture.more)
    source = load_source(model, Recipe(task=architecture.task), tokenizer=tiny_tokenizer())
    head = ExportHead(source)
    captured = capture(head, capture_batch(source), opset=20)
    graph = run_passes(run_passes(captured.model, PREPARE), FINISH["fp32"])

    operators = Counter(node.op_type for node in graph.graph)
    assert captured.path == architecture.path, captured.reason
    assert operators["MultiHeadAttention"] == architecture.attentions
    if architecture.path == "fused":
        assert operators["Softmax"] == 0
        assert not captured.reason
    else:
        assert captured.reason

    ir.save(graph, tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == list(source.task.outputs)
    for batch in validation_batches(source):
        taken = {value.name: batch[value.name] for value in session.get_inputs()}
        real = batch.get("attention_mask", np.ones_like(batch["input_ids"])).astype(bool)
        wanted = head.run(batch)
        for got, want, padded in zip(session.run(None, taken), wanted, source.task.padded, strict=True):
            assert got.shape == tuple(want.shape)
            # Relative to the largest output where that is more than one.
            difference = np.abs(got - want.numpy()) / max(1.0, want.abs().max().item())
            assert difference[real].max() < TOLERANCE if padded else difference.max() < TOLERANCE


@pytest.mark.parametrize("model_type", ["bert", "mpnet"])
def test_padding_would_show(model_type: str) -> None:
    """The tests above can fail: without the mask these models say something else."""
    source = load_source(
        tiny_model(model_type, "text-classification"), Recipe(task="text-classification"), tokenizer=tiny_tokenizer()
    )
    head = ExportHead(source)
    batch = dict(capture_batch(source))
    (with_mask,) = head.run(batch)
    (without,) = head.run({**batch, "attention_mask": np.ones_like(batch["attention_mask"])})
    assert torch.abs(with_mask - without).max() > 100 * TOLERANCE
