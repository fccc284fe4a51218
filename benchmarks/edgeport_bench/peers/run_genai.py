"""onnxruntime-genai: its model builder, its generator."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai

from edgeport_bench.subjects import Array

__all__ = ["GenaiWriter", "open_subject", "prepare"]

os.environ["HF_HUB_OFFLINE"] = "1"


def prepare(options: Mapping[str, Any]) -> None:
    """Build the model for the processor."""
    from onnxruntime_genai.models.builder import create_model

    folder = options["folder"]
    create_model(None, options["model"], folder, options["flavour"], "cpu", str(Path(folder) / "cache"))


def open_subject(options: Mapping[str, Any]) -> GenaiWriter:
    """Open the built model."""
    config = genai.Config(options["folder"])
    session = {"intra_op_num_threads": options["threads"]}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    size = sum(p.stat().st_size for p in Path(options["folder"]).glob("model.onnx*"))
    return GenaiWriter(genai.Model(config), size)


class GenaiWriter:
    """It writes."""

    def __init__(self, model: Any, size: int) -> None:
        self._model = model
        self._size = size

    def write(self, prompts: Array, count: int, each: Callable[[], None]) -> Array:
        generator = self._start(prompts, count)
        for _ in range(count):
            generator.generate_next_token()
            each()
        return np.array([generator.get_sequence(i)[prompts.shape[1] :] for i in range(len(prompts))], dtype=np.int64)

    def follow(self, prompts: Array, tokens: Array) -> Array:
        generator = self._start(prompts, tokens.shape[1])
        found = []
        for written in tokens.T:
            found.append(np.asarray(generator.get_logits())[:, -1].argmax(axis=-1))
            generator.append_tokens(written[:, None].astype(np.int32))
        return np.stack(found, axis=1)

    def describe(self) -> dict[str, Any]:
        return {"size_bytes": self._size}

    def close(self) -> None:
        del self._model

    def _start(self, prompts: Array, count: int) -> Any:
        """A generator that has read the prompts, with room for ``count`` tokens."""
        length = prompts.shape[1] + count
        params = genai.GeneratorParams(self._model)
        params.set_search_options(
            batch_size=len(prompts), max_length=length, min_length=length, do_sample=False, num_beams=1
        )
        generator = genai.Generator(self._model, params)
        generator.append_tokens(prompts.astype(np.int32))
        return generator
