"""Decisions on data: what a model's code read out of its tensors to choose its way, recorded once and repeated.

Code such as ``if mask.all():`` or ``width = lengths.max().item()`` cannot be traced, since a trace has no data. Where
the answer is the same for every input of the kind that the model is exported for, the answer for a sample will do; the
comparison with torch afterwards tells whether it was.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Decisions"]

_READS = (torch.Tensor.item, torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.__index__, torch.Tensor.tolist)

_BETWEEN = (str(Path(__file__).parent), str(Path(torch.__file__).parent))

Place = tuple[str, int]


class Decisions:
    """Answers by place in the code, in order of asking."""

    def __init__(self) -> None:
        self._answers: dict[Place, list[Any]] = defaultdict(list)

    def record(self) -> TorchFunctionMode:
        """A context in which every answer is noted."""
        return _Recorder(self._answers)

    def repeat(self, *, numbers: bool) -> TorchFunctionMode:
        """A context in which the noted answers are given again: yes and no, and ``numbers`` too if asked for."""
        return _Repeater(self._answers, numbers)


class _Recorder(TorchFunctionMode):
    def __init__(self, answers: dict[Place, list[Any]]) -> None:
        super().__init__()
        self._answers = answers

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _READS:
            self._answers[_place()].append(result)
        return result


class _Repeater(TorchFunctionMode):
    def __init__(self, answers: Mapping[Place, list[Any]], numbers: bool) -> None:
        super().__init__()
        self._answers = {place: deque(found) for place, found in answers.items()}
        self._numbers = numbers

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _READS:
            found = self._answers.get(_place())
            if found and (self._numbers or isinstance(found[0], bool)):
                found.rotate(-1)  # not popped: an export runs the model several times
                return found[-1]
        return func(*args, **(kwargs or {}))


def _place() -> Place:
    """File and line of the code that asks: the nearest that is neither torch's nor one of the contexts around it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and any(part in frame.f_code.co_filename for part in _BETWEEN):
        frame = frame.f_back
    return ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)
