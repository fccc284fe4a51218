"""One run of a graph that writes text, as arrays: a prompt that is read, or the token behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from edgeport.errors import UsageError
from edgeport.generate import cache_shapes

from edgeport_bench.graph_inputs import GraphInput
from edgeport_bench.inputs import Feeds

__all__ = ["decoder_feeds"]

_ID = 5
"""Any token: none takes longer than another."""


def decoder_feeds(inputs: Sequence[GraphInput], length: int) -> dict[str, Feeds]:
    """``prompt of N`` and ``token behind N``, each with the graph's inputs by name.

    Args:
        inputs: Of the graph.
        length: Tokens of the prompt.

    Raises:
        UsageError: the graph keeps no cache that an attention writes over.
    """
    types = {tensor.name: tensor.type for tensor in inputs}
    if "total" not in types:
        raise UsageError(
            "a graph that writes text is profiled where its attention keeps the cache (capture: plugged in the "
            "manifest), and this one has no input 'total'."
        )
    cache = cache_shapes({tensor.name: tensor.shape for tensor in inputs})

    def feeds(new: int, past: int) -> Feeds:
        known: dict[str, Any] = {
            "input_ids": np.full((1, new), _ID, np.int64),
            "position_ids": np.arange(past, past + new, dtype=np.int64)[None],
            "logits_at": np.full((1, 1), new - 1, np.int64),
            "last": np.array([past + new - 1], np.int32),
            "total": np.array(past + new, np.int32),
        }
        for name, (heads, size) in cache.items():
            dtype = np.float16 if types[name] == "tensor(float16)" else np.float32
            known[name] = np.zeros((1, heads, past, size), dtype)
        return {name: array for name, array in known.items() if name in types}

    return {f"prompt of {length}": feeds(length, 0), f"token behind {length}": feeds(1, length)}
