"""Checkpoints that come quantized: packed here with plain loops after the formats' description, and read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from architectures import tiny_model, tiny_tokenizer
from edgeport.bundle import Bundle
from edgeport.errors import EdgeportError, ExportError, UsageError
from edgeport_export import Recipe, export
from edgeport_export.quantize.checkpoint import format_of, unpacked
from edgeport_export.source import load_source
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

RNG = np.random.default_rng(0)
SIZES = {
    "llama": {"hidden_size": 128, "intermediate_size": 192, "num_key_value_heads": 2, "head_dim": 32},
    "gpt2": {"n_embd": 128, "n_inner": 192},
}


@dataclass
class Layer:
    """A layer's integers as the format's authors think of them."""

    integers: np.ndarray
    """(inputs, outputs)."""
    zeros: np.ndarray
    """(groups, outputs)."""
    scales: np.ndarray
    """(groups, outputs), float16."""
    group: np.ndarray
    """(inputs): the group of each."""

    def weight(self) -> np.ndarray:
        """(outputs, inputs) float32."""
        rows = np.empty(self.integers.T.shape, np.float32)
        for i, group in enumerate(self.group):
            centred = self.integers[i].astype(np.float32) - self.zeros[group].astype(np.float32)
            rows[:, i] = centred * self.scales[group].astype(np.float32)
        return rows


def random_layer(width: int, count: int, *, bits: int, size: int, symmetric: bool, scattered: bool = False) -> Layer:
    size = width if size == -1 else size
    groups = -(-width // size)
    group = np.arange(width) // size
    if scattered:
        group = RNG.permutation(group)
    shape = (groups, count)
    zeros = np.full(shape, 2 ** (bits - 1)) if symmetric else RNG.integers(0, 2**bits, shape)
    scales = ((0.3 + RNG.random(shape)) * 0.4 / 2**bits).astype(np.float16)
    return Layer(RNG.integers(0, 2**bits, (width, count)), zeros, scales, group)


def words(rows: int, columns: int) -> np.ndarray:
    return np.zeros((rows, columns), np.uint32)


def gptq_tensors(layer: Layer, bits: int, *, version: int) -> dict[str, np.ndarray]:
    width, count = layer.integers.shape
    n = 32 // bits
    weight, zeros = words(width // n, count), words(len(layer.zeros), count // n)
    for i in range(width):
        for j in range(count):
            weight[i // n, j] |= np.uint32(int(layer.integers[i, j]) << (bits * (i % n)))
    for g in range(len(layer.zeros)):
        for j in range(count):
            stored = int(layer.zeros[g, j]) - (1 if version == 1 else 0)
            zeros[g, j // n] |= np.uint32((stored % 2**bits) << (bits * (j % n)))
    return {
        "qweight": weight.view(np.int32),
        "qzeros": zeros.view(np.int32),
        "scales": layer.scales,
        "g_idx": layer.group.astype(np.int32),
    }


def awq_tensors(layer: Layer) -> dict[str, np.ndarray]:
    width, count = layer.integers.shape
    weight, zeros = words(width, count // 8), words(len(layer.zeros), count // 8)
    for packed, plain in ((weight, layer.integers), (zeros, layer.zeros)):
        for i in range(len(plain)):
            for word in range(count // 8):
                for place, column in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
                    packed[i, word] |= np.uint32(int(plain[i, word * 8 + column]) << (4 * place))
    return {"qweight": weight.view(np.int32), "qzeros": zeros.view(np.int32), "scales": layer.scales}


@dataclass(frozen=True)
class Case:
    """A kind of checkpoint."""

    model_type: str = "llama"
    method: str = "gptq"
    bits: int = 4
    size: int = 32
    version: int = 1
    symmetric: bool = True
    scattered: bool = False

    @property
    def config(self) -> dict[str, Any]:
        common = {"quant_method": self.method, "bits": self.bits, "group_size": self.size}
        if self.method == "awq":
            return common | {"version": "gemm", "zero_point": True, "modules_to_not_convert": ["lm_head"]}
        version = "gptq" if self.version == 1 else "gptq_v2"
        return common | {"checkpoint_format": version, "sym": self.symmetric, "desc_act": self.scattered}

    def layer(self, width: int, count: int) -> Layer:
        return random_layer(
            width, count, bits=self.bits, size=self.size, symmetric=self.symmetric, scattered=self.scattered
        )

    def tensors(self, layer: Layer) -> dict[str, np.ndarray]:
        return awq_tensors(layer) if self.method == "awq" else gptq_tensors(layer, self.bits, version=self.version)


CASES = (
    Case(),
    Case("gpt2"),
    Case(version=2),
    Case(symmetric=False),
    Case(symmetric=False, version=2, size=64),
    Case(bits=8, size=128),
    Case(bits=8, symmetric=False, size=16),
    Case(size=-1),
    Case(size=-1, symmetric=False, scattered=True),
    Case(size=256),  # larger than a row, and than the kernels take
    Case(scattered=True),
    Case("gpt2", scattered=True, symmetric=False),
    Case(method="awq", symmetric=False),
    Case("gpt2", method="awq", symmetric=False, size=128),
    Case(method="awq", symmetric=False, size=-1),
)


def write(case: Case, folder: Path, *, parts: int = 1) -> tuple[PreTrainedModel, dict[str, Layer]]:
    """A checkpoint in ``folder``; returns the model that it stands for, in fp32, and the layers."""
    model = tiny_model(case.model_type, "text-generation", **SIZES[case.model_type])
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    stored = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    layers: dict[str, Layer] = {}
    shared: dict[tuple[str, int], np.ndarray] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or name == "lm_head":
            continue
        turned = isinstance(module, Conv1D)
        count, width = reversed(module.weight.shape) if turned else module.weight.shape
        layers[name] = layer = case.layer(width, count)
        # Layers that read the same tensor are rounded in the same order.
        parent = name.rpartition(".")[0]
        layer.group = shared.setdefault((parent, width), layer.group)
        module.weight.data = torch.from_numpy(layer.weight().T.copy() if turned else layer.weight())
        key = name if f"{name}.weight" in stored else name.removeprefix("transformer.")
        del stored[f"{key}.weight"]
        stored |= {f"{key}.{suffix}": torch.from_numpy(array) for suffix, array in case.tensors(layer).items()}
    for name, tensor in model.state_dict().items():
        if not any(name == f"{layer}.weight" for layer in layers):
            tensor.copy_(tensor.half().float())
    save(stored, folder, parts)
    describe(folder, case.config)
    return model, layers


def save(tensors: dict[str, Tensor], folder: Path, parts: int = 1) -> None:
    if parts == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    (folder / "model.safetensors").unlink()
    names = {key: f"model-{i % parts + 1:05}-of-{parts:05}.safetensors" for i, key in enumerate(sorted(tensors))}
    for file in set(names.values()):
        save_file({k: t for k, t in tensors.items() if names[k] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def describe(folder: Path, quantization: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_model_has_the_values_that_the_integers_stand_for(case: Case, tmp_path: Path) -> None:
    model, layers = write(case, tmp_path)
    source = load_source(tmp_path, Recipe())
    assert source.bits == case.bits
    assert len(source.integers) == len(layers)
    want = model.state_dict()
    for name, tensor in source.model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, want[name]), name
    assert getattr(source.model.config, "quantization_config", None) is None
    symmetric = {quantized.grid.symmetric for quantized in source.integers.values()}
    assert symmetric == {case.symmetric}


@pytest.mark.parametrize("case", [CASES[i] for i in (0, 1, 4, 6, 7, 9, 11, 12, 13)], ids=str)
def test_the_bundle_stores_the_integers_of_the_checkpoint(case: Case, tmp_path: Path) -> None:
    _, layers = write(case, tmp_path / "model")
    manifest = export(tmp_path / "model", tmp_path / "bundle").manifest
    assert list(manifest.variants) == [f"int{case.bits}"]
    variant = manifest.variants[f"int{case.bits}"]
    assert "the checkpoint's integers" in variant.notes[0]
    assert "handed over" not in variant.notes[0]

    graph = onnx.load(tmp_path / "bundle" / variant.graphs["model"]).graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    found: set[bytes] = set()
    rows = 0
    for node in graph.node:
        if node.op_type == "MatMulNBits" and not any(word in node.input[1] for word in ("wte", "lm_head", "embed")):
            attributes = {a.name: a.i for a in node.attribute}
            assert attributes["bits"] == case.bits
            gathers = [n for n in graph.node if n.op_type == "Gather" and n.output[0] == node.input[0]]
            order = stored[gathers[0].input[1]] if gathers else np.arange(attributes["K"])
            found |= read_rows(node, attributes, order, stored)
            rows += attributes["N"]
    expected = {row for layer in layers.values() for row in plain_rows(layer, case.bits)}
    assert found == expected
    assert rows == sum(layer.integers.shape[1] for layer in layers.values())

    # Against the dequantized model; products in int8 and a table at 8 bits are what is left.
    assert variant.measured["parity"]["cosine"] > 0.999


def plain_rows(layer: Layer, bits: int) -> set[bytes]:
    """Of each output: every input's integer, zero point and scale."""
    zeros, scales = layer.zeros[layer.group], layer.scales[layer.group].astype(np.float32)
    return {
        b"".join((layer.integers[:, j].astype(np.uint8), zeros[:, j].astype(np.uint8), scales[:, j].copy()))
        for j in range(layer.integers.shape[1])
    }


