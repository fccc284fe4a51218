"""CTranslate2: encoders through its ``Encoder``, models that write through its ``Generator``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np

from edgeport_bench.peers.heads import classification_head, sentence_head
from edgeport_bench.subjects import Array

__all__ = ["Ctranslate2Reader", "Ctranslate2Writer", "open_subject", "prepare"]

_TYPES = {"fp32": "float32", "int8": "int8"}


def prepare(options: Mapping[str, Any]) -> None:
    """Convert by CTranslate2's own converter; a classifier's last layers are kept beside it."""
    import transformers
    from ctranslate2.converters import TransformersConverter

    # The converter asks for it, and transformers 5 has no other and no name for it any more.
    transformers.BertConfig.position_embedding_type = "absolute"
    folder, quantization = Path(options["folder"]), _TYPES[options["flavour"]]
    TransformersConverter(options["model"]).convert(str(folder), quantization=quantization, force=True)
    if options["task"] == "text-classification":
        from safetensors.numpy import load_file

        weights = load_file(Path(options["model"]) / "model.safetensors")
        np.savez(folder / "head.npz", **{name: array for name, array in weights.items() if "classifier" in name})


def open_subject(options: Mapping[str, Any]) -> Ctranslate2Reader | Ctranslate2Writer:
    """Open the converted model on the processor."""
    folder = Path(options["folder"])
    settings = {
        "device": "cpu",
        "compute_type": _TYPES[options["flavour"]],
        "inter_threads": 1,
        "intra_threads": options["threads"],
    }
    if options["task"] == "text-generation":
        return Ctranslate2Writer(ctranslate2.Generator(str(folder), **settings), folder)
    return Ctranslate2Reader(ctranslate2.Encoder(str(folder), **settings), folder, options)


class Ctranslate2Reader:
    """It reads."""

    def __init__(self, encoder: Any, folder: Path, options: Mapping[str, Any]) -> None:
        self._encoder = encoder
        self._size = (folder / "model.bin").stat().st_size
        (self._output,) = options["outputs"]
        self._head = sentence_head(Path(options["model"])) if self._output == "sentence_embedding" else None
        self._scores = None
        if options["task"] == "text-classification":
            with np.load(folder / "head.npz", allow_pickle=False) as arrays:
                self._scores = classification_head({name: a.astype(np.float32) for name, a in arrays.items()})

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        ids, mask = feeds["input_ids"].astype(np.int32), feeds["attention_mask"]
        lengths = ctranslate2.StorageView.from_array(mask.sum(axis=1).astype(np.int32))
        types = feeds.get("token_type_ids")
        found = self._encoder.forward_batch(
            ctranslate2.StorageView.from_array(ids), lengths, None if types is None else types.tolist()
        )
        hidden = np.array(found.last_hidden_state)
        if self._scores is not None:
            pooled = found.pooler_output
            return {self._output: self._scores(hidden, None if pooled is None else np.array(pooled))}
        return {self._output: hidden if self._head is None else self._head(hidden, mask)}

    def describe(self) -> dict[str, Any]:
        return {"size_bytes": self._size, "compute_type": self._encoder.compute_type}

    def close(self) -> None:
        del self._encoder


class Ctranslate2Writer:
    """It writes. It knows tokens by their text, so ids go through the converted model's vocabulary."""

    def __init__(self, generator: Any, folder: Path) -> None:
        self._generator = generator
        self._size = (folder / "model.bin").stat().st_size
        self._vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))

    def write(self, prompts: Array, count: int, each: Callable[[], None]) -> Array:
        rows = len(prompts)
        texts = self._texts(prompts)

        def step(result: Any) -> bool:
            if result.batch_id == rows - 1:
                each()
            return False

        found = self._generator.generate_batch(
            texts,
            max_length=count,
            min_length=count,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=step,
        )
        return np.array([result.sequences_ids[0] for result in found])

    def follow(self, prompts: Array, tokens: Array) -> Array:
        texts = self._texts(np.concatenate([prompts, tokens], axis=1))
        logits = np.array(self._generator.forward_batch(texts))
        return np.asarray(logits[:, prompts.shape[1] - 1 : -1].argmax(axis=-1))

    def describe(self) -> dict[str, Any]:
        return {"size_bytes": self._size, "compute_type": self._generator.compute_type}

    def close(self) -> None:
        del self._generator

    def _texts(self, ids: Array) -> list[list[str]]:
        return [[self._vocabulary[i] for i in row] for row in ids.tolist()]
