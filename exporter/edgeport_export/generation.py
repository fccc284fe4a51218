"""What a model brings along for writing text: sizes, defaults and chat template, as data for the bundle."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["context_length", "generation_options"]

_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len", "seq_length")
"""Names under which configurations have the longest text."""


def context_length(model: PreTrainedModel) -> int | None:
    """The most tokens of a text, prompt included; None where the configuration names no limit."""
    config = model.config.get_text_config()
    sizes = (getattr(config, name, None) for name in _CONTEXT)
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)


def generation_options(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The task's options in the bundle: vocabulary and context in tokens, the model's defaults, its chat template."""
    defaults = model.generation_config.to_diff_dict() if model.generation_config is not None else {}
    kinds = (bool, int, float, str, list)
    plain = {k: v for k, v in defaults.items() if (isinstance(v, kinds) or _named(v)) and not k.startswith("_")}
    template = getattr(tokenizer, "chat_template", None)
    return {
        "vocab_size": int(model.config.get_text_config().vocab_size),
        "context_length": context_length(model),
        "generation": {k: v for k, v in plain.items() if k != "transformers_version"},
        "chat_template": template if isinstance(template, str) else None,
    }


def _named(value: Any) -> bool:
    """Whether it is a dictionary that JSON can hold, such as that of a watermark."""
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)
