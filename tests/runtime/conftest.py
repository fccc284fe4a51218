"""Tiny graphs written by hand, and bundles around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edgeport.bundle import Bundle, BundleWriter, FileRecord, Manifest, ModelSource, TensorSpec, TextSpec, Variant
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ("[PAD]", "[UNK]", "good", "bad", "film", "plot", "the")
LABELS = ("negative", "positive")


def scores_graph(dtype: type = np.float32) -> onnx.ModelProto:
    """logits (batch, 2) = sum over the tokens of (-1, 1) for good, (1, -1) for bad, and 0 for other words."""
    table = np.zeros((len(WORDS), 2), dtype)
    table[WORDS.index("good")] = (-1, 1)
    table[WORDS.index("bad")] = (1, -1)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["each"], name="look-up"),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["each", "column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["logits"], keepdims=0),
    ]
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "scores",
        [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([-1]), "last"),
            numpy_helper.from_array(np.array([1]), "middle"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def make_variant(precision: str = "fp32", **changes: Any) -> Variant:
    values: dict[str, Any] = {
        "precision": precision,
        "graphs": {"model": f"model.{precision}.onnx"},
        "size_bytes": 1000,
        "opset": 18,
        "min_onnxruntime": "1.17",
    }
    return Variant(**{**values, **changes})


def make_manifest(
    variants: Mapping[str, Variant], files: Mapping[str, FileRecord] | None = None, **changes: Any
) -> Manifest:
    values: dict[str, Any] = {
        "task": "text-classification",
        "source": ModelSource("tiny", "TinyForSequenceClassification", "tiny"),
        "variants": variants,
        "inputs": tuple(TensorSpec(n, "int64", ("batch", "sequence")) for n in ("input_ids", "attention_mask")),
        "outputs": (TensorSpec("logits", "float32", ("batch", 2)),),
        "files": files or {},
        "text": TextSpec(max_length=16, pad_token_id=0, pad_token="[PAD]"),
        "labels": LABELS,
    }
    return Manifest(**{**values, **changes})


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Write a whole bundle: ``make_bundle(variants, graphs)``; fields of the manifest by name."""

    def make(
        variants: Sequence[Variant] = (make_variant(),),
        graphs: Mapping[str, onnx.ModelProto | bytes] | None = None,
        *,
        name: str = "bundle",
        **changes: Any,
    ) -> Bundle:
        with BundleWriter(tmp_path / name) as writer:
            for variant in variants:
                for file in variant.graphs.values():
                    model = (graphs or {}).get(file, scores_graph())
                    path = writer.directory / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
            tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
            tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
            tokenizer.save(str(writer.directory / "tokenizer.json"))
            writer.commit(make_manifest({v.precision: v for v in variants}, {}, **changes))
        return Bundle.open(tmp_path / name)

    return make


@pytest.fixture
def variant_of() -> Callable[..., Variant]:
    """``make_variant``, for tests that cannot import it."""
    return make_variant


@pytest.fixture
def manifest_of() -> Callable[..., Manifest]:
    """``make_manifest``, for tests that cannot import it."""
    return make_manifest


@pytest.fixture
def scores() -> onnx.ModelProto:
    """``scores_graph``, for tests that cannot import it."""
    return scores_graph()
