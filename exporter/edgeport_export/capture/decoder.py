"""Models that write text: one graph for reading the prompt and for every token after it.

Three forms, the best that a model takes:

- ``plugged``: attention and cache go through transformers' interfaces and become one operator a layer, whose past and
  present may share a buffer;
- ``appended``: the model computes its attention itself; keys and values are appended to the past as it asks for it, and
  rows are padded on the left;
- ``uncached``: the model keeps a state of another kind (a recurrence, say); the graph reads the whole text every time.

Inputs and outputs by form, as the runtime's ``edgeport.generate`` takes them up:

    all         input_ids (batch, new) int64; logits_at (batch, wanted) int64: the new positions to predict from
                -> logits (batch, wanted, vocabulary)
    plugged     position_ids (batch, new) int64; last (batch,) int32; total () int32
    appended    attention_mask (batch, new) int64; past_mask (batch, past) int64; position_ids (batch, new) int64
    uncached    attention_mask (batch, new) int64; position_ids (batch, new) int64
    with cache  past.N.key, past.N.value -> present.N.key, present.N.value (batch, kv_heads, length, head_size)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from edgeport.errors import ExportError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from edgeport_export.capture.attention import fused_attention
from edgeport_export.capture.cached_attention import PluggedCache, cached_attention, serving
from edgeport_export.capture.graph import Captured, nearly_equal
from edgeport_export.capture.tracing import trace
from edgeport_export.messages import first_line, root_cause

__all__ = ["FORMS", "DecoderHead", "capture_decoder"]

FORMS = ("plugged", "appended", "uncached")

_PAST, _NEW, _ROWS = 5, 3, 2
"""Sizes of the sample that is traced: all different, none of them 0 or 1, which torch.export treats as special."""

CacheShapes = list[tuple[tuple[int, int], tuple[int, int]]]
"""For each layer (heads, head size) of the keys and of the values."""


class DecoderHead(nn.Module):
    """``model`` with plain tensors in and out, in one of the forms."""

    def __init__(self, model: PreTrainedModel, form: str, cache: CacheShapes) -> None:
        super().__init__()
        self.model = model
        self.form = form
        self.cache = cache
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        own = {"plugged": ["position_ids", "last", "total"], "appended": ["attention_mask", "past_mask"]}
        self.names = ["input_ids", "logits_at", *own.get(form, ["attention_mask"])]
        if form != "plugged" and self.takes_positions:
            self.names.append("position_ids")
        self.outputs = ["logits"]
        for layer in range(len(cache)):
            self.names += [f"past.{layer}.key", f"past.{layer}.value"]
            self.outputs += [f"present.{layer}.key", f"present.{layer}.value"]

    def axes(self) -> list[dict[int, str]]:
        """The open axes of each input, in order."""
        batch = {0: "batch"}
        known = {
            "input_ids": batch | {1: "new"},
            "logits_at": batch | {1: "wanted"},
            "position_ids": batch | {1: "new"},
            "attention_mask": batch | {1: "new"},
            "past_mask": batch | {1: "past"},
            "last": batch,
            "total": {},
        }
        return [known.get(name, batch | {2: "past"}) for name in self.names]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, tensors, strict=True))
        past = [(given[f"past.{n}.key"], given[f"past.{n}.value"]) for n in range(len(self.cache))]
        options: dict[str, Any] = {}
        if self.takes_positions:
            options["position_ids"] = given["position_ids"]
        with _predicting_from(self.model, given["logits_at"]):
            if self.form == "plugged":
                cache = PluggedCache(past, given["last"], given["total"])
                with serving(cache):
                    logits = self._logits(given["input_ids"], past_key_values=cache, use_cache=True, **options)
                presents = cache.presents()
            elif self.form == "appended":
                cache = Cache(layers=[_filled(key, value) for key, value in past])
                options["attention_mask"] = torch.cat([given["past_mask"], given["attention_mask"]], 1)
                logits = self._logits(given["input_ids"], past_key_values=cache, use_cache=True, **options)
                presents = [(layer.keys, layer.values) for layer in cache.layers]
            else:
                options["attention_mask"] = given["attention_mask"]
                logits = self._logits(given["input_ids"], use_cache=False, **options)
                presents = []
        return (logits, *(tensor for pair in presents for tensor in pair))

    def _logits(self, input_ids: Tensor, **options: Any) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, return_dict=True, **options).logits
        return logits

    def sample(self) -> list[Tensor]:
        """Inputs to trace with."""
        ids = torch.arange(_ROWS * _NEW).reshape(_ROWS, _NEW) + 3
        positions = torch.arange(_NEW).repeat(_ROWS, 1) + (0 if self.form == "uncached" else _PAST)
        known = {
            "input_ids": ids,
            "logits_at": torch.tensor([[0, 1, 1, 2]] * _ROWS),
            "position_ids": positions,
            "attention_mask": torch.ones(_ROWS, _NEW, dtype=torch.int64),
            "past_mask": torch.ones(_ROWS, _PAST, dtype=torch.int64),
            "last": torch.full((_ROWS,), _PAST + _NEW - 1, dtype=torch.int32),
            "total": torch.tensor(_PAST + _NEW, dtype=torch.int32),
        }
        generator = torch.Generator().manual_seed(0)
        tensors = {
            f"past.{n}.{part}": torch.randn(_ROWS, shape[0], _PAST, shape[1], generator=generator)
            for n, shapes in enumerate(self.cache)
            for part, shape in zip(("key", "value"), shapes, strict=True)
        }
        return [{**known, **tensors}[name] for name in self.names]


def capture_decoder(model: PreTrainedModel, *, opset: int) -> Captured:
    """Capture ``model``, in eval mode, in the best form that it takes.

    Raises:
        ExportError: it takes none; the message gives the reason for each.
    """
    shapes, reason = _cache_shapes(model)
    reasons = [reason] if reason else []
    ladder: list[tuple[str, Callable[[], ir.Model]]] = []
    if shapes is not None:
        ladder.append(("plugged", lambda: _plugged(model, shapes, opset)))
        ladder.append(("appended", lambda: _traced(DecoderHead(model, "appended", shapes), opset)))
    ladder.append(("uncached", lambda: _traced(DecoderHead(model, "uncached", []), opset)))
    for form, attempt in ladder:
        try:
            return Captured(attempt(), form, "; ".join(reasons))
        except Exception as e:
            reasons.append(f"not {form}: {first_line(root_cause(e), 160)}")
    raise ExportError(f"{type(model).__name__} cannot be exported for text-generation ({'; '.join(reasons)}).")


@torch.no_grad()
def _cache_shapes(model: PreTrainedModel) -> tuple[CacheShapes | None, str]:
    """The shapes of the model's cache, found by filling one; None and the reason if it is of another kind."""
    try:
        cache = DynamicCache()
        model(input_ids=torch.tensor([[3, 4]]), past_key_values=cache, use_cache=True)
        keys = [(layer.keys, layer.values) for layer in cache.layers]
        if not keys or any(k is None or k.ndim != 4 or k.shape[2] != 2 for k, _ in keys):
            return None, "its cache is not one of keys and values for every layer"
        return [((k.shape[1], k.shape[3]), (v.shape[1], v.shape[3])) for k, v in keys], ""
    except Exception as e:
        return None, f"its cache is of another kind ({first_line(root_cause(e), 120)})"


