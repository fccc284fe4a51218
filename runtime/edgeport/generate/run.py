"""Prompts in, continuations out: the one place that looks at which search the options ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeport.generate.beam import beam_search
from edgeport.generate.config import GenerationConfig
from edgeport.generate.model import Model
from edgeport.generate.result import Generated
from edgeport.generate.search import collect, search
from edgeport.generate.stopping import Cancel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["generate"]


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    tokenizer: Tokenizer | None = None,
    cancel: Cancel | None = None,
    max_positions: int | None = None,
) -> list[Generated]:
    """Continue the prompts, by beams if ``num_beams`` is above 1: ``num_return_sequences`` results a prompt, in order.

    Arguments and errors are those of ``search`` and ``beam_search``.
    """
    if config.num_beams > 1:
        return beam_search(model, prompts, config, tokenizer=tokenizer, cancel=cancel, max_positions=max_positions)
    steps = search(model, prompts, config, tokenizer=tokenizer, cancel=cancel, max_positions=max_positions)
    return collect(steps, config.num_return_sequences)
