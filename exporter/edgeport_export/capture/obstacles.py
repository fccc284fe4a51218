"""Calls that cannot be traced and have an equal that can.

Not the place for what one model does: an entry is about a function of torch, whoever calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["AroundObstacles"]


def _div(func: Callable[..., Any], a: Any, b: Any, **options: Any) -> Any:
    """A quotient of two sizes: as a tensor it would lose what is known of it."""
    if not isinstance(a, torch.Tensor) and not isinstance(b, torch.Tensor) and options.get("rounding_mode"):
        return a // b  # sizes are not negative, so that floor and trunc agree
    return func(a, b, **options)


_EQUALS: Mapping[Callable[..., Any], Callable[..., Any]] = {torch.div: _div}


class AroundObstacles(TorchFunctionMode):
    """A context in which the calls above take the way around."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        around = _EQUALS.get(func)
        return func(*args, **(kwargs or {})) if around is None else around(func, *args, **(kwargs or {}))
