"""How many tokens of each text fit: arithmetic only, no tokenizer.

The rules are those of the ``tokenizers`` library, so that a cut text gives the same tokens as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgeport.errors import InputError, UsageError

__all__ = ["STRATEGIES", "Strategy", "Truncation", "fit"]

Strategy = Literal["longest_first", "only_first", "only_second"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True)
class Truncation:
    """What happens to a text that is too long."""

    max_length: int | None = None
    """In tokens, special tokens included; None and anything above it mean the model's limit."""
    strategy: Strategy = "longest_first"
    stride: int | None = None
    """Overlap in tokens of the windows that the text is split into; None drops what does not fit."""
    asked: bool = False
    """The caller wanted it, so there is nothing to warn about."""

    @classmethod
    def from_options(cls, truncation: bool | str | None, max_length: int | None) -> Truncation:
        """From the two options of the transformers tokenizers.

        Raises:
            UsageError: an unknown strategy, or a ``max_length`` that is no positive integer.
        """
        if max_length is not None and (type(max_length) is not int or max_length < 1):
            raise UsageError(f"max_length={max_length!r} is not a positive number of tokens.")
        if truncation is None:
            return cls(max_length, asked=max_length is not None)
        if truncation is False or truncation == "do_not_truncate":
            return cls()
        if truncation is True:
            return cls(max_length, asked=True)
        for strategy in STRATEGIES:
            if truncation == strategy:
                return cls(max_length, strategy, asked=True)
        raise UsageError(f"truncation={truncation!r} is unknown: use True, False, or one of {', '.join(STRATEGIES)}.")


def fit(first: int, second: int | None, room: int, strategy: Strategy) -> tuple[int, int | None]:
    """Tokens to keep of the first and the second text so that both fit into ``room``.

    Args:
        first: Tokens of the first text.
        second: Tokens of the second text; None where there is none.
        room: Tokens that the model takes, special tokens not counted.
        strategy: Which text gives way.

    Raises:
        InputError: the text that may be cut would have to vanish.
    """
    excess = first + (second or 0) - room
    if excess <= 0:
        return first, second
    if strategy == "longest_first":
        if second is None:
            return room, None
        return _share(first, second, room)
    length = first if strategy == "only_first" else second
    if length is None:
        raise UsageError(f"truncation={strategy!r} needs a pair of texts: use longest_first for a single text.")
    if length <= excess:
        other = "second" if strategy == "only_first" else "first"
        raise InputError(
            f"the {other} text leaves no room for the other one ({first} and {second} tokens, room for {room} in all): "
            f"shorten the {other} text."
        )
    return (first - excess, second) if strategy == "only_first" else (first, length - excess)


def _share(first: int, second: int, room: int) -> tuple[int, int]:
    """The longer text gives way until both are equally long; then both do."""
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)
