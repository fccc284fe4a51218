"""AWQ: what it may scale, that scaling changes nothing, and its integers from the torch model into the graph."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import numpy as np
import pytest
import torch
from architectures import tiny_model
from edgeport.errors import ExportError
from edgeport_export.capture import capture_decoder
from edgeport_export.passes import PREPARE, run_passes
from edgeport_export.quantize.awq import AWQ, awq
from edgeport_export.quantize.block_by_block import block_by_block, rows_of
from edgeport_export.quantize.blockwise import Grid, Quantized
from edgeport_export.quantize.round_to_nearest import RoundToNearest, round_to_nearest
from edgeport_export.quantize.weight_only import WeightOnly, quantize_weight_only
from torch import Tensor, nn

awq_module = importlib.import_module("edgeport_export.quantize.awq")  # the package has a function of this name

LLAMA = {"num_hidden_layers": 2, "hidden_size": 64, "num_key_value_heads": 2, "head_dim": 16}
GRIDS = [Grid(bits, 32, symmetric) for bits in (4, 8) for symmetric in (True, False)]


def decoder(model_type: str, **more: Any) -> Any:
    sizes: dict[str, dict[str, Any]] = {"gpt2": {"n_layer": 2, "n_embd": 64}, "opt": {"num_hidden_layers": 2}}
    return tiny_model(model_type, "text-generation", **sizes.get(model_type, LLAMA), **more)


def batches(rows: int = 8) -> list[dict[str, Tensor]]:
    ids = torch.randint(3, 120, (2, rows, 24), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": ids[0]}, {"input_ids": ids[1]}]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(**batches()[0]).logits


FOUND = {
    "gpt2": {
        "attn.c_attn": ("ln_1", "_divide_norm"),
        "attn.c_proj": ("attn.c_attn", "_divide_rows"),  # the last third of a joined projection
        "mlp.c_fc": ("ln_2", "_divide_norm"),
        "mlp.c_proj": None,  # behind GELU
    },
    "opt": {
        "self_attn.q_proj": ("self_attn_layer_norm", "_divide_norm"),
        "self_attn.out_proj": ("self_attn.v_proj", "_divide_rows"),
        "fc1": ("final_layer_norm", "_divide_norm"),
        "fc2": ("fc1", "_divide_rows"),  # behind ReLU
    },
    "llama": {
        "self_attn.q_proj": ("input_layernorm", "_divide_norm"),
        "self_attn.o_proj": ("self_attn.v_proj", "_divide_rows"),  # two heads for each of the values'
        "mlp.gate_proj": ("post_attention_layernorm", "_divide_norm"),
        "mlp.down_proj": ("mlp.up_proj", "_divide_rows"),
    },
    "gemma3_text": {
        "self_attn.q_proj": ("input_layernorm", "_divide_offset_norm"),  # multiplies by 1 + weight
        "self_attn.o_proj": ("self_attn.v_proj", "_divide_rows"),
        "mlp.gate_proj": ("pre_feedforward_layernorm", "_divide_offset_norm"),
        "mlp.down_proj": ("mlp.up_proj", "_divide_rows"),
    },
    "olmo2": {
        "self_attn.q_proj": None,  # reads the residual stream itself
        "self_attn.o_proj": ("self_attn.v_proj", "_divide_rows"),
        "mlp.gate_proj": None,
        "mlp.down_proj": ("mlp.up_proj", "_divide_rows"),
    },
}


@pytest.mark.parametrize("model_type", FOUND)
def test_what_makes_a_tensor_is_found(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder(model_type)
    before = logits(model)
    found: dict[str, tuple[str, str] | None] = {}
    search = awq_module._folds

    def folds(stream: Any, index: int, groups: Any, shared: Any) -> Any:
        result = search(stream, index, groups, shared)
        block = stream.blocks[index][1]
        names = {id(module): name for name, module in block.named_modules()}
        for group, fold in zip(groups, result, strict=True):
            found[names[id(group[0])]] = None if fold is None else (names[id(fold.maker)], fold.divide.__name__)
            if fold is not None:  # more than rounding could hide
                fold.apply(torch.linspace(0.5, 2, int(fold.spread[-1]) + 1))
        return [None] * len(result)

    monkeypatch.setattr(awq_module, "_folds", folds)
    monkeypatch.setattr(awq_module, "_clipped", lambda *_: pytest.fail("nothing is to be rounded"))
    awq(model, batches(), AWQ(keep_fp32="."))
    assert found == FOUND[model_type]
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sharing", [True, False])
def test_what_later_blocks_read_too_is_left_alone(sharing: bool) -> None:
    """Values that leave by a side door: the block's own output would not tell."""

    class Block(nn.Module):
        def __init__(self, shelf: list[Tensor]) -> None:
            super().__init__()
            self.first, self.second, self.shelf = nn.Linear(32, 32), nn.Linear(32, 32), shelf

        def forward(self, hidden: Tensor) -> Tensor:
            made = self.first(hidden)
            self.shelf.append(made)
            return self.second(made) + hidden

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shelf: list[Tensor] = []
            self.layers = nn.ModuleList([Block(self.shelf), Block(self.shelf)])

        def forward(self, hidden: Tensor) -> Tensor:
            self.shelf.clear()
            for layer in self.layers:
                hidden = layer(hidden)
            return hidden + (self.shelf[0] if sharing else 0)

    torch.manual_seed(0)
    model = Model().eval()
    inputs = [{"hidden": torch.randn(4, 32)}]
    first = model.layers[0].first.weight
    with torch.no_grad():  # what the second layer reads is of many sizes: worth scaling
        first.mul_(torch.logspace(0, 2, 32)[:, None])
    before = first.clone()
    awq(model, inputs, AWQ(keep_fp32="first"))
    assert torch.equal(first, before) is sharing


