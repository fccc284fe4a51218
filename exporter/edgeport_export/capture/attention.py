"""Attention as one operator: the plug that edgeport puts into transformers' attention and mask interfaces.

While a graph is captured, every attention becomes one node ``edgeport::Attention``; ``passes.lower_attention`` turns
it into an operator that ONNX Runtime has. Outside of a capture the same function computes the same attention with
torch, so that a model with the plug in can be compared with the model as it was, before anything is exported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.onnx.ops import symbolic
from transformers import PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, sdpa_mask
from transformers.modeling_utils import AttentionInterface
from transformers.utils.generic import GeneralInterface

from edgeport_export.operators import ATTENTION, DOMAIN

__all__ = ["NAME", "fused_attention", "plugged_in", "registered", "written_out"]

NAME = "edgeport"
"""The name under which the plug is registered with transformers."""

_calls = 0


@contextmanager
def fused_attention(model: PreTrainedModel) -> Iterator[Callable[[], int]]:
    """Plug edgeport's attention into ``model`` for the time of the context.

    Yields:
        A function that tells how often the plug was called since the context began: 0 after a forward pass means that
        this architecture computes its attention by itself.
    """
    started = _calls
    with plugged_in(model, NAME, _attention, _mask):
        yield lambda: _calls - started


@contextmanager
def plugged_in(
    model: PreTrainedModel, name: str, attention: Callable[..., Any], mask: Callable[..., Any]
) -> Iterator[None]:
    """Register two functions of transformers' interfaces as ``name``, and let every part of ``model`` use them."""
    parts = [m for m in model.modules() if isinstance(m, PreTrainedModel)]
    before = {id(m.config): (m.config, m.config._attn_implementation) for m in parts}
    with registered(AttentionInterface, name, attention), registered(AttentionMaskInterface, name, mask):
        try:
            # Set on each config directly: `set_attn_implementation` refuses models that it does not know to be ready,
            # and those simply never call the plug.
            for config, _ in before.values():
                config._attn_implementation_internal = name
            yield
        finally:
            for config, implementation in before.values():
                config._attn_implementation_internal = implementation


@contextmanager
def registered(interface: type[GeneralInterface], name: str, function: Callable[..., Any]) -> Iterator[None]:
    """While ``name`` means ``function``."""
    before = interface._global_mapping.get(name)
    interface.register(name, function)
    try:
        yield
    finally:
        if before is None:
            del interface._global_mapping[name]
        else:
            interface.register(name, before)


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., torch.Tensor] = bidirectional_mask_function,
    attention_mask: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor | None:
    """Hand the 2-D padding mask straight through; write any other mask out as an additive bias."""
    if mask_function is bidirectional_mask_function:
        return attention_mask
    dtype = options.pop("dtype", torch.float32)
    options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    allowed = sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        **options,
    )
    return _additive(allowed, dtype)


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.where(mask, torch.zeros((), dtype=dtype), torch.full((), torch.finfo(dtype).min, dtype=dtype))


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface; see there for shapes. Dropout is off: the model is in eval mode."""
    global _calls
    _calls += 1
    heads, queries = query.shape[1], query.shape[2]
    if key.shape[1] != heads:  # grouped heads: MultiHeadAttention wants as many key as query heads
        key = key.repeat_interleave(heads // key.shape[1], dim=1)
        value = value.repeat_interleave(heads // value.shape[1], dim=1)
    scale = float(scaling) if scaling is not None else query.shape[-1] ** -0.5
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    # As in transformers' own interfaces: a mask that is given contains the causal one already.
    causal = is_causal and attention_mask is None and queries > 1
    key_mask = bias = None
    if attention_mask is not None:
        if attention_mask.ndim == 2:
            key_mask = attention_mask.to(torch.int32)
        else:
            bias = _additive(attention_mask, query.dtype)[..., : key.shape[2]]
    if position_bias is not None:
        bias = position_bias if bias is None else position_bias + bias
    if bias is not None and not isinstance(bias.shape[2], torch.SymInt) and bias.shape[2] == 1:
        bias = bias.expand(-1, -1, queries, -1)
    if softcap is not None or s_aux is not None:
        return written_out(query, key, value, key_mask, bias, scale, causal, softcap, s_aux), None
    if torch.compiler.is_exporting():
        output = symbolic(
            f"{DOMAIN}::{ATTENTION}",
            [query, key, value, key_mask, bias],
            {"scale": scale, "causal": int(causal)},
            dtype=query.dtype,
            shape=(query.shape[0], queries, heads, value.shape[-1]),
            version=1,
        )
        return output, None
    return written_out(query, key, value, key_mask, bias, scale, causal, None, None), None


def written_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_mask: torch.Tensor | None,
    bias: torch.Tensor | None,
    scale: float,
    causal: bool,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """The operator's meaning, step by step; also what is exported where no operator has the feature."""
    scores = query @ key.transpose(-1, -2) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    lowest = torch.finfo(scores.dtype).min
    if bias is not None:
        scores = scores + bias
    if key_mask is not None:
        scores = scores.masked_fill(key_mask[:, None, None, :] == 0, lowest)
    if causal:
        future = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, lowest)
    if sinks is not None:
        column = sinks.reshape(1, -1, 1, 1).expand(query.shape[0], -1, query.shape[2], 1)
        weights = torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous()
