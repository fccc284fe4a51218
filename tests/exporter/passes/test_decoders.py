"""What is left of models that write text: one layer of each, node by node.

That they still compute the same is tested in ``tests/exporter/capture/test_decoders.py``.
"""

from __future__ import annotations

from collections import Counter

import pytest
from architectures import tiny_model
from edgeport_export.capture import capture_decoder
from edgeport_export.passes import FINISH, PREPARE, run_passes

_SWIGLU = "Split Sigmoid Mul Mul MatMul Add"
LAYERS = {
    "llama": f"Norm MatMul Split Rotary Rotary Attention MatMul Add Norm MatMul {_SWIGLU}",
    "phi3": f"Norm MatMul Split Rotary Rotary Attention MatMul Add Norm MatMul {_SWIGLU}",
    "glm": f"Norm MatMul Add Split Rotary Rotary Attention MatMul Add Norm MatMul {_SWIGLU}",
    # The norms of single heads, between the two shapes of their rows.
    "qwen3": "Norm MatMul Split Reshape Norm Reshape Rotary Reshape Norm Reshape Rotary Attention MatMul Add "
    f"Norm MatMul {_SWIGLU}",
    "gemma3_text": "Norm MatMul Split Reshape Norm Reshape Rotary Reshape Norm Reshape Rotary Attention MatMul Norm "
    "Add Norm MatMul Split Gelu Mul MatMul Norm Add",
    # Attention and the two layers behind it side by side.
    "cohere": "LayerNorm MatMul Split Rotary Rotary Attention MatMul Sigmoid Mul Mul MatMul Add Add",
    "gpt_neox": "LayerNorm MatMul Add Split Rotary Rotary Attention MatMul Add LayerNorm MatMul BiasGelu MatMul Add "
    "Add Add",
    "gpt2": "LayerNorm MatMul Add Attention MatMul Add Add LayerNorm MatMul FastGelu MatMul Add Add",
}
_SHORT = {
    "GroupQueryAttention": "Attention",
    "LayerNormalization": "LayerNorm",
    "RotaryEmbedding": "Rotary",
    "SimplifiedLayerNormalization": "Norm",
}


@pytest.mark.parametrize("model_type", LAYERS)
def test_a_layer_has_no_more_operators_than_it_must(model_type: str) -> None:
    layers = [_operators(model_type, number) for number in (1, 2)]
    assert layers[1] - layers[0] == Counter(LAYERS[model_type].split())


def _operators(model_type: str, layers: int) -> Counter[str]:
    name = "n_layer" if model_type == "gpt2" else "num_hidden_layers"
    more = {"layer_types": ["full_attention"] * layers} if model_type == "gemma3_text" else {}
    model = tiny_model(model_type, "text-generation", **{name: layers}, **more)
    captured = capture_decoder(model, opset=20)
    graph = run_passes(run_passes(captured.model, PREPARE), FINISH["fp32"]).graph
    return Counter(_SHORT.get(node.op_type, node.op_type) for node in graph)
