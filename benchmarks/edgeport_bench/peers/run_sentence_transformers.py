"""sentence-transformers with its three back ends: torch, ONNX int8, OpenVINO int8 (NNCF static, our texts)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from edgeport_bench.subjects import Array

__all__ = ["Embedder", "open_subject", "prepare"]

_OPENVINO_FILE = "openvino_model_qint8_quantized.xml"


def prepare(options: Mapping[str, Any]) -> None:
    """A sentence-transformers folder with the quantized file of the flavour's back end."""
    if options["flavour"] == "torch":
        return
    if options["flavour"] == "onnx-int8":
        _prepare_onnx(options["model"], options["folder"])
    else:
        _prepare_openvino(options)


def _prepare_onnx(source: str, folder: str) -> None:
    from sentence_transformers import export_dynamic_quantized_onnx_model

    from edgeport_bench.peers.run_optimum import has_vnni

    model = SentenceTransformer(source, backend="onnx", device="cpu", model_kwargs={"export": True})
    model.save_pretrained(folder)
    export_dynamic_quantized_onnx_model(model, "avx512_vnni" if has_vnni() else "avx2", folder, file_suffix="int8")


def _prepare_openvino(options: Mapping[str, Any]) -> None:
    import openvino

    from edgeport_bench.peers.run_openvino import convert

    folder = Path(options["folder"])
    graph = convert({**options, "flavour": "int8", "folder": str(folder / "work")})
    SentenceTransformer(options["model"], device="cpu").save_pretrained(str(folder))
    (folder / "openvino").mkdir(exist_ok=True)
    openvino.save_model(graph, folder / "openvino" / _OPENVINO_FILE, compress_to_fp16=False)


def open_subject(options: Mapping[str, Any]) -> Embedder:
    """The model in the flavour's back end, on the processor."""
    torch.set_num_threads(options["threads"])
    flavour, folder = options["flavour"], options["folder"]
    if flavour == "torch":
        return Embedder(SentenceTransformer(options["model"], device="cpu"), Path(options["model"]), "*.safetensors")
    if flavour == "onnx-int8":
        import onnxruntime

        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = options["threads"]
        settings = {"file_name": "model_int8.onnx", "session_options": session}
        model = SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs=settings)
        return Embedder(model, Path(folder), "onnx/model_int8.onnx")
    config = {"INFERENCE_NUM_THREADS": options["threads"], "PERFORMANCE_HINT": "LATENCY"}
    settings = {"file_name": _OPENVINO_FILE, "ov_config": config}
    model = SentenceTransformer(folder, backend="openvino", device="cpu", model_kwargs=settings)
    return Embedder(model, Path(folder), f"openvino/{_OPENVINO_FILE[:-4]}.bin")


class Embedder:
    """It reads tokens, and texts."""

    def __init__(self, model: Any, folder: Path, weights: str) -> None:
        self._model = model
        self._size = sum(p.stat().st_size for p in folder.glob(weights))

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            found = self._model({name: torch.from_numpy(array) for name, array in feeds.items()})
        return {"sentence_embedding": found["sentence_embedding"].numpy()}

    def encode(self, texts: Sequence[str]) -> dict[str, Array]:
        return {"sentence_embedding": self._model.encode(list(texts), show_progress_bar=False)}

    def describe(self) -> dict[str, Any]:
        return {"size_bytes": self._size}

    def close(self) -> None:
        del self._model
