"""Zeros by each method: as torch and plain loops make them, in whole models, and through quantization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import edgeport
import numpy as np
import onnx_ir as ir
import pytest
import torch
from architectures import tiny_model, tiny_tokenizer
from edgeport.cli import main
from edgeport.errors import UsageError
from edgeport_export import export
from edgeport_export.pruning import Sparsity
from edgeport_export.quantize.block_by_block import rows_of
from edgeport_export.quantize.blockwise import Grid
from edgeport_export.quantize.gptq import GPTQ, solve
from edgeport_export.quantize.hqq import HalfQuadratic, half_quadratic
from edgeport_export.quantize.round_to_nearest import RoundToNearest, round_to_nearest
from edgeport_export.recipe import Recipe
from edgeport_export.source import load_source
from edgeport_export.sparsify import sparsify
from edgeport_export.sparsify.magnitude import magnitude
from edgeport_export.sparsify.sparsegpt import sparsegpt
from edgeport_export.sparsify.wanda import wanda
from torch import Tensor, nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils.prune import l1_unstructured
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(64, 192, generator=GENERATOR)
MIXING = torch.randn(192, 192, generator=GENERATOR) * torch.logspace(0, -2, 192)[:, None]
SIZES_OF_INPUTS = torch.logspace(0, -1.5, 192)[torch.randperm(192, generator=GENERATOR)]
INPUTS = torch.randn(3000, 192, generator=GENERATOR) @ MIXING * SIZES_OF_INPUTS  # correlated, and of many sizes
MOMENTS = INPUTS.T @ INPUTS
METHODS = {"magnitude": magnitude, "wanda": wanda, "sparsegpt": sparsegpt}
HALF, PAIRS = Sparsity("0.5"), Sparsity("2:4")


def output_error(rows: Tensor) -> float:
    return float((INPUTS @ (rows - WEIGHT).T).norm() / (INPUTS @ WEIGHT.T).norm())


def layer_of(rows: Tensor) -> nn.Linear:
    layer = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
    layer.weight = nn.Parameter(rows.clone())
    return layer


def test_magnitude_is_torch_s() -> None:
    pruned = l1_unstructured(layer_of(WEIGHT), "weight", amount=0.3)
    torch.testing.assert_close(magnitude(WEIGHT, None, Sparsity("0.3")), pruned.weight)
    model = nn.Sequential(layer_of(WEIGHT))
    sparsifier = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    sparsifier.squash_mask()
    torch.testing.assert_close(magnitude(WEIGHT, None, PAIRS), model[0].weight)


@pytest.mark.parametrize("amount", ["0.7", "4:8"])
def test_wanda_by_loops(amount: str) -> None:
    found = wanda(WEIGHT, MOMENTS, Sparsity(amount)).numpy()
    lengths = np.sqrt((INPUTS.numpy() ** 2).sum(0))
    for row, made in zip(WEIGHT.numpy(), found, strict=True):
        scores = np.abs(row) * lengths
        wanted = row.copy()
        for start, stop, gone in [(0, 192, 134)] if amount == "0.7" else [(i, i + 8, 4) for i in range(0, 192, 8)]:
            wanted[start + np.argsort(scores[start:stop])[:gone]] = 0
        np.testing.assert_array_equal(made, wanted)


@pytest.mark.parametrize("amount", ["0.5", "0.8", "2:4", "1:4"])
def test_sparsegpt_by_an_inverse_for_every_input(amount: str) -> None:
    """What the paper's algorithm says, with the inverse of what is left computed anew each time."""
    sparsity = Sparsity(amount)
    hessian = MOMENTS.double().numpy()
    hessian = hessian / hessian.diagonal().mean() + 0.01 * np.eye(192)
    inverses = [np.linalg.inv(hessian[at:, at:]) for at in range(192)]
    left, gone = WEIGHT.double().numpy().copy(), np.zeros(WEIGHT.shape, bool)
    for at in range(192):
        if sparsity.share is not None and at % 128 == 0:
            stop = min(at + 128, 192)
            scores = left[:, at:stop] ** 2 / np.array([inverses[i][0, 0] for i in range(at, stop)])
            count = round(scores.size * sparsity.share)
            gone[:, at:stop] = scores <= np.partition(scores.ravel(), count - 1)[count - 1]
        elif sparsity.pattern is not None and at % 4 == 0:
            scores = left[:, at : at + 4] ** 2 / np.array([inverses[i][0, 0] for i in range(at, at + 4)])
            order = np.argsort(scores, axis=1)[:, : 4 - sparsity.pattern[0]]
            np.put_along_axis(gone[:, at : at + 4], order, True, axis=1)
        error = np.where(gone[:, at], left[:, at], 0) / inverses[at][0, 0]
        left[:, at:] -= error[:, None] * inverses[at][0]
    found = sparsegpt(WEIGHT, MOMENTS, sparsity)
    assert float((found == 0).float().mean()) == pytest.approx(gone.mean(), abs=1e-4)
    assert ((found == 0).numpy() == gone).mean() > 0.999
    agree = ((found == 0).numpy() == gone).all(axis=1)
    assert agree.mean() > 0.9
    np.testing.assert_allclose(found.numpy()[agree], np.where(gone, 0, left)[agree], atol=2e-3)


