"""Calls that cannot be traced and have an equal that can.

Not the place for what one model does: an entry is about a function of torch or of Python, whoever calls it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ["around_obstacles"]


@contextlib.contextmanager
def around_obstacles(model: nn.Module) -> Iterator[None]:
    """A context in which the code of ``model`` takes the ways around."""
    modules = {sys.modules[type(module).__module__] for module in model.modules()}
    ours = [m for m in modules if m.__name__.startswith("transformers") and "len" not in vars(m)]
    try:
        for module in ours:
            vars(module)["len"] = _len
        with _TorchCalls(), _traceable_experts(model):
            yield
    finally:
        for module in ours:
            del vars(module)["len"]


@contextlib.contextmanager
def _traceable_experts(model: nn.Module) -> Iterator[None]:
    """Mixtures of experts as one product of gathered weights: the grouped product has no operator in ONNX."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}.values()
    before = [(c, c._experts_implementation) for c in configs if getattr(c, "_experts_implementation", None)]
    try:
        for config, _ in before:
            config._experts_implementation_internal = "batched_mm"
        yield
    finally:
        for config, implementation in before:
            config._experts_implementation_internal = implementation


def _len(value: Any) -> Any:
    """Python's own makes a plain number of every size, and the graph would hold for that size alone."""
    return value.shape[0] if isinstance(value, torch.Tensor) and value.ndim else len(value)


def _div(func: Callable[..., Any], a: Any, b: Any, **options: Any) -> Any:
    """A quotient of two sizes: as a tensor it would lose what is known of it."""
    if not isinstance(a, torch.Tensor) and not isinstance(b, torch.Tensor) and options.get("rounding_mode"):
        return a // b  # sizes are not negative, so that floor and trunc agree
    return func(a, b, **options)


_EQUALS: Mapping[Callable[..., Any], Callable[..., Any]] = {torch.div: _div}


class _TorchCalls(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        around = _EQUALS.get(func)
        return func(*args, **(kwargs or {})) if around is None else around(func, *args, **(kwargs or {}))
