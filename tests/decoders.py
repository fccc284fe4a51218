"""Tiny random models that write text: a model type, the form in which it is captured, and sizes of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["DECODERS", "Decoder"]


@dataclass(frozen=True)
class Decoder:
    """One architecture of ``AutoModelForCausalLM``."""

    model_type: str
    form: str = "plugged"
    more: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.model_type


_WINDOW = {"sliding_window": 4, "num_hidden_layers": 2}
_LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
_NEO = {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 4}

DECODERS = (
    Decoder("apertus"),
    Decoder("arcee"),
    Decoder("bloom", "appended"),
    Decoder("codegen", "appended", {"rotary_dim": 4}),
    Decoder("cohere"),
    Decoder("cohere2", more={**_WINDOW, **_LAYERS}),
    Decoder("deepseek_v3", "appended"),
    Decoder("ernie4_5"),
    Decoder("exaone4", more={**_WINDOW, **_LAYERS}),
    Decoder("falcon", "appended"),
    Decoder("gemma"),
    Decoder("gemma2", more={**_WINDOW, **_LAYERS}),
    Decoder("gemma3_text", more={**_WINDOW, **_LAYERS}),
    Decoder("glm"),
    Decoder("glm4"),
    Decoder("gpt2", more={"n_layer": 2}),
    Decoder("gpt_bigcode"),
    Decoder("gpt_neo", "appended", _NEO),
    Decoder("gpt_neox"),
    Decoder("gpt_oss", more={**_WINDOW, **_LAYERS}),
    Decoder("gptj", "appended", {"rotary_dim": 4}),
    Decoder("granite"),
    Decoder("helium"),
    Decoder("llama", more={"num_hidden_layers": 2}),
    Decoder("mistral", more=_WINDOW),
    Decoder("mixtral"),
    Decoder("mpt", "uncached"),
    Decoder("olmo"),
    Decoder("olmo2"),
    Decoder("opt"),
    Decoder("phi"),
    Decoder("phi3", more=_WINDOW),
    Decoder("qwen2"),
    Decoder("qwen3", more={"num_hidden_layers": 2}),
    Decoder("qwen3_moe"),
    Decoder("smollm3"),
    Decoder("stablelm"),
    Decoder("starcoder2", more=_WINDOW),
)
