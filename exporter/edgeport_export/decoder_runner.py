"""Graphs that write text, run with their cache as the runtime would: to compare them and to time them.

A variant is compared with the original as any other: a batch of texts in, the logits of every token out. Here part of
each text is read as a prompt and the rest token by token, so that what is compared is the cache as well.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from edgeport.generate import open_decoder
from edgeport.session import open_plain_session
from numpy.typing import NDArray

from edgeport_export.graph_io import ON_CPU, OpenBy, opened, running
from edgeport_export.samples import Batch

__all__ = ["DecoderRunner"]

_TIMED_PROMPTS = 3
_TIMED_TOKENS = 12
_STEPS = 3
"""Tokens of each text that are read one by one."""


class DecoderRunner:
    """A graph with its cache, run as the runtime would."""

    def __init__(self, path: Path, options: Mapping[str, Any], how: OpenBy = ON_CPU) -> None:
        """Open the graph.

        Args:
            path: The file.
            options: Of the task: ``vocab_size`` and ``context_length``.
            how: Threads and provider.

        Raises:
            ExportError: ONNX Runtime refuses it.
        """
        session = opened(path, partial(open_plain_session, **how.arguments))
        self._path = path
        self._decoder = open_decoder(
            session,
            vocab_size=options["vocab_size"],
            context_length=options["context_length"],
        )

    def __call__(self, batch: Batch) -> list[NDArray[np.float32]]:
        """The logits, (batch, sequence, vocabulary); zeros at the padding, which is on the right.

        Raises:
            ExportError: the graph does not run.
        """
        ids, mask = batch["input_ids"], batch["attention_mask"]
        rows = [line[m.astype(bool)].tolist() for line, m in zip(ids, mask, strict=True)]
        steps = min(_STEPS, min(map(len, rows)) - 1)
        with running(self._path, batch):
            read = self._decoder.score([row[: len(row) - steps] for row in rows])
            after = [self._decoder.step(np.array([row[i - steps] for row in rows])) for i in range(steps)]
        logits = np.zeros((*ids.shape, self._decoder.vocab_size), np.float32)
        for line, row, prompt, number in zip(logits, rows, read, range(len(rows)), strict=True):
            line[: len(prompt)] = prompt
            for i, step in enumerate(after):
                line[len(row) - steps + i] = step[number]
        return [logits]

    def predict(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The logits after each token of one text, (tokens, vocabulary).

        Raises:
            ExportError: the graph does not run.
        """
        with running(self._path, {"input_ids": np.array([tokens], np.int64)}):
            return self._decoder.score([tokens])[0]

    def write(self, prompt: Sequence[int], tokens: int) -> None:
        """Read a prompt anew and go on with it, always with the likeliest token.

        Raises:
            ExportError: the graph does not run.
        """
        with running(self._path, {"input_ids": np.array([prompt], np.int64)}):
            self._decoder.tokens = []  # nothing shared with the last time
            logits = self._decoder.start([prompt], room=tokens)
            for _ in range(tokens - 1):
                logits = self._decoder.step(logits.argmax(axis=1))

    def time(self, prompts: Sequence[Sequence[int]]) -> dict[str, float]:
        """Median milliseconds of reading each prompt, and of a token after the longest. An indication."""
        found = {}
        room = (self._decoder.context_length or 2**31) - _TIMED_TOKENS
        prompts = [prompt[: max(room, 1)] for prompt in prompts]
        for prompt in prompts:
            samples = []
            for _ in range(_TIMED_PROMPTS):
                self._decoder.tokens = []  # nothing shared with the last time
                start = time.perf_counter()
                self._decoder.start([prompt], room=_TIMED_TOKENS)
                samples.append((time.perf_counter() - start) * 1e3)
            found[f"prompt of {len(prompt)}"] = round(float(np.median(samples)), 3)
        samples = []
        for _ in range(_TIMED_TOKENS):
            start = time.perf_counter()
            self._decoder.step(np.array([prompts[-1][0]]))
            samples.append((time.perf_counter() - start) * 1e3)
        found["token"] = round(float(np.median(samples[2:])), 3)
        return found
