"""onnxruntime-genai: its model builder, its generator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai

from edgeport_bench.subjects import Array

__all__ = ["GenaiWriter", "open_subject", "prepare"]


def prepare(options: Mapping[str, Any]) -> None:
    """Build the model for the processor, by the builder's command line.

    Raises:
        NotImplementedError: the builder refuses the model.
    """
    folder = options["folder"]
    named = {"-i": options["model"], "-o": folder, "-p": options["flavour"], "-e": "cpu", "-c": f"{folder}/cache"}
    arguments = [part for pair in named.items() for part in pair]
    done = subprocess.run(
        [sys.executable, "-m", "onnxruntime_genai.models.builder", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotImplementedError((done.stderr.strip().splitlines() or ["the builder says nothing"])[-1])


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