def _plugged(model: PreTrainedModel, shapes: CacheShapes, opset: int) -> ir.Model:
    head = DecoderHead(model, "plugged", shapes)
    if not head.takes_positions:
        raise ValueError("the model takes no positions")
    sample = head.sample()
    with torch.no_grad():
        expected = _as_it_is(head, sample)
        with cached_attention(model):
            actual = head(*sample)
    for name, got, want in zip(head.outputs, actual, expected, strict=True):
        if got.shape != want.shape or not nearly_equal(got, want):
            raise ValueError(f"plugged in, the model has other {name.split('.')[0]}: it does something of its own")
    with cached_attention(model):
        return trace(head, sample, head.axes(), opset=opset)


def _as_it_is(head: DecoderHead, sample: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs of the model without any plug, through transformers' own cache."""
    given = dict(zip(head.names, sample, strict=True))
    own = DecoderHead(head.model, "appended", head.cache)
    rows, past = given["past.0.key"].shape[0], given["past.0.key"].shape[2]
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    given["past_mask"] = torch.ones(rows, past, dtype=torch.int64)
    result: tuple[Tensor, ...] = own(*(given[name] for name in own.names))
    return result


def _traced(head: DecoderHead, opset: int) -> ir.Model:
    with fused_attention(head.model):
        return trace(head, head.sample(), head.axes(), opset=opset)


def _filled(key: Tensor, value: Tensor) -> DynamicLayer:
    layer = DynamicLayer()
    layer.keys, layer.values = key, value
    layer.dtype, layer.device, layer.is_initialized = key.dtype, key.device, True
    return layer


@contextmanager
def _predicting_from(model: PreTrainedModel, at: Tensor) -> Iterator[None]:
    """While the model runs, its output layer sees the positions ``at`` (batch, wanted) alone.

    Raises:
        ValueError: the model has no output layer of its own.
    """
    layer = model.get_output_embeddings()
    if layer is None:
        raise ValueError("the model names no output layer")

    def pick(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = inputs[0]
        index = at[:, :, None].expand(-1, -1, hidden.shape[-1])
        return (hidden.gather(1, index), *inputs[1:])

    handle = layer.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()
