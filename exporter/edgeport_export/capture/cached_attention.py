"""Attention over a cache as one operator: the plug for models that write text.

A cache that the model is given hands the new keys and values straight back, and the attention that receives them, or
what the model makes of them token by token, becomes one node ``edgeport::CachedAttention`` with the past coming in and
the present going out; ``passes.lower_cached_attention`` turns it into an operator that ONNX Runtime has. Attention is
met at transformers' interface and at torch's ``scaled_dot_product_attention``.

Outside of an export the same function computes the same attention with torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.onnx.ops import symbolic_multi_out
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import causal_mask_function

from edgeport_export.capture.attention import plugged_in, written_out
from edgeport_export.operators import CACHED_ATTENTION, DOMAIN, HEAD_SIZES

__all__ = ["PluggedCache", "cached_attention", "serving", "window_of"]

_NAME = "sdpa"
"""Models that do not go through the interface ask for this name before they call torch's attention."""


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
        past: Keys and values of each layer, (batch, kv_heads, past, head_size) each; (0, 0, 0, 0) for no past.
        last: (batch,), int32, as the operator takes it.
        total: (), int32, as the operator takes it.
    """

    def __init__(self, past: Sequence[tuple[Tensor, Tensor]], last: Tensor, total: Tensor) -> None:
        super().__init__(layers=[_PluggedLayer(key, value) for key, value in past])
        self.last = last
        self.total = total

    def layer_of(self, key: Tensor) -> _PluggedLayer | None:
        """The layer that ``key`` belongs to.

        The one whose update handed it out; else the only one that waits for its attention, which then keeps what the
        model made of its keys and values, such as the heads of a latent.
        """
        layers: list[_PluggedLayer] = self.layers
        waiting = [layer for layer in layers if layer.new is not None and layer.present is None]
        mine = next((layer for layer in layers if layer.new is key), None)
        return mine or (waiting[0] if len(waiting) == 1 else None)

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
_calls = 0


@contextmanager
def cached_attention(model: PreTrainedModel) -> Iterator[Callable[[], int]]:
    """Plug the attention into ``model`` for the time of the context.

    Yields:
        A function that tells how often an attention was met since the context began.
    """
    started = _calls
    with plugged_in(model, _NAME, _attention, _mask), _TorchAttention():
        yield lambda: _calls - started


@contextmanager
def serving(cache: PluggedCache) -> Iterator[None]:
    """While the model runs with ``cache``."""
    global _current
    _current = cache
    try:
        yield
    finally:
        _current = None


def _mask(*, mask_function: Callable[..., Tensor], attention_mask: Tensor | None = None, **_: Any) -> Tensor:
    """What the attention has to know of the mask: nothing for a causal one, the width of a sliding window.

    A single zero stands for the causal mask. A window's width travels as the first size of a tensor without elements,
    which models hand on as they would a mask. Where the operator does not have the mask, that size is 0: models make
    masks that none of their layers asks for.

    Raises:
        ValueError: a mask of padding, which a model made for itself.
    """
    # Some models make a mask for themselves where none is given. While tracing there is nothing to look at.
    if attention_mask is not None and not torch.compiler.is_exporting() and not attention_mask.all():
        raise ValueError("padding is not a matter of the mask here")
    window = window_of(mask_function)
    return torch.zeros(1, 1, 1, 1) if window == -1 else torch.empty(window, 0, 0, 0)


def window_of(mask_function: Callable[..., Tensor]) -> int:
    """The keys that a query sees under a causal mask, -1 for all before it; 0 for a mask of another kind."""
    parts = _parts(mask_function)
    if not all(part is causal_mask_function or _window(part) for part in parts):
        return 0
    return min((window for part in parts if (window := _window(part))), default=-1)


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


class _TorchAttention(TorchFunctionMode):
    """Attention by torch's function becomes the same node while a cache is served."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is not scaled_dot_product_attention or _current is None:
            return func(*args, **options)
        return _torch_attention(*args, **options)


