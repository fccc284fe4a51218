"""Rotation inside the attention: to the last token of the context, and only where a table can hold it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from architectures import tiny_model
from edgeport.generate import open_decoder
from edgeport.session import open_plain_session
from edgeport_export.capture import capture_decoder
from edgeport_export.passes import FINISH, PREPARE, run_passes

CONTEXT = 300
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 100,
    "factor": 3.0,
}


def make(**more: Any) -> tuple[Any, ir.Model]:
    options = {"num_hidden_layers": 2, "head_dim": 16, "max_position_embeddings": CONTEXT, **more}
    model = tiny_model("llama", "text-generation", **options)
    return model, run_passes(run_passes(capture_decoder(model, opset=20).model, PREPARE), FINISH["fp32"])


def rotations(model: ir.Model) -> tuple[int, int]:
    """Attentions that rotate, and rotations by operators of their own."""
    inside = [n for n in model.graph if "do_rotary" in n.attributes and n.attributes["do_rotary"].as_int()]
    return len(inside), sum(n.op_type == "RotaryEmbedding" for n in model.graph)


def test_the_last_token_of_the_context_is_rotated_too(tmp_path: Path) -> None:
    model, graph = make()
    assert rotations(graph) == (2, 0)
    assert "position_ids" not in [v.name for v in graph.graph.inputs]
    assert not [n for n in graph.graph if n.op_type == "Split" and "GroupQueryAttention" in str(n.outputs[0].uses())]
    ir.save(graph, tmp_path / "model.onnx")
    session = open_plain_session(tmp_path / "model.onnx", threads=1)
    loop = open_decoder(session, vocab_size=128, context_length=CONTEXT)
    tokens = np.random.default_rng(0).integers(3, 128, CONTEXT).tolist()
    with torch.no_grad():
        want = model(input_ids=torch.tensor([tokens])).logits[0].numpy()
    got = [loop.start([tokens[:290]])[0], *(loop.step(np.array([token]))[0] for token in tokens[290:])]
    np.testing.assert_allclose(np.stack(got), want[289:], atol=1e-4)


@pytest.mark.parametrize(
    "more",
    [
        {"rope_parameters": LONGROPE},  # frequencies by the text's length
        {"max_position_embeddings": 2**20},  # a table of 64 MB, for a model of 100 kB
        {"head_dim": 8},  # not by the operator
    ],
    ids=["longrope", "long", "narrow"],
)
def test_what_no_table_can_hold_stays_outside(more: dict[str, Any]) -> None:
    _, graph = make(**more)
    assert rotations(graph) == (0, 4)