@pytest.mark.parametrize("sparsity", [HALF, PAIRS], ids=str)
def test_looking_at_the_inputs_pays(sparsity: Sparsity) -> None:
    errors = {name: output_error(method(WEIGHT, MOMENTS, sparsity)) for name, method in METHODS.items()}
    assert errors["sparsegpt"] < 0.9 * errors["wanda"] < 0.7 * errors["magnitude"]


@pytest.mark.parametrize("method", METHODS)
def test_two_of_four_is_what_torch_takes(method: str) -> None:
    made = METHODS[method](WEIGHT, MOMENTS, PAIRS).half()
    values, _ = sparse_semi_structured_from_dense_cutlass(made)  # raises for any other pattern
    assert values.shape == (64, 96)
    odd = METHODS[method](WEIGHT[:, :30], MOMENTS[:30, :30], PAIRS)
    assert (odd[:, :28].reshape(64, 7, 4) == 0).sum(-1).eq(2).all()
    assert (odd[:, 28:] != 0).all()  # no four of them


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_stay_zeros_when_they_are_rounded(bits: int, symmetric: bool) -> None:
    rows, grid = sparsegpt(WEIGHT, MOMENTS, HALF), Grid(bits, 32, symmetric)
    made = [
        torch.from_numpy(quantized.dequantized())
        for quantized in (
            round_to_nearest(rows.numpy(), grid, RoundToNearest()),
            half_quadratic(rows.numpy(), grid, HalfQuadratic()),
            solve(rows, MOMENTS, GPTQ(grid)),
            solve(rows, MOMENTS, GPTQ(grid, by_activity=False)),
        )
    ]
    assert all((values[rows == 0] == 0).all() for values in made)
    errors = [float((INPUTS @ (values - rows).T).norm()) for values in made]
    assert max(errors[2:]) < 0.7 * errors[0]  # those that stay make up for each other


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("the train was over the water and an hour\nthe sea\nwas the hour over?\n" * 40)
    return tmp_path / "texts.txt"


SIZES = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 4, "head_dim": 16}
MODELS = (
    ("bert", "feature-extraction", {"num_hidden_layers": 2}, 12),
    ("albert", "fill-mask", {"num_hidden_layers": 2}, 6),  # one layer, run twice
    ("t5", "token-classification", {"num_layers": 2}, 12),
    ("gpt2", "text-generation", {"n_layer": 2}, 8),  # Conv1D
    ("llama", "text-generation", SIZES, 14),
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("model_type", "task", "more", "count"), MODELS, ids=[m[0] for m in MODELS])
def test_the_layers_of_a_model(
    model_type: str, task: str, more: dict[str, Any], count: int, method: str, texts: Path
) -> None:
    model = tiny_model(model_type, task, **more)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    source = load_source(model, Recipe(task=task), tokenizer=tiny_tokenizer())
    sparsify(source, Recipe(calibration=str(texts), sparsity=Sparsity("2:4", method)))
    record = source.pruning["sparsity"]
    assert (record["layers"], 2 * record["zeros"]) == (count, record["of"])
    layers = {
        n: m for n, m in model.named_modules() if any((p == 0).float().mean() == 0.5 for p in m.parameters(False))
    }
    assert len(layers) == count
    for layer in layers.values():
        rows = rows_of(layer)
        assert (rows.reshape(len(rows), -1, 4) == 0).sum(-1).eq(2).all()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name.rpartition(".")[0] not in layers or name.endswith("bias"))


