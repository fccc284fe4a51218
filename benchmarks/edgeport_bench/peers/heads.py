"""From hidden states to the outputs that are compared, in numpy: sentence embeddings, and scores of a text's labels.

For peers that run the encoder alone. Their users write these lines too, so their time counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["classification_head", "sentence_head"]

Array = npt.NDArray[Any]


_HEADS = (
    ("pre_classifier", lambda x: np.maximum(x, 0), "classifier"),
    ("classifier.dense", np.tanh, "classifier.out_proj"),
)
"""Of encoders without a pooler, by the names of their weights: DistilBERT's and RoBERTa's."""


def classification_head(weights: Mapping[str, Array]) -> Callable[[Array, Array | None], Array]:
    """Hidden states (batch, sequence, size) and what the model's pooler made of them, (batch, size) or None, to scores.

    Args:
        weights: Of the layers behind the encoder, by name; others are not looked at.

    Raises:
        NotImplementedError: the layers have other names.
    """

    def layer(name: str, x: Array) -> Array:
        result: Array = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        return result

    for first, activation, last in _HEADS:
        if f"{first}.weight" in weights and f"{last}.weight" in weights:
            return lambda hidden, pooled: layer(last, activation(layer(first, hidden[:, 0])))
    if "classifier.weight" not in weights:
        raise NotImplementedError("the layers behind the encoder are none that are known")
    return lambda hidden, pooled: layer("classifier", hidden[:, 0] if pooled is None else pooled)


def sentence_head(folder: Path) -> Callable[[Array, Array], Array]:
    """Hidden states (batch, sequence, size) and mask (batch, sequence) to embeddings (batch, size), as the folder says.

    Raises:
        NotImplementedError: the folder asks for something else than mean or first-token pooling and normalization.
    """
    modules = folder / "modules.json"
    if not modules.is_file():
        return _mean
    pooling: Callable[[Array, Array], Array] = _mean
    normalized = False
    for module in json.loads(modules.read_text(encoding="utf-8"))[1:]:
        kind = module["type"].rpartition(".")[2]
        if kind == "Pooling":
            pooling = _pooling(json.loads((folder / module["path"] / "config.json").read_text(encoding="utf-8")))
        elif kind == "Normalize":
            normalized = True
        else:
            raise NotImplementedError(f"the module {kind} behind the encoder is not supported")
    return (lambda hidden, mask: _unit(pooling(hidden, mask))) if normalized else pooling


def _pooling(config: dict[str, Any]) -> Callable[[Array, Array], Array]:
    named = config.get("pooling_mode")
    modes = [named] if named else [k for k, on in config.items() if k.startswith("pooling_mode_") and on is True]
    known = {"mean": _mean, "pooling_mode_mean_tokens": _mean, "cls": _first, "pooling_mode_cls_token": _first}
    if len(modes) != 1 or modes[0] not in known:
        raise NotImplementedError(f"pooling by {', '.join(map(str, modes))} is not supported")
    return known[modes[0]]


def _mean(hidden: Array, mask: Array) -> Array:
    weights = mask[:, :, None].astype(hidden.dtype)
    result: Array = (hidden * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
    return result


def _first(hidden: Array, mask: Array) -> Array:
    return hidden[:, 0]


def _unit(vectors: Array) -> Array:
    result: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return result
