"""What other libraries' errors say, cut down to fit the middle of a sentence of ours."""

from __future__ import annotations

__all__ = ["first_line", "root_cause"]


def first_line(error: BaseException, limit: int = 200) -> str:
    """The error's class and the first ``limit`` characters of its first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:limit].rstrip('.')}" if lines else type(error).__name__


def root_cause(error: BaseException) -> BaseException:
    """The error that the chain of ``raise ... from`` began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
