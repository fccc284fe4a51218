"""What can be measured: one file a kind, imported only in the process that measures it.

A kind's file has ``open_subject(options)``. A new peer is a file here and a line in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

__all__ = ["KINDS", "Array", "Embedder", "Reader", "Subject", "SubjectSpec", "Writer"]

Array = npt.NDArray[Any]

KINDS = {
    "bundle": "edgeport_bench.subjects.bundle_variant",
    "bundle-pipeline": "edgeport_bench.subjects.bundle_pipeline",
    "bundle-writer": "edgeport_bench.subjects.bundle_writer",
    "onnx": "edgeport_bench.subjects.onnx_file",
    "torch": "edgeport_bench.subjects.torch_original",
    "torch-compile": "edgeport_bench.subjects.torch_compiled",
    "torch-writer": "edgeport_bench.subjects.torch_writer",
    "ctranslate2": "edgeport_bench.peers.run_ctranslate2",
    "fastembed": "edgeport_bench.peers.run_fastembed",
    "genai": "edgeport_bench.peers.run_genai",
    "llama.cpp": "edgeport_bench.peers.run_llama_cpp",
    "openvino": "edgeport_bench.peers.run_openvino",
    "optimum": "edgeport_bench.peers.run_optimum",
    "sentence-transformers": "edgeport_bench.peers.run_sentence_transformers",
}
"""Kind to the module that opens it."""


class Subject(Protocol):
    """A loaded model; what it can do besides is ``Reader``'s or ``Writer``'s."""

    def describe(self) -> dict[str, Any]:
        """``size_bytes``, ``device``, and what else a reader should know; for JSON."""

    def close(self) -> None:
        """Give the memory back."""


class Reader(Subject, Protocol):
    """A model that reads texts, a batch in one run."""

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Token ids in, the bundle's outputs by name out; returns when the work is done."""


class Embedder(Subject, Protocol):
    """A model that reads texts, with a tokenizer of its own."""

    def encode(self, texts: Sequence[str]) -> dict[str, Array]:
        """Texts in, the bundle's outputs by name out, in batches as its library makes them by default."""


class Writer(Subject, Protocol):
    """A model that goes on with texts, token by token, always with the likeliest; none of them ends a text."""

    def write(self, prompts: Array, count: int, each: Callable[[], None]) -> Array:
        """Continue the prompts, int64 (batch, length), which are read anew.

        Args:
            prompts: Token ids.
            count: New tokens of each row.
            each: Called as soon as every row has one token more.

        Returns:
            int64 (batch, count).
        """

    def follow(self, prompts: Array, tokens: Array) -> Array:
        """What it would have written in each place, had it written ``tokens`` up to there: int64 (batch, count)."""


@dataclass(frozen=True)
class SubjectSpec:
    """What to open, in words that can be sent to another process."""

    name: str
    """What tables call it."""
    kind: str
    options: Mapping[str, Any]
    """What the kind's ``open_subject`` takes; JSON values."""
    python: str | None = None
    """The interpreter of the environment that a peer lives in; this one's where left out."""
    is_peer: bool = False
    """Whether the benchmark goes on where it cannot be opened or run."""
