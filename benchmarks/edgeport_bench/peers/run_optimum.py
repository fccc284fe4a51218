"""optimum-onnx: its export to ONNX, its dynamic quantization for this processor, its model classes.

``prepare`` also serves peers that run a plain ONNX file of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from optimum import onnxruntime as ort

from edgeport_bench.peers.heads import sentence_head
from edgeport_bench.subjects import Array

__all__ = ["OptimumReader", "OptimumWriter", "has_vnni", "open_subject", "prepare"]

_CLASSES = {
    "text-classification": "ORTModelForSequenceClassification",
    "zero-shot-classification": "ORTModelForSequenceClassification",
    "text-ranking": "ORTModelForSequenceClassification",
    "token-classification": "ORTModelForTokenClassification",
    "question-answering": "ORTModelForQuestionAnswering",
    "fill-mask": "ORTModelForMaskedLM",
    "feature-extraction": "ORTModelForFeatureExtraction",
    "sentence-embedding": "ORTModelForFeatureExtraction",
    "text-generation": "ORTModelForCausalLM",
}
_FILES = {"fp32": "model.onnx", "int8": "model_quantized.onnx"}


def prepare(options: Mapping[str, Any]) -> None:
    """Export, and quantize if the flavour asks for it."""
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    folder = options["folder"]
    cls = getattr(ort, _CLASSES[options["task"]])
    cls.from_pretrained(options["model"], export=True).save_pretrained(folder)
    if options["flavour"] == "int8":
        make = AutoQuantizationConfig.avx512_vnni if has_vnni() else AutoQuantizationConfig.avx2
        quantizer = ort.ORTQuantizer.from_pretrained(folder, file_name="model.onnx")
        quantizer.quantize(save_dir=folder, quantization_config=make(is_static=False, per_channel=False))


def open_subject(options: Mapping[str, Any]) -> OptimumReader | OptimumWriter:
    """The converted model in optimum's class."""
    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = options["threads"]
    file = _FILES[options["flavour"]]
    cls = getattr(ort, _CLASSES[options["task"]])
    model = cls.from_pretrained(options["folder"], file_name=file, session_options=session)
    size = (Path(options["folder"]) / file).stat().st_size
    return OptimumWriter(model, size) if options["task"] == "text-generation" else OptimumReader(model, size, options)


class OptimumReader:
    """It reads."""

    def __init__(self, model: Any, size: int, options: Mapping[str, Any]) -> None:
        self._model = model
        self._size = size
        self._outputs = options["outputs"]
        self._head = sentence_head(Path(options["model"])) if self._outputs == ["sentence_embedding"] else None

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        found = self._model(**feeds)
        if self._head is not None:
            return {self._outputs[0]: self._head(found.last_hidden_state, feeds["attention_mask"])}
        return {name: found[name] for name in self._outputs}

    def describe(self) -> dict[str, Any]:
        return {"size_bytes": self._size}

    def close(self) -> None:
        del self._model


class OptimumWriter:
    """It writes, by transformers' ``generate``."""

    def __init__(self, model: Any, size: int) -> None:
        from transformers import GenerationConfig

        self._model = model
        self._size = size
        model.generation_config = GenerationConfig(do_sample=False, use_cache=True)

    def write(self, prompts: Array, count: int, each: Callable[[], None]) -> Array:
        import torch

        ids = torch.from_numpy(prompts)
        marks = _Marks(each)
        written = self._model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, streamer=marks
        )
        return np.asarray(written[:, ids.shape[1] :])

    def follow(self, prompts: Array, tokens: Array) -> Array:
        import torch

        ids = torch.from_numpy(np.concatenate([prompts, tokens], axis=1))
        logits = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.numpy()
        return np.asarray(logits[:, prompts.shape[1] - 1 : -1].argmax(axis=-1))

    def describe(self) -> dict[str, Any]:
        return {"size_bytes": self._size}

    def close(self) -> None:
        del self._model


class _Marks:
    """What ``generate`` calls a streamer: it hands over the prompt first, and then each token."""

    def __init__(self, each: Callable[[], None]) -> None:
        self._each = each
        self._has_prompt = False

    def put(self, value: Any) -> None:
        if self._has_prompt:
            self._each()
        self._has_prompt = True

    def end(self) -> None:
        return


def has_vnni() -> bool:
    """Whether this processor multiplies bytes with AVX-512 VNNI, for which optimum has a setting of its own."""
    try:
        return "avx512_vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
