"""The original model in torch, fp32, through transformers. Options: model, architecture, outputs, threads.

It gives the bundle's outputs, so a sentence-transformers folder's pooling, dense layers and normalization run as well.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from edgeport.errors import UsageError
from transformers.utils import cached_file

from edgeport_bench.subjects import Array

__all__ = ["TorchOriginal", "describe_model", "load_model", "load_original", "open_subject"]


class TorchOriginal:
    """A transformers model on the CPU, and behind it what a sentence-transformers folder adds."""

    def __init__(self, model: Any, head: Any | None, outputs: Sequence[str], *, run: Any = None) -> None:
        """``run`` is called in the model's place."""
        self._model = model
        self._run = model if run is None else run  # a compiled model has no truth value
        self._head = head
        self._outputs = tuple(outputs)
        takes = inspect.signature(model.forward).parameters
        self._options = {"use_cache": False} if "use_cache" in takes else {}

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
        with torch.inference_mode():
            result = self._run(**tensors, **self._options)
            if self._head is not None:
                return {self._outputs[0]: self._head(result.last_hidden_state, tensors["attention_mask"]).numpy()}
            return {name: result[name].numpy() for name in self._outputs}

    def describe(self) -> dict[str, Any]:
        return describe_model(self._model)

    def close(self) -> None:
        del self._model, self._run


def open_subject(options: Mapping[str, Any]) -> TorchOriginal:
    """Load the original, with the head that the outputs ask for.

    Raises:
        UsageError: there is no such model, or transformers lacks its class.
    """
    return TorchOriginal(*load_original(options), options["outputs"])


def load_original(options: Mapping[str, Any]) -> tuple[Any, Any | None]:
    """The model, and the head that the outputs ask for; errors are those of ``open_subject``."""
    model = load_model(options)
    return model, _sentence_head(options["model"]) if options["outputs"] == ["sentence_embedding"] else None


def describe_model(model: Any) -> dict[str, Any]:
    """What a reader should know of a model in torch."""
    weights = {t.data_ptr(): t.nbytes for t in model.state_dict().values()}  # tied ones count once
    attention = getattr(model.config, "_attn_implementation", None)
    return {"size_bytes": sum(weights.values()), "attention": attention, "threads": torch.get_num_threads()}


def load_model(options: Mapping[str, Any]) -> Any:
    """The transformers model in fp32. Options: model, architecture, threads.

    Raises:
        UsageError: there is no such model, or transformers lacks its class.
    """
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    name, architecture = options["model"], options["architecture"]
    cls = getattr(transformers, architecture, None)
    if cls is None:
        raise UsageError(f"transformers {transformers.__version__} has no {architecture}: leave --against torch away.")
    try:
        return cls.from_pretrained(name, dtype=torch.float32).eval()
    except (OSError, ValueError) as e:
        reason = str(e).strip().split("\n")[0][:160].rstrip(".")
        raise UsageError(
            f"the original {name!r} cannot be loaded ({reason}): give its folder or hub id, --against torch=MODEL."
        ) from e


def _sentence_head(name: str) -> Any:
    from edgeport_export.sentence import SentenceHead, load_sentence_head

    modules = _file(name, "modules.json")
    if modules is None:
        return SentenceHead.mean_pooling()
    return load_sentence_head(json.loads(modules.read_text(encoding="utf-8")), lambda file: _file(name, file))


def _file(name: str, file: str) -> Path | None:
    if Path(name).is_dir():
        return path if (path := Path(name) / file).is_file() else None
    found = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None
