"""Closed sets of names, and the sentence for a name that is not in one."""

from __future__ import annotations

from collections.abc import Sequence

from edgeport.errors import UsageError

__all__ = ["one_of"]


def one_of(what: str, values: Sequence[str], allowed: Sequence[str]) -> None:
    """Raise a UsageError that lists what is allowed, where a value is not."""
    for value in values:
        if value not in allowed:
            raise UsageError(f"{what} {value!r} is not known: choose from {', '.join(allowed)}.")
