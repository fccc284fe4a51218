"""fastembed with a custom model: the ONNX files that optimum makes, its own tokenizer, pooling and normalization."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeport_bench.subjects import Array

__all__ = ["Embedder", "open_subject", "prepare"]

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")


def prepare(options: Mapping[str, Any]) -> None:
    """optimum's ONNX file with the tokenizer beside it; runs in optimum's environment."""
    from edgeport_bench.peers import run_optimum

    run_optimum.prepare(options)
    for name in _TOKENIZER:
        if (Path(options["model"]) / name).is_file():
            shutil.copy(Path(options["model"]) / name, options["folder"])


def open_subject(options: Mapping[str, Any]) -> Embedder:
    """Register the folder as a custom model, and open it.

    Raises:
        NotImplementedError: the model pools in a way that fastembed's custom models don't.
    """
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource

    folder, file = Path(options["folder"]), {"fp32": "model.onnx", "int8": "model_quantized.onnx"}[options["flavour"]]
    pooling, normalized = _pooling(Path(options["model"]))
    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    TextEmbedding.add_custom_model(
        "local/model", pooling, normalized, ModelSource(url="none"), dim=size, model_file=file
    )
    model = TextEmbedding("local/model", threads=options["threads"], specific_model_path=str(folder), cuda=False)
    return Embedder(model, (folder / file).stat().st_size)


def _pooling(model: Path) -> tuple[Any, bool]:
    from fastembed.common.model_description import PoolingType

    modules = model / "modules.json"
    if not modules.is_file():
        return PoolingType.MEAN, False
    kinds = {m["type"].rpartition(".")[2]: m["path"] for m in json.loads(modules.read_text(encoding="utf-8"))[1:]}
    if set(kinds) - {"Pooling", "Normalize"}:
        raise NotImplementedError(f"the modules {', '.join(kinds)} behind the encoder are not supported")
    config = json.loads((model / kinds["Pooling"] / "config.json").read_text(encoding="utf-8"))
    mean = config.get("pooling_mode") == "mean" or config.get("pooling_mode_mean_tokens")
    return PoolingType.MEAN if mean else PoolingType.CLS, "Normalize" in kinds


class Embedder:
    """It reads texts, and tokens by the session that it holds."""

    def __init__(self, model: Any, size: int) -> None:
        self._model = model
        self._size = size

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        from fastembed.common.onnx_model import OnnxOutputContext

        inner = self._model.model
        taken = {port.name for port in inner.model.get_inputs()}
        hidden = inner.model.run(None, {name: array for name, array in feeds.items() if name in taken})[0]
        context = OnnxOutputContext(hidden, feeds["attention_mask"], feeds["input_ids"])
        return {"sentence_embedding": np.asarray(inner._post_process_onnx_output(context))}

    def encode(self, texts: Sequence[str]) -> dict[str, Array]:
        return {"sentence_embedding": np.stack(list(self._model.embed(list(texts))))}

    def describe(self) -> dict[str, Any]:
        return {"size_bytes": self._size}

    def close(self) -> None:
        del self._model
