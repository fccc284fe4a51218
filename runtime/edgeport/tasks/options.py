"""Checks of option values that several tasks take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeport.errors import UsageError
from edgeport.text import Truncation

__all__ = ["positive", "truncation_of"]

_TOKENIZER_OPTIONS = ("truncation", "max_length", "padding")
"""``padding`` has no effect: results do not depend on it."""


def positive(name: str, value: int) -> int:
    """``value`` if it is a positive integer.

    Raises:
        UsageError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise UsageError(f"{name}={value!r} is not a positive integer.")
    return int(value)


def truncation_of(tokenizer_options: Mapping[str, Any] | None) -> Truncation:
    """The truncation that a dictionary of tokenizer options asks for.

    Raises:
        UsageError: an unknown key or value.
    """
    options = tokenizer_options or {}
    for key in options:
        if key not in _TOKENIZER_OPTIONS:
            raise UsageError(f"the tokenizer option {key!r} is unknown: use {', '.join(_TOKENIZER_OPTIONS)}.")
    return Truncation.from_options(options.get("truncation"), options.get("max_length"))