@pytest.mark.parametrize("grid", [*GRIDS, Grid(4, 128)], ids=str)
def test_the_outputs_err_less_than_without_scales_and_than_with_rounding(grid: Grid) -> None:
    """A norm with a few outputs that are large, as those of language models are."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(200), nn.Linear(200, 64))
    inputs = torch.randn(500, 200)
    with torch.no_grad():
        model[0].weight[::50] = 20
        want = model(inputs)
        rounded, clipped, scaled = (copy.deepcopy(model) for _ in range(3))
        rows = round_to_nearest(model[1].weight.numpy(), grid, RoundToNearest()).dequantized()
        rounded[1].weight.copy_(torch.from_numpy(rows))
        awq(clipped, [{"input": inputs}], AWQ(grid, steps=1))
        awq(scaled, [{"input": inputs}], AWQ(grid))
        errors = [float((m(inputs) - want).norm()) for m in (scaled, clipped, rounded)]
    assert torch.equal(clipped[0].weight, model[0].weight)
    assert errors[0] < 0.98 * errors[1]
    assert errors[1] < 0.7 * errors[2]


@pytest.mark.parametrize("symmetric", [True, False])
def test_clipping_minds_the_output_of_each_block(symmetric: bool) -> None:
    """Inputs that go together: their errors may cancel, which the weights alone do not show."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 96, generator=generator)
    mixed = torch.randn(600, 96, generator=generator) @ torch.block_diag(*torch.randn(3, 32, 32, generator=generator))
    grid = Grid(4, 32, symmetric)

    def error(quantized: Quantized) -> float:
        return float((mixed @ (torch.from_numpy(quantized.dequantized()) - rows).T).norm())

    clipped = awq_module._clipped(rows, mixed.T @ mixed, AWQ(grid))
    assert error(clipped) < 0.98 * error(round_to_nearest(rows.numpy(), grid, RoundToNearest()))


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma3_text"])
def test_the_model_computes_with_what_is_handed_over(model_type: str) -> None:
    model = decoder(model_type)
    before = logits(model)
    done: list[tuple[int, int]] = []
    given = awq(model, batches(), AWQ(Grid(8, 16)), lambda *at: done.append(at))
    assert done == [(1, 2), (2, 2)]
    after = dict(model.named_parameters())
    assert set(given) == {n for n, p in after.items() if p.ndim == 2 and (".0." in n or ".1." in n)}
    for name, quantized in given.items():
        rows = rows_of(model.get_submodule(name.removesuffix(".weight"))).detach().numpy()
        np.testing.assert_array_equal(rows, quantized.dequantized())
    assert 0 < (logits(model) - before).norm() / before.norm() < 0.05


def test_what_is_kept_in_fp32_is_not_rounded() -> None:
    model = decoder("llama")
    before = logits(model)
    assert awq(model, batches(), AWQ(keep_fp32=".")) == {}
    assert torch.equal(logits(model), before)
    given = awq(model, batches(), AWQ(keep_fp32="mlp|[qk]_proj"))
    assert {name.split(".")[-2] for name in given} == {"v_proj", "o_proj"}


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_the_graph_stores_the_integers_of_the_torch_model(model_type: str) -> None:
    model = decoder(model_type)
    given = awq(model, batches(), AWQ(Grid(4, 16, symmetric=False)))
    graph = run_passes(capture_decoder(model, opset=20).model, PREPARE)
    report = quantize_weight_only(graph, WeightOnly(Grid(8, 16), keep_fp32=r"wte|wpe|embed_tokens|lm_head"), given)
    from_torch = [n for n in graph.graph if n.op_type == "MatMulNBits" and n.attributes["bits"].as_int() == 4]
    stored = {row.tobytes() for n in from_torch for row in n.inputs[1].const_value.numpy()}
    assert {row.tobytes() for q in given.values() for row in q.packed()} == stored
    assert not [reason for reason in report.skipped.values() if reason.startswith("handed over")]


@pytest.mark.parametrize("twice", [True, False])
def test_what_stands_in_two_blocks_is_not_scaled(twice: bool) -> None:
    """It would keep the model's outputs, and change in the second block what was rounded with the first."""
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64)) for _ in range(2))
    with torch.no_grad():
        first[0].weight[::16] = 20
    model = nn.Sequential(nn.ModuleList([first, first if twice else second]))
    model.forward = lambda hidden: model[0][1](model[0][0](hidden))  # type: ignore[method-assign]
    before = first[0].weight.clone()
    awq(model, [{"hidden": torch.randn(50, 64)}], AWQ())
    assert torch.equal(first[0].weight, before) is twice


def test_it_needs_samples() -> None:
    with pytest.raises(ExportError, match="needs sample texts"):
        awq(nn.Linear(4, 4), [], AWQ())
    with pytest.raises(ExportError, match=r"float64, not float32: load the model in that"):
        block_by_block(nn.Linear(4, 4).double(), [{"input": torch.ones(1, 4).double()}], lambda *_: ())
