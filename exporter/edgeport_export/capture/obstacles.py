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
    ours = [(m, name) for m in modules if m.__name__.startswith("transformers") for name in _BUILTINS.keys() - vars(m)]
    try:
        for module, name in ours:
            vars(module)[name] = _BUILTINS[name]
        with _TorchCalls(), _traceable_experts(model), _still_frequencies(model):
            yield
    finally:
        for module, name in ours:
            del vars(module)[name]


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


@contextlib.contextmanager
def _still_frequencies(model: nn.Module) -> Iterator[None]:
    """Rotary frequencies that a model changes once a text is longer than its context, which no text here becomes."""
    growing = [m for m in model.modules() if "dynamic" in str(getattr(m, "rope_type", ""))]
    before = [module.rope_type for module in growing]
    try:
        for module in growing:
            module.rope_type = _without_growth(module.rope_type)
        yield
    finally:
        for module, kinds in zip(growing, before, strict=True):
            module.rope_type = kinds


def _without_growth(kinds: Any) -> Any:
    """A kind of rotary positions, or those of several kinds of layers."""
    if isinstance(kinds, dict):
        return {layers: _without_growth(kind) for layers, kind in kinds.items()}
    return "default" if "dynamic" in kinds else kinds


def _len(value: Any) -> Any:
    """Python's own makes a plain number of every size, and the graph would hold for that size alone."""
    return value.shape[0] if isinstance(value, torch.Tensor) and value.ndim else len(value)


def _max(*values: Any, **options: Any) -> Any:
    """Of two numbers, one of which may be a size: Python's own would decide for all sizes which is larger."""
    if len(values) != 2 or not any(isinstance(value, torch.SymInt) for value in values):
        return max(*values, **options)
    a, b = values
    if _is_never_less(a, b):
        return a
    return b if _is_never_less(b, a) else torch.sym_max(a, b)


def _min(*values: Any, **options: Any) -> Any:
    if len(values) != 2 or not any(isinstance(value, torch.SymInt) for value in values):
        return min(*values, **options)
    return -_max(-values[0], -values[1])


def _is_never_less(a: Any, b: Any) -> bool:
    """Whether ``a - b`` is no negative number for any sizes from 1 on."""
    difference = (a - b).node.expr
    more = {symbol: 1 + type(symbol)(f"{symbol}_more", nonnegative=True) for symbol in difference.free_symbols}
    return bool(difference.subs(more).is_nonnegative)


_BUILTINS: Mapping[str, Callable[..., Any]] = {"len": _len, "max": _max, "min": _min}


def _div(func: Callable[..., Any], a: Any, b: Any, **options: Any) -> Any:
    """A quotient of two sizes: as a tensor it would lose what is known of it."""
    if not isinstance(a, torch.Tensor) and not isinstance(b, torch.Tensor) and options.get("rounding_mode"):
        return a // b  # sizes are not negative, so that floor and trunc agree
    return func(a, b, **options)


def _unsqueeze(func: Callable[..., Any], x: torch.Tensor, dim: int) -> torch.Tensor:
    """Of complex numbers: their two parts are an axis of their own in a graph."""
    if not x.is_complex():
        return func(x, dim)
    return torch.view_as_complex(func(torch.view_as_real(x), dim if dim >= 0 else dim - 1))


def _getitem(func: Callable[..., Any], x: torch.Tensor, index: Any) -> torch.Tensor:
    """Of complex numbers, as above; the index is one of slices and new axes."""
    if not x.is_complex():
        return func(x, index)
    index = index if isinstance(index, tuple) else (index,)
    return torch.view_as_complex(func(torch.view_as_real(x), (*index, slice(None)) if Ellipsis in index else index))


_EQUALS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.Tensor.__getitem__: _getitem,
    torch.div: _div,
    torch.Tensor.unsqueeze: _unsqueeze,
    torch.unsqueeze: _unsqueeze,
}


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
