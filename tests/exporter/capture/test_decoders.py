"""Every decoder through capture, passes and the runtime's loop, against transformers. One line of ``DECODERS`` each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from architectures import tiny_model, tiny_tokenizer
from decoders import DECODERS, Decoder
from edgeport.generate import GenerationConfig, generate, open_decoder
from edgeport.session import open_plain_session
from edgeport_export.capture import capture_decoder
from edgeport_export.decoder_runner import DecoderRunner
from edgeport_export.head import ExportHead
from edgeport_export.passes import FINISH, PREPARE, run_passes
from edgeport_export.recipe import Recipe
from edgeport_export.samples import validation_batches
from edgeport_export.source import load_source

TOLERANCE = 1e-4
PROMPTS = ([20, 31, 42, 53, 64, 75, 86, 97, 33], [28, 50, 61], [99])
TOKENS = 64


@pytest.mark.parametrize("decoder", DECODERS, ids=str)
def test_writes_what_transformers_writes(decoder: Decoder, tmp_path: Path) -> None:
    model = tiny_model(decoder.model_type, "text-generation", **decoder.more)
    source = load_source(model, Recipe(task="text-generation"), tokenizer=tiny_tokenizer())
    captured = capture_decoder(model, opset=20)
    assert captured.path == decoder.form, captured.reason
    graph = run_passes(run_passes(captured.model, PREPARE), FINISH["fp32"])
    if decoder.form == "plugged":
        assert not captured.reason
        _check_attention(graph.graph)
    attentions = [node for node in graph.graph if node.op_type == "GroupQueryAttention"]
    if decoder.rotated:
        assert all(node.attributes["do_rotary"].as_int() for node in attentions)
    path = tmp_path / "model.onnx"
    ir.save(graph, path)

    _check_logits(DecoderRunner(path, source.task_options), source)
    loop = open_decoder(open_plain_session(path, threads=1), vocab_size=128, context_length=None)
    for options in ({}, {"num_beams": 3, "num_return_sequences": 2}):
        config = GenerationConfig(max_new_tokens=TOKENS, eos_token_id=2, **options)
        rows = generate(loop, PROMPTS, config)
        for number, prompt in enumerate(PROMPTS):
            ours = [list(row.tokens) for row in rows if row.prompt == number]
            assert ours == _written(model, prompt, options), (number, options)


def _check_attention(graph: ir.Graph) -> None:
    """One operator for each layer's cache, and none written out: what a router's softmax gives is never multiplied."""
    readers = {use.node.op_type for v in graph.inputs if str(v.name).startswith("past.") for use in v.uses()}
    assert readers - {"Shape"} == {"GroupQueryAttention"}
    for softmax in (node for node in graph if node.op_type == "Softmax"):
        assert not {"MatMul", "FusedMatMul"} & _readers(softmax.outputs[0])


def _readers(value: ir.Value) -> set[str]:
    """Operators that read ``value``, in whatever shape or type."""
    found = set()
    for use in value.uses():
        moved = use.node.op_type in ("Cast", "Reshape", "Transpose")
        found |= _readers(use.node.outputs[0]) if moved else {use.node.op_type}
    return found


def _check_logits(run: DecoderRunner, source: Any) -> None:
    """A prompt, several of different length, and steps after them."""
    head = ExportHead(source)
    for batch in validation_batches(source):
        real = batch["attention_mask"].astype(bool)
        (want,) = (t.numpy() for t in head.run(batch))
        (got,) = run(batch)
        assert got.shape == want.shape
        assert np.abs(got - want)[real].max() < TOLERANCE * max(1.0, float(np.abs(want).max()))


def _written(model: Any, prompt: list[int], options: dict[str, Any]) -> list[list[int]]:
    """The continuations by transformers, of a prompt alone."""
    with torch.no_grad():
        rows = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=TOKENS,
            eos_token_id=2,
            pad_token_id=1,
            bos_token_id=0,
            **options,
        )
    found = []
    for row in rows[:, len(prompt) :].tolist():
        end = row.index(2) + 1 if 2 in row else len(row)
        found.append(row[:end])
    return found
