"""When a row ends: a token that ends texts, a stop string, the token budget, or the caller's cancellation.

Knows no scores and no model. Rows are judged one by one, right after a token was appended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from edgeport.errors import UsageError
from edgeport.generate.config import GenerationConfig
from edgeport.generate.model import IntArray
from edgeport.generate.result import FinishReason
from edgeport.generate.stop_strings import StopStrings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Cancel", "Stopping"]


class Cancel(Protocol):
    """Says that nobody waits for the rest; ``threading.Event`` is one."""

    def is_set(self) -> bool:
        """Whether to stop before the next token."""


class Stopping:
    """All criteria of a search, for its rows."""

    def __init__(
        self,
        config: GenerationConfig,
        prompt_lengths: Sequence[int],
        *,
        max_positions: int | None = None,
        tokenizer: Tokenizer | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        """Work out each row's budget.

        Args:
            config: The options.
            prompt_lengths: Tokens of each row's prompt.
            max_positions: Tokens that the model takes in all; None if there is no limit.
            tokenizer: Decodes, where there are stop strings.
            cancel: Ends all rows once it is set.

        Raises:
            InputError: a prompt leaves no room for a token.
            UsageError: there are stop strings, and no tokenizer.
        """
        if config.stop_strings and tokenizer is None:
            raise UsageError(f"stop_strings={list(config.stop_strings)!r:.80} need a tokenizer: pass the model's.")
        self.budgets = tuple(config.budget(length, max_positions) for length in prompt_lengths)
        self._limits = tuple(n + budget for n, budget in zip(prompt_lengths, self.budgets, strict=True))
        self._ends = frozenset(config.eos_ids)
        self._strings = StopStrings(tokenizer, config.stop_strings) if config.stop_strings and tokenizer else None
        self._cancel = cancel

    @property
    def cancelled(self) -> bool:
        """Whether the caller has cancelled."""
        return self._cancel is not None and self._cancel.is_set()

    def reason(self, row: int, ids: IntArray) -> FinishReason | None:
        """Why the row ends after its last token; None if it goes on.

        Args:
            row: Its number among the prompts.
            ids: int64 (length,), the row's prompt and its continuation.
        """
        if int(ids[-1]) in self._ends:
            return "eos"
        if self._strings is not None and self._strings.hit(ids):
            return "stop"
        return "length" if len(ids) >= self._limits[row] else None
