"""A bundle small enough to read: an embedding table, its mean over the tokens, and a twin that is wrong."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgeport.bundle import BundleWriter, Manifest, ModelSource, TensorSpec, TextSpec, Variant
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["[PAD]", "[UNK]", "a", "the", "is", "in", "on", "of", "and", "man", "dog", "two", "."]
SIZE = 8
MAX_LENGTH = 48


def _graph(table: np.ndarray) -> onnx.ModelProto:
    """input_ids, attention_mask (batch, sequence) to sentence_embedding (batch, SIZE): mean of ``table``'s rows."""
    shape = ["batch", "sequence"]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["tokens", "weights"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "one"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["sentence_embedding"]),
    ]
    constants = {"table": table, "last": np.array([-1]), "one": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", SIZE])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def embedding_table() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(len(WORDS), SIZE)).astype(np.float32)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Variants ``fp32`` and ``wrong``; the second has the table upside down."""
    target = tmp_path_factory.mktemp("bench") / "tiny"
    table = embedding_table()
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with BundleWriter(target) as writer:
        tokenizer.save(str(writer.directory / "tokenizer.json"))
        variants = {}
        for name, values in {"fp32": table, "wrong": copy.copy(table[::-1])}.items():
            file = f"model.{name}.onnx"
            onnx.save(_graph(values), writer.directory / file)
            size = (writer.directory / file).stat().st_size
            variants[name] = Variant("fp32", {"model": file}, size, 20, "1.17")
        manifest = Manifest(
            task="sentence-embedding",
            source=ModelSource("tiny", "BertModel", "bert"),
            variants=variants,
            inputs=tuple(TensorSpec(n, "int64", ("batch", "sequence")) for n in ("input_ids", "attention_mask")),
            outputs=(TensorSpec("sentence_embedding", "float32", ("batch", SIZE)),),
            files={},
            text=TextSpec(max_length=MAX_LENGTH, pad_token_id=0, pad_token="[PAD]"),
        )
        writer.commit(manifest)
    return target
