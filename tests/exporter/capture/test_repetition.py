"""Layers that repeat are traced once: the graph is the one that tracing all of them gives."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from architectures import tiny_model, tiny_tokenizer
from edgeport_export.capture import capture, capture_decoder, tracing
from edgeport_export.capture.decoder_head import DecoderHead
from edgeport_export.capture.repetition import Repetition, find_repetition, shortened
from edgeport_export.head import ExportHead
from edgeport_export.passes import FINISH, PREPARE, run_passes
from edgeport_export.recipe import Recipe
from edgeport_export.samples import capture_batch
from edgeport_export.source import load_source
from torch import nn

LAYERS = 8
_WINDOWS = {
    "num_hidden_layers": 11,
    "sliding_window": 4,
    "layer_types": ["full_attention", *["sliding_attention", "full_attention"] * 5],
}
WRITERS: list[tuple[str, dict[str, Any], tuple[int, int]]] = [
    ("gpt2", {"n_layer": LAYERS}, (1, 1)),
    ("llama", {"num_hidden_layers": LAYERS}, (1, 1)),
    ("bart", {"decoder_layers": LAYERS, "is_decoder": True, "forced_eos_token_id": None}, (1, 1)),
    ("falcon", {"num_hidden_layers": LAYERS, "alibi": True, "multi_query": False}, (1, 1)),
    ("gemma2", _WINDOWS, (1, 2)),
]
READERS = ["bert", "distilbert", "fnet"]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Repetition | None]:
    """What was found to repeat, each time that something was looked at."""
    seen: list[Repetition | None] = []

    def find(*arguments: Any) -> Repetition | None:
        seen.append(find_repetition(*arguments))
        return seen[-1]

    monkeypatch.setattr(tracing, "find_repetition", find)
    return seen


@pytest.mark.parametrize(("model_type", "more", "form"), WRITERS, ids=[w[0] for w in WRITERS])
def test_writes_as_if_all_were_traced(
    model_type: str,
    more: dict[str, Any],
    form: tuple[int, int],
    found: list[Repetition | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model(model_type, "text-generation", **more)
    short = capture_decoder(model, opset=20)
    repetition = found[-1]
    assert repetition is not None
    assert (repetition.first, repetition.period) == form
    monkeypatch.setattr(tracing, "find_repetition", lambda *_: None)
    _check_same(short.model, capture_decoder(model, opset=20).model)


@pytest.mark.parametrize("model_type", READERS)
def test_reads_as_if_all_were_traced(
    model_type: str, found: list[Repetition | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "n_layers" if model_type == "distilbert" else "num_hidden_layers"
    model = tiny_model(model_type, "feature-extraction", **{name: LAYERS})
    source = load_source(model, Recipe(task="feature-extraction"), tokenizer=tiny_tokenizer())
    head, batch = ExportHead(source), capture_batch(source)
    short = capture(head, batch, opset=20)
    assert found[-1] is not None
    monkeypatch.setattr(tracing, "find_repetition", lambda *_: None)
    _check_same(short.model, capture(head, batch, opset=20).model)


def _check_same(short: ir.Model, whole: ir.Model) -> None:
    """Same inputs, outputs, weights and operators, and the same numbers out."""
    for a, b in (
        (short.graph.inputs, whole.graph.inputs),
        (short.graph.outputs, whole.graph.outputs),
    ):
        assert [(v.name, sorted(re.findall(r"\w+", str(v.shape)))) for v in a] == [
            (v.name, sorted(re.findall(r"\w+", str(v.shape)))) for v in b
        ]
    weights = [{n for n in model.graph.initializers if "lifted" not in n} for model in (short, whole)]
    assert weights[0] == weights[1]
    results = []
    for model in (short, whole):
        graph = run_passes(run_passes(model, PREPARE), FINISH["fp32"])
        results.append((Counter(n.op_type for n in graph.graph if n.op_type != "Constant"), _run(graph)))
    (a_operators, a_outputs), (b_operators, b_outputs) = results
    assert a_operators == b_operators
    assert len(a_outputs) == len(whole.graph.outputs)
    for a, b in zip(a_outputs, b_outputs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1.0, float(np.abs(b).max())))


def _run(graph: ir.Model) -> list[np.ndarray[Any, Any]]:
    """The outputs for three tokens, behind five others where there is a cache."""
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    sizes = {"batch": 1, "past": 8}
    known = {
        "input_ids": np.array([[20, 31, 42]]),
        "attention_mask": np.array([[1, 1, 1]]),
        "token_type_ids": np.array([[0, 0, 0]]),
        "logits_at": np.array([[0, 1, 2]]),
        "position_ids": np.array([[5, 6, 7]]),
        "last": np.array([7], np.int32),
        "total": np.array(8, np.int32),
    }
    for value in session.get_inputs():
        if value.name.startswith("past."):
            shape = [sizes.get(size, size) for size in value.shape]
            known[value.name] = random.standard_normal(shape).astype(np.float32)
    return session.run(None, {value.name: known[value.name] for value in session.get_inputs()})


class _Block(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.factor = factor

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.linear(hidden) * self.factor


class _Stack(nn.Module):
    """Layers, and what may be done around them."""

    def __init__(self, factors: list[float], kind: str = "") -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block(factor) for factor in factors)
        self.kind = kind

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        masks = [hidden * 0.5, hidden * 0.25]
        kept = []
        for number, layer in enumerate(self.layers):
            if self.kind == "one mask for the sixth":
                hidden = hidden + masks[number == 5]
            if self.kind == "two back" and number > 2:
                hidden = hidden + kept[number - 2]
            hidden = layer(hidden)
            kept.append(hidden)
            if self.kind == "the first again":
                hidden = hidden + kept[0]
        if self.kind == "a layer twice":
            hidden = self.layers[3](hidden)
        return hidden


@pytest.mark.parametrize(
    ("factors", "kind", "expected"),
    [
        ([2.0] * 8, "", (1, 1)),
        ([1.0, 3.0, *[2.0] * 8], "", (2, 1)),
        ([2.0] * 7 + [3.0], "", None),
        ([float(n) for n in range(8)], "", None),
        ([2.0] * 5, "", None),
        ([2.0, *[3.0, 4.0, 5.0] * 4], "", (1, 3)),
        ([5.0, 2.0, *[3.0, 4.0] * 5], "", (2, 2)),
        ([2.0] * 8, "one mask for the sixth", None),
        ([2.0] * 8, "two back", None),
        ([2.0] * 8, "the first again", (2, 1)),
        ([2.0] * 8, "a layer twice", None),
    ],
)
def test_what_repeats(factors: list[float], kind: str, expected: tuple[int, int] | None) -> None:
    with torch.no_grad():
        repetition = find_repetition(_Stack(factors, kind), ["hidden"], [torch.ones(2, 4)])
    assert (repetition and (repetition.first, repetition.period)) == expected


def test_a_shortened_model_is_whole_again() -> None:
    stack = _Stack([2.0] * 8)
    repetition = Repetition("layers", 8, 1, 1)
    with shortened(stack, repetition):
        assert len(stack.layers) == 3
        assert stack(torch.ones(2, 4)).shape == (2, 4)
    assert len(stack.layers) == 8


def test_a_head_of_fewer_layers_has_less_of_a_cache() -> None:
    head = DecoderHead(tiny_model("gpt2", "text-generation", n_layer=3), "plugged", [((4, 8), (4, 8))] * 3)
    short = head.of_layers(2)
    assert short.names == [name for name in head.names if not name.startswith("past.2.")]
    assert short.outputs == [name for name in head.outputs if not name.startswith("present.2.")]
    assert len(head.cache) == 3