def read_rows(
    node: onnx.NodeProto, attributes: dict[str, int], order: np.ndarray, stored: dict[str, np.ndarray]
) -> set[bytes]:
    """The same from a graph; ``order`` is that in which the product reads its inputs."""
    size, bits = attributes["block_size"], attributes["bits"]
    packed, scales = stored[node.input[1]], stored[node.input[2]]
    zero_points = stored[node.input[3]] if len(node.input) > 3 and node.input[3] else None
    found = set()
    for row in range(attributes["N"]):
        integers, zeros = np.zeros(len(order), np.uint8), np.zeros(len(order), np.uint8)
        spread = np.zeros(len(order), np.float32)
        for at, place in enumerate(order):
            block, inside = divmod(at, size)
            spread[place] = scales[row, block]
            if bits == 8:
                integers[place] = packed[row, block, inside]
                zeros[place] = 128 if zero_points is None else zero_points[row, block]
            else:
                integers[place] = packed[row, block, inside // 2] >> (4 * (inside % 2)) & 15
                zeros[place] = 8 if zero_points is None else zero_points[row, block // 2] >> (4 * (block % 2)) & 15
        found.add(b"".join((integers, zeros, spread)))
    return found


def test_parts_are_read_like_a_whole(tmp_path: Path) -> None:
    model, _ = write(Case(), tmp_path, parts=3)
    assert not (tmp_path / "model.safetensors").exists()
    loaded = load_source(tmp_path, Recipe()).model
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in loaded.state_dict().items())


def test_fp32_has_the_same_values_and_other_bits_are_rounded_anew(tmp_path: Path) -> None:
    write(Case(), tmp_path / "model")
    recipe = Recipe(precisions=("fp32", "int8", "int4"))
    manifest = export(tmp_path / "model", tmp_path / "bundle", recipe).manifest
    assert manifest.variants["fp32"].measured["parity"]["max_abs"] < 1e-5
    assert manifest.variants["int8"].notes[0].startswith("rounded anew from the checkpoint's 4 bits")
    assert manifest.variants["int4"].notes[0].startswith("the checkpoint's integers")
    assert Bundle.open(tmp_path / "bundle").manifest.recipe["precisions"] == ["fp32", "int8", "int4"]


def test_what_is_rounded_already_is_not_rounded_by_gptq(tmp_path: Path) -> None:
    write(Case(), tmp_path / "model")
    with pytest.raises(UsageError, match=r"4 bits, which int4 keeps: leave --method gptq away"):
        export(tmp_path / "model", tmp_path / "b", Recipe(method="gptq", calibration="texts.txt"))


def test_generation_defaults_come_along(tmp_path: Path) -> None:
    write(Case(), tmp_path)
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.25, "do_sample": true}')
    assert load_source(tmp_path, Recipe()).task_options["generation"]["temperature"] == 0.25


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes'.*gptq and awq are read"),
        ({"bits": 3}, "3 bits, and of gptq 4 and 8 are read"),
        ({"quant_method": "awq", "checkpoint_format": "gemm", "bits": 8}, "8 bits, and of awq 4 are read"),
        ({"checkpoint_format": "marlin"}, "format 'marlin', and gptq and gptq_v2 are read"),
        ({"quant_method": "awq", "checkpoint_format": None, "version": "GEMV"}, "format 'gemv', and gemm are read"),
        ({"group_size": 24}, "groups of 24: -1 and multiples of 16"),
        ({"group_size": 0}, "groups of 0"),
        ({"group_size": 64}, "in groups of 64, but scales"),
        ({"bits": 8}, "do not belong together"),
    ],
)
def test_what_is_not_read_is_one_sentence(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    write(Case(), tmp_path)
    describe(tmp_path, Case().config | changes)
    with pytest.raises(ExportError, match=says) as caught:
        load_source(tmp_path, Recipe())
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def _without(suffix: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(f"model.layers.0.mlp.up_proj.{suffix}")


def _with(suffix: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], object]:
    name = f"model.layers.0.mlp.up_proj.{suffix}"
    return lambda tensors: tensors.update({name: change(tensors[name])})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_without("qweight"), "no model.layers.0.mlp.up_proj.qweight"),
        (_without("scales"), "no model.layers.0.mlp.up_proj.scales"),
        (_with("qweight", lambda t: t[:-1].clone()), "do not belong together|does not put"),
        (_with("qzeros", lambda t: t[:, :-1].clone()), "do not belong together"),
        (_with("qweight", lambda t: t.short()), "int16.*not a matrix of int32"),
        (_with("scales", lambda t: t * torch.inf), "not all finite"),
        (_with("g_idx", lambda t: torch.zeros_like(t)), "does not put 128 inputs into groups of 32"),
        (_with("g_idx", lambda t: t[:-1].clone()), "does not put 128 inputs"),
    ],
)
def test_damaged_tensors_are_named(damage: Callable[[dict[str, Tensor]], object], says: str, tmp_path: Path) -> None:
    write(Case(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    damage(tensors)
    save(tensors, tmp_path)
    with pytest.raises(ExportError, match=says):
        load_source(tmp_path, Recipe())


def test_files_that_are_not_safetensors_are_not_opened(tmp_path: Path) -> None:
    write(Case(), tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ExportError, match=r"has no model\.safetensors: other files are not read"):
        load_source(tmp_path, Recipe())


@pytest.mark.parametrize("name", ["../secret.safetensors", "model.bin", "gone.safetensors"])
def test_parts_are_files_beside_the_index(name: str, tmp_path: Path) -> None:
    write(Case(), tmp_path / "model", parts=2)
    save_file({"x": torch.ones(1)}, tmp_path / "secret.safetensors")
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(ExportError, match="which is not there"):
        load_source(tmp_path / "model", Recipe())


def test_a_checkpoint_that_only_says_so(tmp_path: Path) -> None:
    tiny_model("llama", "text-generation").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    describe(tmp_path, Case().config)
    with pytest.raises(EdgeportError, match="no layer is"):
        load_source(tmp_path, Recipe())


def test_zero_points_in_the_middle_are_not_stored() -> None:
    layers = {n: random_layer(64, 16, bits=4, size=32, symmetric=n == "a") for n in "ab"}
    tensors = {n: gptq_tensors(layer, 4, version=1) for n, layer in layers.items()}
    form = format_of(Case().config)
    assert unpacked({"a": tensors["a"]}, form)["a"].grid.symmetric
    # Layers may be joined later, which they can only be on one grid.
    assert [q.grid.symmetric for q in unpacked(tensors, form).values()] == [False, False]


def test_without_a_list_of_groups_they_follow_each_other() -> None:
    layer = random_layer(64, 16, bits=4, size=32, symmetric=False)
    tensors = gptq_tensors(layer, 4, version=1)
    del tensors["g_idx"]
    (quantized,) = unpacked({"layer": tensors}, format_of(Case().config)).values()
    np.testing.assert_array_equal(quantized.dequantized(), layer.weight())
