"""The original in torch, fp32, as transformers' ``generate`` runs it, with its dynamic cache.

Options: those of ``torch_original``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from edgeport_bench.subjects import Array
from edgeport_bench.subjects.torch_original import describe_model, load_model

__all__ = ["TorchWriter", "open_subject"]


class TorchWriter:
    """A transformers model that writes text, on the CPU."""

    def __init__(self, model: Any) -> None:
        self._model = model
        # Its own would sample, or end where a text ends: here all write as many tokens, the likeliest ones.
        model.generation_config = GenerationConfig(do_sample=False, use_cache=True)

    def write(self, prompts: Array, count: int, each: Callable[[], None]) -> Array:
        ids = torch.from_numpy(prompts)
        with torch.inference_mode():
            written = self._model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, streamer=_Steps(each)
            )
        found: Array = written[:, ids.shape[1] :].numpy()
        return found

    def follow(self, prompts: Array, tokens: Array) -> Array:
        ids = torch.cat([torch.from_numpy(prompts), torch.from_numpy(tokens)], dim=1)
        with torch.inference_mode():
            logits = self._model(input_ids=ids).logits
        found: Array = logits[:, prompts.shape[1] - 1 : -1].argmax(dim=-1).numpy()
        return found

    def describe(self) -> dict[str, Any]:
        return describe_model(self._model)

    def close(self) -> None:
        del self._model


class _Steps(BaseStreamer):
    """Passes on when a token is there: ``generate`` hands the prompt to a streamer first, and then token by token."""

    def __init__(self, each: Callable[[], None]) -> None:
        self._each = each
        self._has_prompt = False

    def put(self, value: Any) -> None:
        if self._has_prompt:
            self._each()
        self._has_prompt = True

    def end(self) -> None:
        return


def open_subject(options: Mapping[str, Any]) -> TorchWriter:
    """Load the original.

    Raises:
        UsageError: there is no such model, or transformers lacks its class.
    """
    return TorchWriter(load_model(options))
