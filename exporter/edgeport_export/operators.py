"""Operators of edgeport's own, which stand in a graph between its capture and the passes that lower them.

    edgeport::Attention(query, key, value, key_mask?, bias?) -> output
        query   (batch, heads, queries, head_size)        float
        key     (batch, heads, keys, head_size)           float
        value   (batch, heads, keys, value_head_size)     float
        key_mask (batch, keys)                            int32, 1 where the key counts
        bias    (batch or 1, heads or 1, queries, keys)   float, added to the scaled scores
        output  (batch, queries, heads, value_head_size)
        attributes: scale (float), causal (int)

    edgeport::CachedAttention(query, key, value, past_key, past_value, last, total, sinks?, bias?)
            -> output, present_key, present_value
        query      (batch, heads, new, head_size)            float
        key, value (batch, kv_heads, new, head_size)         float
        past_key, past_value (batch, kv_heads, past, head_size)
        last       (batch,)   int32, index of each row's last key: its length, new tokens included, minus one
        total      ()         int32, keys of the longest row; equal to ``new`` where there is no past
        sinks      (heads,)   float, a score beside those of the keys that takes attention and gives nothing
        bias       (batch or 1, heads or 1, 1, at least total) float, added to the scaled scores of every query
        output     (batch, new, heads, head_size)
        present_key, present_value (batch, kv_heads, past + new, head_size)
        attributes: scale (float), softcap (float, 0 is none), window (int, -1 is none): keys that a query sees

    edgeport::CausalMask() -> mask
        mask       (batch or 1, 1, new, past + new), what a model adds to its scores (float) or fills them by (bool);
                   for attention that a model writes out
        attributes: window (int, -1 is none)

Rows of a cached attention are padded on the right while a prompt is read, so that each row's keys lie without a gap.
"""

from __future__ import annotations

__all__ = ["ATTENTION", "CACHED_ATTENTION", "CAUSAL_MASK", "CONTEXT_LENGTH", "DOMAIN", "HEAD_SIZES"]

DOMAIN = "edgeport"
ATTENTION = "Attention"
CACHED_ATTENTION = "CachedAttention"
CAUSAL_MASK = "CausalMask"

CONTEXT_LENGTH = "context_length"
"""Key of a captured model's ``meta``: the most tokens of a text, None or absent if there is no limit."""

HEAD_SIZES = 8
"""A cached attention's heads have a multiple of this size, as ONNX Runtime's operator wants it."""
