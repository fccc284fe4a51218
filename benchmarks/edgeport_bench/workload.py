"""What every subject is given: tokens of exact shapes, prompts, or whole texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeport.errors import UsageError

from edgeport_bench.graph_inputs import GraphInputs
from edgeport_bench.inputs import Feeds, Shape
from edgeport_bench.options import BenchOptions
from edgeport_bench.targets import WRITING, Target

__all__ = ["Workload", "make_workload", "read_texts"]

_EMBEDDING = "sentence-embedding"


@dataclass(frozen=True)
class Workload:
    feeds: Mapping[Shape, Feeds | Sequence[str]]
    new_tokens: int
    """0 for a model that only reads."""


def make_workload(target: Target, options: BenchOptions) -> Workload:
    if options.texts is not None:
        return _texts(target, options.texts)
    inputs, lengths = target.inputs, list(dict.fromkeys(options.lengths))
    batches = list(dict.fromkeys(options.batches))
    if isinstance(inputs, GraphInputs):
        inputs = dataclasses.replace(inputs, axes=dict(options.axes), values=dict(options.inputs))
    elif target.task == WRITING:
        new_tokens = options.new_tokens or inputs.default_new_tokens()
        lengths = lengths or inputs.default_prompts(new_tokens)
        shapes = [(batch, length) for length in lengths for batch in batches or [1]]
        return Workload(inputs.make_prompts(shapes, new_tokens), new_tokens)
    if options.new_tokens is not None:
        raise UsageError(f"--new-tokens is for {WRITING}, and this is {target.task or 'a plain graph'}: leave it out.")
    lengths, batches = lengths or inputs.default_lengths(), batches or inputs.default_batches()
    return Workload(inputs.make_feeds([(batch, length) for length in lengths for batch in batches]), 0)


def _texts(target: Target, path: Path) -> Workload:
    if target.task != _EMBEDDING or isinstance(target.inputs, GraphInputs):
        raise UsageError(f"--texts is for {_EMBEDDING}, and this is {target.task or 'a plain graph'}: leave it out.")
    texts = read_texts(path)
    counts = target.inputs.token_counts(texts)
    return Workload({(len(texts), round(sum(counts) / len(counts))): texts}, 0)


def read_texts(path: Path) -> list[str]:
    """The lines of a file that are not empty.

    Raises:
        UsageError: it cannot be read, or holds no text.
    """
    try:
        texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{str(path)!r} cannot be read ({e}): give a UTF-8 file with a text a line.") from e
    if not texts:
        raise UsageError(f"{str(path)!r} holds no text: give a file with a text a line.")
    return texts