def test_what_later_layers_read_has_passed_the_sparse_ones(texts: Path) -> None:
    sparse, partly = (tiny_model("bert", "feature-extraction", num_hidden_layers=2) for _ in range(2))
    source = load_source(sparse, Recipe(task="feature-extraction"), tokenizer=tiny_tokenizer())
    choice = Sparsity("0.5", "wanda")
    sparsify(source, Recipe(calibration=str(texts), sparsity=choice))
    partly.encoder.layer[0].load_state_dict(sparse.encoder.layer[0].state_dict())
    layer, read = partly.encoder.layer[1].intermediate.dense, []
    layer.register_forward_pre_hook(lambda _, args: read.append(args[0].reshape(-1, 32)))
    with torch.no_grad():
        for line in texts.read_text().splitlines():
            partly(**source.tokenizer(line, return_tensors="pt"))
    inputs = torch.cat(read)
    wanted = wanda(layer.weight.detach(), inputs.T @ inputs, choice)
    assert torch.equal(sparse.encoder.layer[1].intermediate.dense.weight, wanted)


def _integers(path: Path) -> list[np.ndarray]:
    """The integers of the layers of a graph of 4 or 8 bits, zero where the weight is zero."""
    found = []
    for node in ir.load(path).graph:
        if (
            node.op_type == "MatMulNBits"
            and "lm_head" not in str(node.inputs[1].name)
            and "embed" not in str(node.inputs[1].name)
        ):
            packed = node.inputs[1].const_value.numpy()
            bits = node.attributes["bits"].as_int()
            found.append(
                packed.astype(int) - 128 if bits == 8 else np.stack([packed & 15, packed >> 4]).astype(int) - 8
            )
        elif node.op_type == "DynamicQuantizeMatMul":
            found.append(node.inputs[1].const_value.numpy().astype(int))
    return found


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
def test_a_bundle_keeps_the_zeros(method: str, texts: Path, tmp_path: Path) -> None:
    model = tiny_model("llama", "text-generation", **SIZES)
    recipe = Recipe(
        precisions=("fp32", "int8", "int4"),
        method=method,
        calibration=str(texts),
        sparsity=Sparsity("0.5", "sparsegpt"),
    )
    manifest = export(model, tmp_path / "b", recipe, tokenizer=tiny_tokenizer()).manifest
    assert manifest.pruning["sparsity"]["amount"] == "0.5"
    for precision in ("int8", "int4"):
        integers = _integers(tmp_path / "b" / f"model.{precision}.onnx")
        assert integers
        assert min(float((layer == 0).mean()) for layer in integers) >= 0.49
    assert (
        "50% of the 0.1 million weights of 14 layers are zero (0.5 by sparsegpt)"
        in (tmp_path / "b" / "README.md").read_text()
    )
    assert Recipe.from_dict(manifest.recipe).sparsity == recipe.sparsity


def test_on_the_command_line(tiny_folder: Path, texts: Path, tmp_path: Path, capsys: Any) -> None:
    argv = ["export", str(tiny_folder), str(tmp_path / "b"), "--precision", "int8", "--sparsity", "2:4"]
    assert main(argv) == 2
    assert (
        "sparsegpt looks at what layers read: pass --calibration FILE, or choose magnitude" in capsys.readouterr().err
    )
    assert main([*argv, "--calibration", str(texts), "--prune", "heads=0.25"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Pruned: removed 2 of 8 heads" in printed
    assert "weights of 12 layers are zero (2:4 by sparsegpt)" in printed
    shares = [(layer == 0).mean() for layer in _integers(tmp_path / "b" / "model.int8.onnx")]
    assert len(shares) > 8
    assert sum(share < 0.5 for share in shares) <= 2  # pooler and classifier
    assert edgeport.Bundle.open(tmp_path / "b").manifest.pruning["heads"]["kept"] == 6
    assert main(["export", str(tiny_folder), str(tmp_path / "c"), "--sparsity-method", "wanda"]) == 2
    assert "--sparsity-method wanda needs an amount: pass --sparsity 0.5 or 2:4" in capsys.readouterr().err


@pytest.mark.parametrize("amount", ["0", "1", "1.5", "half", "4:2", "2:5", "0:4", "2:4:8"])
def test_what_is_no_amount_is_said(amount: str) -> None:
    with pytest.raises(UsageError, match=r"is neither a share above 0 and below 1, nor how many stay of every 2, 4"):
        Sparsity(amount)
