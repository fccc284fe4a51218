"""OpenVINO: its defaults, and int8 by NNCF: static for models that read, of the weights alone for those that write; and
for these int4, symmetric in groups of 32, which leaves embedding and output layer at 8 bits.

optimum-intel converts; what is measured imports openvino and numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from edgeport_bench.peers.heads import sentence_head
from edgeport_bench.subjects import Array

__all__ = ["OpenvinoReader", "OpenvinoWriter", "convert", "open_subject", "prepare"]

_TASKS = {"sentence-embedding": "feature-extraction", "text-generation": "text-generation-with-past"}
_CLASSIFYING = ("zero-shot-classification", "text-ranking")


def prepare(options: Mapping[str, Any]) -> None:
    """Convert to ``openvino_model.xml``, quantized if the flavour asks for it."""
    openvino.save_model(convert(options), Path(options["folder"]) / "openvino_model.xml", compress_to_fp16=False)


def convert(options: Mapping[str, Any]) -> Any:
    """OpenVINO's graph of the model, in the flavour.

    Raises:
        NotImplementedError: int4 of a model that reads.
    """
    import nncf
    from optimum.exporters.openvino import main_export

    if options["flavour"] == "int4" and options["task"] != "text-generation":
        raise NotImplementedError("NNCF has weights of 4 bits for models that write text")
    model, plain = Path(options["model"]), Path(options["folder"]) / "plain"
    task = options["task"]
    task = "text-classification" if task in _CLASSIFYING else _TASKS.get(task, task)
    main_export(str(model), plain, task=task, ov_config=None)
    graph = openvino.Core().read_model(plain / "openvino_model.xml")
    if options["flavour"] == "default":
        return graph
    if options["flavour"] == "int4":
        return nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=32)
    if options["task"] == "text-generation":
        return nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_ASYM)
    from edgeport_bench.peers.calibration import calibration_batches

    names = [port.get_any_name() for port in graph.inputs]
    dataset = nncf.Dataset(list(calibration_batches(model, options["calibration"], names)))
    return nncf.quantize(graph, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=300)


def open_subject(options: Mapping[str, Any]) -> OpenvinoReader | OpenvinoWriter:
    """Compile the converted model for the processor."""
    folder = Path(options["folder"])
    settings = {"INFERENCE_NUM_THREADS": options["threads"], "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", settings)
    size = (folder / "openvino_model.bin").stat().st_size
    return OpenvinoWriter(model, size) if options["task"] == "text-generation" else OpenvinoReader(model, size, options)


class _Compiled:
    """A compiled model."""

    def __init__(self, model: Any, size: int) -> None:
        self._model = model
        self._request = model.create_infer_request()
        self._inputs = [port.get_any_name() for port in model.inputs]
        self._size = size

    def describe(self) -> dict[str, Any]:
        return {
            "size_bytes": self._size,
            "inference_precision": str(self._model.get_property("INFERENCE_PRECISION_HINT")),
        }

    def close(self) -> None:
        del self._request, self._model


class OpenvinoReader(_Compiled):
    """It reads."""

    def __init__(self, model: Any, size: int, options: Mapping[str, Any]) -> None:
        super().__init__(model, size)
        self._outputs = options["outputs"]
        self._head = sentence_head(Path(options["model"])) if self._outputs == ["sentence_embedding"] else None

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        found = self._request.infer({name: feeds[name] for name in self._inputs}, share_inputs=True)
        if self._head is not None:
            return {self._outputs[0]: self._head(found["last_hidden_state"], feeds["attention_mask"])}
        return {name: np.array(found[name]) for name in self._outputs}


class OpenvinoWriter(_Compiled):
    """It writes; the cache is the compiled model's own state."""

    def write(self, prompts: Array, count: int, each: Callable[[], None]) -> Array:
        self._request.reset_state()
        found, new, length = [], prompts, 0
        for _ in range(count):
            length += new.shape[1]
            new = self._step(new, length)[:, -1].argmax(axis=-1)[:, None]
            found.append(new[:, 0])
            each()
        return np.stack(found, axis=1)

    def follow(self, prompts: Array, tokens: Array) -> Array:
        self._request.reset_state()
        ids = np.concatenate([prompts, tokens], axis=1)
        return np.asarray(self._step(ids, ids.shape[1])[:, prompts.shape[1] - 1 : -1].argmax(axis=-1))

    def _step(self, new: Array, length: int) -> Array:
        """Logits, (batch, new, vocabulary), of tokens that end at position ``length``."""
        batch, count = new.shape
        values = {
            "input_ids": new,
            "attention_mask": np.ones((batch, length), np.int64),
            "position_ids": np.tile(np.arange(length - count, length), (batch, 1)),
            "beam_idx": np.arange(batch, dtype=np.int32),
        }
        return np.asarray(self._request.infer({n: values[n] for n in self._inputs}, share_inputs=True)["logits"])
