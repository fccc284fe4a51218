"""A model that writes text, with plain tensors in and out.

Inputs and outputs by form, as the runtime's ``edgeport.generate`` takes them up:

    all         input_ids (batch, new) int64; logits_at (batch, wanted) int64: the new positions to predict from
                -> logits (batch, wanted, vocabulary)
    plugged     position_ids (batch, new) int64; last (batch,) int32; total () int32
    appended    attention_mask (batch, new) int64; past_mask (batch, past) int64; position_ids (batch, new) int64
    uncached    attention_mask (batch, new) int64; position_ids (batch, new) int64
    with cache  past.N.key, past.N.value -> present.N.key, present.N.value (batch, kv_heads, length, head_size)

``position_ids`` is absent where the model has no use for it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from edgeport_export.capture.cached_attention import PluggedCache, serving
from edgeport_export.capture.positions import counting_modules, placed, takes_positions

__all__ = ["CacheShapes", "DecoderHead", "cache_argument"]

_PAST, _NEW, _ROWS = 5, 3, 2
"""Sizes of the sample that is traced: all different, none of them 0 or 1, which torch.export treats as special."""

CacheShapes = list[tuple[tuple[int, int], tuple[int, int]]]
"""For each layer (heads, head size) of the keys and of the values."""


def cache_argument(model: PreTrainedModel) -> str:
    """What ``model`` calls its cache: transformers 5.24 renamed ``past_key_values`` to ``cache``."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


class DecoderHead(nn.Module):
    """``model`` in one of the forms.

    Args:
        cache: Empty for the form without one.
        written_out: The plugged form, of a model that computes its attention by itself: keys and values are appended
            here, and a pass makes the operators.
    """

    def __init__(self, model: PreTrainedModel, form: str, cache: CacheShapes, *, written_out: bool = False) -> None:
        super().__init__()
        self.model = model
        self.form = form
        self.cache = cache
        self.written_out = written_out
        self._counting = counting_modules(model)
        self._cache_argument = cache_argument(model)
        own = {"plugged": ["last", "total"], "appended": ["attention_mask", "past_mask"]}
        self.names = ["input_ids", "logits_at", *own.get(form, ["attention_mask"])]
        if takes_positions(model) or self._counting:
            self.names.append("position_ids")
        self.outputs = ["logits"]
        for layer in range(len(cache)):
            self.names += [f"past.{layer}.key", f"past.{layer}.value"]
            self.outputs += [f"present.{layer}.key", f"present.{layer}.value"]

    def of_layers(self, layers: int) -> DecoderHead:
        """One for the model while it has only so many layers."""
        short = copy.copy(self)
        short.cache = self.cache[:layers]
        gone = 2 * (len(self.cache) - len(short.cache))
        short.names = self.names[: len(self.names) - gone]
        short.outputs = self.outputs[: len(self.outputs) - gone]
        return short

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
        presents: list[tuple[Tensor, Tensor]] = []
        positions = given.get("position_ids")
        options: dict[str, Any] = {} if positions is None or self._counting else {"position_ids": positions}
        with _predicting_from(self.model, given["logits_at"]), placed(self._counting, positions):
            if self.form == "uncached":
                options["attention_mask"] = given["attention_mask"]
                logits = self._logits(given["input_ids"], None, **options)
            elif self.form == "plugged" and not self.written_out:
                plugged = PluggedCache(past, given["last"], given["total"])
                with serving(plugged):
                    logits = self._logits(given["input_ids"], plugged, **options)
                presents = plugged.presents()
            else:
                cache = Cache(layers=[_filled(key, value) for key, value in past])
                if self.form == "appended":
                    options["attention_mask"] = torch.cat([given["past_mask"], given["attention_mask"]], 1)
                logits = self._logits(given["input_ids"], cache, **options)
                presents = [(layer.keys, layer.values) for layer in cache.layers]
        return (logits, *(tensor for pair in presents for tensor in pair))

    def _logits(self, input_ids: Tensor, cache: Cache | None, **options: Any) -> Tensor:
        if cache is not None:
            options[self._cache_argument] = cache
        result = self.model(input_ids=input_ids, use_cache=cache is not None, return_dict=True, **options)
        logits: Tensor = result.logits
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
