"""Attention over a cache as one operator: the plug for models that write text.

A cache that the model is given hands the new keys and values straight back, and the attention that receives them
becomes one node with the past coming in and the present going out; ``passes.lower_cached_attention`` turns it into an
operator that ONNX Runtime has.

    edgeport::CachedAttention(query, key, value, past_key, past_value, last, total, sinks?)
            -> output, present_key, present_value
        query      (batch, heads, new, head_size)            float
        key, value (batch, kv_heads, new, head_size)         float
        past_key, past_value (batch, kv_heads, past, head_size)
        last       (batch,)   int32, index of each row's last key: its length, new tokens included, minus one
        total      ()         int32, keys of the longest row; equal to ``new`` where there is no past
        sinks      (heads,)   float, a score beside those of the keys that takes attention and gives nothing
        output     (batch, new, heads, head_size)
        present_key, present_value (batch, kv_heads, past + new, head_size)
        attributes: scale (float), softcap (float, 0 is none), window (int, -1 is none): keys that a query sees

Rows are padded on the right while a prompt is read, so that each row's keys lie without a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.onnx.ops import symbolic_multi_out
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import causal_mask_function

from edgeport_export.capture.attention import DOMAIN, plugged_in, written_out

__all__ = ["CACHED_OP_TYPE", "PluggedCache", "cached_attention"]

_NAME = "edgeport-cached"
CACHED_OP_TYPE = "CachedAttention"


class _PluggedLayer(CacheLayerMixin):
    """One layer's past, and the present that the attention leaves."""

    is_sliding = False

    def __init__(self, past_key: Tensor, past_value: Tensor) -> None:
        super().__init__()
        self.keys, self.values = past_key, past_value
        self.is_initialized = True
        self.new: Tensor | None = None
        self.present: tuple[Tensor, Tensor] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise AssertionError("a plugged layer comes with its past")

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.new = key_states
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.keys.shape[-2]

    def get_max_length(self) -> int:
        return -1


class PluggedCache(Cache):
    """The cache of a model whose attention is plugged in.

    Args:
        past: Keys and values of each layer, (batch, kv_heads, past, head_size) each.
        last: (batch,), int32, as the operator takes it.
        total: (), int32, as the operator takes it.
    """

    def __init__(self, past: Sequence[tuple[Tensor, Tensor]], last: Tensor, total: Tensor) -> None:
        super().__init__(layers=[_PluggedLayer(key, value) for key, value in past])
        self.last = last
        self.total = total

    def layer_of(self, key: Tensor) -> _PluggedLayer | None:
        """The layer whose update handed out ``key``."""
        return next((layer for layer in self.layers if layer.new is key), None)

    def presents(self) -> list[tuple[Tensor, Tensor]]:
        """What each layer's attention left.

        Raises:
            ValueError: a layer was updated and no attention took it up.
        """
        found = [layer.present for layer in self.layers]
        if any(present is None for present in found):
            raise ValueError("a layer's cache does not reach the attention interface")
        return [present for present in found if present is not None]


_current: PluggedCache | None = None


@contextmanager
def cached_attention(model: PreTrainedModel) -> Iterator[None]:
    """Plug the attention into ``model`` for the time of the context."""
    with plugged_in(model, _NAME, _attention, _mask):
        yield


@contextmanager
def serving(cache: PluggedCache) -> Iterator[None]:
    """While the model runs with ``cache``."""
    global _current
    _current = cache
    try:
        yield
    finally:
        _current = None


def _mask(*, mask_function: Callable[..., Tensor], attention_mask: Tensor | None = None, **_: Any) -> Tensor | None:
    """What the attention has to know of the mask: nothing for a causal one, the width of a sliding window.

    The width travels as the first size of a tensor without elements, which models hand on as they would a mask.

    Raises:
        ValueError: a mask of another kind, which the operator does not have.
    """
    if attention_mask is not None:
        raise ValueError("padding is not a matter of the mask here")
    parts = _parts(mask_function)
    if not all(part is causal_mask_function or _window(part) for part in parts):
        raise ValueError("a mask that is neither causal nor a sliding window")
    windows = [window for part in parts if (window := _window(part))]
    return torch.empty(min(windows), 0, 0, 0) if windows else None


def _parts(mask_function: Callable[..., Tensor]) -> list[Callable[..., Tensor]]:
    """The functions that ``and_masks`` joined."""
    inner = _closed_over(mask_function, "and_masks", "mask_functions")
    return [mask_function] if inner is None else [part for each in inner for part in _parts(each)]


def _window(mask_function: Callable[..., Tensor]) -> int:
    return int(_closed_over(mask_function, "sliding_window_overlay", "sliding_window") or 0)


def _closed_over(function: Callable[..., Any], maker: str, name: str) -> Any:
    """The variable ``name`` that ``function`` took along from the function ``maker`` which made it; None if another."""
    if not getattr(function, "__qualname__", "").startswith(f"{maker}.<locals>"):
        return None
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    return cells[name].cell_contents


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface; see there for shapes.

    Raises:
        ValueError: something that the operator does not have; the model is then captured in another form.
    """
    layer = _current.layer_of(key) if _current is not None else None
    if _current is None or layer is None:
        raise ValueError("attention over something else than the layer's cache")
    if attention_mask is not None and attention_mask.shape[1:] != (0, 0, 0):
        raise ValueError("a mask of the model's own")
    if position_bias is not None:
        raise ValueError("a bias of the model's own")
    if key.shape[-1] != query.shape[-1] or value.shape[-1] != query.shape[-1]:
        raise ValueError("heads of different sizes for keys and values")
    scale = float(scaling) if scaling is not None else query.shape[-1] ** -0.5
    window = attention_mask.shape[0] if attention_mask is not None else -1
    cap = float(softcap or 0.0)
    inputs = (query, key, value, layer.keys, layer.values, _current.last, _current.total, s_aux)
    if torch.compiler.is_exporting():
        batch, heads, new, size = query.shape
        kept = (batch, key.shape[1], layer.keys.shape[2] + new, size)
        output, present_key, present_value = symbolic_multi_out(
            f"{DOMAIN}::{CACHED_OP_TYPE}",
            inputs,
            {"scale": scale, "softcap": cap, "window": int(window)},
            dtypes=(query.dtype, key.dtype, value.dtype),
            shapes=((batch, new, heads, size), kept, kept),
            version=1,
        )
    else:
        output, present_key, present_value = _computed(*inputs, scale=scale, softcap=cap, window=int(window))
    layer.present = (present_key, present_value)
    return output, None


def _computed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    last: Tensor,
    total: Tensor,
    sinks: Tensor | None,
    *,
    scale: float,
    softcap: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator's meaning, for rows of equal length or without a past."""
    keys, values = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    groups = query.shape[1] // key.shape[1]
    at = torch.arange(keys.shape[2])
    mine = torch.arange(query.shape[2])[:, None] + past_key.shape[2]
    seen = at <= mine
    if window > 0:
        seen &= at > mine - window
    bias = torch.where(seen, 0.0, torch.finfo(query.dtype).min)[None, None]
    all_keys, all_values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    output = written_out(query, all_keys, all_values, None, bias, scale, False, softcap or None, sinks)
    return output, keys, values
