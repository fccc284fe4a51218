"""Logits to scores. Every function works on the last axis and keeps shape and dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UsageError

__all__ = ["ACTIVATIONS", "activation", "sigmoid", "softmax"]

Array = npt.NDArray[Any]


def softmax(logits: Array) -> Array:
    """Shares that add up to 1; the largest is subtracted first, so that nothing overflows."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(logits: Array) -> Array:
    """Each logit by itself, between 0 and 1; only exponentials of negative numbers, so that nothing overflows."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))


def _none(logits: Array) -> Array:
    return logits


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"softmax": softmax, "sigmoid": sigmoid, "none": _none}


def activation(name: str) -> Callable[[Array], Array]:
    """The function called ``name``, in any case.

    Raises:
        UsageError: there is none.
    """
    try:
        return ACTIVATIONS[name.lower()]
    except (KeyError, AttributeError):
        raise UsageError(f"function_to_apply={name!r} is unknown: use one of {', '.join(ACTIVATIONS)}.") from None
