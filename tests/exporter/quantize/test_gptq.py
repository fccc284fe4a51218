"""GPTQ against rounding to nearest, and its integers from the torch model into the graph."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from architectures import tiny_model
from edgeport.errors import ExportError
from edgeport_export.capture import capture_decoder
from edgeport_export.passes import PREPARE, run_passes
from edgeport_export.quantize.blockwise import Grid, Quantized
from edgeport_export.quantize.gptq import GPTQ, gptq, solve
from edgeport_export.quantize.round_to_nearest import RoundToNearest, round_to_nearest
from edgeport_export.quantize.weight_only import WeightOnly, quantize_weight_only
from torch import Tensor, nn

GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(48, 200, generator=GENERATOR)
MIXING = torch.randn(200, 200, generator=GENERATOR) * torch.logspace(0, -2, 200)[:, None]
INPUTS = torch.randn(2000, 200, generator=GENERATOR) @ MIXING  # correlated: a few directions carry most
GRIDS = [Grid(bits, 32, symmetric) for bits in (4, 8) for symmetric in (True, False)]


def output_error(quantized: Quantized) -> float:
    return float((INPUTS @ (torch.from_numpy(quantized.dequantized()) - WEIGHT).T).norm())


@pytest.mark.parametrize("by_activity", [True, False])
@pytest.mark.parametrize("grid", [*GRIDS, Grid(4, 128)], ids=str)
def test_the_outputs_err_less_than_with_rounding(grid: Grid, by_activity: bool) -> None:
    quantized = solve(WEIGHT, INPUTS.T @ INPUTS, GPTQ(grid, by_activity=by_activity))
    rounded = round_to_nearest(WEIGHT.numpy(), grid, RoundToNearest())
    assert output_error(quantized) < 0.6 * output_error(rounded)
    assert quantized.integers.shape == rounded.integers.shape


def test_without_correlation_it_is_rounding_to_nearest() -> None:
    quantized = solve(WEIGHT, torch.eye(200), GPTQ())
    rounded = round_to_nearest(WEIGHT.numpy(), Grid(), RoundToNearest())
    np.testing.assert_array_equal(quantized.integers, rounded.integers)
    np.testing.assert_allclose(quantized.scales, rounded.scales, rtol=1e-5)


def test_inputs_that_are_never_active_keep_their_weights() -> None:
    moments = INPUTS.T @ INPUTS
    moments[70:90], moments[:, 70:90] = 0, 0
    quantized = solve(WEIGHT, moments, GPTQ())
    kept = torch.from_numpy(quantized.dequantized())[:, 70:90]
    assert (kept - WEIGHT[:, 70:90]).norm() < 0.2 * WEIGHT[:, 70:90].norm()


def batches(rows: int = 8) -> list[dict[str, Tensor]]:
    ids = torch.randint(3, 120, (2, rows, 24), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": ids[0]}, {"input_ids": ids[1]}]


def decoder(model_type: str) -> Any:
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "num_key_value_heads": 4, "head_dim": 16}
    more: dict[str, dict[str, Any]] = {
        "gpt2": {"n_layer": 2, "n_embd": 64},
        "llama": sizes,
        "gemma3_text": sizes | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    }
    return tiny_model(model_type, "text-generation", **more[model_type])


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma3_text"])
def test_the_model_computes_with_what_is_handed_over(model_type: str) -> None:
    model = decoder(model_type)
    before = copy.deepcopy(model.state_dict())
    done: list[tuple[int, int]] = []
    given = gptq(model, batches(), GPTQ(Grid(4, 16)), lambda *at: done.append(at))
    assert done == [(1, 2), (2, 2)]
    after = dict(model.named_parameters())
    layers = {n for n, p in after.items() if p.ndim == 2 and (".0." in n or ".1." in n)}
    assert set(given) == layers
    for name, parameter in after.items():
        if name in given:
            rows = given[name].dequantized()
            assert (parameter.detach().numpy() == (rows.T if model_type == "gpt2" else rows)).all()
            assert 0 < (parameter - before[name]).norm() / before[name].norm() < 0.3
        else:
            assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("model_type", ["gpt2", "gemma3_text"])
def test_block_by_block_is_what_the_whole_model_gives(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = gptq(decoder(model_type), batches(), GPTQ())
    monkeypatch.setattr(
        "edgeport_export.quantize.block_stream.BlockStream._record", lambda self: setattr(self, "chained", False)
    )
    slow = gptq(decoder(model_type), batches(), GPTQ())
    assert set(fast) == set(slow)
    for name, quantized in fast.items():
        np.testing.assert_array_equal(quantized.integers, slow[name].integers)


def test_a_model_without_blocks_is_one_block() -> None:
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    given = gptq(model, [{"input": torch.randn(50, 32, generator=GENERATOR)}], GPTQ(keep_fp32=r"^2\."))
    assert list(given) == ["0.weight"]


def test_what_it_cannot_do_is_said() -> None:
    with pytest.raises(ExportError, match="sample texts"):
        gptq(nn.Linear(4, 4), [], GPTQ())
    with pytest.raises(ExportError, match=r"float64.*load the model in that"):
        gptq(nn.Linear(4, 4).double(), [{"input": torch.ones(1, 4).double()}], GPTQ())


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_the_graph_stores_the_integers_of_the_torch_model(model_type: str) -> None:
    """Through capture and every pass: transposed, joined to one projection, and found again."""
    model = decoder(model_type)
    given = gptq(model, batches(), GPTQ(Grid(4, 16, symmetric=False)))
    graph = run_passes(capture_decoder(model, opset=20).model, PREPARE)
    want = logits(graph)
    tables = r"wte|wpe|embed_tokens|lm_head"
    report = quantize_weight_only(graph, WeightOnly(Grid(8, 16), accuracy_level=1, keep_fp32=tables), given)
    products = [n for n in graph.graph if n.op_type == "MatMulNBits"]
    from_torch = [n for n in products if n.attributes["bits"].as_int() == 4]
    stored = {row.tobytes() for n in from_torch for row in n.inputs[1].const_value.numpy()}
    assert all(row.tobytes() in stored for q in given.values() for row in q.packed())
    assert sum(n.attributes["N"].as_int() for n in from_torch) == sum(len(q.scales) for q in given.values())
    assert not [reason for reason in report.skipped.values() if reason.startswith("handed over")]
    np.testing.assert_allclose(logits(graph), want, atol=1e-5)


def logits(graph: ir.Model) -> np.ndarray:
    """Three new tokens after a past of five."""
    generator = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    known = {
        "input_ids": np.array([[5, 6, 7]]),
        "logits_at": np.array([[0, 1, 2]]),
        "position_ids": np.array([[5, 6, 7]]),
        "last": np.array([7], np.int32),
        "total": np.array(8, np.int32),
    }
    taken = {i.name: i.shape for i in session.get_inputs()}
    past = {name: shape for name, shape in taken.items() if name not in known}
    feeds = {n: v for n, v in known.items() if n in taken} | {
        n: generator.normal(size=(1, s[1], 5, s[3])).astype(np.float32) for n, s in past.items()
    }
    return session.run(["logits"], feeds)[0]