def _torch_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if attn_mask is None and not is_causal:
        raise ValueError("attention without a mask")
    return _attend(query, key, value, [attn_mask], scale, None, None).transpose(1, 2)


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
    """transformers' attention interface; see there for shapes."""
    return _attend(query, key, value, [attention_mask, position_bias], scaling, softcap, s_aux), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    biases: Sequence[Tensor | None],
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """(batch, new, heads, value_head_size).

    Raises:
        ValueError: something that the operator does not have; the model is then captured in another form.
    """
    global _calls
    _calls += 1
    layer = _current.layer_of(key) if _current is not None else None
    if _current is None or layer is None:
        raise ValueError("attention over something else than the layer's cache")
    scale = float(scaling) if scaling is not None else query.shape[-1] ** -0.5
    window, bias = _window_and_bias(biases)
    cap = float(softcap or 0.0)
    # The operator has one size of heads. Zeros add nothing to a score, and give columns of zeros, which are cut off.
    width = value.shape[-1]
    size = -(-max(key.shape[-1], width) // HEAD_SIZES) * HEAD_SIZES
    query, key, value = (v if v.shape[-1] == size else pad(v, (0, size - v.shape[-1])) for v in (query, key, value))
    inputs = (query, key, value, layer.keys, layer.values, _current.last, _current.total, sinks, bias)
    if torch.compiler.is_exporting():
        batch, heads, new, _ = query.shape
        kept = (batch, key.shape[1], layer.keys.shape[2] + new, size)
        output, *present = symbolic_multi_out(
            f"{DOMAIN}::{CACHED_ATTENTION}",
            inputs,
            {"scale": scale, "softcap": cap, "window": window},
            dtypes=(query.dtype, key.dtype, value.dtype),
            shapes=((batch, new, heads, size), kept, kept),
            version=1,
        )
    else:
        output, *present = _computed(*inputs, scale=scale, softcap=cap, window=window)
    layer.present = (present[0], present[1])
    return output if width == size else output[..., :width]


def _window_and_bias(given: Sequence[Tensor | None]) -> tuple[int, Tensor | None]:
    """The sliding window's width, -1 for none, and what is added to the scores.

    Raises:
        ValueError: a mask of another kind, or a bias that differs between queries: with a cache, no operator has it.
    """
    window, bias = -1, None
    for each in given:
        if each is None or (isinstance(each.shape[-1], int) and each.shape[-1] == 1):  # the same for every key
            continue
        if each.ndim == 4 and each.shape[1:] == (0, 0, 0):
            window = int(each.shape[0])
            if not window:
                raise ValueError("a mask that is neither causal nor a sliding window")
        elif each.ndim == 4 and isinstance(each.shape[2], int) and each.shape[2] == 1 and each.dtype != torch.bool:
            bias = each if bias is None else bias + each
        else:
            raise ValueError("a mask or a bias of the model's own")
    return window, bias


def _computed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    last: Tensor,
    total: Tensor,
    sinks: Tensor | None,
    bias: Tensor | None,
    *,
    scale: float,
    softcap: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator's meaning, for rows of any length and a past that may have room to spare."""
    new, room = query.shape[2], past_key.shape[2] + key.shape[2]
    first = last + 1 - new if total > new else torch.zeros_like(last)
    mine = (first[:, None] + torch.arange(new))[:, None, :, None].long()  # positions, as (batch, heads, new, size)
    keys, values = (_placed(past, given, mine) for past, given in ((past_key, key), (past_value, value)))
    at = torch.arange(room)
    seen = at <= mine
    if window > 0:
        seen = seen & (at > mine - window)
    allowed = torch.where(seen, 0.0, torch.finfo(query.dtype).min)
    if bias is not None:
        allowed = allowed + bias[..., :room]
    groups = query.shape[1] // key.shape[1]
    all_keys, all_values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    output = written_out(query, all_keys, all_values, None, allowed, scale, False, softcap or None, sinks)
    return output, keys, values


def _placed(past: Tensor, new: Tensor, positions: Tensor) -> Tensor:
    """``past`` with ``new`` written at ``positions`` (batch, 1, new, 1), and room for as many more."""
    before = past if past.shape[2] else new[:, :, :0]
    return torch.cat([before, torch.zeros_like(new)], 2).scatter(2, positions.expand_as(new), new)
